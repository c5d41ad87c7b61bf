"""Client of `MonitoringService`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

import grpc
import numpy as np

from vfmalign.client.messages.common import ObjectRef, ObservedStudy
from vfmalign.client.messages.monitors import (
    EpochStart,
    FeatureOrigin,
    FeatureSetRows,
    Monitor,
    MonitorReference,
    MonitorSpec,
    MonitorState,
    ObservationResult,
)
from vfmalign.client.responses import RECONNECT_S, read_stream, reconnect
from vfmalign.client.samples import Array
from vfmalign.core.domain.errors import BadOption, Unavailable
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.v1 import features_pb2, monitoring_pb2, monitoring_pb2_grpc

ReportFormat = Literal["html", "json"]
_MAX_PAGE_SIZE = 1000


@dataclass(frozen=True)
class Observation:
    """The features of one study, for a monitor to observe.

    Attributes:
        study: id, patient, strata and time of the study.
        layers: maps each layer to its pooled features (C), or to a reference to stored features as in `StudyFeatures`.
    """

    study: ObservedStudy
    layers: Mapping[str, Array | ObjectRef]

    def to_proto(self) -> monitoring_pb2.Observation:
        """Converts to a message.

        The client also sends non-finite values, and the service records that they are non-finite.
        """
        return monitoring_pb2.Observation(
            study=self.study.to_proto(),
            layers=[
                features_pb2.LayerFeatures(layer=layer, stored=features.to_proto())
                if isinstance(features, ObjectRef)
                else features_pb2.LayerFeatures(
                    layer=layer, tensor=to_tensor(np.asarray(features), layer, allow_non_finite=True)
                )
                for layer, features in self.layers.items()
            ],
        )


class AsyncMonitorsClient:
    """Creates drift monitors, records observations for them, and follows their evidence.

    Args:
        open_channel: returns the channel to the service.
    """

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel

    async def create(self, monitor_id: str, spec: MonitorSpec) -> Monitor:
        """Creates a monitor. If a monitor with this id and spec exists, returns the existing monitor.

        Raises:
            BadOption: a field of the spec is invalid. The error names the field.
            BadTensor, InvalidInput: the reference cannot be used.
            Conflict: a monitor with this id but another spec exists.
            Exhausted: the tenant has as many monitors as its quota allows.
            NotFound: the reference, or its dataset, does not exist.
            PreconditionFailed: the reference does not have the stated digest, or a monitor with this id is being
                deleted.
        """
        request = monitoring_pb2.CreateMonitorRequest(monitor_id=monitor_id, spec=spec.to_proto())
        return Monitor.from_response((await self._stub().CreateMonitor(request)).monitor)

    async def get(self, monitor_id: str) -> Monitor:
        """Returns the current state of a monitor.

        Raises:
            NotFound: no monitor has this id.
        """
        request = monitoring_pb2.GetMonitorRequest(monitor_id=monitor_id)
        return Monitor.from_response((await self._stub().GetMonitor(request)).monitor)

    async def list(
        self,
        states: Sequence[MonitorState] = (),
        *,
        model_id: str = "",
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int | None = None,
    ) -> list[Monitor]:
        """Lists monitors, newest first. The records omit windows, channels and earlier epochs.

        Args:
            states: states to list; empty for all states.
            model_id: model that computed the references of the monitors; empty for all models.
            created_after: earliest creation time; None for no limit.
            created_before: latest creation time (exclusive); None for no limit.
            limit: maximum number of monitors; None for no limit.

        Raises:
            BadOption: the limit is not positive, or a state is unknown.
        """
        if limit is not None and limit < 1:
            raise BadOption(f"must be positive, got {limit}", field="limit", remedy="leave it out to list everything")
        monitors: list[Monitor] = []
        token = ""
        while True:
            request = monitoring_pb2.ListMonitorsRequest(
                states=[f"MONITOR_STATE_{_check_choice(state, MonitorState, 'states').upper()}" for state in states],
                page_size=0 if limit is None else min(limit - len(monitors), _MAX_PAGE_SIZE),
                page_token=token,
                model_id=model_id,
                created_after=created_after,
                created_before=created_before,
            )
            page = await self._stub().ListMonitors(request)
            monitors += [Monitor.from_response(monitor) for monitor in page.monitors]
            token = page.next_page_token
            if not token or len(monitors) == limit:
                return monitors

    async def observe(
        self, monitor_id: str, observations: Sequence[Observation], origin: FeatureOrigin
    ) -> tuple[ObservationResult, ...]:
        """Records observations in the given order. Observations that are already recorded are skipped.

        Args:
            monitor_id: the monitor.
            observations: at most 1,000.
            origin: model and processing that produced the features.

        Raises:
            BadOption, BadTensor: an observation is invalid. No observation is recorded.
            NotFound: no monitor has this id, or an observation refers to features that are not stored.
            PreconditionFailed: the monitor observes features of another origin.
        """
        request = monitoring_pb2.ObserveRequest(
            monitor_id=monitor_id,
            origin=origin.to_proto(),
            inline=monitoring_pb2.InlineObservations(observations=[one.to_proto() for one in observations]),
        )
        return _to_results(await self._stub().Observe(request))

    async def observe_feature_set(self, monitor_id: str, rows: FeatureSetRows) -> tuple[ObservationResult, ...]:
        """Records rows of a stored feature set as observations. The id of each observation is the id of the row's case.

        Raises:
            NotFound: the monitor or the feature set does not exist.
            PreconditionFailed: the monitor observes features of another origin, or the set has another digest than
                stated.
        """
        request = monitoring_pb2.ObserveRequest(monitor_id=monitor_id, feature_set=rows.to_proto())
        return _to_results(await self._stub().Observe(request))

    async def watch(
        self,
        monitor_id: str,
        *,
        reconnect_s: float = RECONNECT_S,
        on_disconnect: Callable[[Unavailable], None] | None = None,
    ) -> AsyncGenerator[Monitor, None]:
        """Yields the monitor at once and after every change. Reconnects when the service restarts.

        Args:
            monitor_id: the monitor.
            reconnect_s: seconds for which the service may be unreachable.
            on_disconnect: called whenever the connection to the service is lost.

        Raises:
            NotFound: no monitor has this id, or the monitor was deleted.
            Unavailable: the service stayed unreachable.
        """
        async with aclosing(reconnect(lambda: self._watch(monitor_id), reconnect_s, on_disconnect)) as monitors:
            async for monitor in monitors:
                yield monitor

    async def acknowledge(self, monitor_id: str, epoch: int, note: str = "") -> Monitor:
        """Records that somebody has seen the alarm of an epoch.

        Raises:
            NotFound: no monitor has this id.
            PreconditionFailed: the epoch is not the current epoch, or has no alarm.
        """
        request = monitoring_pb2.AcknowledgeAlarmRequest(monitor_id=monitor_id, epoch=epoch, note=note)
        return Monitor.from_response((await self._stub().AcknowledgeAlarm(request)).monitor)

    async def replace_reference(
        self, monitor_id: str, epoch: int, reference: MonitorReference | None, start: EpochStart
    ) -> Monitor:
        """Begins a new epoch of a monitor.

        Args:
            monitor_id: the monitor.
            epoch: number of the epoch that ends.
            reference: reference of the new epoch. For a reset, None keeps the current reference.
            start: reason for the new epoch. The reason decides whether the epoch's bound holds.

        Raises:
            BadOption: `start` is not one of the allowed values.
            InvalidInput: the bound would not hold, because an earlier epoch observed patients of the new reference.
            NotFound: the monitor or the reference does not exist.
            PreconditionFailed: another epoch has begun in the meantime.
        """
        request = monitoring_pb2.ReplaceReferenceRequest(
            monitor_id=monitor_id,
            epoch=epoch,
            reference=None if reference is None else reference.to_proto(),
            start=f"EPOCH_START_{_check_choice(start, EpochStart, 'start').upper()}",
        )
        return Monitor.from_response((await self._stub().ReplaceReference(request)).monitor)

    async def update(
        self, monitor_id: str, *, max_silence_hours: int | None = None, title: str | None = None
    ) -> Monitor:
        """Changes settings that do not affect the evidence. A setting that is None stays unchanged.

        Args:
            monitor_id: the monitor.
            max_silence_hours: hours without an observation after which an alert fires; 0 for no alert.
            title: title of the report. If empty, the title is the monitor's id.

        Raises:
            BadOption: a value is out of range, or no setting is given.
            Forbidden: another caller created the monitor, and you are not an admin.
            NotFound: no monitor has this id.
        """
        request = monitoring_pb2.UpdateMonitorRequest(
            monitor_id=monitor_id, max_silence_hours=max_silence_hours, title=title
        )
        return Monitor.from_response((await self._stub().UpdateMonitor(request)).monitor)

    async def pause(self, monitor_id: str) -> Monitor:
        """Pauses a monitor: until you resume it, new observations do not count as evidence."""
        request = monitoring_pb2.PauseMonitorRequest(monitor_id=monitor_id)
        return Monitor.from_response((await self._stub().PauseMonitor(request)).monitor)

    async def resume(self, monitor_id: str) -> Monitor:
        """Resumes a monitor: new observations count as evidence again."""
        request = monitoring_pb2.ResumeMonitorRequest(monitor_id=monitor_id)
        return Monitor.from_response((await self._stub().ResumeMonitor(request)).monitor)

    async def delete(self, monitor_id: str) -> None:
        """Deletes a monitor with its observations and its evidence.

        Raises:
            Forbidden: another caller created the monitor, and you are not an admin.
            NotFound: no monitor has this id.
        """
        await self._stub().DeleteMonitor(monitoring_pb2.DeleteMonitorRequest(monitor_id=monitor_id))

    async def get_report(self, monitor_id: str, report_format: ReportFormat = "html") -> bytes:
        """Returns the current report of a monitor.

        Raises:
            BadOption: `report_format` is not one of the allowed values.
            NotFound: no monitor has this id.
        """
        name = f"REPORT_FORMAT_{_check_choice(report_format, ReportFormat, 'report_format').upper()}"
        request = monitoring_pb2.GetMonitorReportRequest(monitor_id=monitor_id, format=name)
        async with aclosing(read_stream(self._stub().GetMonitorReport(request), lambda part: part.content)) as parts:
            return b"".join([part async for part in parts])

    def _watch(self, monitor_id: str) -> AsyncGenerator[Monitor, None]:
        call = self._stub().WatchMonitor(monitoring_pb2.WatchMonitorRequest(monitor_id=monitor_id))
        return read_stream(call, lambda response: Monitor.from_response(response.monitor))

    def _stub(self) -> monitoring_pb2_grpc.MonitoringServiceAsyncStub:
        return monitoring_pb2_grpc.MonitoringServiceStub(self._open_channel())


def _check_choice(value: str, choices: Any, field: str) -> str:
    """Returns a value of a `Literal`.

    Raises:
        BadOption: the value is not one of the choices.
    """
    if value not in get_args(choices):
        raise BadOption("unknown value", field=field, remedy=f"choose from {', '.join(get_args(choices))}")
    return value


def _to_results(response: monitoring_pb2.ObserveResponse) -> tuple[ObservationResult, ...]:
    return tuple(ObservationResult.from_response(result) for result in response.results)
