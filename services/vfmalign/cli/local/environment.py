"""Environment variables of the local stack's services."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from vfmalign.cli.local.signing_key import get_key_file
from vfmalign.cli.local.state_directory import ServicePorts, StateDirectory, StoreState
from vfmalign.cli.local.tokens import TokenFiles

MAX_THREADS = 4
"""More threads do not speed up training on volumes of the usual size."""

MAX_JOBS = 4
"""Concurrent training processes of small networks; each needs one thread and up to 2 GB."""

NO_SETTINGS: Mapping[str, str] = MappingProxyType({})

_DEFAULTS = {
    "VFMALIGN_SERVER__DRAIN_S": "5",
    "VFMALIGN_LAUNCHER__STOP_GRACE_S": "20",
    "VFMALIGN_RECONCILER__POLL_S": "0.5",
    # Idle OpenMP threads sleep instead of spinning: a training step is several times faster when other processes use
    # the same cores, and not slower when none does.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Settings that suit one machine better than the services' defaults. Variables that the user sets override them."""

_FOREIGN_VARIABLES = (
    *("VFMALIGN_CA_FILE", "VFMALIGN_SERVER__TLS_", "VFMALIGN_AUTH__", "VFMALIGN_TOKEN"),
    *("VFMALIGN_PRESIGNED_ENDPOINT", "AWS_"),
)
"""Prefixes of variables for a deployment elsewhere. Services of a local stack use the loopback interface without TLS,
with tokens and object storage of their own."""


def get_service_environment(
    directory: StateDirectory,
    store: StoreState | None,
    ports: Mapping[str, ServicePorts],
    name: str,
    settings: Mapping[str, str] = NO_SETTINGS,
) -> dict[str, str]:
    """Returns all variables of one service.

    Args:
        directory: the state folder.
        store: the stack's object storage; None for a stack without one.
        ports: ports of every service of the stack.
        name: the service.
        settings: variables that override the defaults for one machine.
    """
    threads = str(min(count_cpus(), MAX_THREADS))
    signing = {"VFMALIGN_SIGNING__KEY_FILE": str(get_key_file(directory.tokens))} if name == "finetuning" else {}
    defaults = {**_DEFAULTS, **signing, **get_malloc_settings(name), "VFMALIGN_TRAINING__THREADS": threads, **settings}
    own_ports = ports[name]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_VARIABLES)}
    own_tokens = TokenFiles.find(directory.tokens, name).to_environment()
    store_variables = {} if store is None else store.to_environment(name)
    addresses = {f"VFMALIGN_{service.upper()}_ADDRESS": ports[service].address for service in ports}
    return {**defaults, **inherited, **store_variables, **own_tokens, **addresses} | {
        "VFMALIGN_SERVER__HOST": "127.0.0.1",
        "VFMALIGN_SERVER__GRPC_PORT": str(own_ports.grpc),
        "VFMALIGN_SERVER__METRICS_PORT": str(own_ports.metrics),
        "VFMALIGN_SERVER__HEALTH_PORT": str(own_ports.health),
        "VFMALIGN_SERVER__PORTS_FILE": str(get_ports_file(directory, name)),
        "VFMALIGN_STATE_DIR": str(directory.service_state),
        # Without it `python -m` puts the current folder before the installed packages.
        "PYTHONSAFEPATH": "1",
    }


def get_malloc_settings(service: str) -> dict[str, str]:
    """Returns variables that make glibc keep freed memory for the next request of a service.

    By default, glibc returns the memory of each large array to the kernel, so every page of the next array causes a
    page fault again. The page faults take a quarter of a convolutional encoder's forward pass at full size, and 9 ms of
    an MMD request of 6 MB (measured; `python -m bench.forward`, `make bench BENCH='--only endpoint'`). The limit
    applies to the whole process, because all threads share one arena. Training processes inherit the variables from
    `finetuning`. Other allocators ignore them.

    Args:
        service: of a local stack.
    """
    if service == "monitoring":  # it makes no large arrays for a request
        return {}
    if service == "mmd":
        largest_block, trim_threshold = 32 * 2**20, 256 * 2**20
    else:
        # glibc before 2.35 ignores a threshold above 32 MiB, and then returns every block above 128 KiB.
        limited = _get_glibc_version() < (2, 35)
        largest_block, trim_threshold = 32 * 2**20 if limited else 2**31 - 1, 2**31 - 1
    return {
        "MALLOC_MMAP_THRESHOLD_": str(largest_block),
        "MALLOC_TRIM_THRESHOLD_": str(trim_threshold),
        "MALLOC_ARENA_MAX": "1",
    }


def _get_glibc_version() -> tuple[int, ...]:
    """Returns the version of this machine's glibc; (0,) for another C library."""
    name, version = platform.libc_ver()
    return tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else (0,)


def get_small_network_settings() -> dict[str, str]:
    """Returns settings for small networks.

    Small networks train faster in parallel, with one thread each, than one by one on all cores. Results with one thread
    also do not depend on the number of cores.
    """
    return {
        "VFMALIGN_LAUNCHER__MAX_RUNNING": str(min(count_cpus(), MAX_JOBS)),
        "VFMALIGN_TRAINING__THREADS": "1",
    }


def get_ports_file(directory: StateDirectory, name: str) -> Path:
    """Returns the file in which a service reports its ports when it serves."""
    return directory.path / f"{name}.ports.json"


def count_cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
