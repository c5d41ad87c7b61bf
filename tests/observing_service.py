"""A MonitoringService over a real socket that keeps what it is told in memory, once by id, in the order of arrival.

It stands for the service where a test looks at what a caller of `Observe` sends. It has the server, the interceptors
and the errors of the services, can be stopped and started at its port, slowed down, and told to refuse.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from grpc_health.v1 import health
from tests.monitor_records import make_monitor

from vfmalign.client.messages.monitors import FeatureOrigin
from vfmalign.core.domain.errors import NotFound, PreconditionFailed, Unavailable, VfmalignError
from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.server import serve_api
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings, StoreSettings
from vfmalign.v1 import monitoring_pb2 as pb
from vfmalign.v1 import monitoring_pb2_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["MonitoringService"]


class Servicer(monitoring_pb2_grpc.MonitoringServiceServicer):
    """Records observations; idempotent by id.

    Attributes:
        recorded: observations by monitor and id, in the order of arrival.
        requests: every request of Observe, also those that are refused.
        looks: calls of GetMonitor.
        refuse: returns the error for a request; None for none.
        answers: cleared, calls wait after they have recorded.
        accepts: cleared, calls wait before they record.
        origins: of the monitors by id; None takes any observation, and describes no monitor.
    """

    def __init__(self) -> None:
        self.recorded: dict[str, dict[str, pb.Observation]] = {}
        self.requests: list[pb.ObserveRequest] = []
        self.refuse: Callable[[pb.ObserveRequest], VfmalignError | None] = lambda _: None
        self.answers, self.accepts = threading.Event(), threading.Event()
        self.answers.set()
        self.accepts.set()
        self.looks = 0
        self.origins: dict[str, FeatureOrigin] | None = None

    def get_ids(self, monitor: str = "m") -> list[str]:
        """Ids in the order of arrival."""
        return list(self.recorded.get(monitor, {}))

    async def GetMonitor(self, request: pb.GetMonitorRequest, context: Any) -> pb.GetMonitorResponse:
        """See the proto."""
        self.looks += 1
        await _wait(self.accepts)
        if self.origins is None:
            raise Unavailable("monitors cannot be read")
        monitor = make_monitor(monitor_id=request.monitor_id, origin=self._get_origin(request.monitor_id))
        return pb.GetMonitorResponse(monitor=monitor.to_proto())

    async def Observe(self, request: pb.ObserveRequest, context: Any) -> pb.ObserveResponse:
        """See the proto."""
        self.requests.append(request)
        await _wait(self.accepts)
        if (error := self.refuse(request)) is not None:
            raise error
        if self.origins is not None and FeatureOrigin.from_proto(request.origin) != self._get_origin(
            request.monitor_id
        ):
            raise PreconditionFailed("another origin", subject=request.monitor_id, reason="WRONG_ORIGIN")
        results = [self._record(request.monitor_id, observation) for observation in request.inline.observations]
        await _wait(self.answers)
        return pb.ObserveResponse(results=results)

    def _get_origin(self, monitor: str) -> FeatureOrigin:
        origin = (self.origins or {}).get(monitor)
        if origin is None:
            raise NotFound("no such monitor", subject=monitor)
        return origin

    def _record(self, monitor: str, observation: pb.Observation) -> pb.ObservationResult:
        known = self.recorded.setdefault(monitor, {})
        name = observation.study.observation_id
        outcome = pb.OBSERVATION_OUTCOME_ENTERED
        duplicate = name in known
        if known.setdefault(name, observation) != observation:
            outcome = pb.OBSERVATION_OUTCOME_CONFLICT
        return pb.ObservationResult(observation_id=name, outcome=outcome, duplicate=duplicate)


async def _wait(event: threading.Event) -> None:
    """Waits without occupying the loop; each test ends its waits."""
    await asyncio.to_thread(event.wait)


class MonitoringServer:
    """The servicer on an event loop of its own, which a test may stop and start again at the same port.

    Attributes:
        servicer: keeps what it has recorded.
        port: of the server.
    """

    def __init__(self) -> None:
        self.servicer, self.port = Servicer(), 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._resources: AsyncExitStack | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listens, at the same port as before."""
        self._run(self._start())

    def stop(self) -> None:
        """Afterwards, connections are refused."""
        self._run(self._stop())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> None:
        def add(server: Any) -> list[Any]:
            monitoring_pb2_grpc.add_MonitoringServiceServicer_to_server(self.servicer, server)
            return [SERVICE]

        store = StoreSettings(endpoint="http://127.0.0.1:9", bucket="unused", access_key="a", secret_key="b")
        settings = ServiceSettings(store=store, server=ServerSettings(grpc_port=self.port))
        self._resources = AsyncExitStack()
        _, _, self.port = await serve_api(settings, add, Gate("open"), health.aio.HealthServicer(), self._resources)

    async def _stop(self) -> None:
        if self._resources is not None:
            await self._resources.aclose()
            self._resources = None


@contextmanager
def run_monitoring() -> Iterator[MonitoringServer]:
    """Runs a server."""
    server = MonitoringServer()
    try:
        yield server
    finally:
        server.servicer.answers.set()
        server.servicer.accepts.set()
        server.close()
