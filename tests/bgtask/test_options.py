"""What the options of a task may be."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

import pytest
from django.utils.translation import gettext_lazy

from bgtask import InvalidOption, background
from bgtask.models import Task
from bgtask.options import check_options


class Queues(StrEnum):
    MAIL = "mail"


@background(name="tests.options")
def function():
    pass


@pytest.mark.parametrize(
    "schedule",
    [
        *("60", "tomorrow", True, [60], date(2060, 1, 1), Decimal(60)),
        *(math.nan, math.inf, -math.inf, 1e10, timedelta.max),
        *(datetime.min, datetime.max, datetime.max.replace(tzinfo=UTC)),
    ],
    ids=repr,
)
def test_options_refuse_an_invalid_schedule(schedule):
    with pytest.raises(InvalidOption, match="schedule"):
        function.using(schedule=schedule)


@pytest.mark.parametrize("queue", ["a", "x" * 100, "A-z_0.9", Queues.MAIL], ids=ascii)
def test_options_accept_a_valid_queue_name(queue):
    assert function.using(queue=queue).options["queue"] == queue


@pytest.mark.parametrize(
    "queue", ["", "x" * 101, "a b", "a\n", "ünï", "a/b", "a,b", 5, b"mail"], ids=ascii
)
def test_options_refuse_an_invalid_queue_name(queue):
    with pytest.raises(InvalidOption, match="is not a valid queue name"):
        function.using(queue=queue)


def _nothing():
    pass


def _at_the_decorator(**options):
    return background(name="tests.second_names", **options)(_nothing)


@pytest.mark.parametrize("give", [_at_the_decorator, function.using], ids=["decorator", "using"])
def test_options_have_second_names(give):
    options = give(run_after=timedelta(minutes=1), queue_name="mail").options

    assert (options["schedule"], options["queue"]) == (60, "mail")
    assert not {"run_after", "queue_name"} & options.keys()


@pytest.mark.django_db
def test_second_names_in_a_call_override_the_decorator():
    task = function.using(schedule=60, queue="reports")(run_after=None, queue_name="mail")

    assert (task.status, task.queue) == ("READY", "mail")


@pytest.mark.parametrize(
    "give", [_at_the_decorator, function.using, function], ids=["decorator", "using", "call"]
)
@pytest.mark.parametrize(
    "options", [{"schedule": 60, "run_after": 60}, {"queue": None, "queue_name": "mail"}], ids=repr
)
def test_options_refuse_both_names_at_once(give, options):
    """Kind of fault: one of two contradicting options is ignored."""
    with pytest.raises(InvalidOption, match=r"= and (run_after|queue_name)= are two names of one"):
        give(**options)


def test_errors_use_the_given_name():
    with pytest.raises(InvalidOption, match=r"^run_after takes seconds"):
        function.using(run_after="soon")
    with pytest.raises(InvalidOption, match=r"^queue_name='a b' is not a valid queue name"):
        function.using(queue_name="a b")


@pytest.mark.django_db
def test_parameter_with_a_second_name_belongs_to_the_function():
    """Kind of fault: an argument of the function is taken for an option."""

    @background(name="tests.own_names")
    def own(run_after, queue_name):
        pass

    task = own(run_after=5, queue_name="a b", queue="mail")

    assert task.named_params() == {"run_after": 5, "queue_name": "a b"}
    assert (task.status, task.queue) == ("READY", "mail")


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["run_after", "queue_name"])
def test_queue_manager_refuses_second_names(name):
    with pytest.raises(InvalidOption, match=f"Unknown option '{name}'"):
        Task.objects.enqueue("greet", **{name: None})


@pytest.mark.parametrize("priority", [1.5, "5", True, 2**31, -(2**31), math.nan], ids=repr)
def test_options_refuse_an_invalid_priority(priority):
    with pytest.raises(InvalidOption, match="priority takes a whole number"):
        function.using(priority=priority)


@pytest.mark.parametrize("number", [0, -1, 1.5, "5", True, 2**31], ids=repr)
def test_options_refuse_invalid_max_attempts(number):
    with pytest.raises(InvalidOption, match="max_attempts"):
        background(max_attempts=number)


@pytest.mark.parametrize(
    "time", [0, -1, "60", True, math.nan, math.inf, timedelta(), timedelta.max], ids=repr
)
def test_options_refuse_an_invalid_max_run_time(time):
    with pytest.raises(InvalidOption, match="max_run_time"):
        background(max_run_time=time)


@pytest.mark.parametrize(
    "wait", [-1, "5", True, "soon", math.nan, math.inf, [], timedelta(-1)], ids=repr
)
def test_options_refuse_an_invalid_backoff(wait):
    with pytest.raises(InvalidOption, match="backoff"):
        background(backoff=wait)


@pytest.mark.django_db
@pytest.mark.parametrize("option", ["priorty", "backoff"])
def test_enqueue_by_name_refuses_an_unknown_option(option):
    with pytest.raises(InvalidOption, match=rf"Unknown option '{option}'. There are: max_attempts"):
        Task.objects.enqueue("tests.tasks.noop", **{option: 9})
    with pytest.raises(InvalidOption, match=option):
        Task.objects.enqueue_many("tests.tasks.noop", [], **{option: 9})


def test_options_refuse_an_unknown_option():
    with pytest.raises(InvalidOption, match=r"Unknown option 'colour'\. There are: backoff, "):
        background(colour="red")


@pytest.mark.django_db
@pytest.mark.parametrize("priority", [2**31 - 1, 1 - 2**31])
def test_every_accepted_priority_can_be_stored(priority):
    task = function(priority=priority)

    task.refresh_from_db()
    assert task.priority == priority


@pytest.mark.django_db
@pytest.mark.parametrize("seconds", [36_525 * 86_400, -36_525 * 86_400])
def test_every_accepted_schedule_can_be_stored(seconds):
    task = function(schedule=seconds)

    task.refresh_from_db()
    assert task.status == ("SCHEDULED" if seconds > 0 else "READY")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Welcome Ada", "Welcome Ada"),
        (gettext_lazy("Task"), "Task"),
        ("a\x00b\udc80", "a\ufffdb\\udc80"),
        ("é" * 300, "é" * 254 + "…"),
        ("🎉" * 255, "🎉" * 255),
        (None, ""),
    ],
    ids=ascii,
)
def test_a_verbose_name_is_made_storable(given, kept):
    task = function(verbose_name=given)

    task.refresh_from_db()
    assert task.verbose_name == kept


@pytest.mark.parametrize(
    "option", ["schedule", "priority", "max_attempts", "max_run_time", "backoff"]
)
def test_number_with_thousands_of_digits_is_refused_with_a_message(option):
    with pytest.raises(InvalidOption, match=f"{option}.* thousands of digits"):
        check_options({option: 10**5_000})
