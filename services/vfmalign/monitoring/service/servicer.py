"""gRPC servicer of `MonitoringService`: convert the request, call a plain function, convert the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from cachetools import TTLCache
from google.protobuf.message import Message

from vfmalign.client.messages.base import get_enum_label
from vfmalign.client.messages.monitors import FeatureOrigin, FeatureSetRows, MonitorReference, MonitorSpec
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.rpc.access.authorisation import check_observation, check_ownership
from vfmalign.core.rpc.access.identity import current_identity
from vfmalign.core.rpc.watching import Watching, split_content
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.key_locks import KeyLocks
from vfmalign.core.runtime.threads import DATABASE, STORE, Threads
from vfmalign.core.storage.feature_sets import read_named
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.pagination import PageRequest
from vfmalign.erasure.servicer import ErasureRpcs
from vfmalign.monitoring.feature_rows import get_origin, read_strata
from vfmalign.monitoring.sequential import EpochStart, Monitor, to_bytes
from vfmalign.monitoring.service import report
from vfmalign.monitoring.service.converters import to_message, to_result
from vfmalign.monitoring.service.epochs import EpochKeeper
from vfmalign.monitoring.service.erasure import make_erasures
from vfmalign.monitoring.service.evidence import EvidenceKeeper, Outdated
from vfmalign.monitoring.service.observations import read_feature_set_rows, read_inline
from vfmalign.monitoring.service.references import load_reference, make_options
from vfmalign.monitoring.service.repository import (
    ACTIVE,
    PAUSED,
    UPDATABLE,
    MonitorPins,
    MonitorRepository,
    NewMonitor,
    StoredMonitor,
    make_uid,
)
from vfmalign.monitoring.service.snapshots import delete_objects, write_snapshot
from vfmalign.monitoring.service.status import describe_status
from vfmalign.v1 import common_pb2, monitoring_pb2_grpc
from vfmalign.v1 import monitoring_pb2 as pb

Context = grpc.aio.ServicerContext[Message, Message]
EVIDENCE = Threads(4, "evidence")
"""Threads that compute evidence, including the wait for the database."""
REFERENCES = Threads(1, "references")
"""Thread that prepares references, one at a time: a large one takes gigabytes of memory for a minute."""
REPORTS = Threads(1, "reports")
"""Thread that draws one report at a time, because matplotlib shares its caches between threads."""
_PINS, _PINS_S = 1024, 60.0
_log = logs.get(__name__)


class MonitoringServicer(ErasureRpcs, monitoring_pb2_grpc.MonitoringServiceServicer):
    """Serves `MonitoringService`.

    Args:
        monitors: monitors of the tenant.
        keeper: records observations.
        epochs: changes references.
        store: object store of the tenant.
        watching: object that sets the polling interval of watching calls, and that ends these calls when the service
            stops.
    """

    def __init__(
        self,
        monitors: MonitorRepository,
        keeper: EvidenceKeeper,
        epochs: EpochKeeper,
        store: ObjectStore,
        *,
        watching: Watching,
    ) -> None:
        self._monitors, self._keeper, self._epochs, self._store = monitors, keeper, epochs, store
        self._watching = watching
        self._erasures = make_erasures(monitors.database, store, keeper.states)
        self._pins: TTLCache[str, MonitorPins] = TTLCache(_PINS, _PINS_S)
        # Each monitor occupies at most one thread, so that the others remain for other monitors.
        self._turns = KeyLocks()
        self._references, self._reports = asyncio.Lock(), asyncio.Lock()  # no tenant waits behind all calls of another

    async def CreateMonitor(self, request: pb.CreateMonitorRequest, context: Context) -> pb.CreateMonitorResponse:
        """Creates a monitor."""
        spec = MonitorSpec.from_proto(request.spec, "spec")
        _check_text(spec.title, "spec.title")
        async with self._references:
            monitor = await REFERENCES.run(self._create, request.monitor_id, spec)
        return pb.CreateMonitorResponse(monitor=_pack(monitor))

    async def GetMonitor(self, request: pb.GetMonitorRequest, context: Context) -> pb.GetMonitorResponse:
        """Returns one monitor."""
        return pb.GetMonitorResponse(monitor=_pack(await DATABASE.run(self._monitors.get, request.monitor_id)))

    async def ListMonitors(self, request: pb.ListMonitorsRequest, context: Context) -> pb.ListMonitorsResponse:
        """Lists monitors."""
        page = await DATABASE.run(self._monitors.list, PageRequest.parse(request))
        monitors = [_pack(item, whole=False) for item in page.items]
        return pb.ListMonitorsResponse(monitors=monitors, next_page_token=page.next_token)

    async def Observe(self, request: pb.ObserveRequest, context: Context) -> pb.ObserveResponse:
        """Records observations."""
        source = request.WhichOneof("source")
        if source is None:
            raise BadOption("there are no observations", field="inline", remedy="set `inline` or `feature_set`")
        stored = source == "feature_set" or any(
            layer.HasField("stored") for one in request.inline.observations for layer in one.layers
        )
        check_observation(current_identity.get(), stored=stored)
        pins = self._pins.get(request.monitor_id)
        if pins is not None:
            with contextlib.suppress(Outdated):
                return await self._observe_as(request, pins, stored=stored)
        pins = await DATABASE.run(self._monitors.get_pins, request.monitor_id)
        self._pins[request.monitor_id] = pins
        return await self._observe_as(request, pins, stored=stored)

    async def _observe_as(self, request: pb.ObserveRequest, pins: MonitorPins, *, stored: bool) -> pb.ObserveResponse:
        identity = current_identity.get()
        # Only one call per caller queues for a monitor, so that other callers do not wait behind all calls of one
        # caller.
        async with self._turns.get(request.monitor_id, identity.key if identity else ""):
            results = await self._observe_in_turn(request, pins, stored=stored)
        return pb.ObserveResponse(results=map(to_result, results))

    async def _observe_in_turn(
        self, request: pb.ObserveRequest, pins: MonitorPins, *, stored: bool
    ) -> list[dict[str, Any]]:
        turn, loop = self._turns.get(request.monitor_id), asyncio.get_running_loop()
        await turn.acquire()
        try:
            # Threads that compute evidence must not wait for the store: other monitors may not need it.
            needs_store = stored or not self._keeper.is_warm(request.monitor_id, pins.uid)
            threads = STORE if needs_store else EVIDENCE
            observing = threads.submit(self._observe, request, pins)
        except BaseException:
            turn.release()
            raise
        # If the caller leaves, its thread continues. Without this, the next call would occupy another thread to wait
        # for it.
        observing.add_done_callback(lambda _: loop.call_soon_threadsafe(turn.release))
        return await threads.wait(observing)

    async def WatchMonitor(
        self, request: pb.WatchMonitorRequest, context: Context
    ) -> AsyncIterator[pb.WatchMonitorResponse]:
        """Streams the monitor whenever it changes."""
        sent, uid = None, ""
        while True:
            monitor = await DATABASE.run(self._monitors.get, request.monitor_id, uid)
            message, uid = _pack(monitor), monitor.uid
            if message != sent:
                yield pb.WatchMonitorResponse(monitor=message)
                sent = message
            await self._watching.pause()

    async def AcknowledgeAlarm(
        self, request: pb.AcknowledgeAlarmRequest, context: Context
    ) -> pb.AcknowledgeAlarmResponse:
        """Records that a person has acknowledged an alarm."""
        _check_text(request.note, "note")
        monitor = await DATABASE.run(self._monitors.acknowledge, request.monitor_id, request.epoch, request.note)
        return pb.AcknowledgeAlarmResponse(monitor=_pack(monitor))

    async def ReplaceReference(
        self, request: pb.ReplaceReferenceRequest, context: Context
    ) -> pb.ReplaceReferenceResponse:
        """Begins a new epoch."""
        start = EpochStart(get_enum_label(pb.EpochStart.DESCRIPTOR, request.start) or "")
        named = MonitorReference.from_proto(request.reference, "reference") if request.HasField("reference") else None
        if named is None and start is not EpochStart.RESET:
            raise BadOption("it is missing", field="reference", remedy="set it; only a reset keeps the reference")
        owned = await self._check_owner(request.monitor_id)
        reference = named or owned.epoch.reference
        async with self._references:
            monitor = await REFERENCES.run(self._replace_reference, owned, request.epoch, reference, start)
        return pb.ReplaceReferenceResponse(monitor=_pack(monitor))

    async def UpdateMonitor(self, request: pb.UpdateMonitorRequest, context: Context) -> pb.UpdateMonitorResponse:
        """Changes fields of the monitor that do not affect the evidence."""
        changes = {field.name: value for field, value in request.ListFields() if field.name in UPDATABLE}
        if not changes:
            raise BadOption("there is nothing to change", field="max_silence_hours", remedy="set it, or `title`")
        _check_text(request.title, "title")
        owned = await self._check_owner(request.monitor_id)
        monitor = await DATABASE.run(self._monitors.update, owned.id, owned.uid, changes)
        return pb.UpdateMonitorResponse(monitor=_pack(monitor))

    async def PauseMonitor(self, request: pb.PauseMonitorRequest, context: Context) -> pb.PauseMonitorResponse:
        """Pauses the monitor: from now on, its evidence does not include new observations."""
        owned = await self._check_owner(request.monitor_id)
        monitor = await DATABASE.run(self._monitors.set_state, owned.id, owned.uid, PAUSED)
        return pb.PauseMonitorResponse(monitor=_pack(monitor))

    async def ResumeMonitor(self, request: pb.ResumeMonitorRequest, context: Context) -> pb.ResumeMonitorResponse:
        """Resumes the monitor: from now on, its evidence includes new observations again."""
        owned = await self._check_owner(request.monitor_id)
        monitor = await DATABASE.run(self._monitors.set_state, owned.id, owned.uid, ACTIVE)
        return pb.ResumeMonitorResponse(monitor=_pack(monitor))

    async def DeleteMonitor(self, request: pb.DeleteMonitorRequest, context: Context) -> pb.DeleteMonitorResponse:
        """Deletes a monitor."""
        await STORE.run(self._delete, await self._check_owner(request.monitor_id))
        return pb.DeleteMonitorResponse()

    async def GetMonitorReport(
        self, request: pb.GetMonitorReportRequest, context: Context
    ) -> AsyncIterator[pb.GetMonitorReportResponse]:
        """Streams the report of a monitor."""
        label = get_enum_label(common_pb2.ReportFormat.DESCRIPTOR, request.format)
        async with self._reports:
            content = await REPORTS.run(report.render, self._monitors, request.monitor_id, label or "html")
        for part in split_content(content):
            yield pb.GetMonitorReportResponse(content=part)

    async def _check_owner(self, monitor_id: str) -> StoredMonitor:
        """Checks that the caller may change a monitor, and returns it, because its id may be reused later.

        Raises:
            NotFound: the id is unknown.
            Forbidden: another caller created it, and the caller is not an admin.
        """
        monitor = await DATABASE.run(self._monitors.get, monitor_id)
        check_ownership(current_identity.get(), monitor.created_by, monitor.id)
        return monitor

    def _create(self, monitor_id: str, request: MonitorSpec) -> StoredMonitor:
        # Look for the monitor first: its reference is pinned, and the stored set may have changed since.
        if (found := self._monitors.find(monitor_id, request)) is not None:
            return found
        reference = load_reference(
            self._store, request.reference, request.layer, request.descriptive_layers, request.stratum
        )
        spec = request.model_copy(update={"reference": reference.pinned, "layer": next(iter(reference.layers))})
        rows_GC = next(iter(reference.layers.values()))
        state = Monitor(make_options(spec), rows_GC, reference.patients, reference.strata)
        uid = make_uid()
        new = NewMonitor(
            uid,
            spec,
            reference,
            write_snapshot(self._store, (monitor_id, uid), to_bytes(state), 1, 0),
            describe_status(state, None, []),
        )
        monitor = self._monitors.create(monitor_id, request, new)
        if monitor.uid != uid:  # another call has created it meanwhile
            delete_objects(self._store, monitor_id, uid)
        return monitor

    def _observe(self, request: pb.ObserveRequest, pins: MonitorPins) -> list[dict[str, Any]]:
        if request.WhichOneof("source") == "feature_set":
            origin, incoming = self._read_feature_set(request, pins)
        elif not request.HasField("origin"):
            raise BadOption("the origin of the features is missing", field="origin", remedy="set it")
        else:
            origin = FeatureOrigin.from_proto(request.origin, "origin")
            origin = origin.model_copy(update={"input_transform": origin.input_transform or "identity"})
            incoming = read_inline(self._store, request.inline.observations, pins.layers, pins.stratum)
        return self._keeper.record(request.monitor_id, pins, origin, incoming)

    def _read_feature_set(self, request: pb.ObserveRequest, pins: MonitorPins) -> tuple[FeatureOrigin, list[Any]]:
        rows = FeatureSetRows.from_proto(request.feature_set, "feature_set")
        manifest = read_named(self._store, rows.feature_set_id, rows.manifest_sha256).manifest
        get_strata: Callable[[], list[str]] | None = None
        if pins.stratum:

            def get_strata() -> list[str]:
                return read_strata(self._store, manifest, pins.stratum, "feature_set.feature_set_id")

        incoming = read_feature_set_rows(self._store, manifest, rows, pins.layers, get_strata)
        return get_origin(manifest.request, "feature_set.feature_set_id"), incoming

    def _replace_reference(
        self, monitor: StoredMonitor, epoch: int, requested: MonitorReference, start: EpochStart
    ) -> StoredMonitor:
        spec = monitor.spec
        reference = load_reference(self._store, requested, spec.layer, spec.descriptive_layers, spec.stratum)
        self._epochs.replace_reference(monitor, epoch, start, requested, reference)
        return self._monitors.get(monitor.id, monitor.uid)

    def _delete(self, monitor: StoredMonitor) -> None:
        is_gone = self._monitors.delete(monitor.id, monitor.uid)
        self._keeper.forget(monitor.id, monitor.uid)
        if is_gone:  # otherwise, the leader continues
            delete_objects(self._store, monitor.id, monitor.uid)


def _check_text(text: str, field: str) -> None:
    """Checks text for display on a page: characters that change the text direction would also affect other text."""
    if not text.isprintable():
        raise BadOption("it is not one line of printable characters", field=field, remedy="remove invisible characters")


def _pack(monitor: StoredMonitor, *, whole: bool = True) -> pb.Monitor:
    message: pb.Monitor = to_message(monitor, whole=whole).to_proto()
    return message
