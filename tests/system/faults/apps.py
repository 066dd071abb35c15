from __future__ import annotations

import os

from django.apps import AppConfig


class FaultsConfig(AppConfig):
    """An app of only the processes that get faults: BGTASK_TEST_APPS=tests.system.faults."""

    name = "tests.system.faults"
    label = "faults"

    def ready(self) -> None:
        from tests.system.faults import clocks, failpoints

        if descriptor := os.environ.get("BGTASK_TEST_CLOSED"):
            os.close(int(descriptor))
        clocks.install()
        failpoints.install()
