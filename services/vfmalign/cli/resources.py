"""Jobs, checks and experiments: the RPCs that create, read, list, cancel and watch them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

import grpc

from vfmalign.cli.target import Target
from vfmalign.cli.views.enum_labels import parse
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    experiment_pb2,
    experiment_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
)

M = TypeVar("M")


@dataclass(frozen=True)
class Resource(Generic[M]):
    """One kind of resource. Its RPCs are named `<Verb><Noun>`, with a request and a response of the same name.

    Attributes:
        noun: `job`, `check` or `experiment`.
        messages: the generated module with its messages.
        stub: the generated stub of its service.
    """

    noun: str
    messages: ModuleType
    stub: Any

    def create(self, target: Target, resource_id: str, spec: Any) -> M:
        """Create a resource. The same id and spec again return the existing one."""
        return self._run(target, "Create", spec=spec, **{f"{self.noun}_id": resource_id})

    def get(self, target: Target, resource_id: str) -> M:
        """Returns one resource."""
        return self._run(target, "Get", **{f"{self.noun}_id": resource_id})

    def cancel(self, target: Target, resource_id: str) -> M:
        """Request that a resource stops. One that has ended stays as it is."""
        return self._run(target, "Cancel", **{f"{self.noun}_id": resource_id})

    def parse_states(self, labels: Sequence[str]) -> Sequence[int]:
        """Returns the values of states for their labels.

        Raises:
            BadOption: there is no such state.
        """
        enum = getattr(self.messages, f"{self.noun.title()}State")
        return [parse(enum, text, "--state") for text in labels]

    def list(self, target: Target, states: Sequence[int], limit: int) -> list[M]:
        """Returns the newest resources.

        Args:
            target: the deployment.
            states: values of states; without any, all states.
            limit: the largest number of resources.
        """

        async def call(channel: grpc.aio.Channel) -> list[M]:
            request = getattr(self.messages, f"List{self.noun.title()}sRequest")(page_size=limit, states=states)
            response = await getattr(self.stub(channel), f"List{self.noun.title()}s")(request)
            return list(getattr(response, f"{self.noun}s"))

        return target.call("finetuning", call)

    async def get_on(self, channel: grpc.aio.Channel, resource_id: str) -> M:
        """Returns one resource over an open channel."""
        return await self._call(channel, "Get", **{f"{self.noun}_id": resource_id})

    async def watch(self, channel: grpc.aio.Channel, resource_id: str) -> AsyncIterator[M]:
        """Yield a resource whenever it changes, until it has ended."""
        request = getattr(self.messages, f"Watch{self.noun.title()}Request")(**{f"{self.noun}_id": resource_id})
        async for response in getattr(self.stub(channel), f"Watch{self.noun.title()}")(request):
            yield getattr(response, self.noun)

    def _run(self, target: Target, verb: str, **fields: Any) -> M:
        return target.call("finetuning", lambda channel: self._call(channel, verb, **fields))

    async def _call(self, channel: grpc.aio.Channel, verb: str, **fields: Any) -> M:
        name = f"{verb}{self.noun.title()}"
        request = getattr(self.messages, f"{name}Request")(**fields)
        response = await getattr(self.stub(channel), name)(request)
        return cast("M", getattr(response, self.noun))


JOBS: Resource[finetuning_pb2.Job] = Resource("job", finetuning_pb2, finetuning_pb2_grpc.FineTuningServiceStub)
CHECKS: Resource[alignment_pb2.Check] = Resource("check", alignment_pb2, alignment_pb2_grpc.AlignmentServiceStub)
EXPERIMENTS: Resource[experiment_pb2.Experiment] = Resource(
    "experiment", experiment_pb2, experiment_pb2_grpc.ExperimentServiceStub
)
