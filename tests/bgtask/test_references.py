"""
Rows of a project refer to rows of the queue, and pruning still deletes the old ones.

The module is long because each on_delete rule and each kind of error is one case of the same
deletion.
"""

from __future__ import annotations

from contextlib import contextmanager
from io import StringIO

import pytest
from django.core.exceptions import ObjectDoesNotExist
from django.core.management import call_command
from django.db import IntegrityError, OperationalError, connection, models
from django.db.models import signals
from django.test.utils import CaptureQueriesContext

from bgtask.db import DatabaseNow
from bgtask.models import Attempt, Task, TaskStats, Worker
from bgtask.models.deletion import MOST_DIVISIONS, kept_in_words
from bgtask.worker.maintenance import Maintenance, Pruner, _PeriodicJob
from tests.bgtask.referring import (
    DAY,
    finished,
    foreign_key,
    ids,
    insert_service_row,
    prune,
    service_table,
)
from tests.factories import AttemptFactory, TaskFactory, WorkerFactory
from tests.models import project_models

pytestmark = pytest.mark.django_db(transaction=True)


class TestOnDelete:
    """Kind of fault: rules that Django keeps in Python are passed over by SQL."""

    def test_cascade_deletes_the_rows_that_refer(self, pruned):
        with project_models(("Job", {"task": foreign_key(models.CASCADE)})) as (job,):
            tasks = finished(3)
            job.objects.create(task=tasks[0])
            young = job.objects.create(task=TaskFactory())

            assert pruned() == (3, {})
            assert ids(job) == {young.pk}
            assert ids() == {young.task_id}

    def test_set_null_keeps_the_rows_that_refer(self, pruned):
        with project_models(("Job", {"task": foreign_key(models.SET_NULL, null=True)})) as (job,):
            tasks = finished(3)
            job.objects.create(task=tasks[0])

            assert pruned() == (3, {})
            assert job.objects.get().task_id is None

    @pytest.mark.parametrize("way", ["default", "value", "function"])
    def test_set_points_the_rows_to_another_task(self, way, pruned):
        other = TaskFactory()
        on_delete = {
            "default": models.SET_DEFAULT,
            "value": models.SET(other.pk),
            "function": models.SET(lambda: other.pk),
        }[way]
        default = {"default": other.pk} if way == "default" else {}
        with project_models(("Job", {"task": foreign_key(on_delete, **default)})) as (job,):
            tasks = finished(3)
            job.objects.create(task=tasks[0])

            assert pruned() == (3, {})
            assert job.objects.get().task_id == other.pk

    @pytest.mark.parametrize("on_delete", [models.PROTECT, models.RESTRICT, models.DO_NOTHING])
    @pytest.mark.parametrize("kind", [models.ForeignKey, models.OneToOneField])
    def test_undeletable_task_does_not_block_the_others(self, on_delete, kind, pruned):
        with project_models(("Job", {"task": foreign_key(on_delete, kind=kind)})) as (job,):
            tasks = finished(6)
            for task in (tasks[1], tasks[4]):
                job.objects.create(task=task)
                AttemptFactory(task=task)

            assert pruned() == (4, {"shop_job": 2})
            assert ids() == {tasks[1].pk, tasks[4].pk}
            assert Attempt.objects.count() == 2
            connection.check_constraints()

    def test_kept_task_keeps_its_referring_rows(self, pruned):
        with project_models(
            ("Job", {"task": foreign_key(models.CASCADE)}),
            ("Bill", {"task": foreign_key(models.DO_NOTHING)}),
        ) as (job, bill):
            kept, gone = finished(2)
            jobs = [job.objects.create(task=task) for task in (kept, gone)]
            bill.objects.create(task=kept)

            assert pruned() == (1, {"shop_bill": 1})
            assert ids(job) == {jobs[0].pk}

    @pytest.mark.parametrize("on_delete", [models.PROTECT, models.RESTRICT, models.DO_NOTHING])
    def test_indirectly_referring_row_keeps_the_task(self, on_delete, pruned):
        with project_models(
            ("Job", {"task": foreign_key(models.CASCADE)}),
            ("Line", {"job": foreign_key(on_delete, "tests.Job")}),
        ) as (job, line):
            tasks = finished(5)
            jobs = [job.objects.create(task=task) for task in tasks]
            line.objects.create(job=jobs[2])

            assert pruned() == (4, {"shop_line": 1})
            assert ids(job) == {jobs[2].pk}
            assert ids() == {tasks[2].pk}
            connection.check_constraints()

    def test_restricted_row_is_deleted_if_a_cascade_reaches_it(self, pruned):
        with project_models(
            ("Job", {"task": foreign_key(models.CASCADE)}),
            (
                "Line",
                {
                    "job": foreign_key(models.CASCADE, "tests.Job"),
                    "task": foreign_key(models.RESTRICT),
                },
            ),
        ) as (job, line):
            (task,) = finished(1)
            line.objects.create(job=job.objects.create(task=task), task=task)

            assert pruned() == (1, {})
            assert not line.objects.exists()

    def test_rows_of_a_many_to_many_table_are_deleted(self, pruned):
        tasks_field = models.ManyToManyField("bgtask.Task", related_name="+")
        with project_models(("Job", {"tasks": tasks_field})) as (job,):
            tasks = finished(2)
            one = job.objects.create()
            one.tasks.set(tasks)

            assert pruned() == (2, {})
            assert one.tasks.count() == 0
            assert ids(job) == {one.pk}

    def test_row_of_a_child_model_is_deleted_with_its_task(self, pruned):
        with project_models(("LongTask", {"note": models.TextField()}), bases=(Task,)) as (child,):
            old = finished(2)
            row = child(task_ptr=old[0], note="long")
            row.save_base(raw=True)

            assert pruned() == (2, {})
            assert not child.objects.exists()

    @pytest.mark.parametrize("on_delete", [models.CASCADE, models.PROTECT, models.DO_NOTHING])
    def test_rows_can_refer_to_attempts(self, on_delete, pruned):
        with project_models(("Note", {"about": foreign_key(on_delete, "bgtask.Attempt")})) as (
            note,
        ):
            tasks = finished(3)
            attempts = [AttemptFactory(task=task) for task in tasks]
            note.objects.create(about=attempts[1])

            goes = on_delete is models.CASCADE
            assert pruned() == ((3, {}) if goes else (2, {"shop_note": 1}))
            assert ids(Attempt) == (set() if goes else {attempts[1].pk})


