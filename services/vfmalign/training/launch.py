"""`python -m vfmalign.training.launch … SPEC_URI`: start the processes of one job on this machine.

The same command runs on every machine of the job, each with its own node rank. All processes together train like a
single one, but in less time (docs/scale.md). The exit codes are those of `vfmalign.training`. The launcher exits with
the code of the process that caused the job to end. On SIGTERM, all processes of the job on all machines store their
state and exit with 143. The launcher restarts nothing: run the commands again to continue the job.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from vfmalign.core.domain.errors import BAD_DATA, BAD_SPEC, DONE, PROCESS_LOST, RETRYABLE, STORE_UNAVAILABLE, TERMINATED
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.settings import load, parser
from vfmalign.training.settings import TrainingSettings

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

RENDEZVOUS_TIMEOUT_S = 900
"""How long machines wait for each other by default. A node pool may have to grow first."""
SHUTDOWN_TIMEOUT_S = 3600
"""How long processes may take to store their state. The sender of SIGTERM usually sends SIGKILL earlier."""
_log = logs.get(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Starts this machine's processes and waits for them. Returns the exit code."""
    arguments = _parse(argv)
    settings = load(TrainingSettings)
    logs.configure("training", settings.log)
    # Until torch's launcher installs its own handlers: process 1 of a container ignores signals without a handler.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_on_signal)
    host, port = _parse_master(arguments.master)
    try:
        if arguments.node_rank > 0:
            await_master(host, port, arguments.timeout_s)
    except OSError as error:
        _log.warning("master_not_found", master=arguments.master, error=error)
        return PROCESS_LOST
    return _launch(arguments, host, port)


def await_master(host: str, port: int, timeout_s: float) -> None:
    """Waits until machine 0 accepts connections. The name of machine 0 may not resolve until its pod runs.

    torch would wait too, but without reacting to SIGTERM.

    Raises:
        OSError: after `timeout_s`.
    """
    for attempt in Retrying(
        stop=stop_after_delay(timeout_s), wait=wait_fixed(1), retry=retry_if_exception_type(OSError), reraise=True
    ):
        with attempt:
            socket.create_connection((host, port), timeout=5).close()


def root_cause(failures: Mapping[int, ProcessFailure]) -> int:
    """Returns the exit code of the process that caused the other processes to end.

    A process exits with 76 if another process was lost, and with 143 if the launcher stopped it. Such a process often
    exits before the process that caused the end. Any other code therefore takes precedence. Codes of final failures
    have the highest precedence. A process that was killed for lack of memory counts if it ended first.
    """
    ordered = sorted(failures.values(), key=lambda failure: failure.timestamp)
    exit_codes = [failure.exitcode for failure in ordered]
    if exit_codes[0] < 0:
        return 128 - exit_codes[0]
    causes = [code for code in exit_codes if code > 0 and code not in (PROCESS_LOST, TERMINATED)]
    for code in (BAD_SPEC, BAD_DATA):
        if code in causes:
            return code
    final = [code for code in causes if code not in (RETRYABLE, STORE_UNAVAILABLE)]
    if final or causes:
        return (final or causes)[0]
    return PROCESS_LOST if PROCESS_LOST in exit_codes else TERMINATED


def _launch(arguments: argparse.Namespace, host: str, port: int) -> int:
    # Imported here because torch takes seconds: `--help` does without it, and signals must be handled before.
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=arguments.nodes,
        max_nodes=arguments.nodes,
        nproc_per_node=arguments.processes,
        run_id=hashlib.sha256(arguments.spec_uri.encode()).hexdigest()[:16],
        role="training",
        rdzv_backend="static",
        rdzv_endpoint=f"{host}:{port}",
        rdzv_configs={"rank": arguments.node_rank, "timeout": arguments.timeout_s},
        max_restarts=0,  # the service that started the job restarts it, with its own limit
        monitor_interval=0.5,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),  # the processes write to the log of this one
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "vfmalign.training", arguments.spec_uri)
    except ChildFailedError as error:
        return root_cause(error.failures)
    except SignalException as error:
        return 128 + int(error.sigval)
    except DistError as error:
        _log.warning("machines_did_not_meet", master=arguments.master, error=error)
        return PROCESS_LOST
    return DONE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    arguments = parser("training.distributed", TrainingSettings, (__doc__ or "").strip())
    add = arguments.add_argument
    add("--nodes", type=_positive_int, default=1, metavar="N", help="number of machines (default 1)")
    add(
        "--processes", type=_positive_int, required=True, metavar="P", help="processes per machine, one per CUDA device"
    )
    add(
        "--node-rank",
        type=int,
        default=int(os.environ.get("JOB_COMPLETION_INDEX", "0")),
        metavar="R",
        help="rank of this machine from 0 (default: JOB_COMPLETION_INDEX of an Indexed Job, else 0)",
    )
    add("--master", metavar="HOST:PORT", help="address of machine 0; optional on a single machine")
    add(
        "--timeout-s",
        type=_positive_int,
        default=RENDEZVOUS_TIMEOUT_S,
        metavar="S",
        help=f"seconds that machines wait for each other at the start (default {RENDEZVOUS_TIMEOUT_S})",
    )
    add("spec_uri", help="s3://BUCKET/TENANT/jobs/ID/spec.json")
    parsed = arguments.parse_args(argv)
    if not 0 <= parsed.node_rank < parsed.nodes:
        arguments.error(f"--node-rank is {parsed.node_rank}, but must be from 0 to {parsed.nodes - 1}")
    if parsed.master is None and parsed.nodes > 1:
        arguments.error("--master is required for several machines")
    if parsed.master is not None and not parsed.master.rpartition(":")[2].isdecimal():
        arguments.error("--master must be HOST:PORT")
    return parsed


def _parse_master(master: str | None) -> tuple[str, int]:
    """Host and port of machine 0; a free port of this machine if none is given."""
    if master is not None:
        host, _, port = master.rpartition(":")
        return host, int(port)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1", int(probe.getsockname()[1])


def _positive_int(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
