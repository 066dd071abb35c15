from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from bgtask.models import Task
from bgtask.status import Status
from bgtask_admin.tasks.pagination import page_of
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("column", ["finished_at", None])
def test_pages_show_each_row_once_in_both_directions(column, ascending):
    same = timezone.now().replace(microsecond=0) - timedelta(hours=1)
    for index in range(7):
        TaskFactory(status=Status.FAILED, finished_at=same + timedelta(seconds=index // 3))
    order = [column, "id"] if column else ["id"]
    expected = list(Task.objects.order_by(*order).values_list("pk", flat=True))
    expected = expected if ascending else expected[::-1]

    pages = [page_of(Task.objects.all(), column, ascending=ascending, size=3)]
    while older := pages[-1].older:
        pages.append(page_of(Task.objects.all(), column, ascending=ascending, size=3, after=older))
    back = [pages[-1]]
    while newer := back[-1].newer:
        back.append(page_of(Task.objects.all(), column, ascending=ascending, size=3, before=newer))

    assert [task.pk for one in pages for task in one.rows] == expected
    assert [one.rows for one in back[1:]] == [one.rows for one in pages[-2::-1]]


@pytest.mark.parametrize(
    "key",
    [
        "x",
        "1~",
        "~1",
        "2026-99-99~1",
        "9" * 30,
        "0001-01-01T00:00:00+23:00~1",
        "9999-12-31T23:59:59-10:00~1",
    ],
)
def test_invalid_key_is_refused(key):
    with pytest.raises(ValidationError):
        page_of(Task.objects.all(), "finished_at", after=key)


@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("moment", ["2026-01-01T00:00:00+05:00", "2026-01-01T00:00:00"])
def test_key_of_a_link_from_another_time_zone_setting_is_accepted(settings, use_tz, moment):
    settings.USE_TZ = use_tz
    TaskFactory(status=Status.FAILED)

    assert page_of(Task.objects.all(), "finished_at", after=f"{moment}~1", ascending=True).rows
