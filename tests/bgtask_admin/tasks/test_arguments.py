"""
Test that the filter by an argument finds only the tasks with exactly this value.

The module is long because list, actions, export and history must agree on one filter.
"""

from __future__ import annotations

import json

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given
from hypothesis import settings as h_settings
from hypothesis import strategies as st

from bgtask import background
from bgtask.models import Task
from bgtask.models.arguments import Argument
from bgtask.serialization import dump_params
from bgtask.status import Status
from bgtask_admin.actions import run
from bgtask_admin.actions.preview import Preview
from bgtask_admin.actions.registry import ACTIONS, Verb
from bgtask_admin.models import Operation, OperationState
from bgtask_admin.tasks import looking
from bgtask_admin.tasks.filters import MAX_ARGUMENT_LENGTH, WantedArgument
from bgtask_admin.tasks.search import parse_search
from bgtask_admin.tasks.selection import Selection
from tests.bgtask_admin.urls import CONFIRM, TASKS, text, words
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


def found(query: str) -> set[int]:
    return {task.pk for task in Selection.parse(parse_search(query)).tasks()}


VALUES = {
    "args.it:42": 42,
    'args.it:"42"': "42",
    "args.it:42.0": 42.0,
    "args.it:-42": -42,
    "args.it:true": True,
    'args.it:"true"': "true",
    "args.it:null": None,
    'args.it:"null"': "null",
    "args.it:04109": "04109",
    "args.it:NaN": "NaN",
    'args.it:""': "",
    'args.it:" "': " ",
    'args.it:" x"': " x",
    "args.it:[]": [],
    "args.it:[1,2]": [1, 2],
    "args.it:[1,2.0]": [1, 2.0],
    'args.it:"[1, [2]]"': [1, [2]],
    "args.it:{}": {},
    'args.it:"{\\"a\\": 1}"': {"a": 1},
    'args.it:"{\\"a\\": true}"': {"a": True},
    "args.it:https://shop.example/?page=2": "https://shop.example/?page=2",
    "args.it:a:b": "a:b",
    "args.it:a=b": "a=b",
    "args.it:YWJj==": "YWJj==",
    'args.it:"Ada \\"C\\" L"': 'Ada "C" L',
    'args.it:"\\"Ada\\""': '"Ada"',
    "args.it:abc": "abc",
    "args.it:ABC": "ABC",
    "args.it:a_b": "a_b",
    "args.it:aXb": "aXb",
    "args.it:C:\\temp": "C:\\temp",
    "args.it:100%": "100%",
    "args.it:Köln": "Köln",
    "args.it:köln": "köln",
    "args.it:Ko\u0308ln": "Ko\u0308ln",
    "args.it:🙂": "🙂",
}
SPELLINGS = {
    "as enqueued": {},
    "without blanks": {"separators": (",", ":")},
    "with more blanks": {"indent": 2},
    "without escapes": {"ensure_ascii": False},
}


def test_argument_value_finds_only_equal_values():
    """An argument: each value is one value, its type and its case included."""
    # An inner dictionary, another name, and another case of the name, are there as well.
    decoys = [{"other": {"it": one}, "item": one, "It": one} for one in VALUES.values()]
    tasks = {}
    for query, value in VALUES.items():
        tasks[query] = {
            TaskFactory(task_name=name, task_params=json.dumps(params, **spelling)).pk
            for spelling in SPELLINGS.values()
            for name, params in (
                ("gone", [[], {"it": value}]),
                ("gone", [[value], {"x": 1, "it": value}]),
            )
        }
    for params in decoys:
        TaskFactory(task_name="gone", task_params=json.dumps([[params["item"], params], params]))

    assert {query: found(query) for query in VALUES} == tasks


