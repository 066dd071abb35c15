"""Define system checks of schedules and of unique tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from django.core.checks import CheckMessage, Info, Warning

from bgtask import registry
from bgtask.conf import get_settings
from bgtask.models import Schedule
from bgtask.schedules.declarations import declarations


def check_schedules() -> Iterator[CheckMessage]:
    """Report functions with several schedules whose keys follow from their order in the file."""
    by_function: dict[int, list[str]] = defaultdict(list)
    for one in declarations().values():
        if not one.has_own_key:
            by_function[id(one.origin)].append(one.key)
    for keys in by_function.values():
        if len(keys) > 1:
            yield Warning(
                f"{keys[0]} has {len(keys)} schedules without a key.",
                hint="Their keys follow from their order, so that moving one gives it the history "
                "and the pause of another. Give each a key: @recurring(…, key=…).",
                id="bgtask.W014",
            )


def check_unique_functions() -> Iterator[CheckMessage]:
    """Report functions whose tasks are kept for unique_for, longer than RETENTION says."""
    retention = get_settings().retention
    for function in registry.functions():
        seconds = getattr(function, "options", {}).get("unique_for")
        kept = [age for age in retention.values() if age is not None]
        if seconds is not None and kept and seconds > min(kept):
            yield Warning(
                f"{function.name} has unique_for={seconds:g} s, which is longer than the shortest "
                f"age of BGTASK['RETENTION'], {min(kept):g} s.",
                hint="Its tasks are kept until unique_for is over. Make it shorter, or RETENTION "
                "longer.",
                obj=function.place,
                id="bgtask.W015",
            )


def check_retired() -> Iterator[CheckMessage]:
    """Report schedules that no code declares any more."""
    keys = list(
        Schedule.objects.filter(retired_at__isnull=False)
        .order_by("key")
        .values_list("key", flat=True)[:20]
    )
    if keys:
        yield Info(
            f"No code declares these schedules any more: {', '.join(keys)}.",
            hint="If one was renamed, the new name is a new schedule. Give it the old key to go on "
            "with its history: @recurring(…, key=…).",
            id="bgtask.I016",
        )
