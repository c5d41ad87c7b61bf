"""Rows for monitors. The services know none, so a valid request of one is NOT_FOUND."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.hostile.row import Row

from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.v1 import monitoring_pb2 as pb

INVALID, NOT_FOUND = "INVALID_ARGUMENT", "NOT_FOUND"
LONG = "a" * 2**20
ORIGIN = {"checkpoint_sha256": "0" * 64, "preprocessing_sha256": "0" * 64}
FIRST = "inline.observations[0]"
STUDY = f"{FIRST}.study"


def create(name: str, names: str, monitor_id: str = "hostile", code: str = INVALID, **spec: Any) -> Row:
    """A request of CreateMonitor with some fields replaced."""
    request = {"monitor_id": monitor_id, "spec": {"reference": {"feature_set_id": "0" * 32}, **spec}}
    return Row(name, "MonitoringService/CreateMonitor", lambda _: pb.CreateMonitorRequest(**request), code, names)


def observe(name: str, names: str, code: str = INVALID, **fields: Any) -> Row:
    """A request of Observe with some fields replaced."""
    request = {"monitor_id": "hostile", "origin": ORIGIN, **fields}
    return Row(name, "MonitoringService/Observe", lambda _: pb.ObserveRequest(**request), code, names)


def one(name: str, names: str, layers: Any = None, code: str = INVALID, **study: Any) -> Row:
    """A request of Observe with one observation, of whose study some fields are replaced."""
    layer = {"layer": "a", "tensor": to_tensor(np.zeros(2, np.float32))}
    content = {"study": {"observation_id": "o", "group": "g", **study}, "layers": [layer] if layers is None else layers}
    return observe(name, names, code, inline={"observations": [content]})


def by_id(method: str, name: str, names: str, code: str = INVALID, monitor_id: str = "hostile", **fields: Any) -> Row:
    """A request that names a monitor."""
    cls = getattr(pb, f"{method}Request")
    return Row(name, f"MonitoringService/{method}", lambda _: cls(monitor_id=monitor_id, **fields), code, names)


METHODS = ("GetMonitor", "WatchMonitor", "PauseMonitor", "ResumeMonitor", "DeleteMonitor", "GetMonitorReport")
REFERENCE = {"feature_set_id": "0" * 32}
ROWS = (
    *(by_id(method, "unknown monitor", "no such monitor", NOT_FOUND) for method in METHODS),
    *(by_id(method, "monitor id that climbs", "monitor_id", monitor_id="../a") for method in METHODS),
    *(by_id(method, "monitor id of 1 MiB", "monitor_id", monitor_id=LONG) for method in METHODS),
    *(by_id(method, "monitor id with NUL", "monitor_id", monitor_id="a\0") for method in METHODS),
    by_id("GetMonitorReport", "report of an unknown format", "format", format=77),
    by_id("AcknowledgeAlarm", "alarm of an unknown monitor", "no such monitor", NOT_FOUND, epoch=1),
    by_id("AcknowledgeAlarm", "alarm of no epoch", "epoch"),
    by_id("AcknowledgeAlarm", "alarm of epoch -1", "epoch", epoch=-1),
    by_id("AcknowledgeAlarm", "alarm of epoch 2^31 - 1", "epoch", epoch=2**31 - 1),
    by_id("AcknowledgeAlarm", "note of 1 MiB", "note", epoch=1, note=LONG),
    by_id("AcknowledgeAlarm", "note that forges a line", "note", epoch=1, note='a\n{"event":"x"}'),
    by_id(
        "ReplaceReference",
        "new epoch of an unknown monitor",
        "monitor",
        NOT_FOUND,
        epoch=1,
        reference=REFERENCE,
        start=1,
    ),
    by_id("ReplaceReference", "new epoch for no reason", "start", epoch=1, reference=REFERENCE),
    by_id("ReplaceReference", "new epoch for reason 77", "start", epoch=1, reference=REFERENCE, start=77),
    by_id("ReplaceReference", "new epoch without a reference", "reference", epoch=1, start=1),
    by_id("ReplaceReference", "unseen epoch without a reference", "reference", epoch=1, start=2),
    by_id("ReplaceReference", "reset of an unknown monitor", "no such monitor", NOT_FOUND, epoch=1, start=3),
    by_id("ReplaceReference", "reset with a reference of nothing", "reference", epoch=1, reference={}, start=3),
    by_id(
        "ReplaceReference",
        "digest of letters",
        "manifest_sha256",
        epoch=1,
        start=1,
        reference={**REFERENCE, "manifest_sha256": "x"},
    ),
    by_id("UpdateMonitor", "title of an unknown monitor", "no such monitor", NOT_FOUND, title="a"),
    by_id("UpdateMonitor", "update of nothing", "max_silence_hours"),
    by_id("UpdateMonitor", "silence of -1 hours", "max_silence_hours", max_silence_hours=-1),
    by_id("UpdateMonitor", "silence of 8,761 hours after creation", "max_silence_hours", max_silence_hours=8761),
    by_id("UpdateMonitor", "title of 1 MiB", "title", title=LONG),
    by_id("UpdateMonitor", "title with NUL", "title", title="a\0"),
    by_id("UpdateMonitor", "title that turns its direction", "title", title="\u202ea"),
    by_id("UpdateMonitor", "update of a monitor that climbs", "monitor_id", monitor_id="../a", title="a"),
    create("unknown feature set", "0" * 32, code=NOT_FOUND),
    create("id of 81 characters", "monitor_id", "a" * 81),
    create("reference that climbs", "spec.reference.feature_set_id", reference={"feature_set_id": "../x"}),
    create("reference of nothing", "spec.reference", reference=None),
    create("layer of 1 MiB", "spec.layer", layer=LONG),
    create("one million layers", "spec.descriptive_layers", descriptive_layers=["x"] * 1_000_000),
    create("layer with NUL", "spec.descriptive_layers[0]", descriptive_layers=["\0"]),
    create("stratum with a path", "spec.stratum", stratum="../x"),
    create("alpha of NaN", "spec.alpha", alpha=float("nan")),
    create("alpha of 1", "spec.alpha", alpha=1.0),
    create("run length of 99", "spec.run_length", run_length=99),
    create("run length of 2^63 - 1", "spec.run_length", run_length=2**63 - 1),
    create("negative seed", "spec.seed", seed=-1),
    create("window of 2^31 - 1 rows", "spec.window_rows", window_rows=2**31 - 1),
    create("window of 15 rows", "spec.window_rows", window_rows=15),
    create("patients of -1 days", "spec.patient_window_days", patient_window_days=-1),
    create("19 first patients", "spec.first_patients", first_patients=19),
    create("silence of 8,761 hours", "spec.max_silence_hours", max_silence_hours=8761),
    create("title right to left", "title", title="\u202ea"),
    create("title in two lines", "spec.title", title="a\nb"),
    observe("no observations", "inline"),
    observe("an empty list of observations", "inline.observations", inline={}),
    observe("one million observations", "inline.observations", inline={"observations": [pb.Observation()] * 1_000_000}),
    observe("rows of a set that climbs", "feature_set.feature_set_id", feature_set={"feature_set_id": "../x"}),
    observe("rows from -1", "feature_set.start", feature_set={**REFERENCE, "start": -1}),
    observe("rows from 2^63 - 1", "feature_set.start", feature_set={**REFERENCE, "start": 2**63 - 1}),
    observe("1,001 rows", "feature_set.rows", feature_set={**REFERENCE, "rows": 1001}),
    observe("digest of another length", "origin.checkpoint_sha256", origin={**ORIGIN, "checkpoint_sha256": "ab"}),
    observe("transform of 1 MiB", "origin.input_transform", origin={**ORIGIN, "input_transform": LONG}),
    one("observation of an unknown monitor", "no such monitor", code=NOT_FOUND),
    one("observation id of a name", f"{STUDY}.observation_id", observation_id="SURNAME^GIVEN"),
    one("observation id of 1 MiB", f"{STUDY}.observation_id", observation_id=LONG),
    one("group with a line break", f"{STUDY}.group", group="a\nb"),
    one("no group", f"{STUDY}.group", group=""),
    one("17 strata", f"{STUDY}.strata", strata={f"s{index}": "a" for index in range(17)}),
    one("stratum of 1 MiB", f"{STUDY}.strata", strata={"scanner": LONG}),
    one("stratum with NUL", f"{STUDY}.strata", strata={"scanner": "\0"}),
    one("time of year 10,000", f"{STUDY}.acquire_time", acquire_time={"seconds": 253_402_300_800}),
    one("time of -2^62", f"{STUDY}.acquire_time", acquire_time={"seconds": -(2**62)}),
    one("time of -1 ns", f"{STUDY}.acquire_time", acquire_time={"nanos": -1}),
    one("no layer", f"{FIRST}.layers", layers=[]),
    one("one million layers", f"{FIRST}.layers", layers=[{}] * 1_000_000),
    one("layer name of 1 MiB", f"{FIRST}.layers[0].layer", layers=[{"layer": LONG}]),
    one("shape of 7 axes", f"{FIRST}.layers[0].tensor.shape", layers=[{"layer": "a", "tensor": {"shape": [1] * 7}}]),
)
