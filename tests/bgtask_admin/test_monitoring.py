"""
Test the endpoints /health, /stats and /metrics.

The module is long because the three endpoints share most of their promises.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as h_settings
from hypothesis import strategies as st

from bgtask.db import DatabaseNow
from bgtask.models import Task
from bgtask.status import Status
from bgtask_admin.monitoring import snapshot
from tests.bgtask_admin.monitoring import BEARER, TOKEN, assert_conforms
from tests.factories import PauseFactory, TaskFactory, TaskStatsFactory, WorkerFactory
from tests.threads import all_at_once

pytestmark = pytest.mark.django_db

HEALTH, STATS, METRICS = ENDPOINTS = "/bgtask/health", "/bgtask/stats", "/bgtask/metrics"


@pytest.fixture(autouse=True)
def token(settings) -> None:
    settings.BGTASK = {"MONITOR_TOKENS": ["another" * 6, TOKEN]}


@pytest.fixture(autouse=True)
def nothing_kept():
    snapshot.forget()
    yield
    snapshot.forget()


@pytest.fixture
def tables_missing(monkeypatch) -> None:
    monkeypatch.setattr(Task._meta, "db_table", "not_there")


def behind(age: float = 400) -> None:
    TaskFactory(queue="mail", run_at=DatabaseNow(-age))
    WorkerFactory()


class TestHealth:
    def test_health_is_200_and_pass_without_problems(self, client) -> None:
        WorkerFactory()

        response = client.get(HEALTH, headers=BEARER)

        assert response.status_code == 200
        assert response["Content-Type"] == "application/health+json"
        document = response.json()
        assert document["status"] == "pass"
        assert document["notes"] == ["OK: nothing is behind; 0 ready, 0 running, 1 worker"]
        assert "output" not in document

    def test_health_is_200_and_warn_with_a_warning(self, client) -> None:
        behind(100)

        response = client.get(HEALTH, headers=BEARER)

        assert response.status_code == 200
        assert response.json()["status"] == "warn"
        assert response.json()["output"].startswith("WARNING: mail is behind: ")

    def test_health_is_503_and_fail_with_a_failure(self, client) -> None:
        behind()

        response = client.get(HEALTH, headers=BEARER)

        assert response.status_code == 503
        assert response.json()["status"] == "fail"
        assert response.json()["output"].startswith("CRITICAL: mail is behind: ")

    def test_health_can_fail_on_a_warning(self, client) -> None:
        behind(100)

        assert client.get(f"{HEALTH}?fail_on=warn", headers=BEARER).status_code == 503

    def test_health_accepts_its_default_as_a_parameter(self, client) -> None:
        behind(100)

        assert client.get(f"{HEALTH}?fail_on=fail", headers=BEARER).status_code == 200

    @pytest.mark.parametrize("asked", ["fail_on=fail&fail_on=warn", "fail_on=warn&fail_on=fail"])
    def test_health_fails_on_a_warning_if_one_of_several_values_requests_it(
        self, client, asked
    ) -> None:
        behind(100)

        assert client.get(f"{HEALTH}?{asked}", headers=BEARER).status_code == 503

    @pytest.mark.parametrize(
        ("asked", "wrong"),
        [
            ("fail_on=warning", "“warning”"),
            ("fail_on=WARN", "“WARN”"),
            ("fail_on=", "“”"),
            ("fail_on=pass", "“pass”"),
            ("fail_on=warn,fail", "“warn,fail”"),
            ("fail_on=warn&fail_on=never", "“never”"),
        ],
    )
    def test_health_refuses_an_unknown_level(self, client, asked: str, wrong: str) -> None:
        response = client.get(f"{HEALTH}?{asked}", headers=BEARER)

        assert response.status_code == 400
        assert response["Content-Type"] == "application/json"
        assert response.json()["detail"] == f"fail_on takes “fail” or “warn”, not {wrong}."

    def test_health_ignores_unknown_parameters(self, client) -> None:
        WorkerFactory()

        assert client.get(f"{HEALTH}?colour=red", headers=BEARER).status_code == 200

    def test_refused_request_does_not_name_the_parameters(self, client) -> None:
        assert client.get(f"{HEALTH}?fail_on=warning").status_code == 401

    def test_health_has_a_verdict_for_each_check(self, client) -> None:
        behind()
        TaskFactory(status=Status.RUNNING, deadline_at=DatabaseNow(-1))

        checks = client.get(HEALTH, headers=BEARER).json()["checks"]

        (late,) = checks["queue.mail:oldest_ready_age"]
        assert late["status"] == "fail"
        assert late["componentId"] == "mail"
        assert 400 <= late["observedValue"] < 460
        assert late["observedUnit"] == "s"
        assert "limit 5 m" in late["output"]
        assert checks["queue.default:oldest_ready_age"][0]["status"] == "pass"
        assert checks["queue.default:stuck"][0]["status"] == "warn"
        assert checks["queue.mail:failure_ratio"][0]["observedValue"] is None

    def test_health_reports_that_no_worker_is_alive(self, client) -> None:
        TaskFactory(run_at=DatabaseNow(-400))

        (workers,) = client.get(HEALTH, headers=BEARER).json()["checks"]["workers:alive"]

        assert workers["status"] == "fail"
        assert workers["observedValue"] == 0

    @pytest.mark.parametrize("age", [0, 100, 400], ids=["pass", "warn", "fail"])
    def test_conforms_to_its_schema(self, client, age: float) -> None:
        behind(age)
        TaskStatsFactory(queue="mail", succeeded=50, failed=1)

        assert_conforms(client.get(HEALTH, headers=BEARER).json(), "health.schema.json")


class TestStats:
    def test_stats_is_200_with_any_verdict(self, client) -> None:
        behind()

        response = client.get(STATS, headers=BEARER)

        assert response.status_code == 200
        assert response["Content-Type"] == "application/json"
        assert response.json()["status"] == "fail"

    def test_stats_has_all_figures(self, client) -> None:
        behind()
        TaskFactory(status=Status.SCHEDULED, attempts=2, error_class="ValueError")
        TaskFactory(status=Status.FAILED)
        TaskStatsFactory(queue="mail", succeeded=70, failed=10, retried=20)
        PauseFactory(queue="reports")

        document = client.get(STATS, headers=BEARER).json()

        assert document["totals"]["ready"] == 1
        assert document["totals"]["retrying"] == 1
        assert document["totals"]["failed_tasks"] == 1
        assert document["totals"]["failed_tasks_at_least"] is False
        assert document["workers"]["alive"] == 1
        queues = {queue["name"]: queue for queue in document["queues"]}
        assert queues["mail"]["failure_ratio"] == pytest.approx(0.3)
        assert queues["mail"]["finished_window"] == 100
        assert queues["reports"]["paused"]

    def test_conforms_to_its_schema(self, client) -> None:
        behind()
        TaskStatsFactory(queue="mail", succeeded=50, failed=50)
        WorkerFactory(silent=True)

        assert_conforms(client.get(STATS, headers=BEARER).json(), "stats.schema.json")

    def test_stats_has_no_single_tasks(self, client) -> None:
        secret = "s3cret-argument"
        TaskFactory(task_params=f'[["{secret}"], {{}}]', task_name="app.tasks.private")
        TaskFactory(status=Status.FAILED, last_error=secret, error_class="PrivateError")

        for path in ENDPOINTS:
            text = client.get(path, headers=BEARER).content.decode()

            assert secret not in text
            assert "private" not in text.lower()

    def test_stats_has_its_time_in_utc(self, client) -> None:
        moment = datetime.fromisoformat(client.get(STATS, headers=BEARER).json()["generated_at"])

        assert moment.utcoffset() == timedelta(0)
        assert abs(moment - datetime.now(UTC)) < timedelta(minutes=5)


class TestMetrics:
    def test_metrics_are_in_the_text_format_of_prometheus(self, client) -> None:
        from prometheus_client.parser import text_string_to_metric_families

        behind()
        TaskFactory(status=Status.SCHEDULED, attempts=2, error_class="ValueError")
        TaskFactory(status=Status.FAILED)

        response = client.get(METRICS, headers=BEARER)

        assert response.status_code == 200
        assert response["Content-Type"].startswith("text/plain; version=")
        samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(response.content.decode())
            for sample in family.samples
        }
        assert samples["bgtask_tasks", ("queue", "mail"), ("state", "ready")] == 1
        assert samples["bgtask_tasks", ("queue", "default"), ("state", "retrying")] == 1
        assert samples["bgtask_tasks", ("queue", "default"), ("state", "scheduled")] == 0
        assert samples["bgtask_queue_oldest_ready_age_seconds", ("queue", "mail")] >= 400
        assert samples["bgtask_workers", ("status", "alive")] == 1
        assert samples[("bgtask_status",)] == 2
        assert samples[("bgtask_failed_tasks",)] == 1

    def test_metrics_are_openmetrics_on_request(self, client) -> None:
        from prometheus_client.openmetrics.parser import text_string_to_metric_families

        behind()
        accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"

        response = client.get(METRICS, headers={**BEARER, "Accept": accept})

        assert response["Content-Type"].startswith("application/openmetrics-text")
        text = response.content.decode()
        assert text.endswith("# EOF\n")
        assert list(text_string_to_metric_families(text))

    def test_metrics_are_200_with_any_verdict(self, client) -> None:
        behind()

        assert client.get(METRICS, headers=BEARER).status_code == 200

    def test_metrics_leave_nothing_in_the_default_registry(self, client) -> None:
        from prometheus_client import generate_latest

        behind()
        client.get(METRICS, headers=BEARER)

        assert b"bgtask" not in generate_latest()

    def test_name_the_library_where_it_is_missing(self, client, monkeypatch) -> None:
        for name in [name for name in sys.modules if name.startswith("prometheus_client")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Without("prometheus_client"), *sys.meta_path])
        monkeypatch.delitem(sys.modules, "bgtask_admin.monitoring.metrics", raising=False)

        response = client.get(METRICS, headers=BEARER)

        assert response.status_code == 501
        assert "pip install prometheus_client" in response.json()["detail"]


class Without:
    """A place to look for modules that knows of one that it is not there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


