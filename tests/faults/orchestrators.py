"""Two orchestrators on one database, and the faults that befall them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from vfmalign.core.domain.errors import VfmalignError
from vfmalign.database.database import Database
from vfmalign.finetuning.checks.repository import CheckRepository, StoredCheck
from vfmalign.finetuning.schema import open_database

TTL_S = 3.0
FAULTS = {"kill": 4, "pause": 4, "terminate": 1}
"""Kinds of faults, and how often each occurs among them."""
TIMEOUT_S = 480.0
START_TIMEOUT_S = 240.0
Start = Callable[..., subprocess.Popen[bytes]]


class Orchestrator:
    """One process with a state directory of its own, which is started again whenever it ends.

    Args:
        start: starts it, like `subprocess.Popen`.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], start: Start) -> None:
        folder.mkdir()
        self.folder, self._start = folder, start
        self._ports = folder / "ports.json"
        own = {"VFMALIGN_STATE_DIR": str(folder / "state"), "VFMALIGN_SERVER__PORTS_FILE": str(self._ports)}
        self._environment = {**os.environ, **environment, **own}
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._ports.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "vfmalign.finetuning"]
            return self._start(command, env=self._environment, stdout=log, stderr=log)

    def ensure_running(self) -> None:
        """Starts it again where it has ended."""
        if self.process.poll() is not None:
            self.process = self._spawn()

    def wait_until_ready(self) -> None:
        """Starts it where it has ended, and waits until it serves the API."""
        end = time.monotonic() + START_TIMEOUT_S
        while not self._ports.exists() or self.process.poll() is not None:
            assert time.monotonic() < end, (self.folder / "log").read_text()[-3000:]
            self.ensure_running()
            time.sleep(0.1)

    def events(self, name: str) -> int:
        """Counts the lines of an event in its log."""
        return sum(f'"event": "{name}"' in line for line in (self.folder / "log").read_text().splitlines())

    def end(self) -> None:
        """Ends it for good."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()


@dataclass
class Pair:
    """The two orchestrators and their database.

    Attributes:
        counts: faults so far, by kind.
    """

    first: Orchestrator
    second: Orchestrator
    database: Database
    random: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    def wait(self, check_id: str, *, faults: int) -> StoredCheck:
        """Returns a check once it has ended, while so many faults befall the orchestrators one after another."""
        checks = CheckRepository(self.database)
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            with contextlib.suppress(VfmalignError):  # a stopped process may lock SQLite
                if (check := checks.get(check_id)).finished:
                    return check
            if faults > 0:
                faults -= 1
                self._strike()
            else:
                time.sleep(0.3)
                self.first.ensure_running()
                self.second.ensure_running()
        logs = [(one.folder / "log").read_text()[-3000:] for one in (self.first, self.second)]
        raise AssertionError(f"{check_id} has not ended: {checks.get(check_id).progress}\n" + "\n\n".join(logs))

    def _strike(self) -> None:
        """Lets the pair work for a moment, and then one of the two suffer, mostly the leader."""
        self.first.wait_until_ready()
        self.second.wait_until_ready()
        time.sleep(self.random.uniform(0.2, TTL_S))
        leader, standby = self._by_role()
        victim = leader if self.random.random() < 0.8 else standby
        kind = self.random.choices(list(FAULTS), list(FAULTS.values()))[0]
        pause_s = self.random.uniform(0.1, 2.5 * TTL_S)
        self.counts[kind] += 1
        if kind == "kill":
            victim.process.kill()
        elif kind == "terminate":
            victim.process.terminate()
        else:
            victim.process.send_signal(signal.SIGSTOP)
        time.sleep(pause_s)
        if kind == "pause":
            victim.process.send_signal(signal.SIGCONT)
        elif kind == "kill":
            victim.process.wait()
        for one in (self.first, self.second):
            one.ensure_running()

    def _by_role(self) -> tuple[Orchestrator, Orchestrator]:
        """Returns the leader first; the holder of the lease contains its process id."""
        holder = ""
        with contextlib.suppress(sa.exc.OperationalError), self.database.engine.connect() as connection:
            holder = connection.execute(sa.text("SELECT holder FROM leases")).scalar() or ""
        if f"-{self.second.process.pid}-" in holder:
            return self.second, self.first
        return self.first, self.second

    def end(self) -> None:
        """Ends both."""
        self.first.end()
        self.second.end()


def start_pair(folder: Path, database_url: str, environment: Mapping[str, str], seed: int, start: Start) -> Pair:
    """Starts two orchestrators with `job.py` as their training program."""
    database = open_database(database_url)
    database.migrate()
    settings = {
        **environment,
        "VFMALIGN_DATABASE__URL": database_url,
        "VFMALIGN_LEASE__TTL_S": str(TTL_S),
        "VFMALIGN_LAUNCHER__MAX_RUNNING": "3",
        "VFMALIGN_LAUNCHER__RETRY_DELAY_S": "0.2",
        "VFMALIGN_RECONCILER__POLL_S": "0.25",
        "VFMALIGN_RECONCILER__LONGEST_WAIT_S": "2",
        **{f"VFMALIGN_SERVER__{name}_PORT": "0" for name in ("GRPC", "METRICS", "HEALTH")},
        "FAULTS_LOG": str(folder / "processes"),
    }
    first, second = (Orchestrator(folder / name, settings, start) for name in ("first", "second"))
    return Pair(first, second, database, random.Random(seed))


def get_job_command(kind: str) -> str:
    """Returns the launcher's command that runs `job.py`."""
    return json.dumps([sys.executable, str(Path(__file__).with_name("job.py")), kind])
