"""Services as processes of this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from vfmalign.cli.local.environment import get_malloc_settings


@dataclass(frozen=True)
class RunningService:
    """A service that runs.

    Attributes:
        address: of its API.
        process: of the service.
    """

    address: str
    process: psutil.Process

    def get_cpu_s(self) -> float:
        """Returns the CPU time of the service so far, in seconds."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def run_service(name: str, folder: Path, environment: Mapping[str, str], threads: int) -> Iterator[RunningService]:
    """Runs `python -m vfmalign.<name>` on free ports, without authentication.

    Args:
        name: of the service.
        folder: for its files.
        environment: variables beside those for ports.
        threads: of its numerical libraries.
    """
    ports, log = folder / f"{name}-ports.json", folder / f"{name}.log"
    variables = {
        **environment,
        **get_malloc_settings(name),
        **{f"VFMALIGN_SERVER__{port}_PORT": "0" for port in ("GRPC", "METRICS", "HEALTH")},
        "VFMALIGN_SERVER__PORTS_FILE": str(ports),
        "VFMALIGN_AUTH__MODE": "off",
        "OMP_NUM_THREADS": str(threads),
    }
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", f"vfmalign.{name}"], env=variables, stdout=out, stderr=out)
    try:
        while not ports.exists():
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        yield RunningService(f"127.0.0.1:{json.loads(ports.read_text())['grpc']}", psutil.Process(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
