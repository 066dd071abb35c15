"""
Test the list of tasks: tabs, filters, search and pagination.

The module is long because each filter and each search has its own cases.
"""

from __future__ import annotations

import html
import re
from datetime import timedelta
from urllib.parse import quote

import pytest
from django.utils import timezone

from bgtask.models import Task
from bgtask.status import Status
from bgtask_admin.tasks import list as task_list
from tests.bgtask_admin.urls import TASKS, text, words
from tests.factories import TaskFactory

pytestmark = pytest.mark.django_db


def shown(client, query: str = "") -> list[int]:
    response = client.get(f"{TASKS}?{query}")
    return [task.pk for task in response.context["rows"].rows]


@pytest.mark.parametrize("status", Status)
def test_a_tab_shows_tasks_of_its_status(admin_client, status):
    wanted = TaskFactory(status=status)
    TaskFactory(status=Status.READY if status != Status.READY else Status.FAILED)

    assert shown(admin_client, f"status={status}") == [wanted.pk]


def test_tabs_count_exactly_or_show_a_limit(admin_client, monkeypatch):
    monkeypatch.setattr(task_list, "CAP", 2)
    TaskFactory.create_batch(3, status=Status.FAILED)
    TaskFactory.create_batch(2, status=Status.READY)

    counts = {str(tab["label"]): tab["count"] for tab in admin_client.get(TASKS).context["tabs"]}

    assert (counts["Failed"], counts["Ready"], counts["Held"]) == ("2+", "2", "0")


def test_invalid_filter_is_reported_and_no_task_is_shown(admin_client):
    TaskFactory()

    response = admin_client.get(f"{TASKS}?status=FAILD")

    assert response.status_code == 400
    assert "Select a valid choice" in text(response)
    assert response.context["rows"].rows == []


def test_search_box_finds_tasks(admin_client):
    wanted = TaskFactory(task_name="shop.send", queue="mail")
    TaskFactory(task_name="shop.send", queue="other")

    assert shown(admin_client, "q=shop.send+queue:mail") == [wanted.pk]
    assert shown(admin_client, f"q={wanted.pk}") == [wanted.pk]


def test_list_pages_by_key(admin_client, monkeypatch):
    monkeypatch.setattr(task_list, "PAGE_ROWS", 2)
    ids = [task.pk for task in TaskFactory.create_batch(3)][::-1]

    first = admin_client.get(TASKS)
    second = shown(admin_client, f"after={first.context['rows'].older}")

    assert [task.pk for task in first.context["rows"].rows] + second == ids


def test_arguments_are_shown_only_with_permission(admin_client, log_in):
    TaskFactory(task_params='[[], {"customer": 4711}]')

    assert "4711" in text(admin_client.get(TASKS))
    assert "4711" not in text(log_in("view_task").get(TASKS))


def test_search_by_argument_needs_the_permission(log_in):
    response = log_in("view_task").get(f"{TASKS}?argument=customer:4711")

    assert response.status_code == 403


def test_argument_is_found_by_name_if_the_function_is_registered(admin_client):
    """Kind of fault: the page doesn't say that an argument can't be found by name."""
    named = TaskFactory(task_name="tests.tasks.add", task_params='[[], {"a": 42, "b": 1}]')
    positional = TaskFactory(task_name="tests.tasks.add", task_params="[[42, 1], {}]")
    unknown = TaskFactory(task_name="gone.add", task_params="[[42, 1], {}]")

    for status in ("status=READY&", ""):
        found = shown(admin_client, f"{status}argument=a:42")
        assert sorted(found) == [named.pk, positional.pk]
    assert unknown.pk in shown(admin_client, "argument=0:42")
    said = "only if this site knows the function"
    assert said in text(admin_client.get(f"{TASKS}?argument=a:42"))
    assert said not in text(admin_client.get(TASKS))


@pytest.mark.parametrize("status", ["", "status=SUCCESSFUL&"])
def test_search_by_argument_reports_its_limit_and_continues(admin_client, monkeypatch, status):
    """Kind of fault: a limited search is shown as complete."""
    monkeypatch.setattr(task_list, "WINDOW_ROWS", 2)
    old = TaskFactory(status=Status.SUCCESSFUL, task_params='[[], {"a": 1}]')
    TaskFactory.create_batch(2, status=Status.SUCCESSFUL, task_params='[[], {"b": {"a": 1}}]')
    query = f"{status}argument=a:1"

    first = admin_client.get(f"{TASKS}?{query}")
    older = first.context["rows"].older

    assert first.context["rows"].rows == []
    said = words(first)
    assert "0 tasks found among the first 2 of this list." in said
    assert "The others were not searched." in said
    assert shown(admin_client, f"{query}&after={quote(older)}") == [old.pk]


def test_page_decodes_a_limited_number_of_parameters(admin_client, monkeypatch):
    """Kind of fault: a page decodes too many tasks if many may have the argument."""
    monkeypatch.setattr(task_list, "MAX_DECODED_TASKS", 2)
    ids = [task.pk for task in TaskFactory.create_batch(3, task_params='[[], {"a": 1}]')]

    first = admin_client.get(f"{TASKS}?argument=a:1")

    assert [task.pk for task in first.context["rows"].rows] == ids[:0:-1]
    said = words(first)
    assert "2 tasks found among the first 2 of this list." in said
    assert shown(admin_client, f"argument=a:1&after={first.context['rows'].older}") == ids[:1]


def test_long_arguments_are_not_loaded(admin_client):
    TaskFactory(task_params='[["' + "x" * 5_000 + '"], {}]')

    assert "xxx" not in text(admin_client.get(TASKS))


def test_search_without_a_status_reads_the_newest_tasks_and_reports_it(admin_client, monkeypatch):
    monkeypatch.setattr(task_list, "WINDOW_ROWS", 1)
    TaskFactory(queue="mail")
    newest = TaskFactory(queue="mail")

    response = admin_client.get(f"{TASKS}?queue=mail")

    assert [task.pk for task in response.context["rows"].rows] == [newest.pk]
    assert "1 task found among the newest 1." in words(response)


def test_without_a_status_a_search_continues_to_the_oldest_task(admin_client, monkeypatch):
    """Kind of fault: a page says “not found” of tasks that it hasn't searched."""
    monkeypatch.setattr(task_list, "WINDOW_ROWS", 2)
    wanted = TaskFactory(queue="mail")
    TaskFactory.create_batch(4, queue="other")
    found, url, pages = [], "?queue=mail", []

    while url:
        response = admin_client.get(TASKS + url)
        found += [task.pk for task in response.context["rows"].rows]
        pages.append(words(response))
        link = re.search(r'class="bg-offer" href="([^"]+)">Continue', text(response))
        url = html.unescape(link[1]) if link else ""

    assert found == [wanted.pk]
    assert "0 tasks found among the newest 2." in pages[0]
    assert "0 tasks found among the next 2 of this list." in pages[1]
    assert "1 task found in the rest of this list." in pages[2]
    assert all("No task matches" not in page for page in pages)


def test_back_from_a_continued_search_leads_to_the_same_tasks(admin_client, monkeypatch):
    monkeypatch.setattr(task_list, "WINDOW_ROWS", 2)
    TaskFactory(queue="mail")
    TaskFactory(queue="other")
    newest = TaskFactory(queue="mail")
    first = admin_client.get(f"{TASKS}?queue=mail").context["rows"]
    second = admin_client.get(f"{TASKS}?queue=mail&after={first.older}").context["rows"]

    assert shown(admin_client, f"queue=mail&before={second.newer}") == [newest.pk]


def test_a_text_that_is_not_found_is_offered_for_a_longer_time(admin_client):
    """Kind of fault: a page says “not found” of tasks that it hasn't searched."""
    old = TaskFactory(
        status=Status.FAILED, finished_at=timezone.now() - timedelta(days=3), last_error="refused"
    )

    response = admin_client.get(f"{TASKS}?q=refused")

    assert "Only the errors of this period and of this status were searched." in words(response)
    offers = {offer.label: offer.query for offer in response.context["offers"]}
    assert shown(admin_client, offers["Search the last 7 days →"]) == [old.pk]
    assert shown(admin_client, offers["Search any time →"]) == [old.pk]
    assert shown(admin_client, offers["Search scheduled tasks →"]) == []


@pytest.mark.parametrize("since", ["", "since:1h", "since:2026-01-01"])
def test_a_text_that_is_not_found_is_offered_without_time_zones(admin_client, settings, since):
    """Kind of fault: a time with a zone is compared with one that has none."""
    settings.USE_TZ = False

    response = admin_client.get(f"{TASKS}?q=refused {since}")

    assert "Search any time →" in [offer.label for offer in response.context["offers"]]


def test_a_tab_without_a_match_offers_the_other_statuses(admin_client):
    """Kind of fault: a page says “not found” of tasks that it hasn't searched."""
    wanted = TaskFactory(status=Status.READY, queue="mail")

    response = admin_client.get(f"{TASKS}?status=FAILED&queue=mail")

    assert "Other statuses were not searched." in words(response)
    (offer,) = response.context["offers"]
    assert shown(admin_client, offer.query) == [wanted.pk]


def test_a_search_of_all_tasks_may_say_that_none_matches(admin_client):
    response = admin_client.get(f"{TASKS}?task=shop.send")

    assert "0 tasks match." in words(response)
    assert "No task matches." in words(response)
    assert response.context["offers"] == []


@pytest.mark.parametrize(
    "pasted", ["user_id:42", "status:500", 'KeyError:"x"', "worker:a worker:b", "task:x 1 2"]
)
def test_a_refused_search_can_be_repeated_for_the_text_as_it_was_typed(admin_client, pasted):
    """Kind of fault: a pasted text is refused, and the page doesn't say what to do."""
    task = TaskFactory(status=Status.FAILED, last_error=f"Traceback\nError: {pasted} is wrong")

    response = admin_client.get(TASKS, {"q": pasted})

    assert response.status_code == 400
    assert shown(admin_client, response.context["text_search"]) == [task.pk]
    assert "Search the errors of the last 24 h for this text" in text(response)


def test_a_status_offers_the_actions_it_allows(admin_client):
    TaskFactory(status=Status.FAILED)

    offered = {
        action.verb.value
        for action in admin_client.get(f"{TASKS}?status=FAILED").context["actions"]
    }

    assert offered == {"requeue", "delete"}


def test_filter_without_an_index_reads_a_limited_number_per_page_and_continues(
    admin_client, monkeypatch
):
    monkeypatch.setattr("bgtask_admin.tasks.list.WINDOW_ROWS", 3)
    monkeypatch.setattr("bgtask_admin.tasks.list.PAGE_ROWS", 2)
    now = timezone.now()
    failed = [
        TaskFactory(
            status=Status.FAILED,
            finished_at=now - timedelta(minutes=index),
            error_class="Rare" if index in (1, 9) else "Frequent",
        )
        for index in range(10)
    ]
    url, seen, pages = f"{TASKS}?status=FAILED&error_class=Rare", [], 0

    while url:
        response = admin_client.get(url)
        page = text(response)
        pages += 1
        seen += [int(id_) for id_ in re.findall(r'data-id="(\d+)"', page)]
        which = "next" if "after=" in url else "first"
        further = re.search(r'rel="next" href="([^"]+)"', page)
        assert not further or f"found among the {which} 3 of this list" in page
        url = TASKS + html.unescape(further[1]) if further else ""

    assert seen == [failed[1].pk, failed[9].pk]
    assert pages == 4


@pytest.mark.parametrize(("number", "shown"), [(2, "2"), (10_001, "10,000+")])
def test_a_tab_counts_exactly_up_to_ten_thousand(admin_client, number, shown):
    Task.objects.enqueue_many("tests.tasks.noop", (([], {}) for _ in range(number)))

    page = text(admin_client.get(TASKS))

    assert f'Ready <span class="bg-count">{shown}</span>' in page


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("the card was refused\nsee ticket 7", "the card was refused"),
        ("three of nine mails bounced (2 sub-exceptions)", "three of nine mails bounced"),
        ("first words " + "x" * 900, "first words xxx"),
        ("", ""),
        (None, ""),
    ],
    ids=["lines", "group", "long", "empty", "none"],
)
def test_the_list_shows_the_beginning_of_the_error_message(admin_client, message, shown):
    """Kind of fault: the list guesses the message from the end of the traceback."""
    TaskFactory(
        status="FAILED", error_class="shop.Refused", error_message=message, last_error="Traceback…"
    )

    page = admin_client.get(f"{TASKS}?status=FAILED").content.decode()

    (cell,) = re.findall(r">Refused</a><span class=\"bg-arguments\">(.*?)</span>", page)
    assert cell.startswith(shown)
    assert (cell == "") == (shown == "")
    assert cell.endswith("…") == (len(message or "") > 100)
