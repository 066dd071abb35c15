from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from bgtask import health
from bgtask.db import DatabaseNow
from bgtask.health import Health, Level, QueueHealth, Stuck, Workers
from tests.factories import TaskFactory, WorkerFactory

NOON = datetime(2030, 5, 4, 12, 4, 31)


@pytest.fixture(autouse=True)
def thresholds(settings) -> None:
    settings.USE_TZ = False  # Times in the sentences are what they are here.
    settings.BGTASK = {
        "THRESHOLDS": {
            "oldest_ready": (60, 300),
            "failure_ratio": (0.05, 0.2),
            "queues": {
                "reports": {"oldest_ready": (600, 3600)},
                "nightly": {"oldest_ready": None, "failure_ratio": None},
            },
        }
    }


def judged(*queues: QueueHealth, **others: Any) -> Health:
    others.setdefault("workers", Workers(alive=1))
    return health.evaluate(Health(generated_at=NOON, window=900, queues=queues, **others))


def queue(name: str = "mail", age: float = 0, **figures: Any) -> QueueHealth:
    if age:
        figures |= {
            "oldest_ready_age": age,
            "oldest_ready_since": NOON - timedelta(seconds=age),
            "ready": figures.get("ready", 1),
        }
    return QueueHealth(name=name, window=900, **{"served_by": 1, **figures})


def measures(verdict: Health) -> list[tuple[str, str]]:
    return [(reason.queue, reason.measure) for reason in verdict.reasons]


def test_empty_system_passes() -> None:
    verdict = judged(workers=Workers())

    assert verdict.status == Level.PASS
    assert verdict.reasons == ()
    assert verdict.sentence == "OK: nothing is behind; 0 ready, 0 running, 0 workers"


def test_punctual_tasks_pass() -> None:
    verdict = judged(queue(age=59, ready=1204, running=12))

    assert verdict.sentence == "OK: nothing is behind; 1,204 ready, 12 running, 1 worker"


@pytest.mark.parametrize(
    ("name", "age", "status"),
    [
        ("mail", 60, Level.PASS),
        ("mail", 61, Level.WARN),
        ("mail", 300, Level.WARN),
        ("mail", 301, Level.FAIL),
        ("reports", 301, Level.PASS),
        ("reports", 601, Level.WARN),
        ("reports", 3601, Level.FAIL),
        ("nightly", 999_999, Level.PASS),
    ],
)
def test_age_of_the_oldest_task_decides_the_status(name: str, age: float, status: Level) -> None:
    verdict = judged(queue(name, age))

    assert verdict.status == status
    assert verdict.queues[0].status == status


def test_reason_names_the_time_since_when_a_queue_is_delayed() -> None:
    verdict = judged(queue(age=412, behind_since=NOON - timedelta(seconds=90)))

    assert verdict.sentence == (
        "CRITICAL: mail has been behind since 12:03: oldest task waiting 6 m 52 s (limit 5 m)"
    )


def test_does_not_guess_since_when_a_queue_is_behind() -> None:
    """Kind of fault: the due time of the oldest task is told as the time of something else."""
    verdict = judged(queue(age=412))

    assert verdict.sentence == (
        "CRITICAL: mail is behind: oldest task waiting 6 m 52 s (limit 5 m)"
    )


def test_says_how_many_tasks_are_failed_even_if_nothing_is_behind() -> None:
    """Kind of fault: “OK”, and no word of the tasks that failed last night."""
    assert judged(failed_tasks=1).summary.endswith("1 worker; 1 failed task")
    assert judged(failed_tasks=301).summary.endswith("1 worker; 301 failed tasks")
    many = judged(failed_tasks=10_000, failed_tasks_at_least=True)
    assert many.summary.endswith("1 worker; 10,000+ failed tasks")


def test_reason_names_the_day_if_it_is_not_today() -> None:
    verdict = judged(queue(age=86_400, behind_since=NOON - timedelta(days=1)))

    assert "since 2030-05-03 12:04" in verdict.sentence


def test_reason_names_the_time_in_the_current_time_zone(settings) -> None:
    settings.USE_TZ = True
    settings.TIME_ZONE = "Asia/Kathmandu"
    now = datetime(2030, 5, 4, 0, 4, 31, tzinfo=UTC)
    since = now - timedelta(seconds=412)
    behind = QueueHealth(
        name="mail",
        served_by=1,
        oldest_ready_age=412,
        oldest_ready_since=since,
        behind_since=since,
    )

    verdict = health.evaluate(Health(generated_at=now, window=900, queues=(behind,)))

    assert "behind since 05:42" in verdict.sentence


