"""
Error trackers, mails to administrators and text logs say which task failed, and why.

The module is long because Sentry and Django's mail handler run here for real.
"""

from __future__ import annotations

import json
import logging
import weakref

import pytest
from django import VERSION
from django.utils.log import AdminEmailHandler

from bgtask import background
from bgtask.db import DatabaseNow
from bgtask.models import Task
from bgtask.testing import run_due
from bgtask.worker import Runner
from bgtask.worker.logs import FORMAT, OneLineFormatter
from tests.factories import TaskFactory, WorkerFactory
from tests.tasks import fail, noop

SECRET = "hunter2"


@background(max_attempts=1)
def fail_for_good(message="no luck"):
    raise RuntimeError(message)


@background(max_attempts=1)
def refuse_card(number):
    note = f"card {number}"
    raise ValueError(f"the card was refused, password={SECRET}, {len(note)}")


@background(max_attempts=1)
def look_up(depth=30):
    if depth:
        look_up.function(depth - 1)
    raise LookupError("no such member\nDETAIL: none at all")


@pytest.fixture
def reports(caplog):
    """Return a function: it runs the tasks that are due, and returns what was logged of them."""

    def run(level=logging.WARNING):
        caplog.set_level(logging.DEBUG, "bgtask")
        run_due(raise_errors=False)
        return [
            record
            for record in caplog.records
            if record.levelno >= level and record.name.startswith("bgtask")
        ]

    return run


@pytest.fixture
def mail_handler(settings):
    """Log to Django's AdminEmailHandler."""
    settings.ADMINS = [("Ops", "ops@example.org")] if VERSION < (6, 0) else ["ops@example.org"]
    handler = AdminEmailHandler()
    handler.setLevel(logging.ERROR)
    logging.getLogger("bgtask").addHandler(handler)
    yield handler
    logging.getLogger("bgtask").removeHandler(handler)


# What a log record holds


@pytest.mark.django_db
def test_the_record_of_a_final_failure_has_the_exception_and_no_traceback_in_its_message(reports):
    """Kind of fault: an error tracker groups all failures of all tasks as one."""
    task = refuse_card(1)

    (record,) = reports()

    kind, error, traceback = record.exc_info
    assert record.levelno == logging.ERROR
    assert kind is ValueError
    assert str(error).startswith("the card was refused")
    assert traceback is not None
    assert record.getMessage() == (
        f"{task} has failed; attempt 1 of 1 failed. "
        "ValueError: the card was refused, password=********, 6"
    )


@pytest.mark.django_db
def test_a_failure_that_will_be_retried_is_one_line_without_a_traceback(reports):
    """Kind of fault: some hundred failures fill the log with tracebacks."""
    task = fail("no luck\nnor a second line")

    (record,) = reports()

    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
    text = logging.Formatter().format(record)
    assert text == f"{task} will be tried again; attempt 1 of 25 failed. RuntimeError: no luck"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("function", "status", "outcome"),
    [(refuse_card, "FAILED", "failed"), (fail, "SCHEDULED", "failed"), (noop, "SUCCESSFUL", None)],
    ids=["failed", "retried", "succeeded"],
)
def test_the_record_names_the_task_in_attributes_of_its_own(reports, function, status, outcome):
    task = function.using(queue="mail")(1)

    (record,) = reports(level=logging.DEBUG)

    task.refresh_from_db()
    facts = {
        name.removeprefix("bgtask_"): value
        for name, value in vars(record).items()
        if name.startswith("bgtask_")
    }
    duration = facts.pop("duration")
    assert duration >= 0
    if outcome:
        assert facts.pop("error_class") == task.error_class
        assert facts.pop("fingerprint") == task.error_fingerprint
    assert facts == {
        "task_id": task.pk,
        "task_name": function.name,
        "queue": "mail",
        "status": status,
        "outcome": outcome or "succeeded",
        "attempt": 1,
        "max_attempts": task.executions_allowed,
    }


@pytest.mark.django_db
def test_the_attributes_do_not_collide_with_those_of_a_record_factory(reports):
    """Kind of fault: logging refuses an attribute that another package sets as well."""
    before = logging.getLogRecordFactory()

    def factory(*args, **kwargs):
        record = before(*args, **kwargs)
        record.task_id = record.task_name = record.queue = record.attempt = "another package's"
        return record

    logging.setLogRecordFactory(factory)
    try:
        refuse_card(1)
        (record,) = reports()
    finally:
        logging.setLogRecordFactory(before)
    assert record.bgtask_task_name == refuse_card.name


@pytest.mark.django_db
def test_text_logs_get_the_traceback_that_is_stored(reports):
    """Kind of fault: a secret that is masked in the row is in the log file."""
    task = refuse_card(1)

    (record,) = reports()

    task.refresh_from_db()
    text = logging.Formatter().format(record)
    assert text.endswith(task.last_error.rstrip())
    assert text.count("Traceback (most recent call last)") == 1
    assert SECRET not in text
    assert SECRET not in OneLineFormatter(FORMAT).format(record)


@pytest.mark.django_db
def test_a_malformed_row_is_reported_without_frames_of_bgtask(reports):
    task = TaskFactory(task_name=noop.name, task_params="nonsense")

    (record,) = reports()

    assert record.exc_info[0].__name__ == "MalformedTask"
    assert record.exc_info[2] is None
    assert "File " not in logging.Formatter().format(record)
    assert f"{task} has failed" in record.getMessage()


# What error trackers make of it


