"""
Values of a project's own types: text that is no plain str, and what can't be printed.

The module is long because each option and setting is given each kind of unusual value.
"""

from __future__ import annotations

import sys
from datetime import datetime, tzinfo
from enum import Enum, IntEnum, StrEnum

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import models
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe

from bgtask import InvalidOption, InvalidParameters, background, registry
from bgtask.conf import get_settings
from bgtask.exceptions import BgtaskError
from bgtask.health import Thresholds
from bgtask.models import Task
from bgtask.testing import TaskFailed, run_due
from bgtask.values import as_text, brief


class Plain(str, Enum):  # noqa: UP042  # Python's older way, whose str() is "Plain.MAIL".
    MAIL = "mail"


class Modern(StrEnum):
    MAIL = "mail"


class Choices(models.TextChoices):
    MAIL = "mail", "The mail"


class Own(str):
    """A string whose str() is another one."""

    def __str__(self):
        return "another"


TEXTS = [Plain.MAIL, Modern.MAIL, Choices.MAIL, Own("mail"), mark_safe("mail"), lazystr("mail")]
every_text = pytest.mark.parametrize("text", TEXTS, ids=lambda text: type(text).__name__)


def is_plain(value, expected="mail"):
    return type(value) is str and value == expected


@background(name="tests.values")
def function(x=0):
    return x


@every_text
def test_any_text_becomes_a_plain_string(text):
    assert is_plain(as_text(text))


@pytest.mark.parametrize("value", [None, 5, b"mail", ["mail"]], ids=repr)
def test_value_that_is_no_text_becomes_none(value):
    assert as_text(value) is None


@every_text
@pytest.mark.django_db
def test_options_are_stored_as_their_value(text):
    """Kind of fault: a member of an enum is stored under its Python name, and nobody serves it."""
    tasks = [
        function(queue=text, verbose_name=text),
        function.using(queue=text, verbose_name=text)(),
        function.using(queue_name=text, verbose_name=text)(),
        background(name="tests.values", queue=text, verbose_name=text)(function.function)(),
    ]
    if isinstance(text, str):  # The manager takes options that are checked already.
        tasks.append(Task.objects.enqueue("tests.values", queue=text, verbose_name=text))
        Task.objects.enqueue_many("tests.values", [((), {})], queue=text, verbose_name=text)

    for task in tasks:
        assert is_plain(task.queue)
        assert is_plain(task.verbose_name)
    assert set(Task.objects.values_list("queue", "verbose_name")) == {("mail", "mail")}
    assert len(run_due(queues=[text])) == Task.objects.count()


@every_text
@pytest.mark.django_db
def test_a_single_queue_is_served_however_it_is_given(text):
    function(queue="mail")

    assert len(run_due(queues=text)) == 1


@pytest.mark.parametrize("text", [Plain.MAIL, Choices.MAIL, Own("mail")], ids=repr)
@pytest.mark.django_db
def test_a_name_is_stored_as_its_value(text):
    named = background(name=text)(function.function)
    try:
        task = named()

        assert is_plain(named.name)
        assert is_plain(task.task_name)
        assert registry.knows("mail")
        assert is_plain(Task.objects.enqueue(text).task_name)
    finally:
        registry._functions.pop("mail")


@every_text
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("several", [False, True])
def test_a_command_called_from_code_takes_queues_of_any_text(text, several):
    """Kind of fault: one name given in code is taken for a list of its letters."""
    function(queue="mail")
    function(queue="other")

    call_command("process_tasks", drain=True, queues=[text] if several else text)

    assert set(Task.objects.values_list("queue", "status")) == {
        ("mail", "SUCCESSFUL"), ("other", "READY"),
    }  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize("command", ["process_tasks", "bgtask_stats", "bgtask_health"])
@pytest.mark.parametrize("queues", ["a b", [None], [5], 5], ids=repr)
def test_a_command_called_from_code_refuses_what_is_no_queue(command, queues, capsys):
    # A worker that took these queues would end by this option, and so fail the test.
    options = {"drain": True} if command == "process_tasks" else {}
    with pytest.raises((CommandError, SystemExit)) as refusal:
        call_command(command, queues=queues, **options)

    said = str(refusal.value) + capsys.readouterr().out
    assert "queue" in said
    assert refusal.value.args != (0,)


def test_settings_take_any_text(settings):
    settings.BGTASK = {
        "MONITOR_TOKENS": [Plain.MAIL, lazystr("token")],
        "THRESHOLDS": {"queues": {Plain.MAIL: {"oldest_ready": (1, 2)}}},
    }

    first, second = get_settings().monitor_tokens
    assert is_plain(first)
    assert is_plain(second, "token")
    assert Thresholds.in_force().of("mail").oldest_ready == (1, 2)
    assert all(is_plain(name) for name in get_settings().thresholds["queues"])


def test_whole_numbers_become_plain_ones(settings):
    class Number(IntEnum):
        TWO = 2

    options = function.using(priority=Number.TWO).options
    options |= background(name="tests.values", max_attempts=Number.TWO)(function.function).options
    settings.BGTASK = {"MAX_ATTEMPTS": Number.TWO}

    assert {type(value) for value in options.values()} == {int}
    assert type(get_settings().max_attempts) is int


# What can't be printed


class Unprintable:
    def __repr__(self):
        raise LookupError("no repr")

    __str__ = __repr__


class UnprintableText(str):
    def __repr__(self):
        raise LookupError("no repr")


class UnprintableFloat(float):
    def __repr__(self):
        raise LookupError("no repr")


class Incomparable(Unprintable):
    def __eq__(self, other):
        raise LookupError("no ==")

    __hash__ = None  # type: ignore[assignment]