@pytest.mark.parametrize(
    ("params", "query", "is_found"),
    [
        ("[[42, 1], {}]", "args.a:42", True),
        ("[[1, 42], {}]", "args.a:42", False),
        ("[[1, 42], {}]", "args.b:42", True),
        ('[[1], {"b": 42}]', "args.b:42", True),
        ("[[1, 2, 42], {}]", "args.2:42", True),
        ("[[[42]], {}]", "args.a:42", False),
        ("[[42], {}]", "args.0:42", False),  # It has a name.
        ('[[], {"a": 42}', "args.a:42", False),  # Edited so that it is broken.
        ('{"a": 42}', "args.a:42", False),
    ],
)
def test_positional_argument_is_found_by_its_parameter_name(params, query, is_found):
    """An argument: a call by position is found by name where the function is known."""
    task = TaskFactory(task_name="tests.tasks.add", task_params=params)

    assert found(query) == ({task.pk} if is_found else set())


def test_arguments_of_an_unknown_function_are_found_by_name_or_number():
    """An argument: where the function is not known, a position has no name."""
    task = TaskFactory(task_name="gone", task_params='[[42], {"b": 1}]')

    assert [found(query) for query in ("args.a:42", "args.0:42", "args.b:1")] == [
        set(), {task.pk}, {task.pk},
    ]  # fmt: skip


OTHERS = (
    '[[], {"options": {"user_id": 42}}]',
    '[[], {"user_id": "42"}]',
    '[[], {"user_id": 42.0}]',
    '[[], {"USER_ID": 42}]',
    '[[], {"user_id": [42]}]',
)


@pytest.mark.parametrize("chunk", [1, 1_000])
def test_action_on_an_argument_filter_changes_no_other_task(monkeypatch, chunk):
    """An argument: a bulk verb changes the tasks that have it and no other."""
    monkeypatch.setattr(run, "CHUNK", chunk)
    monkeypatch.setattr(run, "LOOK_AHEAD", 2)
    mine = []
    for _ in range(2):
        for params in OTHERS:
            TaskFactory(status=Status.FAILED, task_params=params)
        mine.append(TaskFactory(status=Status.FAILED, task_params='[[], {"user_id":42}]'))

    seen = Preview.take(ACTIONS[Verb.REQUEUE], Selection.parse({"argument": "user_id:42"}))
    operation = run.step(run.start(seen, {}, by="shell"), seconds=60)

    assert set(Task.objects.ready()) == set(mine)
    assert seen.breakdown().looked_at == 0  # Of the preview's scope nothing is left.
    assert (operation.state, operation.matched, operation.changed, operation.skipped) == (
        OperationState.DONE, 2, 2, 0,
    )  # fmt: skip


def test_each_chunk_compares_the_arguments_of_its_rows(monkeypatch):
    """An argument: the tasks are locked, and decided about, before they are changed."""
    for params in OTHERS:
        TaskFactory(status=Status.FAILED, task_params=params)
    seen = Preview.take(ACTIONS[Verb.REQUEUE], Selection.parse({"argument": "user_id:42"}))
    operation = run.start(seen, {}, by="shell")

    run._advance(operation, list(Task.objects.order_by("pk").values_list("pk", flat=True)))

    assert not Task.objects.ready().exists()


def test_confirmation_says_at_least_if_not_all_tasks_were_searched(admin_client, monkeypatch):
    """Kind of fault: a count of a part is shown as the whole."""
    monkeypatch.setattr(looking, "MOST_ROWS", 2)
    TaskFactory.create_batch(3, status=Status.FAILED, task_params='[[], {"a": 1}]')
    TaskFactory.create_batch(2, status=Status.FAILED, task_params='[[], {"a": 10}]')
    query = "verb=requeue&status=FAILED&argument=a"

    none = admin_client.get(f"{CONFIRM}?{query}:1")
    some = admin_client.get(f"{CONFIRM}?{query}:10")

    for page, number in ((none, 0), (some, 2)):
        assert f"At least {number} tasks match." in words(page)
        assert "Only the newest 2 tasks were searched" in words(page)
    preview = none.context["preview"]
    assert Preview.load(none.context["signed"], none.wsgi_request.user) == preview
    admin_client.post(CONFIRM, {"preview": none.context["signed"]})
    operation = Operation.objects.get()
    assert (operation.matched, operation.matched_at_least, operation.changed) == (3, False, 3)
    assert Task.objects.failed().count() == 2


