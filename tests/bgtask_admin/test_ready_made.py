"""Test that the rules and the dashboard in docs/monitoring use the metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bgtask_admin.monitoring import snapshot
from tests.bgtask_admin.monitoring import BEARER, DOCS, TOKEN
from tests.factories import TaskFactory, TaskStatsFactory, WorkerFactory
from tests.helpers import is_required

ALERTS = DOCS / "alerts.yml"
DASHBOARD = DOCS / "grafana.json"

# Of PromQL: what is in braces behind a name, and the names themselves.
SELECTOR = re.compile(r"(bgtask_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r"(\w+)\s*=~?\s*\"([^\"]*)\"")
GROUPING = re.compile(r"\bby\s*\(([^)]*)\)")


def expressions_of_alerts() -> dict[str, str]:
    """Return alert → expression. Parse with regexes: Python's library has no YAML reader."""
    found = {}
    for rule in re.split(r"^      - alert: ", ALERTS.read_text(), flags=re.M)[1:]:
        name, _, rest = rule.partition("\n")
        (expression,) = re.findall(
            r"^        expr: (?:>-\n)?(.*?)(?=^        \w+:)", rest, re.M | re.S
        )
        found[name] = " ".join(expression.split())
    return found


def expressions_of_dashboard() -> dict[str, str]:
    dashboard = json.loads(DASHBOARD.read_text())
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    found |= {one["name"]: one["expr"] for one in dashboard["annotations"]["list"]}
    variables = dashboard["templating"]["list"]
    return found | {one["name"]: one["definition"] for one in variables if "definition" in one}


def test_no_two_panels_have_the_same_description():
    """Kind of fault: a panel is copied, and keeps the description of the other."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    described = [panel["description"] for panel in panels if panel.get("description")]

    assert sorted(described) == sorted(set(described))


EXPRESSIONS = {**expressions_of_alerts(), **expressions_of_dashboard()}


@pytest.fixture
def exposed(db, client, settings) -> dict[str, list[dict[str, str]]]:
    """Return each metric, with the labels of its samples."""
    settings.BGTASK = {"MONITOR_TOKENS": [TOKEN]}
    TaskFactory()
    TaskStatsFactory(succeeded=1)
    WorkerFactory()
    snapshot.forget()
    text = client.get("/bgtask/metrics", headers=BEARER).content.decode()
    snapshot.forget()
    metrics: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metrics.setdefault(sample.name, []).append(sample.labels)
    return metrics


def selectors(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    for name, matchers in SELECTOR.findall(expression):
        yield name, dict(MATCHER.findall(matchers))


def test_documented_alerts_exist() -> None:
    assert list(expressions_of_alerts()) == [
        "BgtaskOldestReadyHigh",
        "BgtaskFailureRatioHigh",
        "BgtaskNoWorkers",
        "BgtaskStuckTasks",
        "BgtaskScheduleLate",
        "BgtaskBacklogGrowing",
        "BgtaskEndpointAbsent",
    ]


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_dashboard_uses_only_exposed_metrics(exposed, where: str) -> None:
    asked = list(selectors(EXPRESSIONS[where]))

    assert asked
    for metric, matchers in asked:
        assert metric in exposed
        for label, value in matchers.items():
            values = {labels.get(label) for labels in exposed[metric]}
            assert values != {None}, f"{metric} has no label {label}"
            if not value.startswith("$"):
                assert value in values


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_dashboard_groups_only_by_existing_labels(exposed, where: str) -> None:
    expression = EXPRESSIONS[where]
    known = {"instance"}  # Prometheus adds it.
    for metric, _ in selectors(expression):
        known |= {label for labels in exposed[metric] for label in labels}

    for labels in GROUPING.findall(expression):
        assert {label.strip() for label in labels.split(",")} <= known


def test_every_metric_is_on_the_dashboard_or_in_an_alert(exposed) -> None:
    asked = {name for text in EXPRESSIONS.values() for name, _ in selectors(text)}

    assert set(exposed) == asked


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], Any] = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
                assert x < 24


def test_promtool_accepts_the_rules() -> None:
    if (promtool := shutil.which("promtool")) is None:
        missing = pytest.fail if is_required("promtool") else pytest.skip
        missing("no promtool here: apt-get install prometheus")

    checked = subprocess.run(
        [promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr
