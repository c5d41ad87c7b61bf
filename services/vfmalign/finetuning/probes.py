"""Probes of other services. Once a minute, the leader calls each service, writes an object and counts the outcomes.

A probe does the same as every other caller: it resolves the name, opens a connection, and sends the service's own
token. Even if nobody else calls, a probe therefore detects a rejected token, a blocked network, a device that hangs and
a full disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import grpc
import numpy as np

from vfmalign.client.messages.mmd import ComputeOptions, Kernel
from vfmalign.client.mmd import AsyncMmdClient
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.rpc.access.credentials import BearerToken
from vfmalign.core.rpc.channels import connect
from vfmalign.core.rpc.tls import TlsFiles
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.storage.keys import ROOM_KEY
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.lease import Term
from vfmalign.finetuning import metrics
from vfmalign.finetuning.settings import FinetuningSettings
from vfmalign.v1 import features_pb2, features_pb2_grpc, monitoring_pb2, monitoring_pb2_grpc

PERIOD_S = 60.0
TIMEOUT_S = 15.0
"""Deadline of a probe. Shorter than the period, so that probes of one service never overlap."""
_ROOM = bytes(1024)
_log = logs.get(__name__)

_Call = Callable[[grpc.aio.Channel], Awaitable[object]]


class Probes:
    """Probes during one term of the leader, for the first tenant.

    Args:
        term: term of the leader. No probe begins after the lease of this term has expired.
        settings: addresses, TLS files, tenants and object store.
        token: the service's own token; None if the service has no token.
        period_s: pause before each probe.
    """

    def __init__(
        self, term: Term, settings: FinetuningSettings, token: BearerToken | None, period_s: float = PERIOD_S
    ) -> None:
        self._term, self._period_s = term, period_s
        tenant = settings.auth.tenants[0]
        files = None
        if settings.ca_file is not None:
            files = TlsFiles(settings.ca_file, settings.cert_file, settings.key_file)
        self._connect = partial(connect, call_timeout_s=TIMEOUT_S, files=files, token=token, tenant=tenant)
        store = ObjectStore(settings.store, attempts=1, timeout_s=TIMEOUT_S)
        self._store = store.of_tenant(tenant).guarded_by(term.check_deadline)
        # A thread of its own, because hanging calls may occupy the shared ones.
        self._thread = Threads(1, "room")
        calls: Mapping[str, tuple[str, _Call]] = {
            "features": (settings.features_address, _list_a_model),
            "mmd": (settings.mmd_address, _compare),
            "monitoring": (settings.monitoring_address, _list_a_monitor),
        }
        self._probes: dict[str, Callable[[], Awaitable[object]]] = {
            name: partial(self._call, address, call) for name, (address, call) in calls.items() if address
        }
        self._probes["store"] = self._write_room

    async def run(self) -> None:
        """Probes until it is cancelled.

        Each service has its own loop, so that a slow service does not delay the probes of others.
        """
        try:
            await asyncio.gather(*(self._repeat(service, probe) for service, probe in self._probes.items()))
        finally:
            self._thread.shutdown(wait=False)

    async def _repeat(self, service: str, probe: Callable[[], Awaitable[object]]) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            if self._term.remaining_s > 0:
                outcome = "succeeded" if await _succeeds(service, probe) else "failed"
                metrics.probes.labels(service, outcome).inc()

    async def _call(self, address: str, call: _Call) -> None:
        async with self._connect(address) as channel:
            await call(channel)

    async def _write_room(self) -> None:
        """Overwrites one small object, which fails when the store's disk is full."""
        await self._thread.run(self._store.put, ROOM_KEY, _ROOM)


async def _succeeds(service: str, probe: Callable[[], Awaitable[object]]) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await probe()
    except TimeoutError:
        _log.warning("probe_failed", service=service, error=f"no answer within {TIMEOUT_S:g} s")
    except VfmalignError as error:
        _log.warning("probe_failed", service=service, reason=error.reason, error=error)
    except Exception:
        _log.exception("probe_failed", service=service)
    else:
        return True
    return False


async def _list_a_model(channel: grpc.aio.Channel) -> object:
    return await features_pb2_grpc.FeatureServiceStub(channel).ListModels(features_pb2.ListModelsRequest(page_size=1))


async def _list_a_monitor(channel: grpc.aio.Channel) -> object:
    request = monitoring_pb2.ListMonitorsRequest(page_size=1)
    return await monitoring_pb2_grpc.MonitoringServiceStub(channel).ListMonitors(request)


async def _compare(channel: grpc.aio.Channel) -> object:
    rows = np.eye(4, 8, dtype=np.float32)
    options = ComputeOptions(pairing="paired", kernel=Kernel(fixed_sigma=1.0))
    return await AsyncMmdClient(lambda: channel).compute(rows, rows, options, timeout_s=TIMEOUT_S)
