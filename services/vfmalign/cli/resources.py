"""One interface to jobs, checks and experiments, for the commands that they share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from vfmalign.cli.target import Target
from vfmalign.cli.views.follow import View, follow_check, follow_experiment, follow_job
from vfmalign.cli.views.output import Output
from vfmalign.client import AsyncClient
from vfmalign.client.messages.checks import Check, CheckSpec
from vfmalign.client.messages.common import Deletion, JobState, ObjectRef
from vfmalign.client.messages.experiments import Experiment, ExperimentSpec
from vfmalign.client.messages.jobs import Job, JobSpec
from vfmalign.client.operations import AsyncOperationsClient, AsyncReportedClient, OperationT, ReportFormat, SpecT


@dataclass(frozen=True)
class Resource(Generic[SpecT, OperationT]):
    """A kind of resource, and the client that makes its calls.

    Attributes:
        noun: `job`, `check` or `experiment`.
        select: returns the sub-client.
        show_progress: shows the progress of a resource in a view until it has ended, and returns the resource.
    """

    noun: str
    select: Callable[[AsyncClient], AsyncOperationsClient[SpecT, OperationT]]
    show_progress: Callable[[AsyncClient, str, View], Awaitable[OperationT]]

    def create(self, target: Target, resource_id: str, spec: SpecT) -> OperationT:
        """Creates a resource; if the id exists with the same spec, returns the existing resource."""
        return target.run(lambda client: self.select(client).create(resource_id, spec))

    def get(self, target: Target, resource_id: str) -> OperationT:
        """Returns one resource."""
        return target.run(lambda client: self.select(client).get(resource_id))

    def follow(self, target: Target, resource_id: str, output: Output) -> OperationT:
        """Shows the progress of a resource until it has ended, and returns the resource."""
        with View(output) as view:
            return target.run(lambda client: self.show_progress(client, resource_id, view))

    def cancel(self, target: Target, resource_id: str) -> OperationT:
        """Requests that a resource stops. A resource that has ended does not change."""
        return target.run(lambda client: self.select(client).cancel(resource_id))

    def retry(self, target: Target, resource_id: str) -> OperationT:
        """Queues a failed or cancelled resource again."""
        return target.run(lambda client: self.select(client).retry(resource_id))

    def delete(self, target: Target, resource_id: str, *, dry_run: bool) -> Deletion:
        """Deletes a resource that has ended, or only measures its size."""
        return target.run(lambda client: self.select(client).delete(resource_id, dry_run=dry_run))

    def list(self, target: Target, states: Sequence[JobState], limit: int) -> list[OperationT]:
        """Returns the newest resources.

        Args:
            target: the deployment.
            states: states to list; if empty, all states.
            limit: maximum number of resources.
        """
        return target.run(lambda client: self.select(client).list(states, limit=limit))


@dataclass(frozen=True)
class ReportedResource(Resource[SpecT, OperationT]):
    """A kind of resource that produces a report.

    Attributes:
        list_files: returns the files of a report; empty until the resource has succeeded.
    """

    select: Callable[[AsyncClient], AsyncReportedClient[SpecT, OperationT]]
    list_files: Callable[[OperationT], Mapping[ReportFormat, ObjectRef]]

    def get_report(
        self, target: Target, resource_id: str, formats: Iterable[ReportFormat]
    ) -> dict[ReportFormat, bytes]:
        """Returns the files of a report; the keys are formats."""

        async def run(client: AsyncClient) -> dict[ReportFormat, bytes]:
            return {name: await self.select(client).get_report(resource_id, name) for name in formats}

        return target.run(run)


def _list_files_of_check(check: Check) -> dict[ReportFormat, ObjectRef]:
    if (result := check.result) is None:
        return {}
    statement = None if result.plan is None else result.plan.statement
    files: dict[ReportFormat, ObjectRef] = {"html": result.report_html, "json": result.report_json}
    return files if statement is None else {**files, "dsse": statement}


def _list_files_of_experiment(experiment: Experiment) -> dict[ReportFormat, ObjectRef]:
    files: dict[ReportFormat, ObjectRef | None] = {
        "html": experiment.report_html,
        "json": experiment.report_json,
        "csv": experiment.cells_csv,
    }
    return {extension: ref for extension, ref in files.items() if ref is not None}


JOBS: Resource[JobSpec, Job] = Resource("job", lambda client: client.jobs, follow_job)
CHECKS: ReportedResource[CheckSpec, Check] = ReportedResource(
    "check", lambda client: client.checks, follow_check, _list_files_of_check
)
EXPERIMENTS: ReportedResource[ExperimentSpec, Experiment] = ReportedResource(
    "experiment", lambda client: client.experiments, follow_experiment, _list_files_of_experiment
)
