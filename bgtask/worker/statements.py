"""Decide from its text alone whether an SQL statement may change the session it runs in."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

MAX_CACHED_LENGTH = 4_000  # Characters; longer statements are seldom repeated.


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The first words of statements that leave nothing in a session. Any other statement may.
_HARMLESS = _words(
    """
    SELECT INSERT UPDATE DELETE MERGE REPLACE WITH VALUES TABLE EXPLAIN SHOW SAVEPOINT RELEASE
    ROLLBACK COMMIT END ABORT COPY NOTIFY TRUNCATE
    """
)
_OF_TRANSACTION = re.compile(r"SET\s+(LOCAL|CONSTRAINTS|TRANSACTION)\b", re.IGNORECASE)
# MySQL executes the content of comments that begin with /*! or /*M!.
_IN_FRONT = re.compile(r"(?:\s+|\(|--[^\n]*(?:\n|$)|#[^\n]*(?:\n|$)|/\*(?![!M]).*?\*/)*", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]+")

# Text in statements that begin harmlessly but may change the session all the same. It names
# functions, user variables and temporary tables.
_SUSPICIOUS = (
    "set_config", "advisory_lock", "get_lock", "load_extension", "dblink", "setseed",
    "pg_settings", "pg_temp", ":=", "and chain", "/*!", "/*m!",
)  # fmt: skip
_INTO_SESSION = re.compile(r"into\s+(?:outfile\s|(?:local\s+|global\s+)?temp(?:orary)?\s|@)")

# A SELECT that reads from no table calls functions for their effects, and a function of the
# project may have any effect. The functions in _HARMLESS_CALLS have none on the session.
_CALL = re.compile(r"([a-z_][\w$]*)[\"`]?\s*\(")
_FROM_CALL = re.compile(r"\b(?:from|join|lateral)\s+(?:[\w\"`]+\.)?[\"`]?([a-z_][\w$]*)[\"`]?\s*\(")
_WRITES = ("insert", "update", "delete", "merge", "replace")
_HARMLESS_CALLS = _words(
    """
    select values in exists as and or not any all some array row case when then else over filter
    cast convert convert_tz coalesce nullif ifnull if isnull greatest least count sum min max avg
    now sysdate curdate curtime current_timestamp current_date current_time current_setting
    clock_timestamp statement_timestamp transaction_timestamp age extract date time datetime
    julianday strftime unix_timestamp from_unixtime unixepoch make_date make_interval version
    sqlite_version database schema user current_user connection_id last_insert_id row_count
    found_rows changes total_changes last_insert_rowid sleep nextval currval lastval setval
    release_lock is_free_lock is_used_lock txid_current inet_client_addr inet_server_addr
    generate_series unnest random rand uuid gen_random_uuid abs round floor ceil mod power sqrt
    length char_length octet_length lower upper trim ltrim rtrim substr substring replace concat
    concat_ws left right lpad rpad position md5 sha1 sha2 encode decode format quote hex unhex
    typeof printf instr utc_timestamp utc_date utc_time timestamp timestampdiff timestampadd
    """
)
_HARMLESS_PREFIXES = (
    "pg_", "json_", "jsonb_", "to_", "date_", "string_", "array_", "regexp_", "has_",
)  # fmt: skip


def may_change_session(statement: Any, vendor: str) -> bool:
    """Return whether the statement may change the session. If its text can't tell, return True."""
    if isinstance(statement, bytes):
        statement = statement.decode(errors="replace")
    elif not isinstance(statement, str):
        return True
    if len(statement) > MAX_CACHED_LENGTH:
        return _may_change(statement, vendor)
    return _cached(statement, vendor)


def begins_harmlessly(statement: str, vendor: str) -> bool:
    """Return whether the beginning of the statement can't change the session."""
    start = _IN_FRONT.match(statement)
    rest = statement[start.end() :] if start else statement
    if not rest:
        return True
    word = _WORD.match(rest)
    if word is None:
        return False
    first = word.group().upper()
    if vendor == "sqlite" and first == "BEGIN":
        return True  # Django begins its transactions with it.
    if vendor == "postgresql" and _OF_TRANSACTION.match(rest):
        return True
    return first in _HARMLESS


def _may_change(statement: str, vendor: str) -> bool:
    # A semicolon may be part of a literal. Splitting there costs a reconnect at most.
    parts = statement.split(";") if ";" in statement else (statement,)
    if not all(begins_harmlessly(part, vendor) for part in parts):
        return True
    text = statement.lower()
    if any(part in text for part in _SUSPICIOUS):
        # PostgreSQL releases these locks at the end of the transaction.
        text = text.replace("advisory_xact_lock", "")
        if any(part in text for part in _SUSPICIOUS):
            return True
    if "into" in text and _INTO_SESSION.search(text):
        return True
    return _calls_unknown_function(text)


def _calls_unknown_function(text: str) -> bool:
    start = _IN_FRONT.match(text)
    if start and text.startswith(_WRITES, start.end()):
        return False
    names = (_FROM_CALL if "from" in text else _CALL).findall(text)
    return any(
        name not in _HARMLESS_CALLS and not name.startswith(_HARMLESS_PREFIXES) for name in names
    )


_cached = lru_cache(maxsize=1024)(_may_change)