class Elsewhere:
    """The models of the project live in another database than the queue."""

    def db_for_read(self, model, **hints):
        return "other" if model._meta.db_table.startswith("shop_") else None

    db_for_write = db_for_read


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
class TestAnotherDatabase:
    """Kind of fault: a table is looked for in the database of the queue, where it is not."""

    @pytest.fixture(autouse=True)
    def router(self, settings):
        settings.DATABASE_ROUTERS = [Elsewhere()]

    def job(self, on_delete, **options):
        field = foreign_key(on_delete, db_constraint=False, **options)
        return project_models(("Job", {"task": field}), alias="other")

    @pytest.mark.parametrize("on_delete", [models.PROTECT, models.RESTRICT])
    def test_protected_row_in_another_database_keeps_only_its_task(self, on_delete, pruned):
        with self.job(on_delete) as (job,):
            tasks = finished(3)
            job.objects.create(task_id=tasks[1].pk)

            assert pruned() == (2, {"shop_job": 1})
            assert ids() == {tasks[1].pk}

    def test_cascading_row_in_another_database_is_deleted_with_its_task(self, pruned):
        with self.job(models.CASCADE) as (job,):
            tasks = finished(3)
            job.objects.create(task_id=tasks[1].pk)

            assert pruned() == (3, {})
            assert not job.objects.exists()

    def test_row_in_another_database_with_set_null_is_updated(self, pruned):
        with self.job(models.SET_NULL, null=True) as (job,):
            tasks = finished(3)
            job.objects.create(task_id=tasks[1].pk)

            assert pruned() == (3, {})
            assert job.objects.get().task_id is None

    def test_row_in_another_database_stays_with_a_kept_task(self, pruned):
        with (
            self.job(models.CASCADE) as (job,),
            service_table(),
        ):
            (task,) = finished(1)
            job.objects.create(task_id=task.pk)
            insert_service_row(task)

            assert pruned() == (0, {"service_row": 1})
            assert job.objects.exists()


class TestSignals:
    def test_signals_are_sent_for_rows_of_the_project(self):
        with project_models(("Job", {"task": foreign_key(models.CASCADE)})) as (job,):
            tasks = finished(2)
            for task in tasks:
                job.objects.create(task=task)
            told = []

            def receive(instance, **kwargs):
                told.append(instance.task_id)

            signals.pre_delete.connect(receive, sender=job)
            signals.post_delete.connect(receive, sender=job)

            assert prune() == (2, {})
            assert sorted(told) == sorted([task.pk for task in tasks] * 2)


@contextmanager
def receiver(receive, sender):
    signals.pre_delete.connect(receive, sender=sender)
    try:
        yield
    finally:
        signals.pre_delete.disconnect(receive, sender=sender)


