"""A PostgreSQL server for the tests, from pgserver where it has a wheel, otherwise from the machine's programs."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg

REMEDY = "pip install pgserver (Python 3.11 and 3.12), or apt-get install postgresql (any Python)"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
MEMORY_FOLDER = Path("/dev/shm")
"""Where files are in memory: a database has 300, and deleting those of a test run from a disk may take a minute."""
LARGE_BYTES = 4 << 30
_UNPRIVILEGED = ("postgres", "nobody")
"""PostgreSQL refuses to run as root; the first of these accounts that exists runs it instead."""


def programs() -> Path | None:
    """Returns the folder of the newest `initdb` and `postgres` on this machine. Debian does not add it to PATH."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(debian, key=lambda folder: folder.parent.name.zfill(4), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


@contextmanager
def serve(lock: Path) -> Iterator[str | None]:
    """Runs a server on a Unix socket in a temporary folder until the end of the block.

    Args:
        lock: file that all processes of a test run share. They set up their servers one at a time, because pgserver
            creates a system account if it runs as root and the account is missing.

    Yields:
        URL of the maintenance database, or None without PostgreSQL on this machine.
    """
    memory = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() and shutil.disk_usage(MEMORY_FOLDER).free >= LARGE_BYTES else None
    with tempfile.TemporaryDirectory(prefix="vfmalign-pg-", dir=memory, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if (pgserver := load_pgserver()) is not None:
            with _serve_with_pgserver(pgserver, folder, lock) as url:
                yield url
        elif (binaries := programs()) is not None:
            with serve_with(binaries, folder) as url:
                yield url
        else:
            yield None


def find_programs() -> Path | None:
    """Returns the folder of `initdb` and `postgres`, from pgserver or of this machine."""
    pgserver = load_pgserver()
    return programs() if pgserver is None else Path(pgserver.__file__).parent / "pginstall/bin"


def load_pgserver() -> Any:
    """Imports pgserver; returns None if it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns if XDG_RUNTIME_DIR is not set
        try:
            import pgserver
        except ImportError:
            return None
    return pgserver


@contextmanager
def _serve_with_pgserver(pgserver: Any, folder: Path, lock: Path) -> Iterator[str]:
    if os.getuid() == 0:
        folder.chmod(0o777)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        server = pgserver.get_server(folder, cleanup_mode="delete")
    process = psutil.Process(server.get_pid())
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync TO off")
        connection.execute("SELECT pg_reload_conf()")
    yield server.get_uri()
    process.send_signal(signal.SIGQUIT)  # immediate shutdown, without a checkpoint
    psutil.wait_procs([process], timeout=STOP_TIMEOUT_S)  # cleanup() raises if the server ends while it runs
    server.cleanup()


@contextmanager
def serve_with(binaries: Path, folder: Path) -> Iterator[str]:
    """Runs a server with the machine's programs until the end of the block.

    Args:
        binaries: folder of `initdb` and `postgres`.
        folder: empty folder with a short path, for the data and the socket.

    Yields:
        URL of the maintenance database.
    """
    server = PostgresServer(binaries, folder)
    try:
        yield server.url
    finally:
        server.stop()


class PostgresServer:
    """A server that a test may stop; started again, it has the same URL and data.

    Args:
        binaries: folder of `initdb` and `postgres`.
        folder: empty folder with a short path, for the data and the socket.
        port: of the loopback interface; 0 for the socket alone.

    Attributes:
        url: of the maintenance database.
    """

    def __init__(self, binaries: Path, folder: Path, port: int = 0) -> None:
        self._binaries, self._folder = binaries, folder
        self._address = ["-c", "listen_addresses=127.0.0.1", "-p", str(port)] if port else ["-c", "listen_addresses="]
        self._options: dict[str, Any] = {"cwd": folder}
        if (user := _account()) is not None:
            shutil.chown(folder, user)
            self._options |= {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        host = f"postgres@127.0.0.1:{port}/postgres" if port else f"postgres:@/postgres?host={folder}"
        self.url = f"postgresql://{host}"
        data = folder / "data"
        command = [binaries / "initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "-U", "postgres", data]
        subprocess.run(command, check=True, capture_output=True, **self._options)
        self.start()

    def start(self) -> None:
        """Starts the server, which recovers what it had committed, and waits for it."""
        folder = self._folder
        command = [self._binaries / "postgres", "-D", folder / "data", "-k", folder, "-F", *self._address]
        with (folder / "log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._options)
        try:
            _wait(self._process, self.url, folder / "log")
        except BaseException:
            self.stop()
            raise

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stops every process of the server during a block: connections stay open, and new ones are not served."""
        server = psutil.Process(self._process.pid)
        server.suspend()  # before it starts further processes
        processes = [*server.children(recursive=True), server]
        try:
            for process in processes:
                process.suspend()
            yield
        finally:
            for process in processes:
                process.resume()

    def stop(self) -> None:
        """Ends all connections at once, without a checkpoint; afterwards, connections are refused."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(60)


def _account() -> str | None:
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in _UNPRIVILEGED if name in known)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            assert server.poll() is None and time.monotonic() < end, log.read_text()  # noqa: PT018
            time.sleep(0.05)
        else:
            return