def test_a_reason_is_described_in_the_time_zone_in_which_it_is_read(settings) -> None:
    settings.USE_TZ = True
    now = datetime(2030, 5, 4, 0, 4, 31, tzinfo=UTC)
    since = now - timedelta(seconds=412)
    behind = QueueHealth(
        name="mail",
        served_by=1,
        oldest_ready_age=412,
        oldest_ready_since=since,
        behind_since=since,
    )
    verdict = health.evaluate(Health(generated_at=now, window=900, queues=(behind,)))

    for zone, clock in (("UTC", "2030-05-03 23:57"), ("Asia/Kathmandu", "05:42")):
        with timezone.override(zone):
            assert f"behind since {clock}" in verdict.reasons[0].text


@pytest.mark.parametrize(
    ("ratio", "status"),
    [(None, Level.PASS), (0.05, Level.PASS), (0.06, Level.WARN), (0.31, Level.FAIL)],
)
def test_failure_ratio_decides_the_status(ratio: float | None, status: Level) -> None:
    assert judged(queue(failure_ratio=ratio, finished_window=1606)).status == status


def test_reason_names_the_number_of_failures_and_the_window() -> None:
    verdict = judged(queue(failure_ratio=0.31, finished_window=1606))

    assert verdict.sentence == (
        "CRITICAL: mail: 31 % of 1,606 attempts failed in the last 15 m (limit 20 %)"
    )


def test_failures_of_a_queue_without_a_threshold_are_not_judged() -> None:
    assert judged(queue("nightly", failure_ratio=1.0)).status == Level.PASS


class TestNoWorker:
    def test_missing_worker_fails_once_a_task_waits_longer_than_a_lease(self) -> None:
        verdict = judged(queue(age=61, ready=7, served_by=0), workers=Workers(alive=2))

        assert verdict.status == Level.FAIL
        assert verdict.sentence.startswith(
            "CRITICAL: no worker serves mail, where 7 tasks are ready; mail is behind: "
        )

    def test_missing_worker_passes_if_no_task_waits_so_long(self) -> None:
        assert judged(queue(age=59, served_by=0), workers=Workers()).status == Level.PASS

    def test_missing_worker_passes_for_a_queue_without_threshold(self) -> None:
        verdict = judged(queue("nightly", age=9999, served_by=0), workers=Workers())

        assert verdict.status == Level.PASS

    def test_missing_worker_is_reported_once_for_all_queues(self) -> None:
        verdict = judged(
            queue("a", age=100, ready=3, served_by=0),
            queue("b", age=200, ready=4, served_by=0),
            workers=Workers(),
        )

        assert verdict.reasons[0].text == "no worker is alive, and 7 tasks are ready"
        assert [measure for _, measure in measures(verdict)].count("no_worker") == 1
        assert {one.status for one in verdict.queues} == {Level.FAIL}


def test_stuck_task_warns() -> None:
    verdict = judged(queue(stuck=Stuck(overdue=1, silent=2)))

    assert verdict.sentence == (
        "WARNING: 3 tasks of mail are stuck (1 past the deadline, 2 with a silent worker)"
    )


def test_silent_worker_warns() -> None:
    verdict = judged(workers=Workers(alive=3, silent=1, heartbeat_age_max=250))

    assert verdict.sentence == "WARNING: 1 worker is silent, for 4 m 10 s"


def test_worst_reason_comes_first() -> None:
    verdict = judged(
        queue("a", age=100),
        queue("b", age=301),
        queue("c", stuck=Stuck(lost=1)),
        queue("d", age=1000),
        queue("e", age=200),
    )

    assert [name for name, _ in measures(verdict)] == ["d", "b", "e", "a", "c"]
    assert verdict.sentence.startswith("CRITICAL: d is behind: oldest task waiting 16 m 40 s")
    assert verdict.sentence.endswith("; and 2 more")


def test_evaluate_accepts_other_thresholds() -> None:
    strict = health.Thresholds.in_force().with_oldest_ready(warn=10, fail=20)
    figures = Health(
        generated_at=NOON,
        window=900,
        queues=(queue("mail", 15), queue("reports", 25), queue("nightly", 99)),
    )

    verdict = health.evaluate(figures, strict)

    assert [one.status for one in verdict.queues] == [Level.WARN, Level.FAIL, Level.PASS]


@pytest.mark.django_db
def test_check_judges_the_rows_of_the_database() -> None:
    TaskFactory(queue="mail", run_at=DatabaseNow(-400))
    WorkerFactory()

    verdict = health.check()

    assert verdict.status == Level.FAIL
    assert verdict.sentence.startswith("CRITICAL: mail is behind: oldest task waiting 6 m")
