"""The grants in SECURITY.md are enough, and no more than enough."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.db import connection

from bgtask.models import Attempt, Task, Worker
from bgtask.status import WorkerState
from tests.helpers import eventually
from tests.system.faults import tasks
from tests.system.faults.servers import django_settings

pytestmark = pytest.mark.vendor("postgresql", "mysql")

SECURITY = Path(__file__).parents[3] / "SECURITY.md"


def grants(who):
    (block,) = re.findall(rf"<!-- {who} -->\n```sql\n(.*?)```", SECURITY.read_text(), re.DOTALL)
    return [statement.strip() for statement in block.split(";") if statement.strip()]


@pytest.fixture
def role(testbed):
    """``role("worker")`` has the privileges of a worker, and is gone when the test is."""
    server, made = testbed.server, []

    def make(who):
        name = f"{who}_role"
        made.append(name)
        if server.vendor == "postgresql":
            server.execute(f"CREATE ROLE {name} LOGIN", *grants(who))
        else:
            server.execute(f"CREATE USER {name}@localhost")
            server.execute(*(f"{grant}@localhost" for grant in grants(who)))
        return {"BGTASK_TEST_DATABASE": django_settings(server, USER=name)}

    yield make
    for name in made:
        if server.vendor == "postgresql":
            server.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")
        else:
            server.execute(f"DROP USER {name}@localhost")


def test_worker_works_with_the_documented_privileges(testbed, role, settled):
    Worker.register()
    Worker.objects.update(lease_expires_at="2000-01-01 00:00Z")
    committed = {tasks.quick(number).pk for number in range(10)}
    committed |= {tasks.hopeless().pk, tasks.quick(schedule=0.5).pk, tasks.overrun(4).pk}

    worker = testbed.worker("--threads=2", env=role("worker"))
    audit = settled(committed)

    assert audit.statuses == {"SUCCESSFUL": 11, "FAILED": 2}
    eventually(lambda: Worker.objects.filter(state=WorkerState.DEAD).exists(), timeout=20)
    assert "denied" not in worker.output()


def test_worker_may_change_no_table(testbed, role):
    child = testbed.command(
        "shell", "-c",
        "from django.db import connection as c; c.cursor().execute('DROP TABLE bgtask_task')",
        env=role("worker"),
    )  # fmt: skip

    assert child.wait(60) != 0
    assert "bgtask_task" in connection.introspection.table_names()


def test_web_process_can_only_enqueue(testbed, role):
    env = role("web")
    enqueue = testbed.command(
        "shell", "-c", "from tests.system.faults import tasks; tasks.quick(); "
        "tasks.quick.enqueue_many([(1,), (2,)])", env=env,
    )  # fmt: skip
    assert enqueue.wait(60) == 0, enqueue.output()
    assert Task.objects.count() == 3

    change = testbed.command(
        "shell", "-c", "from bgtask.models import Task; Task.objects.cancel()", env=env
    )
    assert change.wait(60) != 0
    assert "denied" in change.output()
    assert Task.objects.ready().count() == 3
    assert not Attempt.objects.exists()