def test_the_history_names_every_task_though_not_all_were_counted(admin_user, monkeypatch):
    """An argument: what is not counted before is logged all the same."""
    monkeypatch.setattr(looking, "MOST_ROWS", 1)
    tasks = TaskFactory.create_batch(3, status=Status.FAILED, task_params='[[], {"a": 1}]')
    seen = Preview.take(ACTIONS[Verb.REQUEUE], Selection.parse({"argument": "a:1"}))

    operation = run.step(run.start(seen, {}, user=admin_user), seconds=60)

    assert (seen.matched, operation.matched) == (1, 3)
    assert set(LogEntry.objects.values_list("object_id", flat=True)) == {
        str(task.pk) for task in tasks
    }


@pytest.mark.parametrize(
    ("decoded", "looked_at"), [(1, 2), (2, 3), (3, 0)], ids=["one", "two", "all"]
)
def test_search_reports_how_many_tasks_it_read(monkeypatch, decoded, looked_at):
    """An argument: a look that decoded enough ends, and says how far it came."""
    monkeypatch.setattr(looking, "SLICE_ROWS", 1)
    ids = [
        TaskFactory(task_params=f'[[], {{"a": "{value}"}}]').pk for value in ("x", "no", "x", "x")
    ]
    TaskFactory(task_params='[[], {"a": "no"}]')

    found = looking.look(Argument("a", "x"), Task.objects.filter(pk__gte=ids[0]), decoded)

    assert (len(found.ids), found.looked_at) == (decoded, looked_at)


@pytest.mark.parametrize(("size", "number"), [(1, 3), (2, 2), (3, 1)])
def test_search_takes_as_few_queries_as_possible(monkeypatch, size, number):
    """An argument: the page of a confirmation asks the database once for each slice."""
    monkeypatch.setattr(looking, "SLICE_ROWS", size)
    TaskFactory.create_batch(2, task_params='[[], {"a": 1}]')

    with CaptureQueriesContext(connection) as asked:
        looking.look(Argument("a", 1), Task.objects.all())

    assert len([one for one in asked if "task_params" in one["sql"]]) == number


@pytest.mark.parametrize("argument", ["a:x%00y", "a%00:1", 'a:"x%00y"'])
def test_a_character_that_postgresql_does_not_store_is_refused(admin_client, argument):
    """An argument: what the log cannot hold is refused before anything is confirmed."""
    TaskFactory(status=Status.FAILED)

    page = admin_client.get(f"{TASKS}?argument={argument}")
    confirmation = admin_client.get(f"{CONFIRM}?verb=requeue&argument={argument}", follow=True)

    assert page.status_code == 400
    for one in (page, confirmation):
        assert "Null characters are not allowed" in text(one)


NAMES = ("a", "b", "c", "rest", "0", "1", "3", "x y", "x.y", "A", "größe", "\\", '"', "%", "")
TEXTS = st.sampled_from(
    ["1", "1.0", "true", "null", "NaN", "", " ", "\x00", "\ud800", "🙂", "a\\b", '"', "%", "_"]
)
NUMBERS = st.integers(-2, 2) | st.integers(-(10**40), 10**40) | st.sampled_from([0.0, -0.0, 1.0])
VALUES_OF_JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(-1e300, 1e300) | TEXTS | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@background
def take_many(a, b, /, c=5, *rest, d=None, **others):
    pass


