"""Monitors in an SQLite database and a store in memory; each `Process` stands for one process of the service."""

from __future__ import annotations

import numpy as np
import pytest
from tests.fuzz.memory_store import MemoryStore

from vfmalign.client.messages.monitors import FeatureOrigin, MonitorReference, MonitorSpec
from vfmalign.core.domain.errors import NotFound, Unavailable
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.monitoring.schema import open_database
from vfmalign.monitoring.sequential import Monitor, MonitorOptions, to_bytes
from vfmalign.monitoring.service.epochs import EpochKeeper
from vfmalign.monitoring.service.evidence import EvidenceKeeper
from vfmalign.monitoring.service.observations import IncomingObservation
from vfmalign.monitoring.service.references import LoadedReference, make_options
from vfmalign.monitoring.service.repository import MonitorRepository, NewMonitor, make_uid
from vfmalign.monitoring.service.snapshots import SNAPSHOTS, write_snapshot
from vfmalign.monitoring.service.states import States
from vfmalign.monitoring.service.status import describe_status

CHANNELS = 4
ORIGIN = FeatureOrigin(checkpoint_sha256="0" * 64, preprocessing_sha256="1" * 64, input_transform="identity")


class WritableStore(MemoryStore):
    """A store in memory that can be away, and tells a test when it is called."""

    def __init__(self):
        super().__init__({})
        self.is_away, self.calls, self.on_call = False, [], lambda: None

    def _call(self, name, key):
        self.calls.append((name, key))
        self.on_call()
        if self.is_away:
            raise Unavailable("the store is away", subject="store", remedy="wait")

    def get(self, key, sha256=None, max_bytes=None):
        self._call("get", key)
        return super().get(key, sha256, max_bytes)

    def put(self, key, data, content_type=""):
        self._call("put", key)
        self.objects[key] = data
        return StoredObject.of(key, data)

    def put_if_absent(self, key, data):
        self._call("put", key)
        return self.objects.setdefault(key, data) is data

    def get_etag(self, key):
        return None if key not in self.objects else StoredObject.of(key, self.objects[key]).sha256

    def replace(self, key, etag, new):
        self._call("put", key)
        if self.get_etag(key) == etag:
            self.objects[key] = new
        return self.objects[key] == new

    def delete(self, key):
        self._call("delete", key)
        self.objects.pop(key, None)

    def sizes_bytes(self, prefix, before=None):
        return {key: len(data) for key, data in self.objects.items() if key.startswith(prefix)}


class Process:
    """What one process of the service has."""

    def __init__(self, database, store, snapshot_rows=20_000):
        self.states = States(2**28)
        self.keeper = EvidenceKeeper(database, store, self.states, snapshot_rows)
        self.epochs = EpochKeeper(database, store, self.states)
        self.monitors = MonitorRepository(database, 50)

    def observe(self, name, rows, start=0, prefix="o"):
        """Observes rows, one by one a patient of its own."""
        pins = self.monitors.get_pins(name)
        incoming = [
            IncomingObservation.of(f"{prefix}{index}", f"{prefix}g{index}", "", None, {"a": row})
            for index, row in enumerate(rows, start)
        ]
        return self.keeper.record(name, pins, ORIGIN, incoming)

    def replace_reference(self, name, epoch, start, pinned, reference):
        self.epochs.replace_reference(self.monitors.get(name), epoch, start, pinned, reference)


@pytest.fixture
def store():
    return WritableStore()


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path / 'monitoring.db'}")
    database.migrate()
    yield database
    wait_for_snapshots()
    database.close()


@pytest.fixture
def process(database, store):
    return Process(database, store)


def draw(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, CHANNELS)).astype(np.float32)


def make_reference(seed=1, prefix="r", strata=None):
    rows = draw(80, seed)
    pinned = MonitorReference(feature_set_id=f"{seed:032x}", manifest_sha256=f"{seed:064x}")
    patients = [f"{prefix}{row}" for row in range(len(rows))]
    return LoadedReference(pinned, ORIGIN, "vfm", {"a": rows}, patients, strata)


def create(monitors, store, name, **fields):
    """Creates a monitor as the servicer does. With a stratum, the reference has rows of `A` and `B`."""
    reference = make_reference(strata=list("AB" * 40) if "stratum" in fields else None)
    spec = MonitorSpec(reference=reference.pinned, layer="a", **fields)
    state, uid = Monitor(make_options(spec), reference.layers["a"], reference.patients, reference.strata), make_uid()
    snapshot = write_snapshot(store, (name, uid), to_bytes(state), 1, 0)
    return monitors.create(name, spec, NewMonitor(uid, spec, reference, snapshot, describe_status(state, None, [])))


def observe_alone(rows, prefix="o"):
    """The evidence of the library."""
    reference = make_reference()
    monitor = Monitor(MonitorOptions(), reference.layers["a"], reference.patients)
    names = range(len(rows))
    monitor.observe(rows, [f"{prefix}{index}" for index in names], [f"{prefix}g{index}" for index in names])
    return describe_status(monitor, None, [])["components"]


def wait_for_snapshots():
    """Waits for the thread that stores snapshots."""
    SNAPSHOTS.submit(int).result(60)


def is_gone(call):
    """Whether a call finds nothing."""
    try:
        call()
    except NotFound:
        return True
    return False
