"""The kind of fault: a server keeps the row locks of a worker whose host has vanished."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from django.db import connection

from bgtask import background
from bgtask.models import Task
from bgtask.runner.connecting import prepared_connections
from bgtask.runner.poolers import is_direct
from tests.helpers import eventually, is_required
from tests.tasks import query_one

pytestmark = [pytest.mark.vendor("postgresql"), pytest.mark.django_db(transaction=True)]

SHOW = """
    SELECT string_agg(setting, ' ' ORDER BY name) FROM pg_settings
    WHERE name LIKE 'tcp_keepalives%' OR name = 'tcp_user_timeout'
"""
OURS = "3 15 5 30000"  # Count, idle, interval, user timeout.


@pytest.fixture
def by_tcp():
    """A way to the test's server by TCP, as its socket takes no part in keepalives."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW listen_addresses")
        if not cursor.fetchone()[0]:
            pytest.skip("the server does not listen")
        cursor.execute("SHOW port")
        return {"HOST": "127.0.0.1", "PORT": cursor.fetchone()[0]}
