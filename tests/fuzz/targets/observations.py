"""Requests of Observe, from the bytes of the message to what a monitor in a database records of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from safetensors.numpy import save
from tests.fuzz.harness import Target
from tests.fuzz.memory_store import MemoryStore

from vfmalign.client.messages.monitors import FeatureOrigin, MonitorReference, MonitorSpec
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.rpc.limits.bounds import parse_request
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.monitoring.schema import open_database
from vfmalign.monitoring.sequential import Monitor, MonitorOptions, from_bytes, to_bytes
from vfmalign.monitoring.service.converters import to_message, to_result
from vfmalign.monitoring.service.evidence import EvidenceKeeper
from vfmalign.monitoring.service.observations import read_inline
from vfmalign.monitoring.service.references import LoadedReference
from vfmalign.monitoring.service.repository import MonitorPins, MonitorRepository, NewMonitor
from vfmalign.monitoring.service.snapshots import Snapshot
from vfmalign.monitoring.service.states import State, States
from vfmalign.monitoring.service.status import describe_status
from vfmalign.v1 import monitoring_pb2 as pb

_LAYERS = {"a": 2, "b": 1}
_ORIGIN = FeatureOrigin(checkpoint_sha256="0" * 64, preprocessing_sha256="1" * 64, input_transform="identity")
_KEY = "features/s/a.safetensors"
_FILE = save({"a": np.zeros(2, np.float32)})
_STORE = MemoryStore({_KEY: _FILE})


class _Monitor:
    """One monitor, which every input meets as it was after its creation."""

    def __init__(self) -> None:
        self._database = open_database("sqlite://")
        self._database.migrate()
        self._states = States(2**24)
        self._keeper = EvidenceKeeper(self._database, _STORE, self._states, 20_000)
        self._monitors = MonitorRepository(self._database, 1)
        rows = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
        patients = [f"r{row}" for row in range(60)]
        pinned = MonitorReference(feature_set_id="0" * 32, manifest_sha256="0" * 64)
        layers = {name: rows[:, :channels] for name, channels in _LAYERS.items()}
        reference = LoadedReference(pinned, _ORIGIN, "m", layers, patients, ["A"] * 60)
        spec = MonitorSpec(reference=pinned, layer="a", descriptive_layers=("b",), stratum="scanner", alpha=0.05)
        state = Monitor(MonitorOptions(alpha=0.05), rows, patients, reference.strata)
        self._state = to_bytes(state)
        snapshot = Snapshot(key="monitors/m/u/state/1", sha256="0" * 64, size_bytes=1, sequence=0)
        self._new = NewMonitor("u", spec, reference, snapshot, describe_status(state, None, []))

    def observe(self, request: pb.ObserveRequest) -> None:
        """Records a request and reads the monitor back."""
        self._monitors.delete("m", "u")
        self._monitors.create("m", self._new.spec, self._new)
        self._states.put(("default", "m", "u"), State(from_bytes(self._state), 1, 0))
        origin = FeatureOrigin.from_proto(request.origin, "origin")
        incoming = read_inline(_STORE, request.inline.observations, _LAYERS, "scanner")
        results = self._keeper.record("m", MonitorPins("u", _LAYERS, "scanner"), origin, incoming)
        for result in results:
            to_result(result).SerializeToString()
        to_message(self._monitors.get("m")).to_proto().SerializeToString()


_get_monitor = cache(_Monitor)


def run(data: bytes) -> None:
    """Observes what a message says, as the servicer does."""
    request = parse_request(pb.ObserveRequest.FromString, data)
    assert isinstance(request, pb.ObserveRequest)
    if request.WhichOneof("source") != "inline" or not request.HasField("origin"):
        raise BadOption("there are no observations", field="inline")
    _get_monitor().observe(request)


def _make(**study: object) -> pb.ObserveRequest:
    tensor = to_tensor(np.ones(2, np.float32))
    ref = {"uri": _STORE.uri(_KEY), "sha256": StoredObject.of(_KEY, _FILE).sha256}
    observations = [
        {"study": {"observation_id": "o1", "group": "g1", **study}, "layers": [{"layer": "a", "tensor": tensor}]},
        {"study": {"observation_id": "o2", "group": "r2"}, "layers": [{"layer": "a", "stored": ref}]},
    ]
    return pb.ObserveRequest(monitor_id="m", origin=_ORIGIN.to_proto(), inline={"observations": observations})


def make_seeds() -> Mapping[str, bytes]:
    """Valid observations, and some with extreme numbers and times."""
    messages = {
        "valid": _make(strata={"scanner": "A"}, acquire_time={"seconds": 1_700_000_000}),
        "year-1": _make(acquire_time={"seconds": -62_135_596_800}),
        "year-9999": _make(acquire_time={"seconds": 253_402_300_799, "nanos": 999_999_999}),
        "beyond": _make(acquire_time={"seconds": 2**62, "nanos": -1}),
        "stratum": _make(strata={"scanner": "\u202e🩻" * 16}),
    }
    for name, value in {"nan": np.nan, "huge": 1.7e308, "subnormal": 5e-324}.items():
        messages[name] = _make()
        tensor = to_tensor(np.array([value, -value]), allow_non_finite=True)
        messages[name].inline.observations[0].layers[0].tensor.CopyFrom(tensor)
    messages["twice"] = _make()
    messages["twice"].inline.observations.extend(list(_make().inline.observations))
    return {name: message.SerializeToString(deterministic=True) for name, message in messages.items()}


TARGET = Target(run, make_seeds, words=("scanner", "s3://fuzz/default/features/", "identity", "0" * 64, "1" * 64))