class TestErrors:
    """Kind of fault: code of the project that raises for one row keeps all the others."""

    @pytest.mark.parametrize("error", [RuntimeError, IntegrityError, ObjectDoesNotExist])
    def test_error_of_a_receiver_keeps_only_its_task(self, error, caplog):
        with project_models(("Job", {"task": foreign_key(models.CASCADE)})) as (job,):
            tasks = finished(9)
            for task in tasks:
                job.objects.create(task=task)
            first = job.objects.get(task=tasks[3]).pk

            def receive(instance, **kwargs):
                if instance.task_id in (tasks[3].pk, tasks[4].pk):
                    raise error(f"invoice {instance.pk} is open")

            with receiver(receive, job):
                number, kept = prune()

            assert (number, list(kept.values())) == (7, [2])
            assert ids() == {tasks[3].pk, tasks[4].pk}
            assert set(job.objects.values_list("task_id", flat=True)) == ids()
        (record,) = [one for one in caplog.records if one.exc_info]
        assert record.exc_info[0] is error
        (reason,) = kept
        assert kept_in_words([reason] * 2) == [
            f"Could not delete 2 rows: {error.__name__}: invoice {first} is open"
        ]

    def test_error_of_a_set_value_keeps_only_its_task(self):
        def value():
            raise ValueError("nobody is on duty")

        with project_models(("Job", {"task": foreign_key(models.SET(value), null=True)})) as (job,):
            tasks = finished(4)
            job.objects.create(task=tasks[2])

            assert prune() == (3, {"error: ValueError: nobody is on duty": 1})

    def test_errors_of_every_row_cause_a_bounded_number_of_tries(self):
        """Kind of fault: SQLite keeps everybody waiting until each row has been tried."""
        with project_models(("Job", {"task": foreign_key(models.CASCADE)})) as (job,):
            job.objects.bulk_create(job(task=task) for task in finished(300))
            times = []

            def receive(**kwargs):
                times.append(1)
                raise RuntimeError("no")

            with receiver(receive, job):
                assert prune() == (0, {"error: RuntimeError: no": 300})
            assert len(times) <= 2 * MOST_DIVISIONS + 1
            assert prune() == (300, {})

    def test_error_of_a_trigger_keeps_only_its_task(self):
        tasks = finished(5)
        condition = f"OLD.id = {tasks[1].pk}"
        create, drop = {
            "sqlite": (
                f"CREATE TRIGGER keep BEFORE DELETE ON bgtask_task WHEN {condition} "
                "BEGIN SELECT RAISE(ABORT, 'audited'); END",
                "DROP TRIGGER keep",
            ),
            "mysql": (
                f"CREATE TRIGGER keep BEFORE DELETE ON bgtask_task FOR EACH ROW IF {condition} "
                "THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'audited'; END IF",
                "DROP TRIGGER keep",
            ),
            "postgresql": (
                "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"IF {condition} THEN RAISE EXCEPTION 'audited'; END IF; RETURN OLD; END $$; "
                "CREATE TRIGGER keep BEFORE DELETE ON bgtask_task FOR EACH ROW "
                "EXECUTE FUNCTION keep()",
                "DROP FUNCTION keep CASCADE",
            ),
        }[connection.vendor]
        with connection.cursor() as cursor:
            cursor.execute(create)
            try:
                number, kept = prune()
            finally:
                cursor.execute(drop)

        assert number == 4
        ((reason, times),) = kept.items()
        assert times == 1
        assert "audited" in reason
        assert ids() == {tasks[1].pk}


class TestReadRows:
    """Kind of fault: tracebacks and arguments are loaded only to be deleted."""

    def read(self):
        for task in finished(2):
            AttemptFactory(task=task)
        with CaptureQueriesContext(connection) as asked:
            assert prune() == (2, {})
        return [query["sql"] for query in asked]

    @pytest.mark.parametrize("with_receiver", [False, True])
    def test_only_keys_of_tasks_with_referring_models_are_read(self, with_receiver):
        def receive(**kwargs):
            pass

        if with_receiver:
            signals.pre_delete.connect(receive)
        try:
            with project_models(("Job", {"task": foreign_key(models.CASCADE)})):
                statements = self.read()
        finally:
            signals.pre_delete.disconnect(receive)

        assert not [sql for sql in statements if "last_error" in sql or "traceback" in sql]

    def test_no_task_is_read_without_referring_models(self):
        statements = self.read()

        words = ("SAVEPOINT", "RELEASE", "BEGIN", "COMMIT", "ROLLBACK", "START")
        told = [sql for sql in statements if not sql.upper().startswith(words)]
        catalogs = [sql for sql in told if "pg_constraint" in sql or "sqlite_master" in sql]
        # Those in question, those that are locked, and a DELETE for each table.
        assert len(told) - len(catalogs) == 4
        assert len(catalogs) <= 2


