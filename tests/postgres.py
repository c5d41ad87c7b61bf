"""A PostgreSQL server for the tests, from pgserver where it has a wheel, otherwise from the machine's programs."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

REMEDY = "pip install pgserver (Python 3.11 and 3.12), or apt-get install postgresql (any Python)"
START_TIMEOUT_S = 60.0
MEMORY_FOLDER = Path("/dev/shm")
"""Where files are in memory: a database has 300, and deleting those of a test run from a disk may take a minute."""
LARGE_BYTES = 4 << 30
_UNPRIVILEGED = ("postgres", "nobody")
"""PostgreSQL refuses to run as root; the first of these accounts that exists runs it instead."""


@contextmanager
def serve() -> Iterator[str | None]:
    """Runs a server on a Unix socket in a temporary folder until the end of the block.

    Yields:
        URL of the maintenance database, or None without PostgreSQL on this machine.
    """
    if (binaries := find_programs()) is None:
        yield None
        return
    memory = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() and shutil.disk_usage(MEMORY_FOLDER).free >= LARGE_BYTES else None
    with tempfile.TemporaryDirectory(prefix="vfmalign-pg-", dir=memory) as folder:
        server = PostgresServer(binaries, Path(folder))
        try:
            yield server.url
        finally:
            server.stop()


def find_programs() -> Path | None:
    """Returns the folder of `initdb` and `postgres`: from pgserver, or else the newest of this machine."""
    wheel = importlib.util.find_spec("pgserver")
    folders = [Path(wheel.origin).parent / "pginstall/bin"] if wheel is not None and wheel.origin else []
    if (on_path := shutil.which("initdb")) is not None:
        folders.append(Path(on_path).resolve().parent)
    debian = Path("/usr/lib/postgresql").glob("*/bin")  # not in PATH
    folders += sorted(debian, key=lambda folder: folder.parent.name.zfill(4), reverse=True)
    return next((folder for folder in folders if _has_programs(folder)), None)


def _has_programs(folder: Path) -> bool:
    return (folder / "initdb").exists() and (folder / "postgres").exists()


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
        self._command: list[str] = []
        if (user := _account()) is not None:
            shutil.chown(folder, user)
            self._binaries = _make_reachable(binaries, folder)
            # With `user=`, subprocess forks this process in place of vfork, and gRPC's handlers may crash in the child.
            self._command = ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups"]
        host = f"postgres@127.0.0.1:{port}/postgres" if port else f"postgres:@/postgres?host={folder}"
        self.url = f"postgresql://{host}"
        options = ("--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust", "--username=postgres")
        command = [*self._command, self._binaries / "initdb", *options, folder / "data"]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        assert done.returncode == 0, f"initdb ended with {done.returncode}: {done.stderr.decode()}"
        self.start()

    def start(self) -> None:
        """Starts the server, which recovers what it had committed, and waits for it."""
        folder = self._folder
        command = [self._binaries / "postgres", "-D", folder / "data", "-k", folder, "-F", *self._address]
        with (folder / "log").open("a") as log:
            self._process = subprocess.Popen([*self._command, *command], cwd=folder, stdout=log, stderr=log)
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


def _make_reachable(binaries: Path, folder: Path) -> Path:
    """Returns a folder of the programs that every account may enter: a copy, if the wheel lies in a private one."""
    if all(parent.stat().st_mode & stat.S_IXOTH for parent in binaries.parents):
        return binaries
    packages = binaries.parents[2]
    for name in ("pgserver/pginstall", "pgserver.libs"):
        shutil.copytree(packages / name, folder / name)
    return folder / binaries.relative_to(packages)


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