@h_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_argument_filter_is_exact_for_any_calls(data):
    """An argument: no value, name or way of calling makes it find another task, or miss one."""
    Task.objects.all().delete()
    values = st.sampled_from(data.draw(st.lists(VALUES_OF_JSON, min_size=2, max_size=4)))
    name, wanted = data.draw(st.sampled_from(NAMES)), data.draw(values)
    expected = set()
    for function, names in ((take_many.name, ["a", "b", "c"]), ("gone", [])):
        for _ in range(2):
            args = data.draw(st.lists(values, max_size=5))
            kwargs = data.draw(st.dictionaries(st.sampled_from(NAMES), values, max_size=3))
            params = dump_params(args, kwargs)
            task = TaskFactory(task_name=function, task_params=params)
            named = [*names, *map(str, range(len(names), 5))]
            given_as = [*zip(named, args, strict=False), *kwargs.items()]
            if any(one == name and spelled(value) == spelled(wanted) for one, value in given_as):
                expected.add(task.pk)

    argument = Argument(name, json.loads(dump_params([wanted], {}))[0][0])

    assert set(looking.look(argument, Task.objects.all()).ids) == expected
    everything = list(Task.objects.values_list("pk", flat=True))
    assert set(looking.having(argument, everything)) == expected
    written = f"{name}:{json.dumps(argument.value)}"
    if name and len(written) <= MAX_ARGUMENT_LENGTH:
        assert {task.pk for task in Selection.parse({"argument": written}).tasks()} == expected


def spelled(value):
    """Return the value as JSON, in which its type shows; -0.0 is 0.0."""
    if isinstance(value, list):
        return [spelled(one) for one in value]
    if isinstance(value, dict):
        return tuple(sorted((key, repr(spelled(one))) for key, one in value.items()))
    return json.dumps(0.0 if value == 0 and isinstance(value, float) else value)


def test_exact_number_is_shown_as_exact(admin_client):
    TaskFactory(status=Status.FAILED, task_params='[[], {"a": 1}]')
    TaskFactory(status=Status.FAILED, task_params='[[], {"b": {"a": 1}}]')

    response = admin_client.get(f"{CONFIRM}?verb=requeue&status=FAILED&argument=a:1")
    page = words(response)

    assert "Requeue 1 task:" in page
    assert "At least" not in page


def test_export_has_only_matching_tasks_and_its_name_has_the_limit(admin_client, monkeypatch):
    """An argument: what is exported has it."""
    monkeypatch.setattr(looking, "MOST_ROWS", 2)
    TaskFactory(task_params='[[], {"a": 1}]')
    newer = TaskFactory(task_params='[[], {"a": 1}]')
    TaskFactory(task_params='[[], {"b": {"a": 1}}]')

    response = admin_client.get(f"{TASKS}export.json?argument=a:1")

    assert [row["id"] for row in json.loads(response.getvalue())] == [newer.pk]
    assert "tasks-among-the-newest-2.json" in response["Content-Disposition"]


MASKED = [
    'pin:4711', 'pin:"4711"', 'PIN:4711', 'api_key:abc', 'user-password:x', 'token:1.5',
    'token:[1, 2]', 'options:{"pin": 4711}', 'options:[{"a": {"secret": "x"}}]',
    'url:https://ann:pw@shop.example/', 'urls:["postgres://u:pw@db/x"]',
]  # fmt: skip


@pytest.mark.parametrize("wanted", MASKED)
def test_a_masked_value_cannot_be_guessed_by_a_search(admin_client, wanted):
    """Masked values: whether a search finds a task tells whether the guess was right."""
    name, _, value = wanted.partition(":")
    right = WantedArgument(name, value).argument.value
    TaskFactory(status=Status.FAILED, task_params=json.dumps([[], {name: right}]))
    query = {"argument": wanted, "status": "FAILED"}
    escaped = value.replace('"', '\\"')
    pages = [
        (TASKS, query),
        (TASKS, {"q": f'args.{name}:"{escaped}"'}),
        (f"{TASKS}export.csv", query),
        (f"{TASKS}export.json", query),
        (CONFIRM, {**query, "verb": "requeue"}),
    ]

    for url, data in pages:
        response = admin_client.get(url, data)

        assert response.status_code == (302 if url == CONFIRM else 400), url
    assert "is masked, so tasks can’t be searched by it" in text(admin_client.get(TASKS, query))


@pytest.mark.parametrize("wanted", ["pin:null", "token:true", "url:https://shop.example/", "a:1"])
def test_a_value_that_the_pages_show_can_be_searched(admin_client, wanted):
    assert admin_client.get(TASKS, {"argument": wanted}).status_code == 200