class TestManyUndeletableTasks:
    """Kind of fault: one page of rows that must stay hides all the rows behind it."""

    def test_undeletable_tasks_do_not_hide_the_next_tasks(self):
        with project_models(("Job", {"task": foreign_key(models.PROTECT)})) as (job,):
            kept = finished(7, days=9)
            for task in kept:
                job.objects.create(task=task)
            finished(4)

            assert prune(batch_size=3) == (4, {"shop_job": 7})
            assert ids() == {task.pk for task in kept}

    def test_undeletable_tasks_with_one_finish_time_are_each_tried_once(self):
        with project_models(("Job", {"task": foreign_key(models.PROTECT)})) as (job,):
            tasks = finished(7)
            Task.objects.update(finished_at=DatabaseNow(-9 * DAY))
            for task in tasks[:5]:
                job.objects.create(task=task)

            assert prune(batch_size=2) == (2, {"shop_job": 5})

    @pytest.mark.slow
    def test_undeletable_tasks_are_tried_again_after_the_others(self):
        with project_models(("Job", {"task": foreign_key(models.PROTECT)})) as (job,):
            for task in finished(1_000, days=9):
                job.objects.create(task=task)
            behind = finished(1)[0]
            pruner = Pruner()

            def one_batch():
                turns = iter([True])
                return pruner.prune(lambda: next(turns, False))["successful"]

            assert (one_batch(), dict(pruner.kept)) == (0, {"shop_job": 1_000})
            assert (one_batch(), dict(pruner.kept)) == (1, {})
            assert behind.pk not in ids()
            # Start again, because the referring rows may be gone by now.
            job.objects.all().delete()
            assert one_batch() == 1_000


class TestOtherTables:
    """Siblings: rows may refer to workers and to statistics as well."""

    @pytest.mark.parametrize("on_delete", [models.CASCADE, models.PROTECT, models.DO_NOTHING])
    def test_undeletable_worker_does_not_block_the_others(self, on_delete):
        with project_models(("Host", {"worker": foreign_key(on_delete, "bgtask.Worker")})) as (
            host,
        ):
            workers = [
                WorkerFactory(dead=True, heartbeat_at=DatabaseNow(-2 * DAY)) for _ in range(3)
            ]
            host.objects.create(worker=workers[1])

            pruner = Pruner()
            pruned = pruner.prune()

            goes = on_delete is models.CASCADE
            assert pruned["workers"] == (3 if goes else 2)
            assert pruner.kept == ({} if goes else {"shop_host": 1})
            assert Worker.objects.count() == (0 if goes else 1)

    @pytest.mark.parametrize("on_delete", [models.CASCADE, models.PROTECT, models.DO_NOTHING])
    def test_undeletable_minute_does_not_block_the_others(self, on_delete):
        with project_models(("Mark", {"minute": foreign_key(on_delete, "bgtask.TaskStats")})) as (
            mark,
        ):
            rows = [
                TaskStats.objects.create(minute=DatabaseNow(-days * DAY), queue="a", task_name="b")
                for days in (31, 32, 33)
            ]
            mark.objects.create(minute=rows[1])

            pruner = Pruner()
            pruned = pruner.prune()

            goes = on_delete is models.CASCADE
            assert pruned["statistics"] == (3 if goes else 2)
            assert pruner.kept == ({} if goes else {"shop_mark": 1})


class TestMessages:
    def test_prune_command_names_the_tables_that_keep_tasks(self):
        with project_models(("Job", {"task": foreign_key(models.PROTECT)})) as (job,):
            tasks = finished(3)
            job.objects.create(task=tasks[0])
            output = StringIO()

            call_command("prune_tasks", stdout=output)

        assert output.getvalue().startswith("Deleted 2 successful, ")
        assert "\nCould not delete 1 row: rows of shop_job refer to it." in output.getvalue()

    def test_discard_logs_the_tables_that_keep_tasks(self, caplog):
        with project_models(("Job", {"task": foreign_key(models.PROTECT)})) as (job,):
            tasks = finished(3)
            job.objects.create(task=tasks[0])

            assert Task.objects.discard() == 2

        assert "Could not delete 1 row: rows of shop_job refer to it." in caplog.messages

    def test_worker_logs_the_tables_that_keep_tasks(self, caplog):
        maintenance = Maintenance(
            may_judge=lambda: False, is_idle=lambda: True, on_rescued=lambda outcomes: None
        )
        with project_models(("Job", {"task": foreign_key(models.PROTECT)})) as (job,):
            tasks = finished(3)
            job.objects.create(task=tasks[0])

            maintenance._prune()

        assert "Could not delete 1 row: rows of shop_job refer to it." in caplog.messages

    def test_failing_maintenance_job_is_named_in_the_log(self, caplog):
        """Kind of fault: a message that doesn't say what failed."""

        def fail():
            raise OperationalError("no such table: shop_job")

        maintenance = Maintenance(
            may_judge=lambda: False, is_idle=lambda: True, on_rescued=lambda outcomes: None
        )
        maintenance._do(_PeriodicJob("prune", fail, 60.0))

        assert (
            "The chore 'prune' failed, and will be done later: no such table: shop_job"
            in caplog.messages
        )
