"""Settings: read in any way they may be written, validated, and never read stale."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from bgtask.checks import check_settings
from bgtask.conf import get_settings

DAY = 86_400.0


def test_settings_have_defaults():
    settings = get_settings()

    assert (settings.max_attempts, settings.max_run_time) == (25, 3_600.0)
    assert (settings.lease, settings.heartbeat_interval, settings.grace_period) == (
        60.0,
        10.0,
        30.0,
    )
    assert (settings.max_crashes, settings.retry_jitter) == (3, 0.0)
    assert settings.max_params_bytes == 256 * 1024
    assert settings.retention == {"successful": 7 * DAY, "cancelled": 30 * DAY, "failed": None}
    assert settings.monitor_tokens == ()


def test_plain_settings_of_the_original_are_read(settings):
    settings.MAX_ATTEMPTS = 3
    settings.MAX_RUN_TIME = 120

    assert (get_settings().max_attempts, get_settings().max_run_time) == (3, 120.0)


def test_bgtask_overrides_plain_settings(settings):
    settings.MAX_ATTEMPTS = 3
    settings.BGTASK = {"MAX_ATTEMPTS": 4}

    assert get_settings().max_attempts == 4


@pytest.mark.parametrize(
    ("value", "seconds"), [(90, 90.0), (0.5, 0.5), (timedelta(minutes=2), 120.0)], ids=str
)
def test_durations_are_seconds_or_timedeltas(settings, value, seconds):
    settings.BGTASK = {"MAX_RUN_TIME": value, "GRACE_PERIOD": value, "RETENTION": {"failed": value}}

    assert get_settings().max_run_time == get_settings().grace_period == seconds
    assert get_settings().retention["failed"] == seconds


def test_missing_keys_of_retention_have_their_defaults(settings):
    settings.BGTASK = {"RETENTION": {"successful": None}}

    assert get_settings().retention == {"successful": None, "cancelled": 30 * DAY, "failed": None}


def test_missing_keys_of_thresholds_have_their_defaults(settings):
    settings.BGTASK = {"THRESHOLDS": {"queues": {"batch": {"oldest_ready": None}}}}

    thresholds = get_settings().thresholds
    assert thresholds["oldest_ready"] == (60.0, 300.0)
    assert thresholds["queues"]["batch"]["oldest_ready"] is None


def test_failure_ratio_is_at_most_one(settings):
    settings.BGTASK = {"THRESHOLDS": {"failure_ratio": (0.5, 1)}}
    assert get_settings().thresholds["failure_ratio"] == (0.5, 1.0)

    settings.BGTASK = {"THRESHOLDS": {"failure_ratio": (0.5, 5)}}
    with pytest.raises(ImproperlyConfigured, match="above 0 and up to 1, not 5"):
        get_settings()


@pytest.mark.parametrize(("value", "listen"), [(None, None), (True, None), (False, False)])
def test_workers_listen_by_default(settings, value, listen):
    settings.BGTASK = {"LISTEN": value}

    assert get_settings().listen is listen


@pytest.mark.vendor("postgresql")
def test_listen_names_a_database(settings):
    settings.BGTASK = {"LISTEN": "default"}

    assert get_settings().listen == "default"


# Changes


def test_any_change_of_the_settings_takes_effect(settings):
    with override_settings(BGTASK={"MAX_ATTEMPTS": 3}):
        assert get_settings().max_attempts == 3
    assert get_settings().max_attempts == 25

    settings.BGTASK = {"RETENTION": {"failed": 60}}
    assert get_settings().retention["failed"] == 60

    settings.BGTASK["MAX_ATTEMPTS"] = 5
    assert get_settings().max_attempts == 5

    settings.BGTASK["RETENTION"]["failed"] = 120
    assert get_settings().retention["failed"] == 120

    del settings.BGTASK
    assert get_settings().max_attempts == 25


def test_invalid_settings_fail_each_time_they_are_read(settings):
    settings.BGTASK = {"MAX_ATTEMPTS": 0}

    for _ in range(2):
        with pytest.raises(ImproperlyConfigured):
            get_settings()


# What is refused


@pytest.mark.parametrize("name", ["MAX_ATEMPTS", "max_attempts", "QUEUES", 5], ids=repr)
def test_error_of_an_unknown_key_names_the_known_keys(settings, name):
    settings.BGTASK = {name: 1}

    with pytest.raises(ImproperlyConfigured) as error:
        get_settings()

    assert f"Unknown option BGTASK[{name!r}]" in str(error.value)
    assert "GRACE_PERIOD, HEARTBEAT_INTERVAL, LEASE, LISTEN, MAX_ATTEMPTS" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("KEEP", "RETENTION"),
        ("GRACE", "GRACE_PERIOD"),
        ("HEARTBEAT", "HEARTBEAT_INTERVAL"),
        ("JITTER", "RETRY_JITTER"),
    ],
)
def test_error_of_a_renamed_key_names_the_new_key(settings, old, new):
    settings.BGTASK = {new: {"failed": 60} if old == "KEEP" else 2}
    get_settings()
    settings.BGTASK = {old: {"failed": 60} if old == "KEEP" else 2}

    with pytest.raises(ImproperlyConfigured) as error:
        get_settings()

    assert f"BGTASK[{old!r}] is now BGTASK[{new!r}]." in str(error.value)
    assert [(found.id, found.msg) for found in check_settings()] == [
        ("bgtask.E001", str(error.value))
    ]


NO_THRESHOLDS: list[object] = [None, 5, {"oldest": 1}, {"queues": []}]
DURATIONS = [0, -1, "60", True, None, math.nan, math.inf, timedelta(), 1e12, timedelta.max]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("MAX_ATTEMPTS", value) for value in (0, -1, 1.5, "3", True, None, 10**10)],
        *[("MAX_CRASHES", value) for value in (0, 1, 2.5, None)],
        *[("MAX_PARAMS_BYTES", value) for value in (0, 1_023, "256 KiB", None)],
        *[("RETRY_JITTER", value) for value in (-0.1, 11, "0.1", True, None, math.nan)],
        *[
            (name, value)
            for name in ("MAX_RUN_TIME", "LEASE", "GRACE_PERIOD")
            for value in DURATIONS
        ],
        *[("HEARTBEAT_INTERVAL", value) for value in DURATIONS],
        *[
            ("RETENTION", value)
            for value in (None, 7, {"lost": 60}, {"failed": 0}, {"failed": "7"})
        ],
        *[("MONITOR_TOKENS", value) for value in ("secret", [""], [5], 5, None, [" "])],
        *[("LISTEN", value) for value in ("", "direct", 0, 1, ["default"])],
        *[("THRESHOLDS", value) for value in NO_THRESHOLDS],
        ("THRESHOLDS", {"oldest_ready": 60}),
        ("THRESHOLDS", {"oldest_ready": (300, 60)}),
        ("THRESHOLDS", {"oldest_ready": (60, "300")}),
        *[("THRESHOLDS", {"failure_ratio": pair}) for pair in ((0, 0.5), (5, 20), (0.1, "0.5"))],
        *[("THRESHOLDS", {"failure_ratio": pair}) for pair in ((0.5, 0.1), 0.1, (True, True))],
        ("THRESHOLDS", {"failure_sample": 0}),
        ("THRESHOLDS", {"failure_window": 0}),
        ("THRESHOLDS", {"queues": {"batch": {"queues": {}}}}),
        ("THRESHOLDS", {"queues": {"batch": 60}}),
    ],
    ids=repr,
)
def test_error_of_an_invalid_value_names_the_setting(settings, name, value):
    settings.BGTASK = {name: value}

    with pytest.raises(ImproperlyConfigured, match=rf"BGTASK\['{name}(\..*)?'\] .*must be "):
        get_settings()


@pytest.mark.parametrize("value", [0, "3", None])
def test_invalid_plain_setting_is_an_error(settings, value):
    settings.MAX_ATTEMPTS = value

    with pytest.raises(ImproperlyConfigured, match="MAX_ATTEMPTS"):
        get_settings()


@pytest.mark.parametrize("value", [None, [], "LEASE"])
def test_bgtask_must_be_a_dictionary(settings, value):
    settings.BGTASK = value

    with pytest.raises(ImproperlyConfigured, match="BGTASK must be a dictionary"):
        get_settings()


def test_error_of_an_unknown_listen_alias_names_the_known_aliases(settings):
    settings.BGTASK = {"LISTEN": "direct"}

    with pytest.raises(ImproperlyConfigured, match=r"\(default, other\).* not 'direct'"):
        get_settings()


def test_only_a_database_of_postgresql_can_be_listened_on(settings):
    settings.BGTASK = {"LISTEN": "other"}

    with pytest.raises(ImproperlyConfigured, match=r"'other', a database of sqlite\. Only Postgre"):
        get_settings()


def test_a_token_is_not_shown_in_the_error(settings):
    settings.BGTASK = {"MONITOR_TOKENS": "hunter2"}

    with pytest.raises(ImproperlyConfigured) as error:
        get_settings()

    assert "hunter2" not in str(error.value)


def test_lease_must_be_longer_than_two_heartbeats(settings):
    settings.BGTASK = {"LEASE": 10, "HEARTBEAT_INTERVAL": 6}

    with pytest.raises(ImproperlyConfigured, match=r"BGTASK\['LEASE'\] .* at least twice"):
        get_settings()
