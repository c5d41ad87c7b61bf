"""A small monitoring service for the tests of its callers: it keeps monitors and observations, and has no evidence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from tests.monitor_records import NOW, make_monitor

from vfmalign.core.domain.errors import BadOption, Conflict, NotFound, PreconditionFailed, VfmalignError
from vfmalign.core.rpc.status_mapping import DETAILS_KEY, get_status_code, to_status
from vfmalign.core.rpc.transport import MESSAGE_BYTES
from vfmalign.v1 import monitoring_pb2, monitoring_pb2_grpc

PAGE = b"<!doctype html>" + b"x" * (2**20 + 5)
"""A report of two parts."""


def abort(context: Any, error: VfmalignError) -> None:
    """Ends a call with an error of the API."""
    status = to_status(error, "request-1")
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    context.abort(get_status_code(error), status.message)


class Monitoring(monitoring_pb2_grpc.MonitoringServiceServicer):
    """Holds monitors; every observation that is new enters.

    Attributes:
        monitors: by id.
        feature_sets: ids of the rows of each set that can be observed.
        alarm_at: number of the row that raises an alarm; 0 for none.
        requests: those of Observe.
        refused: field of a new monitor that is wrong; empty for none.
        fail_after: number of calls of Observe that succeed before one fails; None for all.
        listed: most monitors of a page of a list.
    """

    def __init__(self) -> None:
        self.monitors: dict[str, monitoring_pb2.Monitor] = {}
        self.observed: dict[str, dict[str, Any]] = {}
        self.feature_sets: dict[str, list[str]] = {}
        self.alarm_at, self.fail_after, self.listed, self.refused = 0, None, 2, ""
        self.requests: list[monitoring_pb2.ObserveRequest] = []
        self.changed = threading.Condition()
        self.left = threading.Event()
        self.watches = 0

    def add(self, monitor_id: str = "prostate-3t", **fields: Any) -> monitoring_pb2.Monitor:
        """Holds a monitor with these fields of `make_monitor`."""
        self.monitors[monitor_id] = make_monitor(**{"monitor_id": monitor_id} | fields).to_proto()
        self.observed[monitor_id] = {}
        return self.monitors[monitor_id]

    def change(self, monitor_id: str, **fields: Any) -> None:
        """Sets fields of a monitor, and tells those who watch."""
        with self.changed:
            self.monitors[monitor_id].MergeFrom(monitoring_pb2.Monitor(**fields))
            self.changed.notify_all()

    def CreateMonitor(self, request, context):
        if self.refused:
            abort(context, BadOption("is wrong", field=self.refused))
        known = self.monitors.get(request.monitor_id)
        if known is None:
            known = self.add(request.monitor_id, alarm=False)
            known.spec.CopyFrom(request.spec)
        elif known.spec != request.spec:
            abort(context, Conflict("another monitor has this id", subject=request.monitor_id, remedy="choose another"))
        return monitoring_pb2.CreateMonitorResponse(monitor=known)

    def GetMonitor(self, request, context):
        return monitoring_pb2.GetMonitorResponse(monitor=self._get(request, context))

    def ListMonitors(self, request, context):
        monitors = [one for one in self.monitors.values() if not request.states or one.state in request.states]
        start = int(request.page_token or 0)
        end = start + min(self.listed, request.page_size or self.listed)
        token = str(end) if end < len(monitors) else ""
        return monitoring_pb2.ListMonitorsResponse(monitors=monitors[start:end], next_page_token=token)

    def Observe(self, request, context):
        monitor = self._get(request, context)
        self.requests.append(request)
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        if request.HasField("inline"):
            if request.origin != monitor.origin:
                abort(context, PreconditionFailed("features of another origin", subject=request.monitor_id))
            content = {one.study.observation_id: one.SerializeToString() for one in request.inline.observations}
        else:
            content = dict.fromkeys(self._read_set(request.feature_set, context), "stored")
        return monitoring_pb2.ObserveResponse(results=[self._record(monitor, *one) for one in content.items()])

    def WatchMonitor(self, request, context):
        self.watches += 1
        context.add_callback(self.left.set)
        last = None
        while context.is_active():
            with self.changed:
                content = self._get(request, context).SerializeToString()
                if content == last:
                    self.changed.wait(0.02)
                    continue
            last = content
            yield monitoring_pb2.WatchMonitorResponse(monitor=monitoring_pb2.Monitor.FromString(content))

    def AcknowledgeAlarm(self, request, context):
        monitor = self._get(request, context)
        self._check_epoch(monitor, request, context)
        if not monitor.epoch.HasField("alarm"):
            abort(context, PreconditionFailed("the epoch has no alarm", subject=request.monitor_id))
        if not monitor.epoch.alarm.HasField("acknowledge_time"):
            monitor.epoch.alarm.acknowledge_time.FromDatetime(NOW)
            monitor.epoch.alarm.note = request.note
        return monitoring_pb2.AcknowledgeAlarmResponse(monitor=monitor)

    def ReplaceReference(self, request, context):
        monitor = self._get(request, context)
        self._check_epoch(monitor, request, context)
        current = monitoring_pb2.MonitorReference()
        current.CopyFrom(monitor.epoch.reference)
        monitor.earlier_epochs.insert(0, monitor.epoch)
        monitor.epoch.CopyFrom(
            monitoring_pb2.MonitorEpoch(
                number=monitor.epoch.number + 1,
                start=request.start,
                has_guarantee=request.start != monitoring_pb2.EPOCH_START_RESET,
                reference=request.reference if request.HasField("reference") else current,
                start_time=monitor.create_time,
            )
        )
        return monitoring_pb2.ReplaceReferenceResponse(monitor=monitor)

    def UpdateMonitor(self, request, context):
        monitor = self._get(request, context)
        for field in ("max_silence_hours", "title"):
            if request.HasField(field):
                setattr(monitor.spec, field, getattr(request, field))
        return monitoring_pb2.UpdateMonitorResponse(monitor=monitor)

    def PauseMonitor(self, request, context):
        monitor = self._get(request, context)
        monitor.state = monitoring_pb2.MONITOR_STATE_PAUSED
        return monitoring_pb2.PauseMonitorResponse(monitor=monitor)

    def ResumeMonitor(self, request, context):
        monitor = self._get(request, context)
        monitor.state = monitoring_pb2.MONITOR_STATE_ACTIVE
        return monitoring_pb2.ResumeMonitorResponse(monitor=monitor)

    def DeleteMonitor(self, request, context):
        self._get(request, context)
        with self.changed:
            del self.monitors[request.monitor_id]
            self.changed.notify_all()
        return monitoring_pb2.DeleteMonitorResponse()

    def GetMonitorReport(self, request, context):
        self._get(request, context)
        content = PAGE if request.format == 1 else b'{"version":1}'
        for start in range(0, len(content), 2**20):
            yield monitoring_pb2.GetMonitorReportResponse(content=content[start : start + 2**20])

    def _get(self, request, context):
        if request.monitor_id not in self.monitors:
            abort(context, NotFound("there is no such monitor", subject=request.monitor_id, remedy="list the monitors"))
        return self.monitors[request.monitor_id]

    def _check_epoch(self, monitor, request, context):
        if request.epoch != monitor.epoch.number:
            abort(context, PreconditionFailed("another epoch has begun", subject=request.monitor_id))

    def _read_set(self, rows, context) -> list[str]:
        if rows.feature_set_id not in self.feature_sets:
            abort(context, NotFound("there is no such feature set", subject=rows.feature_set_id))
        ids = self.feature_sets[rows.feature_set_id]
        if rows.start > len(ids):
            abort(context, BadOption("the set has fewer rows", field="feature_set.start"))
        return ids[rows.start : rows.start + (rows.rows or 1000)]

    def _record(self, monitor, observation_id: str, content: object):
        observed = self.observed[monitor.monitor_id]
        known = observed.get(observation_id)
        if known is not None and known[0] != content:
            outcome, row = monitoring_pb2.OBSERVATION_OUTCOME_CONFLICT, 0
        else:
            outcome, row = monitoring_pb2.OBSERVATION_OUTCOME_ENTERED, len(observed) + 1 if known is None else known[1]
            observed[observation_id] = (content, row)
        return monitoring_pb2.ObservationResult(
            observation_id=observation_id,
            outcome=outcome,
            duplicate=known is not None,
            row=row,
            epoch=monitor.epoch.number,
            p_value=0.5 if row else None,
            raised_alarm=known is None and row == self.alarm_at,
        )


def serve(monitoring: Monitoring) -> Iterator[str]:
    """Serves on a free port of loopback; yields the address."""
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", MESSAGE_BYTES)])
    monitoring_pb2_grpc.add_MonitoringServiceServicer_to_server(monitoring, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
