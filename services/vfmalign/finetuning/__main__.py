"""`python -m vfmalign.finetuning`: wire the service and run it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from vfmalign.client.async_client import AsyncClient
from vfmalign.core.domain.errors import Unavailable, VfmalignError
from vfmalign.core.rpc.server import serve
from vfmalign.core.runtime.settings import parse_args
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.checks.reconciler import PollingPolicy, Reconciler
from vfmalign.finetuning.checks.reporting import all_stages
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.servicer import AlignmentServicer
from vfmalign.finetuning.db.database import Database
from vfmalign.finetuning.experiments.report_writer import ReportWriter
from vfmalign.finetuning.experiments.repository import ExperimentRepository
from vfmalign.finetuning.experiments.runner import ExperimentRunner
from vfmalign.finetuning.experiments.servicer import ExperimentServicer
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.retries import Limits
from vfmalign.finetuning.jobs.servicer import FineTuningServicer
from vfmalign.finetuning.jobs.supervisor import Supervisor
from vfmalign.finetuning.launchers.registry import LAUNCHERS
from vfmalign.finetuning.servicers import Watching
from vfmalign.finetuning.settings import FinetuningSettings
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    experiment_pb2,
    experiment_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
)


async def run(settings: FinetuningSettings) -> None:
    """Runs the service until it receives SIGTERM or SIGINT."""
    database = Database(settings.database_url)
    store = ObjectStore(settings.store)
    jobs, checks, experiments = JobRepository(database), CheckRepository(database), ExperimentRepository(database)
    launcher = LAUNCHERS[settings.launcher.kind](settings)
    limits = settings.launcher.model_dump(include={field.name for field in dataclasses.fields(Limits)})
    client = AsyncClient(
        features_address=settings.features_address, mmd_address=settings.mmd_address, ca_file=settings.ca_file
    )
    stages = all_stages(checks)
    watching = Watching(settings.reconciler.poll_s)
    reconciler = Reconciler(
        stages=stages,
        checks=checks,
        jobs=jobs,
        supervisor=Supervisor(jobs, store, launcher, Limits(**limits)),
        store=store,
        client=client,
        policy=PollingPolicy(stop_jobs=settings.launcher.stops_jobs, **settings.reconciler.model_dump()),
    )
    experiment_runner = ExperimentRunner(
        experiments=experiments,
        checks=checks,
        store=store,
        write_report=ReportWriter(checks, store).write,
        max_checks=max(1, settings.reconciler.max_checks - 1),
        poll_s=settings.reconciler.poll_s,
    )

    def add_services(server: grpc.aio.Server) -> Sequence[ServiceDescriptor]:
        finetuning_pb2_grpc.add_FineTuningServiceServicer_to_server(
            FineTuningServicer(jobs, store, wake=reconciler.wake, watching=watching), server
        )
        names = [stage.name for stage in stages]
        alignment_pb2_grpc.add_AlignmentServiceServicer_to_server(
            AlignmentServicer(checks, jobs, store, stage_names=names, wake=reconciler.wake, watching=watching), server
        )
        experiment_pb2_grpc.add_ExperimentServiceServicer_to_server(
            ExperimentServicer(experiments, checks, store, watching=watching), server
        )
        return [
            finetuning_pb2.DESCRIPTOR.services_by_name["FineTuningService"],
            alignment_pb2.DESCRIPTOR.services_by_name["AlignmentService"],
            experiment_pb2.DESCRIPTOR.services_by_name["ExperimentService"],
        ]

    work: list[asyncio.Task[None]] = []

    async def begin() -> None:
        await asyncio.to_thread(database.migrate)
        work.append(asyncio.create_task(reconciler.run(), name="reconciler"))
        work.append(asyncio.create_task(experiment_runner.run(), name="experiments"))

    async def end() -> None:
        reconciler.stop()
        experiment_runner.stop()
        await asyncio.gather(*work)
        await asyncio.to_thread(launcher.close)
        await client.close()
        database.close()

    with single_instance_lock(settings.state_dir):
        await serve("finetuning", settings, add_services, ready=begin, on_drain=watching.end, stop=end)


@contextlib.contextmanager
def single_instance_lock(state_dir: Path) -> Iterator[None]:
    """Locks the state directory for this process.

    Raises:
        Unavailable: another finetuning service holds the lock.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "orchestrator.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(
                "another finetuning service uses this state directory",
                subject="VFMALIGN_STATE_DIR",
                remedy="stop it, or use another state directory and database",
            ) from None
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the service; returns the exit code."""
    settings = parse_args("finetuning", FinetuningSettings, arguments)
    try:
        asyncio.run(run(settings))
    except VfmalignError as error:
        print(error, file=sys.stderr)  # noqa: T201 - why the service does not start
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