@pytest.mark.parametrize("path", ENDPOINTS)
class TestAccess:
    def test_any_of_the_tokens_is_accepted(self, client, path: str) -> None:
        for token in (TOKEN, "another" * 6):
            response = client.get(path, headers={"Authorization": f"Bearer {token}"})

            assert response.status_code == 200

    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            f"Bearer {TOKEN[:-1]}",
            f"Bearer {TOKEN}t",
            f"Bearer {TOKEN.upper()}",
            f"Token {TOKEN}",
            TOKEN,
            "Bearer \xe9\xff",
        ],
    )
    def test_refusal_is_json_without_a_redirect(self, client, path: str, header) -> None:
        response = client.get(path, headers={} if header is None else {"Authorization": header})

        assert response.status_code == 401
        assert response["WWW-Authenticate"] == 'Bearer realm="bgtask"'
        assert response["Content-Type"] == "application/json"
        assert response.json()["detail"]
        assert TOKEN not in response.content.decode()

    def test_every_request_is_refused_without_configured_tokens(
        self, client, settings, path
    ) -> None:
        settings.BGTASK = {}

        for header in ("Bearer ", "Bearer None", "Bearer []"):
            assert client.get(path, headers={"Authorization": header}).status_code == 401

    def test_token_in_the_url_is_refused(self, client, path: str) -> None:
        for query in (f"token={TOKEN}", f"access_token={TOKEN}", f"x={TOKEN}"):
            assert client.get(f"{path}?{query}").status_code == 401
            assert client.get(f"{path}?{query}", headers=BEARER).status_code == 401

    def test_session_with_the_monitor_permission_is_accepted(self, client, path: str) -> None:
        user = User.objects.create_user("ann")
        user.user_permissions.add(Permission.objects.get(codename="monitor"))
        client.force_login(user)

        assert client.get(path).status_code == 200

    def test_session_without_the_monitor_permission_is_refused(self, client, path: str) -> None:
        user = User.objects.create_user("bob", is_staff=True)
        client.force_login(user)

        response = client.get(path)

        assert response.status_code == 403
        assert "bgtask.monitor" in response.json()["detail"]

    def test_inactive_user_is_refused(self, client, path: str) -> None:
        user = User.objects.create_superuser("eve")
        client.force_login(user)
        User.objects.update(is_active=False)

        assert client.get(path).status_code == 401

    def test_a_wrong_token_is_refused_even_with_a_session(self, client, path: str) -> None:
        client.force_login(User.objects.create_superuser("root"))

        response = client.get(path, headers={"Authorization": "Bearer wrong"})

        assert response.status_code == 401

    @pytest.mark.parametrize("headers", [{}, BEARER], ids=["nothing", "token"])
    def test_an_endpoint_without_configured_tokens_explains_the_setting(
        self, client, settings, path: str, headers
    ) -> None:
        settings.BGTASK = {}

        response = client.get(path, headers=headers)

        assert response.status_code == 401
        assert response.json()["detail"].startswith("No token is configured. Add one to BGTASK")
        settings.BGTASK = {"MONITOR_TOKENS": ["x" * 32]}
        assert "No token is configured" not in client.get(path, headers=headers).text

    def test_login_required_middleware_does_not_redirect(self, client, settings, path: str) -> None:
        settings.MIDDLEWARE = [
            *settings.MIDDLEWARE,
            "django.contrib.auth.middleware.LoginRequiredMiddleware",
        ]

        assert client.get(path).status_code == 401
        assert client.get(path, headers=BEARER).status_code == 200


