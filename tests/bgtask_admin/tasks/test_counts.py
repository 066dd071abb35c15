from __future__ import annotations

import pytest

from bgtask.models import Task
from bgtask_admin.tasks.counts import capped
from tests.factories import TaskFactory


@pytest.mark.django_db
def test_a_count_stops_one_row_above_its_limit():
    """Kind of fault: a page counts millions of rows to show “10,000+”."""
    TaskFactory.create_batch(4)

    assert [capped(Task.objects.all(), most) for most in (2, 3, 4, 5)] == [3, 4, 4, 4]
