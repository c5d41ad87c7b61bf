"""Jobs, checks and experiments behind one interface, for the commands that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

from vfmalign.cli.target import Target
from vfmalign.client import AsyncClient
from vfmalign.client.messages.checks import Check, CheckSpec
from vfmalign.client.messages.common import JobState
from vfmalign.client.messages.experiments import Experiment, ExperimentSpec
from vfmalign.client.messages.jobs import Job, JobSpec
from vfmalign.client.operations import AsyncOperationsClient, AsyncReportedClient, OperationT, ReportFormat, SpecT


@dataclass(frozen=True)
class Resource(Generic[SpecT, OperationT]):
    """One kind of resource, and the sub-client with its calls.

    Attributes:
        noun: `job`, `check` or `experiment`.
        select: returns the sub-client.
    """

    noun: str
    select: Callable[[AsyncClient], AsyncOperationsClient[SpecT, OperationT]]

    def create(self, target: Target, resource_id: str, spec: SpecT) -> OperationT:
        """Creates a resource. The same id and spec again return the existing one."""
        return target.run(lambda client: self.select(client).create(resource_id, spec))

    def get(self, target: Target, resource_id: str) -> OperationT:
        """Returns one resource."""
        return target.run(lambda client: self.select(client).get(resource_id))

    def cancel(self, target: Target, resource_id: str) -> OperationT:
        """Requests that a resource stops. One that has ended stays as it is."""
        return target.run(lambda client: self.select(client).cancel(resource_id))

    def retry(self, target: Target, resource_id: str) -> OperationT:
        """Queues a resource again that failed or was cancelled."""
        return target.run(lambda client: self.select(client).retry(resource_id))

    def list(self, target: Target, states: Sequence[JobState], limit: int) -> list[OperationT]:
        """Returns the newest resources.

        Args:
            target: the deployment.
            states: states to list; without any, all states.
            limit: the largest number of resources.
        """
        return target.run(lambda client: self.select(client).list(states, limit=limit))


@dataclass(frozen=True)
class ReportedResource(Resource[SpecT, OperationT]):
    """One kind of resource that ends in a report."""

    select: Callable[[AsyncClient], AsyncReportedClient[SpecT, OperationT]]

    def get_report(
        self, target: Target, resource_id: str, formats: Iterable[ReportFormat]
    ) -> dict[ReportFormat, bytes]:
        """Returns files of a report by format."""

        async def run(client: AsyncClient) -> dict[ReportFormat, bytes]:
            return {name: await self.select(client).get_report(resource_id, name) for name in formats}

        return target.run(run)


JOBS: Resource[JobSpec, Job] = Resource("job", lambda client: client.jobs)
CHECKS: ReportedResource[CheckSpec, Check] = ReportedResource("check", lambda client: client.checks)
EXPERIMENTS: ReportedResource[ExperimentSpec, Experiment] = ReportedResource(
    "experiment", lambda client: client.experiments
)