@pytest.mark.parametrize("path", ENDPOINTS)
class TestResponses:
    def test_response_must_not_be_cached_or_indexed(self, client, path: str) -> None:
        for headers in (BEARER, {}):
            response = client.get(path, headers=headers)

            assert response["Cache-Control"] == "no-store"
            assert response["X-Robots-Tag"] == "noindex"
            assert {"Authorization", "Cookie", "Accept"} <= set(response["Vary"].split(", "))

    def test_response_has_security_headers(self, client, settings, path: str) -> None:
        settings.MIDDLEWARE = []
        for headers in (BEARER, {}):
            response = client.get(path, headers=headers)

            assert response["X-Frame-Options"] == "DENY"
            assert response["X-Content-Type-Options"] == "nosniff"
            assert response["Referrer-Policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in response["Content-Security-Policy"]

    def test_url_works_with_and_without_a_slash(self, client, path: str) -> None:
        assert client.get(f"{path}/", headers=BEARER).status_code == 200

    def test_head_has_no_body(self, client, path: str) -> None:
        response = client.head(path, headers=BEARER)

        assert response.status_code == 200
        assert response.content == b""

    @pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "options"])
    def test_other_methods_get_405(self, client, path: str, method: str) -> None:
        response = getattr(client, method)(path, headers=BEARER)

        assert response.status_code == 405
        assert response["Allow"] == "GET, HEAD"

    @pytest.mark.parametrize(("age", "number"), [(0, 4), (400, 5)])
    def test_costs_four_queries_and_one_for_since_when(
        self, client, path: str, django_assert_num_queries, age: int, number: int
    ) -> None:
        behind(age)

        with django_assert_num_queries(number) as captured:
            client.get(path, headers=BEARER)

        assert all(query["sql"].lstrip("( ").startswith("SELECT") for query in captured)

    def test_response_is_cached_for_a_moment(
        self, client, path: str, django_assert_num_queries
    ) -> None:
        client.get(HEALTH, headers=BEARER)

        with django_assert_num_queries(0):
            for _ in range(10):
                client.get(path, headers=BEARER)

    def test_response_is_503_in_json_if_the_database_cannot_be_read(
        self, client, path: str, tables_missing, caplog
    ) -> None:
        response = client.get(path, headers=BEARER)

        assert response.status_code == 503
        assert response.json()["status"] == "fail"
        assert_conforms(response.json(), "health.schema.json")
        (record,) = (one for one in caplog.records if one.name == "bgtask.monitoring")
        assert record.levelno == logging.WARNING

    def test_response_needs_a_token_even_if_the_database_cannot_be_read(
        self, client, path: str, tables_missing
    ) -> None:
        assert client.get(path).status_code == 401

    def test_response_hides_the_error_of_the_database(
        self, client, path: str, tables_missing
    ) -> None:
        assert "not_there" not in client.get(path, headers=BEARER).content.decode()


