"""
Distinguish an error about the data from an error about the database.

An error about the data comes back whenever the same row is written again. Every other error may be
gone at the next try: a lost connection, a full disk, a read-only server, a lock, a missing column.
SQLite and MariaDB do not give Python an SQLSTATE, so their own error codes are listed here.
"""

from __future__ import annotations

from django.db import DataError, Error, IntegrityError, OperationalError

# 22 is "data exception", 23 "integrity constraint violation", P0001 a trigger's RAISE EXCEPTION.
DATA_SQLSTATES = ("22", "23", "P0001")

# SQLITE_TOOBIG, SQLITE_CONSTRAINT and SQLITE_MISMATCH. The upper bits of a code only add details.
SQLITE_DATA_CODES = frozenset({18, 19, 20})
SQLITE_PRIMARY_CODE = 0xFF

MYSQL_DATA_CODES = frozenset(
    {
        # Values that a column cannot hold.
        1048, 1263, 1264, 1265, 1292, 1300, 1365, 1366, 1367, 1406, 1411, 1441, 1525, 1690,
        # Keys, and constraints: 3819 is MySQL's CHECK, 4025 is MariaDB's.
        1062, 1169, 1216, 1217, 1451, 1452, 1557, 1586, 1761, 1762, 3819, 4025,
        # Text that cannot be converted (3988), and JSON that cannot be read (3140): MySQL only.
        3140, 3988,
        # A trigger refused the row by SIGNAL.
        1644,
        # The statement is larger than max_allowed_packet.
        1153,
    }
)  # fmt: skip


MYSQL_DEADLOCK, MYSQL_DUPLICATE = 1213, 1062
DEADLOCK_SQLSTATE = "40P01"


class TooLarge(Exception):
    """The database's own limit is too low for one row. Raised before the row is sent."""


def is_about_data(error: BaseException) -> bool:
    """Return whether the database, or its driver, refused the values that it was given."""
    if isinstance(error, TooLarge):
        return True
    if is_undecodable(error):
        return True
    if not isinstance(error, Error):
        # Drivers raise Python's own errors for text that they cannot encode, for NUL and for
        # integers of too many bits. Django passes them on as they are.
        return isinstance(error, ValueError | OverflowError)
    cause = error.__cause__
    sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if isinstance(sqlstate, str):
        return sqlstate.startswith(DATA_SQLSTATES)
    sqlite_code = getattr(cause, "sqlite_errorcode", None)
    if isinstance(sqlite_code, int):
        return sqlite_code & SQLITE_PRIMARY_CODE in SQLITE_DATA_CODES
    mysql_code = _mysql_code(error)
    if mysql_code is not None:
        return mysql_code in MYSQL_DATA_CODES
    # An error without a code comes from the driver: psycopg raises DataError for NUL in a text.
    return isinstance(error, DataError | IntegrityError)


def is_undecodable(error: BaseException) -> bool:
    """Return whether SQLite stores a text that is not UTF-8. SQLite never checks this."""
    return isinstance(error, OperationalError) and "Could not decode to UTF-8" in str(error)


def is_deadlock(error: Error) -> bool:
    """Return whether the database has rolled back the transaction to end a deadlock."""
    sqlstate = getattr(error.__cause__, "sqlstate", None)
    return _mysql_code(error) == MYSQL_DEADLOCK or sqlstate == DEADLOCK_SQLSTATE


def is_duplicate(error: Error) -> bool:
    """Return whether MariaDB refused a row because its key is there already."""
    return _mysql_code(error) == MYSQL_DUPLICATE


def _mysql_code(error: Error) -> int | None:
    """Return the number that MariaDB's drivers put in front of the message."""
    code = error.args[0] if len(error.args) > 1 else None
    return code if isinstance(code, int) else None
