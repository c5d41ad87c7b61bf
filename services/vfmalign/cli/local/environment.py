"""What the local stack's processes read from their environment.

Knows the names of the services' settings that a local stack must set. Knows nothing of how processes are started.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from vfmalign.cli.local.state_directory import REGION, Home, Ports, StoreState

MAX_THREADS = 4
"""More threads than this gain nothing on the volumes that one machine trains on, and jobs run one at a time."""

MAX_JOBS = 4
"""Training processes of small networks at once: each takes one thread and up to 2 GB."""

NOTHING: Mapping[str, str] = MappingProxyType({})

_DEFAULTS = {
    "VFMALIGN_SERVER__DRAIN_S": "5",
    "VFMALIGN_LAUNCHER__STOP_GRACE_S": "20",
    "VFMALIGN_RECONCILER__POLL_S": "0.25",
    # Threads that wait for one another sleep instead of spinning: with other work on the same cores a training step is
    # several times faster so, and alone it is no slower.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""What suits one machine better than a cluster's values; a variable of the user's own wins."""

_NO_TLS = {"VFMALIGN_CA_FILE", "VFMALIGN_SERVER__TLS_CERT_FILE", "VFMALIGN_SERVER__TLS_KEY_FILE"}
"""Meant for services elsewhere: those of one machine talk over its loopback, unencrypted."""


def service_environment(
    home: Home, store: StoreState, ports: Mapping[str, Ports], name: str, settings: Mapping[str, str] = NOTHING
) -> dict[str, str]:
    """All variables of one service; `settings` stand for what suits one machine otherwise."""
    threads = str(min(cpus(), MAX_THREADS))
    defaults = {**_DEFAULTS, **malloc_settings(name), "VFMALIGN_TRAINING__THREADS": threads, **settings}
    own = ports[name]
    users = {name: value for name, value in os.environ.items() if name not in _NO_TLS}
    return {**defaults, **users} | {
        "AWS_ENDPOINT_URL_S3": store.endpoint,
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "AWS_REGION": REGION,
        "VFMALIGN_BUCKET": store.bucket,
        "VFMALIGN_SERVER__HOST": "127.0.0.1",
        "VFMALIGN_SERVER__GRPC_PORT": str(own.grpc),
        "VFMALIGN_SERVER__METRICS_PORT": str(own.metrics),
        "VFMALIGN_SERVER__HEALTH_PORT": str(own.health),
        "VFMALIGN_SERVER__PORTS_FILE": str(ports_file(home, name)),
        "VFMALIGN_FEATURES_ADDRESS": ports["features"].address,
        "VFMALIGN_MMD_ADDRESS": ports["mmd"].address,
        "VFMALIGN_STATE_DIR": str(home.service_state),
        # `python -m` would put the current folder before the installed packages.
        "PYTHONSAFEPATH": "1",
    }


def malloc_settings(service: str) -> dict[str, str]:
    """Environment variables of glibc with which a service's process keeps freed memory for its next request.

    By default glibc returns the memory of each large array to the kernel, and every page of the next one faults anew: a
    quarter of a convolutional encoder's forward pass at full size, 9 ms of an MMD request of 6 MB (measured;
    `python -m bench.forward`, `make bench BENCH='--only endpoint'`). The limit holds for the whole process, because all
    threads share one arena. Training processes inherit the variables from `finetuning`. Other allocators ignore them.

    Args:
        service: `features`, `mmd` or `finetuning`.
    """
    if service == "mmd":
        largest_block, kept = 32 * 2**20, 256 * 2**20
    else:
        # glibc before 2.35 ignores a threshold above 32 MiB, and then returns every block above 128 KiB.
        limited = _libc_version() < (2, 35)
        largest_block, kept = 32 * 2**20 if limited else 2**31 - 1, 2**31 - 1
    return {
        "MALLOC_MMAP_THRESHOLD_": str(largest_block),
        "MALLOC_TRIM_THRESHOLD_": str(kept),
        "MALLOC_ARENA_MAX": "1",
    }


def _libc_version() -> tuple[int, ...]:
    """The version of this machine's glibc; (0,) with another C library."""
    name, version = platform.libc_ver()
    return tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else (0,)


def small_networks() -> dict[str, str]:
    """Settings for many small networks, which train faster side by side than one after the other with all cores each.

    One thread each also makes the numbers independent of how many cores a machine has.
    """
    return {
        "VFMALIGN_LAUNCHER__MAX_RUNNING": str(min(cpus(), MAX_JOBS)),
        "VFMALIGN_TRAINING__THREADS": "1",
    }


def ports_file(home: Home, name: str) -> Path:
    """Where a service says that it serves, and on which ports."""
    return home.path / f"{name}.ports.json"


def cpus() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
