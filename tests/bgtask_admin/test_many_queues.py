"""Many queues, one per tenant: pages and documents stay small, and say what they leave out."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from bgtask.db import DatabaseNow
from bgtask.db.routing import database_now
from bgtask.models import QueuePause, Task, TaskStats
from bgtask_admin.monitoring import snapshot
from tests.bgtask_admin.urls import LANDING, text
from tests.factories import PauseFactory, TaskFactory, TaskStatsFactory, WorkerFactory

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

MANY = 1_000
QUEUES = f"{LANDING}queues/"


@pytest.fixture
def many(db):
    """Each has a task that waits, one is behind, one is paused, one is busy."""
    WorkerFactory()
    Task.objects.bulk_create(
        Task(
            task_name="tests.tasks.noop",
            queue=f"tenant-{number:04}",
            run_at=DatabaseNow(-1),
            enqueued_at=DatabaseNow(-1),
        )
        for number in range(MANY)
    )
    minute = database_now("default").replace(second=0, microsecond=0)
    TaskStats.objects.bulk_create(
        TaskStats(
            minute=minute,
            queue=f"tenant-{number:04}",
            task_name="tests.tasks.noop",
            succeeded=1,
        )
        for number in range(MANY)
    )
    TaskFactory(queue="tenant-0777", run_at=DatabaseNow(-4000))
    PauseFactory(queue="tenant-0555")
    TaskFactory.create_batch(5, queue="tenant-0333", run_at=DatabaseNow(-2))
    snapshot.forget()


class TestPage:
    @pytest.mark.sample
    def test_page_of_many_queues_is_small_and_shows_the_worst(self, admin_client, many):
        """Kind of fault: a page that grows with the number of queues."""
        page = text(admin_client.get(LANDING))

        assert len(page.encode()) < 150_000
        for queue in ("tenant-0777", "tenant-0555", "tenant-0333"):
            assert f"?queue={queue}" in page
        assert page.count('data-label="Queue"') == 20
        assert f'href="{QUEUES}"' in page
        assert "All 1,000 queues" in page

    def test_page_of_many_queues_shows_totals_and_the_verdict(self, admin_client, many):
        page = text(admin_client.get(LANDING))

        assert "<strong>1,006</strong><span>ready</span>" in page
        assert "tenant-0777 is behind: oldest task waiting" in page
        assert "1,000 attempts finished" in page

    @pytest.mark.sample
    def test_page_of_many_queues_takes_as_few_queries_as_for_few(self, admin_client, many):
        with CaptureQueriesContext(connection) as many_asked:
            admin_client.get(LANDING)
        Task.objects.all()._raw_delete("default")
        TaskFactory(queue="tenant-0001")
        with CaptureQueriesContext(connection) as few_asked:
            admin_client.get(LANDING)

        assert len(many_asked) == len(few_asked)

    def test_page_lists_few_reasons_and_the_number_of_others(self, admin_client, many):
        Task.objects.update(run_at=DatabaseNow(-4000))

        page = text(admin_client.get(LANDING))

        assert len(page.encode()) < 150_000
        assert page.count('<li class="bg-is-fail">') == 20
        assert "and 976 more" in page  # 999, without the three of the sentence and those 20.

    def test_few_queues_are_listed_by_name(self, admin_client):
        for name in ("b", "a", "c"):
            TaskFactory(queue=name)

        page = text(admin_client.get(LANDING))

        assert page.index("?queue=a") < page.index("?queue=b") < page.index("?queue=c")
        assert QUEUES not in page


class TestList:
    @pytest.mark.sample
    def test_list_shows_all_queues_in_pages(self, admin_client, many):
        first, last = (text(admin_client.get(f"{QUEUES}?page={one}")) for one in (1, 20))

        assert len(first.encode()) < 150_000
        assert first.count('data-label="Queue"') == 50
        assert first.index("tenant-0777") < first.index("tenant-0555") < first.index("tenant-0333")
        assert "Page 20 of 20" in last
        assert "tenant-0999" in last

    def test_list_finds_queues_by_a_part_of_their_name(self, admin_client, many):
        page = text(admin_client.get(f"{QUEUES}?q=T-077&order=name"))

        assert page.count('data-label="Queue"') == 10
        assert "10 of 1,000 queues" in page
        assert page.index("?queue=tenant-0770") < page.index("?queue=tenant-0777")

    @pytest.mark.parametrize(
        "query", ["page=0", "page=x", "page=999", "order=x", "q=%00%ff<script>"]
    )
    def test_list_accepts_any_query(self, admin_client, many, query):
        response = admin_client.get(f"{QUEUES}?{query}")

        assert response.status_code == 200
        assert b"<script>&" not in response.content

    def test_resuming_redirects_to_the_list(self, admin_client, many):
        here = f"{QUEUES}?q=0555"

        assert "next" in text(admin_client.get(here))
        response = admin_client.post(f"{LANDING}resume/", {"name": "tenant-0555", "next": here})

        assert response["Location"] == here
        assert not QueuePause.objects.in_force().exists()

    def test_list_needs_a_permission(self, client, django_user_model):
        client.force_login(django_user_model.objects.create_user("bob", is_staff=True))

        assert client.get(QUEUES).status_code == 403


def test_a_queue_that_is_not_shown_counts_in_the_charts(admin_client, many):
    TaskStatsFactory(queue="tenant-0900", minute=1, succeeded=7, retried=0, failed=0)

    assert "1,007 attempts finished" in text(admin_client.get(LANDING))


class TestDocuments:
    """Kind of fault: what machines read grows with the number of queues."""

    @pytest.fixture
    def ask(self, client, settings):
        settings.BGTASK = {"MONITOR_TOKENS": ["a-token-of-32-characters-or-more-"]}
        bearer = {"Authorization": "Bearer a-token-of-32-characters-or-more-"}
        return lambda path: client.get(f"/bgtask/{path}", headers=bearer)

    @pytest.mark.sample
    def test_health_lists_the_worst_queues_and_the_number_of_others(self, ask, many):
        response = ask("health")

        assert len(response.content) < 150_000
        document = response.json()
        assert document["status"] == "fail"
        assert document["queues_omitted"] == MANY - 100
        assert document["checks"]["queue.tenant-0777:oldest_ready_age"][0]["status"] == "fail"
        for queue in ("tenant-0333", "tenant-0555"):
            assert f"queue.{queue}:stuck" in document["checks"]

    def test_stats_lists_the_worst_and_totals_of_all(self, ask, many):
        response = ask("stats")

        assert len(response.content) < 150_000
        document = response.json()
        assert document["totals"]["ready"] == MANY + 6
        assert document["totals"]["finished_window"] == MANY
        assert document["queues_omitted"] == MANY - 100
        listed = [queue["name"] for queue in document["queues"]]
        assert {"tenant-0777", "tenant-0555", "tenant-0333"} <= set(listed)
        assert listed == sorted(listed)

    def test_stats_lists_few_reasons(self, ask, many):
        Task.objects.update(run_at=DatabaseNow(-4000))

        document = ask("stats").json()

        assert len(document["reasons"]) == 100
        assert document["reasons_omitted"] == MANY - 1 - 100  # One is paused.

    @pytest.mark.sample
    def test_metrics_add_up_queues_without_their_own_series(self, ask, many):
        Task.objects.filter(queue__in=["tenant-0998", "tenant-0999"]).update(
            status="HELD", held_for="operator"
        )
        response = ask("metrics")

        assert len(response.content) < 150_000
        lines = response.content.decode().splitlines()
        ready = [line for line in lines if line.startswith("bgtask_tasks{") and '"ready"' in line]
        assert len(ready) == 101
        assert sum(float(line.rpartition(" ")[2]) for line in ready) == MANY + 6 - 2
        ended = [line for line in lines if line.startswith("bgtask_finished_recent{")]
        assert sum(float(line.rpartition(" ")[2]) for line in ended) == MANY
        assert 'bgtask_queue_workers{queue="(other)"} 1.0' in lines
        assert 'bgtask_queue_paused{queue="tenant-0555"} 1.0' in lines

    def test_metrics_have_each_window_of_the_others_once(self, ask, many, settings):
        settings.BGTASK |= {"THRESHOLDS": {"queues": {"tenant-0998": {"failure_window": 600}}}}

        lines = ask("metrics").content.decode().splitlines()

        names = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
        assert len(names) == len(set(names))
        assert {'bgtask_finished_recent{queue="(other)",window="600"} 1.0'} <= set(lines)

    @pytest.mark.parametrize("path", ["health", "stats"])
    def test_health_of_one_queue_can_be_requested(self, ask, many, path):
        document = ask(f"{path}?queue=tenant-0998").json()

        assert document["status"] == "pass"
        assert document["queues_omitted"] == 0
        assert "tenant-0998" in str(document)
        assert "tenant-0777" not in str(document)

    def test_only_the_requested_queue_is_judged(self, ask, many):
        assert ask("health?queue=tenant-0777").status_code == 503
        assert ask("health?queue=tenant-0998&queue=tenant-0333").status_code == 200

    def test_requested_queue_without_tasks_passes(self, ask, many):
        document = ask("stats?queue=empty").json()

        assert [(queue["name"], queue["workers"]) for queue in document["queues"]] == [("empty", 1)]

    @pytest.mark.parametrize("query", ["queue=", "queue=a%20b", "&".join(["queue=a"] * 101)])
    def test_invalid_queue_name_is_refused(self, ask, many, query):
        response = ask(f"health?{query}")

        assert response.status_code == 400
        assert response.json()["detail"]
