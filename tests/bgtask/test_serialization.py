"""Test that parameters come back as they were given, or are refused at the call."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from collections import OrderedDict, defaultdict, namedtuple
from enum import Enum, IntEnum, StrEnum

import pytest
from django.contrib.auth.models import User
from django.http import QueryDict
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from bgtask import InvalidParameters, MalformedTask
from bgtask.models import Task
from bgtask.serialization import dump_params, dump_value, load_params
from tests.tasks import noop

Point = namedtuple("Point", "x y")


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


class Plain(Enum):
    ONE = 1


# Any text: NUL, halves of characters and all.
# In an alphabet of all characters, Hypothesis would hardly ever choose one of these few.
odd = st.sampled_from(["\x00", "\ud83d", "\ude00", "\ud83d\ude00", "\udc80", "'", '"', "\\"])
text = st.lists(odd | st.text(st.characters(categories=None), max_size=9)).map("".join)
integers = st.integers() | st.integers(-(2**12_999), 2**12_999)
floats = st.floats(allow_nan=False, allow_infinity=False)
atoms = st.none() | st.booleans() | integers | floats | text
strange = st.sampled_from(
    [
        *(math.nan, math.inf, b"x", {1}, {1: 2}, {None: 1}, 1j, range(3), object(), Plain.ONE),
        *(decimal.Decimal(1), uuid.UUID(int=0), datetime.date(2025, 1, 1), datetime.timedelta(1)),
    ]
)


def containers(items):
    lists = st.lists(items, max_size=4)
    return lists | lists.map(tuple) | st.dictionaries(st.text(), items, max_size=4)


accepted = st.recursive(atoms, containers)
anything = st.recursive(atoms | strange, containers)


def with_lists(value):
    """Return ``value`` with lists for tuples, and with surrogate pairs joined into characters."""
    if isinstance(value, list | tuple):
        return [with_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: with_lists(item) for key, item in value.items()}
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return value


@given(st.lists(accepted, max_size=4), st.dictionaries(st.text(), accepted, max_size=4))
def test_json_is_returned_equal_except_for_tuples(args, kwargs):
    stored = dump_params(args, kwargs)

    assert stored.isascii()
    assert load_params(stored) == (with_lists(args), with_lists(kwargs))


@given(anything)
def test_accepted_values_are_returned_equal_and_errors_name_the_path(value):
    refusal = ""
    try:
        stored = dump_params([], {"key": value})
    except InvalidParameters as error:
        refusal = str(error)

    if refusal:
        assert refusal.startswith("kwargs['key']")
    else:
        assert load_params(stored) == ([], {"key": with_lists(value)})


@given(st.text())
def test_reading_a_row_raises_nothing_but_malformed_task(stored):
    try:
        args, kwargs = load_params(stored)
    except MalformedTask:
        return

    assert isinstance(args, list)
    assert isinstance(kwargs, dict)


@pytest.mark.parametrize(
    "value",
    [
        *(Colour.RED, Size.BIG, OrderedDict(a=1), defaultdict(int, a=1), Point(1, 2)),
        *(-0.0, 5e-324, 2**63, -(2**64), 10**3_900),
        *("\x00", "\udc80", "\U0001f600", {"": {"": []}}),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_subclasses_of_json_types_are_accepted(value):
    ((back,), _) = load_params(dump_params([value], {}))

    assert back == with_lists(value)


def nested(depth):
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def endless():
    value: list = []
    value.append(value)
    return value


REFUSED = [
    (User(pk=5), "django.contrib.auth.models.User", "pass the primary key"),
    (User.objects.none(), "QuerySet", "pass a list of primary keys"),
    (datetime.datetime(2025, 1, 1), "datetime.datetime", "pass .isoformat()"),
    (datetime.date(2025, 1, 1), "datetime.date", "pass .isoformat()"),
    (datetime.timedelta(1), "datetime.timedelta", "pass .total_seconds()"),
    ({1, 2}, "builtins.set", "pass a sorted list"),
    (frozenset(), "builtins.frozenset", "pass a sorted list"),
    (math.nan, "nan, which JSON does not have", "pass None"),
    (-math.inf, "-inf, which JSON does not have", "pass None"),
    (b"bytes", "builtins.bytes", "base64"),
    (decimal.Decimal("1.5"), "decimal.Decimal", "pass str(…)"),
    (uuid.UUID(int=0), "uuid.UUID", "pass str(…)"),
    (range(3), "builtins.range", "pass a list"),
    (QueryDict("a=1&a=2"), "all but the last would be lost", "pass .dict()"),
    (gettext_lazy("Yes"), "__proxy__", "pass str(…)"),
    (object(), "builtins.object", "pass strings, numbers, lists"),
    ({5: "five"}, "the key 5, which would come back as a string", "use strings as keys"),
    ({(1, 2): 3}, "the key (1, 2)", "use strings as keys"),
    (nested(1_000), "nested more than 100 levels deep", "flatten it"),
    (endless(), "nested more than 100 levels deep", "flatten it"),
    (10**5_000, "an integer of thousands of digits", "pass it as a string"),
]
IDS = [what for _, what, _ in REFUSED]


@pytest.mark.django_db
@pytest.mark.parametrize(("value", "what", "remedy"), REFUSED, ids=IDS)
def test_values_that_are_not_json_are_refused_at_the_call(value, what, remedy):
    with pytest.raises(InvalidParameters) as refusal:
        noop(value)

    assert isinstance(refusal.value, TypeError)
    assert str(refusal.value).startswith("args[0]")
    assert what in str(refusal.value)
    assert remedy in str(refusal.value)
    assert not Task.objects.exists()


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        ([1, {2}], {}, "args[1] is"),
        ([[1, [2, {3}]]], {}, "args[0][1][1] is"),
        ([{"users": [{"id": {3}}]}], {}, "args[0]['users'][0]['id'] is"),
        ([], {"user": {3}}, "kwargs['user'] is"),
        ([], {"users": ({3},)}, "kwargs['users'][0] is"),
        ([{"x" * 500: {3}}], {}, "args[0]['" + "x" * 78 + "…] is"),
    ],
)
def test_a_refusal_names_the_path_of_the_value(args, kwargs, path):
    with pytest.raises(InvalidParameters) as refusal:
        dump_params(args, kwargs)

    assert str(refusal.value).startswith(path)


@pytest.mark.django_db
def test_ten_megabytes_are_refused_with_the_path_of_the_greatest():
    with pytest.raises(InvalidParameters) as refusal:
        noop(number=["x" * 10_000_000])

    assert "10,000,0" in str(refusal.value)
    assert "kwargs['number'] most of them" in str(refusal.value)
    assert "pass its key" in str(refusal.value)
    assert not Task.objects.exists()


def test_size_limit_is_configurable(settings):
    settings.BGTASK = {"MAX_PARAMS_BYTES": 2_000}

    assert load_params(dump_params(["x" * 1_900], {})) == (["x" * 1_900], {})
    with pytest.raises(InvalidParameters, match="2,000 are allowed"):
        dump_params(["x" * 2_000], {})


@pytest.mark.parametrize(
    "stored",
    [
        *("", "null", "[]", "[[]]", "{}", "[{}, []]", "[[], {}, 1]", "[[1, {}]", "[[NaN], {}]"),
        *("\x00", "[" * 100_000, f"[[{'1' * 5_000}], {{}}]", f"[[{'[' * 500}{']' * 500}], {{}}]"),
    ],
    ids=lambda stored: ascii(stored)[:20],
)
def test_a_row_broken_by_hand_is_malformed(stored):
    with pytest.raises(MalformedTask, match="task_params"):
        load_params(stored)


def test_return_value_is_json():
    assert dump_value((1, {"two": None})) == '[1, {"two": null}]'
    assert dump_value(None) is None
    with pytest.raises(InvalidParameters, match=r"return value\[0\] is a builtins.set"):
        dump_value([{1}])
