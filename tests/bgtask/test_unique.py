"""
Test the options of unique tasks, the key that each call has, and what a second call does.

The module is long because each option and each kind of bad input has a test of its own.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection, transaction

from bgtask import AlreadyThere, InvalidOption, background
from bgtask.models import Task
from bgtask.signals import task_enqueued
from bgtask.status import Status
from bgtask.testing import immediately, run_due
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


@background(unique=True)
def reindex(product_id, language="en", *, deep=False):
    return product_id


@background(unique=["product_id"])
def reprice(product_id, reason=""):
    return product_id


@background(unique="import:{source}")
def load(source, page=1):
    return page


@background(unique=True)
def collect(*args, **kwargs):
    return len(args)


@background(name="tests.not_unique")
def not_unique(product_id):
    return product_id


@background(unique="import:{source}")
def unload(source):
    return source


def call(function, *args, **kwargs):
    """Call and return whether the task was there."""
    return function(*args, **kwargs).was_there


# The key


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((7,), {}),
        ((), {"product_id": 7}),
        ((7, "en"), {}),
        ((7,), {"language": "en", "deep": False}),
    ],
)
def test_calls_with_the_same_parameters_are_one_however_they_are_passed(args, kwargs):
    first = reindex(7)
    second = reindex(*args, **kwargs)
    assert not first.was_there
    assert second.was_there
    assert second.pk == first.pk
    assert Task.objects.count() == 1


@pytest.mark.parametrize(
    ("args", "kwargs"), [((8,), {}), ((7, "de"), {}), ((7,), {"deep": True}), (("7",), {})]
)
def test_calls_with_other_parameters_are_others(args, kwargs):
    reindex(7)
    assert not call(reindex, *args, **kwargs)


def test_a_list_names_the_parameters_that_count():
    reprice(7, "sale")
    assert call(reprice, 7, "season")
    assert call(reprice, reason="x", product_id=7)
    assert not call(reprice, 8, "sale")


def test_further_positional_and_keyword_parameters_count():
    collect(1, 2, a=1)
    assert call(collect, 1, 2, a=1)
    assert not call(collect, 1, a=1)
    assert not call(collect, 1, 2, a=2)
    assert not call(collect, 1, 2, b=1)


def test_a_key_of_its_own_is_stored_as_it_is_and_shared_by_functions():
    assert not call(load, "shop", page=1)
    assert Task.objects.get().unique_key == "import:shop"
    assert call(load, "shop", page=2)
    assert call(unload, "shop")


@pytest.mark.parametrize(
    ("value", "key"),
    [(7, "k:7"), (None, "k:null"), (True, "k:true"), (1.5, "k:1.5"), ([1, "a"], 'k:[1,"a"]')],
)
def test_a_value_that_is_no_text_is_written_into_the_key_as_json(value, key):
    not_unique.using(unique="k:{product_id}")(value)
    assert Task.objects.get().unique_key == key


def test_the_key_of_parameters_names_the_function_and_has_a_fixed_length():
    reindex(7)
    name, _, digest = Task.objects.get().unique_key.rpartition(":")
    assert name == "tests.bgtask.test_unique.reindex"
    assert len(digest) == 64


def test_a_function_with_the_longest_name_fits_the_column():
    @background(name="x" * 255, unique=True)
    def longest(number):
        pass

    longest(1)
    assert call(longest, 1)
    assert not call(longest, 2)


def test_two_functions_with_long_names_have_different_keys():
    @background(name="x" * 254 + "a", unique=True)
    def one(number):
        pass

    @background(name="x" * 254 + "b", unique=True)
    def other(number):
        pass

    one(1)
    assert not call(other, 1)


def test_keys_differ_in_case_and_in_trailing_blanks():
    for source in ("Shop", "shop", "shop ", "shöp", "shop\u0301"):
        assert not call(load, source)


def test_a_default_that_json_cannot_hold_does_not_count():
    missing = object()

    @background(name="tests.with_sentinel", unique=True)
    def with_sentinel(number, other=missing):
        pass

    with_sentinel(1)
    assert call(with_sentinel, 1)
    assert not call(with_sentinel, 1, None)


@pytest.mark.parametrize("source", ["", "x" * 194, "x\x00"])
def test_a_key_that_can_not_be_stored_is_refused_at_the_call(source):
    with pytest.raises(InvalidOption, match="makes a key"):
        not_unique.using(unique="{product_id}" if not source else "import:{product_id}")(source)
    assert not Task.objects.exists()


# The options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unique": ["nothing"]}, "'nothing', which is no parameter of .* There are: number, text"),
        ({"unique": "x:{nothing}"}, "{nothing}, which is no parameter"),
        ({"unique": "x:{number.real}"}, "not just the name of a parameter"),
        ({"unique": "x:{text[0]}"}, "not just the name of a parameter"),
        ({"unique": "x:{number:03}"}, "not just the name of a parameter"),
        ({"unique": "x:{number!r}"}, "not just the name of a parameter"),
        ({"unique": "x:{}"}, "not just the name of a parameter"),
        ({"unique": "x:{number"}, "is no key"),
        ({"unique": "{number}{text}"}, r"Put a separator between them: {number}:{text}"),
        ({"unique": "x:{password}"}, "named like a secret"),
        ({"unique": "x:{kwargs}"}, "which is no parameter"),
        ({"unique": []}, "neither True, a list of parameters, nor a key"),
        ({"unique": ""}, "neither True, a list of parameters, nor a key"),
        ({"unique": 7}, "neither True, a list of parameters, nor a key"),
        ({"unique": [7]}, "neither True, a list of parameters, nor a key"),
        ({"unique": True, "unique_while": "always"}, "There are: 'running', 'waiting'"),
        ({"unique": True, "on_conflict": "ignore"}, "There are: 'skip', 'replace', 'raise'"),
        ({"unique": True, "unique_for": 0}, "unique_for=0 is not above zero"),
        ({"unique": True, "unique_for": -1}, "unique_for=-1 is not above zero"),
        ({"unique": True, "unique_for": "1h"}, "unique_for takes seconds or a timedelta"),
        ({"unique": True, "unique_for": 60, "unique_while": "waiting"}, "Leave out one of them"),
        ({"unique": True, "latest": 60}, "needs on_conflict='replace'"),
        ({"unique": True, "latest": 0, "on_conflict": "replace"}, "latest=0 is not above zero"),
        ({"on_conflict": "replace"}, "on_conflict= only means something with unique="),
        ({"unique_while": "waiting"}, "unique_while= only means something with unique="),
        ({"unique_for": 60}, "unique_for= only means something with unique="),
        ({"latest": 60}, "latest= only means something with unique="),
    ],
)
@pytest.mark.parametrize("place", ["decorator", "using"])
def test_options_that_mean_nothing_are_refused(options, message, place):
    def function(number, text="", password=None, **kwargs):
        pass

    def define():
        if place == "decorator":
            return background(name="tests.refused", **options)(function)
        return background(name="tests.refused_later")(function).using(**options)

    with pytest.raises(InvalidOption, match=message):
        define()


def test_a_list_is_refused_for_a_function_whose_parameters_have_no_names():
    with pytest.raises(InvalidOption, match=r"takes \*args"):
        collect.using(unique=["args"])


def test_a_default_that_can_not_be_written_into_the_key_is_refused():
    with pytest.raises(InvalidOption, match="whose default can't be written"):

        @background(name="tests.no_default", unique="x:{number}")
        def no_default(number=object()):  # noqa: B008
            pass


def test_a_call_can_do_without_the_options_of_its_function():
    reindex(7)
    assert not call(reindex.using(unique=None), 7)
    assert not call(load.using(unique=None, priority=3), "shop")
    assert Task.objects.filter(unique_key=None).count() == 2


def test_a_call_can_bring_its_own_key():
    assert not call(reindex.using(unique="mine"), 1)
    assert call(not_unique.using(unique="mine"), 2)


def test_the_manager_takes_no_raw_option():
    with pytest.raises(InvalidOption, match="Give it to @background"):
        Task.objects.enqueue("tests.any", unique=True)


# A second call


def test_skip_returns_the_row_that_is_there():
    first = reindex.using(priority=5, queue="search")(7)
    second = reindex.using(priority=9)(7, schedule=60)
    assert (second.pk, second.priority, second.queue) == (first.pk, 5, "search")
    assert second.status == Status.READY


def test_no_signal_is_sent_for_a_call_that_is_not_stored():
    sent = []

    def receiver(task, **kwargs):
        sent.append(task.pk)

    task_enqueued.connect(receiver)
    try:
        first = reindex(7)
        reindex(7)
        reindex.using(on_conflict="replace")(7)
    finally:
        task_enqueued.disconnect(receiver)
    assert sent == [first.pk]


def test_raise_names_the_task_and_leaves_the_transaction_usable():
    first = reindex(7)
    with transaction.atomic():
        with pytest.raises(
            AlreadyThere, match=f"Task {first.pk} .*READY.* holds the unique key"
        ) as e:
            reindex.using(on_conflict="raise")(7)
        assert not_unique(7).pk
    assert e.value.task_id == first.pk
    assert e.value.key == Task.objects.get(pk=first.pk).unique_key


def test_replace_gives_the_waiting_task_new_parameters_time_and_priority():
    first = reprice(7, "sale", schedule=600)
    second = reprice.using(on_conflict="replace", priority=4)(7, reason="season")
    row = Task.objects.get()
    assert second.was_there
    assert second.pk == first.pk == row.pk
    assert row.task_params == '[[7], {"reason": "season"}]'
    assert row.priority == second.priority == 4
    assert row.status == second.status == Status.READY
    assert row.enqueued_at == first.enqueued_at
    assert row.run_at < first.run_at
    assert second.run_at == row.run_at
    assert second.queue == "default"


@pytest.mark.parametrize("schedule", [600, timedelta(minutes=10)])
def test_replace_puts_a_ready_task_off(schedule):
    reprice(7)
    task = reprice.using(on_conflict="replace")(7, schedule=schedule)
    assert task.status == Task.objects.get().status == Status.SCHEDULED


def test_replace_leaves_a_held_task_held():
    task = reprice(7)
    task.hold()
    second = reprice.using(on_conflict="replace")(7, "season")
    assert second.status == Status.HELD
    assert Task.objects.get().params() == ([7, "season"], {})


@pytest.mark.parametrize("status", [Status.RUNNING, Status.SUCCESSFUL])
def test_replace_changes_no_task_that_runs_or_has_ended(status):
    there = TaskFactory(
        task_name=load.name, status=status, unique_key="import:shop", unique_name="import:shop"
    )
    task = load.using(on_conflict="replace")("shop", 2)
    assert task.was_there
    assert task.pk == there.pk
    assert Task.objects.get().task_params == there.task_params


def test_replace_never_gives_a_task_the_parameters_of_another_function():
    load("shop", 1)
    with pytest.raises(AlreadyThere, match=r"because it is a call of .*load"):
        unload.using(on_conflict="replace")("shop")
    assert Task.objects.get().task_params == '[["shop", 1], {}]'


def test_a_debounced_task_is_put_off_by_each_call():
    debounced = reprice.using(unique_while="waiting", on_conflict="replace", schedule=30)
    first = debounced(7)
    earlier = first.run_at - timedelta(seconds=20)
    Task.objects.update(run_at=earlier)
    assert debounced(7).run_at >= first.run_at
    assert Task.objects.count() == 1


def test_latest_bounds_for_how_long_calls_put_a_task_off():
    debounced = reprice.using(on_conflict="replace", schedule=60, latest=300)
    first = debounced(7)
    Task.objects.update(enqueued_at=first.enqueued_at - timedelta(seconds=280))
    second = debounced(7)
    left = second.run_at - second.enqueued_at
    assert left == pytest.approx(timedelta(seconds=300), abs=timedelta(seconds=0.01))
    Task.objects.update(enqueued_at=first.enqueued_at - timedelta(seconds=301))
    assert debounced(7).status == Status.READY


def test_latest_bounds_a_date_as_well():
    first = reprice.using(on_conflict="replace")(7, schedule=10)
    later = first.enqueued_at + timedelta(days=1)
    second = reprice.using(on_conflict="replace", latest=300)(7, schedule=later)
    assert second.run_at - first.enqueued_at == pytest.approx(
        timedelta(seconds=300), abs=timedelta(seconds=0.01)
    )


# How long a key is held


def test_the_key_is_free_once_the_task_has_ended():
    first = reindex(7)
    run_due()
    assert Task.objects.get(pk=first.pk).unique_key is None
    assert not call(reindex, 7)


def test_within_immediately_each_call_runs():
    with immediately():
        first, second = reindex(7), reindex(7)
    assert first.pk != second.pk
    assert not second.was_there


def test_unique_for_holds_the_key_of_a_task_that_has_ended():
    hourly = reindex.using(unique_for=timedelta(hours=1))
    first = hourly(7)
    run_due()
    again = hourly(7)
    assert again.was_there
    assert again.pk == first.pk
    assert again.status == Status.SUCCESSFUL


def test_a_key_lapses_by_itself_at_the_next_call_whether_that_has_unique_for_or_not():
    for following in (reindex, reindex.using(unique_for=60)):
        first = reindex.using(unique_for=60)(7)
        run_due()
        Task.objects.filter(pk=first.pk).update(unique_until=first.enqueued_at)
        assert not call(following, 7)
        assert Task.objects.get(pk=first.pk).unique_key is None
        Task.objects.all().delete()


def test_unique_for_does_not_free_the_key_of_a_task_that_has_not_ended():
    first = reindex.using(unique_for=60)(7)
    Task.objects.filter(pk=first.pk).update(unique_until=first.enqueued_at)
    assert call(reindex, 7)


def test_a_call_that_is_rolled_back_leaves_no_key():
    with transaction.atomic():
        reindex(7)
        transaction.set_rollback(True)
    assert not call(reindex, 7)


def test_a_plain_call_has_no_key():
    not_unique(1)
    row = Task.objects.get()
    assert (row.unique_key, row.unique_name, row.unique_while, row.unique_until) == (None,) * 4


# Many at once


def test_many_are_stored_once_for_each_key():
    reindex(1)
    stored = reindex.enqueue_many([(number,) for number in (1, 2, 3, 2)])
    assert stored == 2
    assert sorted(task.params()[0] for task in Task.objects.all()) == [[1], [2], [3]]


def test_more_than_one_statement_of_them():
    assert reindex.enqueue_many((number % 1_500,) for number in range(3_000)) == 1_500
    assert Task.objects.count() == 1_500


def test_many_that_replace_keep_the_last_of_each_key():
    reprice(1, "old", schedule=600)
    stored = reprice.using(on_conflict="replace").enqueue_many(
        [(1, "new"), (2, "first"), (2, "last"), (1, "newest")]
    )
    assert stored == 1
    assert sorted(task.params()[0] for task in Task.objects.all()) == [[1, "newest"], [2, "last"]]
    assert set(Task.objects.values_list("status", flat=True)) == {Status.READY}


def test_many_never_give_a_task_the_parameters_of_another_function():
    load("shop", 1)
    with pytest.raises(AlreadyThere, match=r"because it is a call of .*load"):
        unload.using(on_conflict="replace").enqueue_many([("other",), ("shop",)])
    assert Task.objects.get().task_params == '[["shop", 1], {}]'


def test_many_that_raise_store_all_or_none():
    first = reindex(2)
    strict = reindex.using(on_conflict="raise")
    with pytest.raises(AlreadyThere) as e:
        strict.enqueue_many([(1,), (2,)])
    assert e.value.task_id == first.pk
    with pytest.raises(AlreadyThere, match="Two of these items"):
        strict.enqueue_many([(3,), (3,)])
    assert Task.objects.count() == 1


def test_many_with_unique_for_let_old_keys_lapse():
    once = reindex.using(unique_for=60)
    once.enqueue_many([(1,), (2,)])
    run_due()
    assert once.enqueue_many([(1,), (2,), (3,)]) == 1
    run_due()
    Task.objects.update(unique_until=Task.objects.first().enqueued_at)
    assert once.enqueue_many([(1,), (2,)]) == 2


def test_many_with_receivers_of_the_signal_are_counted_as_stored():
    def receiver(**kwargs):
        pass

    task_enqueued.connect(receiver)
    try:
        assert reindex.enqueue_many([(1,), (1,), (2,)]) == 2
    finally:
        task_enqueued.disconnect(receiver)


def test_an_item_whose_key_is_too_long_is_named():
    with pytest.raises(InvalidOption, match="Item 1: "):
        load.enqueue_many([("a",), ("a" * 300,)])
    assert not Task.objects.exists()


def test_a_call_without_options_of_unique_tasks_takes_one_statement(django_assert_num_queries):
    statements = 1 if connection.features.can_return_columns_from_insert else 2
    with django_assert_num_queries(statements):
        not_unique(1)


def test_a_call_whose_key_is_free_takes_one_statement(django_assert_num_queries):
    looks = connection.vendor == "mysql"
    with django_assert_num_queries(2 if looks else 1):
        reindex(1)
