"""A PostgreSQL server for the tests: pgserver's where it has a wheel, else the programs that the machine has."""

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

import psycopg

REMEDY = "pip install pgserver (Python 3.11 and 3.12), or apt-get install postgresql (any Python)"
START_TIMEOUT_S = 60.0
_UNPRIVILEGED = ("postgres", "nobody")
"""Accounts that run the server for root, whom PostgreSQL refuses; the first that exists."""


def programs() -> Path | None:
    """The folder with the newest `initdb` and `postgres` of this machine; Debian keeps them off the PATH."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(debian, key=lambda folder: folder.parent.name.zfill(4), reverse=True)
    return next((one for one in folders if (one / "initdb").exists() and (one / "postgres").exists()), None)


@contextmanager
def serve(lock: Path) -> Iterator[str | None]:
    """Runs a server on a socket in a new folder, until the end of the block.

    Args:
        lock: a file that all processes of a test run share; they prepare their servers one after another, because
            pgserver creates a system account when root has none for it yet.

    Yields:
        The URL of its maintenance database, or None where nothing can serve.
    """
    with tempfile.TemporaryDirectory(prefix="vfmalign-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if (pgserver := load_pgserver()) is not None:
            with _serve_with_pgserver(pgserver, folder, lock) as url:
                yield url
        elif (found := programs()) is not None:
            with serve_with(found, folder) as url:
                yield url
        else:
            yield None


def load_pgserver() -> Any:
    """The module, or None where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs tells which folder it takes where XDG_RUNTIME_DIR is not set
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
    yield server.get_uri()
    os.kill(server.get_pid(), signal.SIGQUIT)  # PostgreSQL's immediate shutdown; nobody needs its last checkpoint
    server.cleanup()


@contextmanager
def serve_with(binaries: Path, folder: Path) -> Iterator[str]:
    """Runs a server of the machine's own programs.

    Args:
        binaries: where `initdb` and `postgres` lie.
        folder: an empty folder with a short path, which holds the data and the socket.

    Yields:
        The URL of its maintenance database.
    """
    user = _account()
    options: dict[str, Any] = {"cwd": folder}
    if user is not None:
        shutil.chown(folder, user)
        options |= {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    data = folder / "data"
    command = [binaries / "initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "-U", "postgres", data]
    subprocess.run(command, check=True, capture_output=True, **options)
    command = [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-F"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, **options)
    url = f"postgresql://postgres:@/postgres?host={folder}"
    try:
        _wait(server, url, folder / "log")
        yield url
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(60)


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
