"""`python -m vfmalign.training.launch … SPEC_URI`: starts the processes of one job on this machine.

The same command runs on every machine of the job, with a rank of its own; together they train as one process would, in
less time (docs/scale.md). Exit codes are those of `vfmalign.training`: the one of the process that caused the end. On
SIGTERM all processes of the job, on all machines, store their step and end with 143. Nothing is restarted here: run the
commands again and the job goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from vfmalign.core.domain.errors import BAD_DATA, BAD_SPEC, DONE, RETRYABLE, TERMINATED
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.settings import load, parser
from vfmalign.training.settings import TrainingSettings

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

START_S = 900
"""How long machines wait for each other by default: a node pool may have to grow first."""
GRACE_S = 3600
"""How long processes may take to store their step; whoever sends SIGTERM has a shorter patience, and SIGKILL."""
_log = logs.get(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Starts this machine's processes and waits for them; returns the exit code."""
    arguments = _parse(argv)
    settings = load(TrainingSettings)
    logs.configure("training", settings.log)
    # Until the launcher takes them. Without a handler the first process of a container would not end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    host, port = _place(arguments.master)
    try:
        if arguments.node_rank > 0:
            await_master(host, port, arguments.timeout_s)
    except OSError as error:
        _log.warning("master_not_found", master=arguments.master, error=str(error))
        return RETRYABLE
    return _launch(arguments, host, port)


def await_master(host: str, port: int, timeout_s: float) -> None:
    """Waits until machine 0 takes connections; until its pod runs, not even its name is known.

    torch would wait as well, but deaf to SIGTERM.

    Raises:
        OSError: after `timeout_s`.
    """
    for attempt in Retrying(
        stop=stop_after_delay(timeout_s), wait=wait_fixed(1), retry=retry_if_exception_type(OSError), reraise=True
    ):
        with attempt:
            socket.create_connection((host, port), timeout=5).close()


def root_cause(failures: Mapping[int, ProcessFailure]) -> int:
    """The exit code of the process that made the others end.

    A process whose peer is gone ends with 75 and one that the launcher ends with 143, often before the one that was
    their cause: any other code counts more. A process that was killed (out of memory) counts where it was the first.
    """
    in_time = sorted(failures.values(), key=lambda failure: failure.timestamp)
    codes = [failure.exitcode for failure in in_time]
    if codes[0] < 0:
        return 128 - codes[0]
    for wanted in (BAD_SPEC, BAD_DATA):
        if wanted in codes:
            return wanted
    own = [code for code in codes if code > 0 and code not in (RETRYABLE, TERMINATED)]
    if own:
        return own[0]
    return RETRYABLE if RETRYABLE in codes else TERMINATED


def _launch(arguments: argparse.Namespace, host: str, port: int) -> int:
    # torch takes seconds to import: not for --help, nor before the signals are taken.
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="vfmalign-launch-") as folder:
        config = LaunchConfig(
            min_nodes=arguments.nodes,
            max_nodes=arguments.nodes,
            nproc_per_node=arguments.processes,
            run_id=hashlib.sha256(arguments.spec_uri.encode()).hexdigest()[:16],
            role="training",
            rdzv_backend="static",
            rdzv_endpoint=f"{host}:{port}",
            rdzv_configs={"rank": arguments.node_rank, "timeout": arguments.timeout_s},
            max_restarts=0,
            monitor_interval=0.5,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=GRACE_S,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "vfmalign.training", arguments.spec_uri)
        except ChildFailedError as error:
            return root_cause(error.failures)
        except SignalException as error:
            return 128 + int(error.sigval)
        except DistError as error:
            _log.warning("machines_did_not_meet", master=arguments.master, error=str(error))
            return RETRYABLE
    return DONE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    arguments = parser("training.distributed", TrainingSettings, (__doc__ or "").strip())
    add = arguments.add_argument
    add("--nodes", type=_count, default=1, metavar="N", help="machines that train together (default 1)")
    add("--processes", type=_count, required=True, metavar="P", help="processes on each: one for each CUDA device")
    add(
        "--node-rank",
        type=int,
        default=int(os.environ.get("JOB_COMPLETION_INDEX", "0")),
        metavar="R",
        help="number of this machine, from 0 (default JOB_COMPLETION_INDEX of an Indexed Job, else 0)",
    )
    add("--master", metavar="HOST:PORT", help="where machine 0 listens; may be left out on a single machine")
    add(
        "--timeout-s",
        type=_count,
        default=START_S,
        metavar="S",
        help=f"seconds that machines wait for each other at the start (default {START_S})",
    )
    add("spec_uri", help="s3://BUCKET/jobs/ID/spec.json")
    found = arguments.parse_args(argv)
    if not 0 <= found.node_rank < found.nodes:
        arguments.error(f"--node-rank is {found.node_rank}, the machines count from 0 to {found.nodes - 1}")
    if found.master is None and found.nodes > 1:
        arguments.error("several machines need --master")
    if found.master is not None and not found.master.rpartition(":")[2].isdecimal():
        arguments.error("--master must be HOST:PORT")
    return found


def _place(master: str | None) -> tuple[str, int]:
    """Host and port where machine 0 listens; a free port of this one where nothing was said."""
    if master is not None:
        host, _, port = master.rpartition(":")
        return host, int(port)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1", int(probe.getsockname()[1])


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
