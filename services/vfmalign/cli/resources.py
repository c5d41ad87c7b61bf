"""Jobs, checks and experiments, as the commands that they share see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from vfmalign.cli.target import Target
from vfmalign.client import AsyncClient
from vfmalign.client.operations import AsyncOperationsClient
from vfmalign.v1 import alignment_pb2, experiment_pb2, finetuning_pb2

M = TypeVar("M")


@dataclass(frozen=True)
class Resource(Generic[M]):
    """One kind of resource, and the sub-client with its calls.

    Attributes:
        noun: `job`, `check` or `experiment`.
        select: returns the sub-client.
    """

    noun: str
    select: Callable[[AsyncClient], AsyncOperationsClient[M]]

    def create(self, target: Target, resource_id: str, spec: Message) -> M:
        """Create a resource. The same id and spec again return the existing one."""
        return target.run(lambda client: self.select(client).create(resource_id, spec))

    def get(self, target: Target, resource_id: str) -> M:
        """Returns one resource."""
        return target.run(lambda client: self.select(client).get(resource_id))

    def cancel(self, target: Target, resource_id: str) -> M:
        """Request that a resource stops. One that has ended stays as it is."""
        return target.run(lambda client: self.select(client).cancel(resource_id))

    def list(self, target: Target, states: Sequence[str], limit: int) -> list[M]:
        """Returns the newest resources.

        Args:
            target: the deployment.
            states: labels of states; without any, all states.
            limit: the largest number of resources.
        """
        return target.run(lambda client: self.select(client).list(states, limit=limit))


JOBS: Resource[finetuning_pb2.Job] = Resource("job", lambda client: client.jobs)
CHECKS: Resource[alignment_pb2.Check] = Resource("check", lambda client: client.checks)
EXPERIMENTS: Resource[experiment_pb2.Experiment] = Resource("experiment", lambda client: client.experiments)