@pytest.mark.parametrize("path", ENDPOINTS)
def test_endpoints_answer_while_the_database_is_away(command, tmp_path, path: str) -> None:
    nowhere = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "no" / "such"),
        "ATOMIC_REQUESTS": True,
    }
    ask = f"""
from django.conf import settings
from django.test import Client
settings.BGTASK = {{"MONITOR_TOKENS": [{TOKEN!r}]}}
response = Client().get({path!r}, headers={BEARER!r})
print(response.status_code, response.content.decode())
"""
    asking = command(
        "shell", "--verbosity=0", "-c", ask, env={"BGTASK_TEST_DATABASE": json.dumps(nowhere)}
    )

    assert asking.wait() == 0
    status, _, body = asking.output().strip().splitlines()[-1].partition(" ")
    assert status == "503"
    assert_conforms(json.loads(body), "health.schema.json")


def test_old_snapshot_is_replaced(client, monkeypatch) -> None:
    monkeypatch.setattr(snapshot, "KEPT", 0.0)
    client.get(STATS, headers=BEARER)
    TaskFactory()

    assert client.get(STATS, headers=BEARER).json()["totals"]["ready"] == 1


def test_response_has_the_age_of_its_snapshot(client) -> None:
    first = client.get(STATS, headers=BEARER).json()
    second = client.get(STATS, headers=BEARER).json()

    assert first["generated_at"] == second["generated_at"]
    assert second["age_seconds"] >= first["age_seconds"] >= 0


