"""A worker is woken by notifications of its queues, on a connection that is known to hear them."""

from __future__ import annotations

import pytest
from django.db import connections

from bgtask.worker import poolers
from bgtask.worker.listeners import PostgresListener, Waker
from bgtask.worker.poolers import NotHeard
from tests.helpers import eventually
from tests.tasks import noop

pytestmark = [
    pytest.mark.vendor("postgresql"),
    pytest.mark.django_db(transaction=True, databases=["default", "other"]),
]


@pytest.fixture
def listen():
    """Return a function that returns a listener for these queues."""
    listeners = []

    def listen(*queues):
        listener = PostgresListener(Waker(), "default", queues or None)
        listeners.append(listener)
        return listener

    yield listen
    for listener in listeners:
        listener.close()
        listener._waker.close()


@pytest.fixture
def other(monkeypatch):
    """Return a function that makes "other" an alias for a database of the same server."""
    monkeypatch.setattr(poolers, "ECHO_SECONDS", 0.5)
    before = connections["other"]

    def lead_to(name):
        connections["other"] = connections["default"].copy("other")
        connections["other"].settings_dict["NAME"] = name
        return connections["other"]

    yield lead_to
    connections["other"].close()
    connections["other"] = before


def test_listener_is_woken_by_its_own_queues_only(listen):
    listener = listen("mail")
    listener.arm()

    noop.using(queue="reports")()
    noop.using(queue="mail")()

    # Notifications arrive in their order. So that of the other queue has come by then.
    def changed():
        listener.arm()
        return listener.changed_queues()

    assert eventually(changed) == {"mail"}


def test_another_alias_of_the_same_database_hears_the_echo(other):
    same = other(connections["default"].settings_dict["NAME"])

    poolers.check_notifications(same, "default")

    with same.cursor() as cursor:
        cursor.execute("SELECT pg_listening_channels()")
        assert cursor.fetchall() == []


def test_an_alias_of_another_database_does_not_hear_the_echo(other):
    with pytest.raises(NotHeard, match="receives no notifications of 'default'"):
        poolers.check_notifications(other("postgres"), "default")


def test_a_listener_that_does_not_hear_the_echo_polls_and_logs_it(listen, other, settings, caplog):
    """Kind of fault: a worker that sleeps for its tasks on a connection that hears nothing."""
    other("postgres")
    settings.BGTASK = {"LISTEN": "other"}
    listener = listen()

    listener.arm()

    assert listener._connection is None
    assert "This worker polls for new tasks, and is not woken" in caplog.text
