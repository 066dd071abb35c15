"""Each page, wide and narrow, in light and dark: nothing overflows, everybody can use it."""

from __future__ import annotations

import pytest

from bgtask.models import Attempt, Task
from bgtask.status import Status
from bgtask_admin.actions import run
from bgtask_admin.tasks.selection import Selection
from tests.factories import TaskFactory, WorkerFactory

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.vendor("sqlite"),  # A browser does not see the database.
]

LONG = "a_rather_long_package.with_modules.tasks.synchronise_everything_with_everything_else"


@pytest.fixture
def paths(transactional_db, admin_user) -> list[str]:
    WorkerFactory(label="a-rather-long-host-name-of-a-container-5f7c9d:4121")
    for status in Status:
        TaskFactory.create_batch(2, status=status, task_name=LONG)
    failed = Task.objects.failed().first()
    assert failed is not None
    Task.objects.failed().update(error_class=f"{LONG}.Error", error_fingerprint="f" * 32)
    Attempt.objects.create(
        task=failed,
        token=1,
        number=1,
        started_at=failed.enqueued_at,
        finished_at=failed.finished_at,
        outcome="failed",
        error_class=f"{LONG}.Error",
        message="x" * 300,
        traceback=f'  File "/srv/{LONG}.py", line 1, in f\n' + "x" * 300,
        error_fingerprint="f" * 32,
    )
    operation = run.do("reset", Selection.parse({"status": "READY"}), user=admin_user)
    landing = "/admin/bgtask_admin/queuehealth/"
    return [
        landing,
        "/admin/bgtask/task/",
        "/admin/bgtask/task/?status=FAILED",
        "/admin/bgtask/task/?status=FAILD",
        f"/admin/bgtask/task/{failed.pk}/change/",
        f"{landing}error/{'f' * 32}/",
        "/admin/bgtask/task/confirm/?verb=requeue&status=FAILED",
        f"{landing}hold/?name={LONG}",
        "/admin/bgtask_admin/operation/",
        f"/admin/bgtask_admin/operation/{operation.pk}/change/",
    ]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [pytest.param(1400, marks=pytest.mark.sample), 360])
def test_every_page_fits_and_is_accessible(dashboard, paths, width, dark):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    one = dashboard(width=width, dark=dark)
    for path in paths:
        page = one.go(path)

        assert not one.is_too_wide(), path
        # Only what is ours: the admin around it is Django's.
        found = axe.run(page, context="#content", options={"resultTypes": ["violations"]})
        serious = [
            (path, violation["id"], [node["html"][:200] for node in violation["nodes"]][:3])
            for violation in found.response["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
        assert serious == []
    one.complaints[:] = [text for text in one.complaints if "400 (Bad Request)" not in text]


def test_empty_dashboard_explains_what_it_will_show(dashboard, transactional_db):
    page = dashboard().go()

    assert "No failures in the last hour." in page.locator("main").inner_text()


@pytest.mark.sample
def test_hostile_text_stays_text(dashboard, transactional_db):
    hostile = "<script>document.title='owned'</script>\u202egnp.exe\x1b[31m\U0001f4a3"
    task = TaskFactory(
        task_name=hostile,
        queue=hostile[:100],
        status=Status.FAILED,
        error_class=hostile,
        last_error=hostile,
        verbose_name=hostile,
        error_fingerprint="x/?#&",
        task_params='[["<img src=x onerror=alert(1)>"], {}]',
    )
    one = dashboard()
    for path in (
        "/admin/bgtask_admin/queuehealth/",
        "/admin/bgtask/task/",
        "/admin/bgtask/task/?status=FAILED",
        f"/admin/bgtask/task/{task.pk}/change/",
        "/admin/bgtask/task/confirm/?verb=requeue&status=FAILED",
    ):
        page = one.go(path)

        assert page.title() != "owned"
        assert page.locator("main script, main img").count() == 0
        assert "\u202e" not in page.locator("main").inner_text()