class NoZone(tzinfo):
    def __repr__(self):
        raise LookupError("no repr")

    def utcoffset(self, when):
        raise LookupError("no offset")


HUGE = 10**5_000
UNPRINTABLE = {
    "huge": HUGE,
    "negative": -HUGE,
    "inside": [HUGE],
    "object": Unprintable(),
    "incomparable": Incomparable(),
    "list": [Unprintable()],
    "text": UnprintableText("a b\x00"),
    "float": UnprintableFloat("nan"),
}
every_unprintable = pytest.mark.parametrize("value", UNPRINTABLE.values(), ids=UNPRINTABLE)


@every_unprintable
def test_a_description_is_short_and_never_fails(value):
    assert len(brief(value)) < 100
    assert len(brief("x" * 10_000)) < 250


@every_unprintable
@pytest.mark.parametrize(
    "option",
    ["schedule", "run_after", "queue", "queue_name", "priority", "max_attempts", "max_run_time",
     "backoff", "name", "repeat", "creator", "remove_existing_tasks"],
)  # fmt: skip
def test_an_option_that_cannot_be_printed_is_refused_by_an_error_of_ours(option, value):
    """Kind of fault: an error message that fails on the value that it is about."""
    with pytest.raises(InvalidOption, match=option):
        background(**{option: value})


@pytest.mark.parametrize("name", ["huge", "inside", "object", "incomparable", "list"])
def test_a_verbose_name_that_is_no_text_is_refused_by_an_error_of_ours(name):
    with pytest.raises(InvalidOption, match="verbose_name can't be turned into text"):
        function.using(verbose_name=UNPRINTABLE[name])


def test_a_datetime_whose_zone_fails_is_refused_by_an_error_of_ours():
    for year in (2030, 1):
        with pytest.raises(InvalidOption, match="schedule"):
            function.using(schedule=datetime(year, 1, 1, tzinfo=NoZone()))


@every_unprintable
@pytest.mark.parametrize(
    "setting",
    ["MAX_ATTEMPTS", "MAX_RUN_TIME", "LEASE", "HEARTBEAT_INTERVAL", "MAX_CRASHES", "RETRY_JITTER",
     "MAX_PARAMS_BYTES", "RETENTION", "GRACE_PERIOD", "LISTEN", "THRESHOLDS"],
)  # fmt: skip
def test_a_setting_that_cannot_be_printed_is_refused_by_an_error_of_ours(settings, setting, value):
    get_settings()
    settings.BGTASK = {setting: value}

    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match=setting):
            get_settings()


@every_unprintable
def test_settings_that_cannot_be_printed_are_refused_by_an_error_of_ours(settings, value):
    settings.BGTASK = value
    with pytest.raises(ImproperlyConfigured, match="BGTASK must be a dictionary"):
        get_settings()
    settings.BGTASK = {"THRESHOLDS": {"queues": value}}
    with pytest.raises(ImproperlyConfigured, match="queues"):
        get_settings()
    settings.BGTASK = {"MONITOR_TOKENS": [value]}
    if value is not UNPRINTABLE["text"]:
        with pytest.raises(ImproperlyConfigured, match="MONITOR_TOKENS"):
            get_settings()


@pytest.mark.parametrize("key", [HUGE, (HUGE,), UnprintableText("LEESE")], ids=brief)
def test_a_key_of_the_settings_that_cannot_be_printed_is_refused(settings, key):
    settings.BGTASK = {key: 5}
    with pytest.raises(ImproperlyConfigured, match="Unknown option"):
        get_settings()
    if not isinstance(key, str):
        settings.BGTASK = {"THRESHOLDS": {"queues": {key: {}}}}
        with pytest.raises(ImproperlyConfigured, match="names of queues as keys"):
            get_settings()


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["huge", "negative", "inside", "object", "list", "float"])
def test_parameters_that_cannot_be_printed_are_refused_by_an_error_of_ours(name):
    value = UNPRINTABLE[name]
    for give in (
        lambda: function(value),
        lambda: function(x=value),
        lambda: function({"key": value}),
        lambda: function.enqueue_many([(value,)]),
        lambda: function.enqueue_many([{"x": value}]),
    ):
        with pytest.raises(InvalidParameters, match=r"args|kwargs"):
            give()


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["huge", "object", "incomparable", "float"])
def test_an_item_that_cannot_be_printed_is_refused_by_an_error_of_ours(name):
    with pytest.raises(InvalidParameters, match="Item 1 is"):
        function.enqueue_many([(), UNPRINTABLE[name]])


@pytest.mark.django_db
def test_a_dictionary_with_a_huge_number_as_key_is_refused_by_an_error_of_ours():
    with pytest.raises(InvalidParameters, match="a number of thousands of digits"):
        function({HUGE: 1})


def test_a_wrong_call_is_named_although_a_default_cannot_be_printed():
    def own(a, b=Unprintable()):  # noqa: B008
        pass

    with pytest.raises(TypeError, match=r"tests\.default\(a, b\): missing"):
        background(name="tests.default")(own)()


@pytest.mark.django_db
def test_a_task_whose_error_cannot_be_printed_fails_as_any_other():
    class Broken(Exception):
        __repr__ = __str__ = Unprintable.__repr__

    @background(name="tests.broken", max_attempts=1)
    def broken():
        raise Broken

    broken()

    with pytest.raises(TaskFailed, match=r"a .*Broken whose repr\(\) fails"):
        run_due()
    assert Task.objects.get().status == "FAILED"


def test_every_error_of_ours_can_be_printed():
    with pytest.raises(BgtaskError) as refusal:
        function.using(queue=HUGE)

    assert sys.get_int_max_str_digits() < 5_000
    assert str(refusal.value).startswith("queue=a number of thousands of digits is not a valid")
