"""Test what @background accepts and refuses."""

from __future__ import annotations

import functools
from datetime import datetime, timedelta

import pytest

from bgtask import InvalidFunction, InvalidOption, background, registry
from bgtask.models import Task
from tests.bgtask import same_name
from tests.bgtask.functions import (
    bare,
    decorated_twice,
    notify_user,
    repeats,
    with_empty_parentheses,
    with_every_option,
)

# What the decorator makes of a function


def test_function_is_registered_by_its_dotted_path_or_its_given_name():
    assert bare.name == "tests.bgtask.functions.bare"
    assert with_every_option.name == "tests.everything"
    assert registry.find("tests.everything") is with_every_option


def test_decorator_keeps_the_attributes_of_the_function():
    assert notify_user.__name__ == "notify_user"
    assert notify_user.__doc__ == "Look the user up and send a mail."
    assert notify_user.function.__module__ == "tests.bgtask.functions"


def test_attributes_of_the_function_replace_none_of_the_decorator():
    """Kind of fault: a project's own attribute has the name of one that bgtask needs."""

    def report(day): ...

    vars(report).update(name="Report", parameters=None, options=None, team="sales")
    decorated = background(name="tests.report", queue="mail")(report)

    assert decorated.team == "sales"
    assert (decorated.name, list(decorated.parameters)) == ("tests.report", ["day"])
    assert decorated.options["queue"] == "mail"


@pytest.mark.parametrize("function", [bare, with_empty_parentheses, decorated_twice])
def test_registry_finds_a_function_by_its_name(function):
    assert registry.find(function.name) is function


def test_decorator_refuses_a_lambda():
    with pytest.raises(InvalidFunction, match="is a lambda, and has no name"):
        background(lambda: None)


def test_decorator_refuses_a_nested_function():
    def inner():
        pass

    with pytest.raises(InvalidFunction, match="is defined inside another function"):
        background(inner)


def test_decorator_accepts_a_nested_function_with_a_name():
    @background(name="tests.inner")
    def inner():
        pass

    assert registry.find("tests.inner") is inner


def test_decorator_refuses_a_method():
    with pytest.raises(InvalidFunction, match="is a method, and its self"):

        class Account:
            @background(name="tests.method")
            def close(self):
                pass


@pytest.mark.parametrize("wrap", [staticmethod, classmethod])
def test_decorator_refuses_a_static_or_class_method(wrap):
    def close():
        pass

    with pytest.raises(InvalidFunction, match=f"is wrapped in {wrap.__name__}"):
        background(name="tests.wrapped")(wrap(close))


@pytest.mark.parametrize(
    "callable_", [print, functools.partial(print, "x"), "text".upper, dict], ids=repr
)
def test_decorator_refuses_other_callables(callable_):
    with pytest.raises(InvalidFunction, match="is not a plain function"):
        background(callable_)


def test_decorator_refuses_a_generator_function():
    def numbers():
        yield 1

    with pytest.raises(InvalidFunction, match="calling it would run nothing"):
        background(name="tests.generator")(numbers)


def test_decorator_refuses_a_background_function():
    with pytest.raises(InvalidFunction, match="is a background function already"):
        background(bare)


def test_error_of_two_functions_with_one_name_names_both_places():
    def first():
        pass

    background(name="tests.two")(first)

    with pytest.raises(InvalidFunction) as refusal:
        background(name="tests.two")(same_name.second)

    place = f"{__file__}:{first.__code__.co_firstlineno}"
    other_place = f"{same_name.__file__}:{same_name.second.__code__.co_firstlineno}"
    assert place in str(refusal.value)
    assert other_place in str(refusal.value)


def test_function_defined_again_at_the_same_place_replaces_itself():
    def define():
        @background(name="tests.reloaded")
        def function():
            pass

        return function

    define()
    again = define()

    assert registry.find("tests.reloaded") is again


@pytest.mark.parametrize("name", ["", "  ", "x" * 256, 5, "a\x00b", "\udc80"], ids=ascii)
def test_decorator_refuses_an_invalid_name(name):
    with pytest.raises(InvalidOption, match="name"):
        background(name=name)


def test_decorator_refuses_a_derived_name_that_is_too_long():
    def function():
        pass

    function.__qualname__ = "x" * 300

    with pytest.raises(InvalidOption, match="1 to 255 characters"):
        background(function)


@pytest.mark.parametrize(
    "schedule", [60, 0, 1.5, timedelta(minutes=1), datetime(2060, 7, 1)], ids=repr
)
def test_error_of_a_schedule_given_as_name_names_the_remedy(schedule):
    with pytest.raises(InvalidOption) as refusal:
        background(schedule)

    assert f"@background(schedule={schedule!r})" in str(refusal.value)


# Options of the original


@pytest.mark.parametrize(
    ("option", "value", "instead"),
    [
        ("creator", 7, "pass the primary key"),
        ("repeat", 60, "declare a schedule instead"),
        ("repeat", timedelta(minutes=1), "declare a schedule instead"),
        ("repeat_until", datetime(2060, 7, 1), "declare a schedule instead"),
        ("remove_existing_tasks", True, "use unique=True"),
    ],
)
def test_error_of_a_removed_option_names_the_replacement(option, value, instead):
    words = f"{option}= is not supported: {instead}"
    with pytest.raises(InvalidOption, match=words):
        background(**{option: value})
    with pytest.raises(InvalidOption, match=words):
        notify_user.using(**{option: value})
    with pytest.raises(InvalidOption, match=words):
        notify_user(1, **{option: value})


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("creator", None),
        ("repeat", None),
        ("repeat", 0),
        ("repeat_until", None),
        ("remove_existing_tasks", False),
        ("remove_existing_tasks", None),
    ],
)
def test_options_of_the_original_with_neutral_values_are_ignored(option, value):
    decorated = background(name="tests.of_the_original", **{option: value})(bare.function)

    tasks = [
        decorated(1, two=2),
        bare(1, two=2, **{option: value}),
        bare.using(**{option: value})(1, two=2),
    ]

    assert [task.params() for task in tasks] == [([1], {"two": 2})] * 3
    assert decorated.options == {}


@pytest.mark.django_db
def test_parameter_of_the_function_wins_over_an_option_of_the_original():
    task = repeats("a", repeat=0, creator=None)

    assert task.params() == (["a"], {"repeat": 0, "creator": None})


@pytest.mark.parametrize(
    ("word", "seconds"),
    [
        ("HOURLY", 3_600),
        ("DAILY", 86_400),
        ("WEEKLY", 7 * 86_400),
        ("EVERY_2_WEEKS", 14 * 86_400),
        ("EVERY_4_WEEKS", 28 * 86_400),
    ],
)
def test_repeat_constants_of_the_original_are_refused_as_repeats(word, seconds):
    assert getattr(Task, word) == seconds
    with pytest.raises(InvalidOption, match="repeat= is not supported: declare a schedule instead"):
        notify_user(1, repeat=getattr(Task, word))


@pytest.mark.django_db
def test_never_of_the_original_is_accepted():
    assert notify_user(1, repeat=Task.NEVER, repeat_until=None).params() == ([1], {})