@pytest.mark.django_db(transaction=True)
def test_concurrent_requests_share_one_snapshot(settings) -> None:
    TaskFactory()

    def probe() -> str:
        document = Client().get(STATS, headers=BEARER).json()
        return str(document["generated_at"])

    assert len(set(all_at_once(*[probe] * 5))) == 1


def test_responses_use_the_language_of_the_project(client, settings) -> None:
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.middleware.locale.LocaleMiddleware",
    ]

    document = client.get(STATS, headers={**BEARER, "Accept-Language": "de"}).json()

    assert document["sentence"].startswith("OK: nothing is behind")


def test_endpoints_work_with_atomic_requests(
    client, monkeypatch, django_assert_num_queries
) -> None:
    from django.db import connection

    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)

    with django_assert_num_queries(5):  # And no savepoint.
        assert client.get(HEALTH, headers=BEARER).status_code == 200


ACCEPTED = [
    "application/openmetrics-text; version=abc",
    "application/openmetrics-text; version=1.x.0",
    "application/openmetrics-text; version=",
    "application/openmetrics-text; version=99999999999999999999.0.0",
    "application/openmetrics-text; version=-1.0.0",
    "application/openmetrics-text; version=\u0661.0.0",
    "application/openmetrics-text; version=1.0.0; escaping=nothing",
    "application/openmetrics-text; version=1.0.0; escaping=",
    "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8",
    "application/openmetrics-text;;;version;=;escaping",
    "text/plain; version=abc",
    "text/plain; version=1.0.0; escaping=\xe9",
    "text/plain; version=0.0.4; q=x, */*; q=-1",
    ";",
    ",",
    ",;,=" * 2_000,
    "*/*",
    "\x00\xff",
]


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("accept", ACCEPTED, ids=range(len(ACCEPTED)))
def test_an_endpoint_answers_any_accept_header(client, path: str, accept: str) -> None:
    """Hostile headers: a library parses one and raises an error that nobody expects."""
    response = client.get(path, headers={**BEARER, "Accept": accept})

    assert response.status_code == 200
    assert response.content


HEADERS = (
    "Accept", "Accept-Language", "Accept-Encoding", "Authorization", "Cookie", "Content-Type",
    "Content-Length", "If-None-Match", "If-Modified-Since", "Range", "Referer", "User-Agent",
    "X-Forwarded-For", "X-Requested-With", "Origin",
)  # fmt: skip


@pytest.mark.parametrize("path", ENDPOINTS)
@given(
    name=st.sampled_from(HEADERS),
    value=st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=60),
)
@h_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_header_breaks_an_endpoint(path: str, name: str, value: str) -> None:
    headers = {**BEARER, "Accept": "application/openmetrics-text; version=1.0.0", name: value}

    assert Client().get(path, headers=headers).status_code in (200, 400, 401)


def test_a_failure_is_kept_so_that_a_second_probe_costs_nothing(
    client, tables_missing, django_assert_num_queries
) -> None:
    assert client.get(HEALTH, headers=BEARER).status_code == 503

    with django_assert_num_queries(0):
        for path in ENDPOINTS:
            assert client.get(path, headers=BEARER).status_code == 503


def test_every_endpoint_tells_the_same_number_of_failed_tasks(client) -> None:
    """Kind of fault: two pages tell two numbers of one thing."""
    TaskFactory.create_batch(3, status=Status.FAILED)

    health = client.get(HEALTH, headers=BEARER).json()
    stats = client.get(STATS, headers=BEARER).json()
    metrics = client.get(METRICS, headers=BEARER).content.decode()

    (check,) = health["checks"]["tasks:failed"]
    assert (check["observedValue"], check["status"]) == (3, "pass")
    assert health["notes"] == [stats["sentence"]]
    assert stats["sentence"].endswith("; 3 failed tasks")
    assert stats["totals"]["failed_tasks"] == 3
    assert "bgtask_failed_tasks 3.0" in metrics
    assert_conforms(health, "health.schema.json")
    assert_conforms(stats, "stats.schema.json")
