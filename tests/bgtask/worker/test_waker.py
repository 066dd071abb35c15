"""Test the sleep that can be cut short, also in a process with a thousand open files."""

from __future__ import annotations

import fcntl
import resource
import socket

import pytest

from bgtask.worker.listeners import Waker


@pytest.fixture
def pair():
    reader, writer = socket.socketpair()
    yield reader, writer
    reader.close()
    writer.close()


@pytest.fixture
def beyond_select():
    """Return a socket like the given one, with a descriptor above those that select() takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1_100:
        pytest.skip("no process may open so many files here")
    if soft != resource.RLIM_INFINITY and soft < 1_100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1_100, hard))
    moved = []

    def move(one):
        descriptor = fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 1_024)
        moved.append(socket.socket(fileno=descriptor))
        return moved[-1]

    yield move
    for one in moved:
        one.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def waker():
    waker = Waker()
    yield waker
    waker.close()


def test_wake_before_the_sleep_shortens_one_sleep(waker):
    waker.wake()

    assert waker.sleep(60)
    assert waker.woken
    assert not waker.sleep(0)
    assert not waker.woken


def test_readable_socket_ends_the_sleep_without_a_wake(waker, pair):
    reader, writer = pair
    writer.send(b"news")

    assert waker.sleep(60, reader)
    assert not waker.woken


def test_descriptors_above_a_thousand_end_the_sleep(waker, pair, beyond_select):
    reader, writer = pair
    writer.send(b"news")

    assert waker.sleep(60, beyond_select(reader))


@pytest.mark.parametrize("seconds", [-1, 1e9, float("inf")])
def test_sleep_accepts_any_number_of_seconds(waker, seconds):
    if seconds > 0:
        waker.wake()

    assert waker.sleep(seconds) == (seconds > 0)