TRACKED = """
    import json
    import time
    from pathlib import Path

    import sentry_sdk
    from sentry_sdk.transport import Transport

    from bgtask import background


    class Keep(Transport):
        def capture_envelope(self, envelope):
            event = envelope.get_event()
            if event is not None:
                with Path(__file__).with_name("events").open("a") as file:
                    file.write(json.dumps(event, default=str) + "\\n")


    sentry_sdk.init("https://key@sentry.example/1", transport=Keep())


    @background(name="shop.pay", max_attempts=1)
    def pay(card):
        raise ValueError("card refused")


    @background(name="shop.greet", max_attempts=1)
    def greet(name):
        raise LookupError("no such member")


    @background(name="shop.again")
    def again():
        raise LookupError("not yet")
"""


@pytest.fixture
def tracked(transactional_db, app):
    """Return a function: it runs a worker with Sentry, and returns the events that it sends."""
    app.tasks(TRACKED)

    def run():
        worker = app.run("process_tasks", "--drain", "--threads=2")
        assert worker.returncode == 0, worker.stderr
        lines = app.path("events").with_name("events").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return run


def test_sentry_gets_one_issue_for_each_exception(tracked):
    for name, params in (("pay", '["4111"]'), ("greet", '["Ada"]'), ("pay", '["4222"]')):
        TaskFactory(task_name=f"shop.{name}", task_params=f"[{params}, {{}}]", max_attempts=1)
    TaskFactory(task_name="shop.again")

    events = tracked()

    found = sorted(
        (
            event["extra"]["bgtask_task_name"],
            event["exception"]["values"][-1]["type"],
            event["exception"]["values"][-1]["value"],
            event["exception"]["values"][-1]["stacktrace"]["frames"][-1]["function"],
            event["level"],
        )
        for event in events
    )
    pay = ("shop.pay", "ValueError", "card refused", "pay", "error")
    greet = ("shop.greet", "LookupError", "no such member", "greet", "error")
    assert found == [greet, pay, pay]
    assert all("Traceback" not in event["logentry"]["message"] for event in events)
    ids = set(Task.objects.failed().values_list("pk", flat=True))
    assert {event["extra"]["bgtask_task_id"] for event in events} == ids


def test_sentry_gets_no_parameters(tracked):
    """Kind of fault: a local variable carries a parameter to another company's server."""
    TaskFactory(task_name="shop.pay", task_params='[["4111-of-somebody"], {}]', max_attempts=1)

    (event,) = tracked()

    assert "4111-of-somebody" not in json.dumps(event)


def test_sentry_tells_tasks_that_were_lost_from_those_that_ran_for_too_long(tracked):
    """Kind of fault: without an exception, Sentry groups by the text of the message."""
    details = {"task_name": "shop.pay", "status": "RUNNING", "attempts": 1, "max_attempts": 1}
    TaskFactory(**details, crashes=2, locked_by=WorkerFactory(dead=True))
    TaskFactory(**details, deadline_at=DatabaseNow(-1))

    events = tracked()

    messages = {event["logentry"]["message"] for event in events}
    assert len(messages) == len(events) == 2
    assert all("exception" not in event for event in events)


# Mails

# Django 6.1 warns of the settings for mail that Django 5.2 needs.
without_warnings = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"
)


@without_warnings
@pytest.mark.django_db
def test_the_mail_to_administrators_has_a_short_subject_and_the_traceback(mail_handler, mailoutbox):
    """Kind of fault: the subject of the mail is a whole traceback."""
    task = look_up()

    run_due(raise_errors=False)

    (mail,) = mailoutbox
    assert mail.subject == (
        f"[Django] ERROR: {task} has failed; attempt 1 of 1 failed. LookupError: no such member"
    )
    assert "LookupError" in mail.body
    assert "in look_up" in mail.body


@without_warnings
@pytest.mark.django_db
def test_a_long_message_does_not_make_a_long_subject(mail_handler, mailoutbox):
    fail_for_good("x" * 10_000)

    run_due(raise_errors=False)

    (mail,) = mailoutbox
    assert len(mail.subject) < 250
    assert mail.subject.endswith("xxx…")


@without_warnings
@pytest.mark.django_db
def test_a_retry_sends_no_mail(mail_handler, mailoutbox):
    fail()

    run_due(raise_errors=False)

    assert mailoutbox == []


# Memory


class Large:
    """Stands for what a task holds in a local variable."""


_held: list[weakref.ref[Large]] = []


def _fail_inside(large):
    try:
        raise KeyError("inside")
    except KeyError as error:
        raise ExceptionGroup("several", [ValueError("one")]) from error


@background(max_attempts=1)
def fail_with_something_large():
    large = Large()
    _held.append(weakref.ref(large))
    _fail_inside(large)


@pytest.mark.django_db(transaction=True)
def test_an_error_that_waits_to_be_announced_does_not_keep_what_its_task_held():
    """Kind of fault: thousands of waiting errors keep the memory of their tasks."""
    _held.clear()
    errors, freed = [], []

    class Look(logging.Handler):
        def emit(self, record):
            if record.levelno == logging.ERROR:
                errors.append(record.exc_info[1])
                freed.append(_held[0]() is None)

    handler = Look()
    logging.getLogger("bgtask").addHandler(handler)
    try:
        fail_with_something_large()
        Runner(drain=True).run()
    finally:
        logging.getLogger("bgtask").removeHandler(handler)

    assert freed == [True]
    assert [str(error) for error in errors] == ["several (1 sub-exception)"]
