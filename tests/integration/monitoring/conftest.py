"""The monitoring service as a process on a real S3 server and database, and feature sets from two scanners."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid

import grpc
import numpy as np
import pytest

from vfmalign.client import AsyncClient, FeatureOrigin, MonitorReference, MonitorSpec, Observation, ObservedStudy
from vfmalign.client.messages.monitors import FeatureSetRows
from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest
from vfmalign.monitoring.schema import open_database
from vfmalign.monitoring.sequential import Monitor, MonitorOptions

LAYERS = ("stages.3", "stages.2")
CHANNELS = 6
PREPROCESSING = Preprocessing(modalities=("t2w",), shape_dhw=(8, 8, 8))
ORIGIN = FeatureOrigin(
    checkpoint_sha256="0" * 64, preprocessing_sha256=PREPROCESSING.content_digest(), input_transform="identity"
)

both_databases = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


def draw(rows, seed=0, shift=0.0):
    """Features by layer."""
    rng = np.random.default_rng(seed)
    return {name: (rng.normal(size=(rows, CHANNELS)) + shift).astype(np.float32) for name in LAYERS}


def store_set(store, layers, prefix, groups=None, sha256="0" * 64, **fields):
    """Stores features as a committed set of a dataset whose cases alternate between two scanners; returns its id."""
    rows = len(layers[LAYERS[0]])
    volume = StoredObject(key="volumes/x.nii.gz", sha256="2" * 64)
    cases = [
        Case(
            id=f"{prefix}-{row}",
            group=groups[row] if groups else f"{prefix}-p{row}",
            volumes=dict.fromkeys(("t2w", "dwi", "adc"), volume),
            strata={"scanner": "AB"[row % 2]},
        )
        for row in range(rows)
    ]
    dataset = DatasetManifest(id=f"d-{uuid.uuid4().hex[:12]}", test=tuple(cases))
    save_dataset(store, dataset)
    request = FeatureRequest(
        model_id="vfm",
        model_sha256=sha256,
        dataset_id=dataset.id,
        dataset_digest=dataset.digest(),
        split="test",
        layers=tuple(layers),
        preprocessing=PREPROCESSING,
        **fields,
    )
    writer = FeatureSetWriter(store, request, [case.id for case in cases], [case.group for case in cases])
    for start in range(0, rows, 64):
        writer.write_part(start, {name: array[start : start + 64] for name, array in layers.items()})
    writer.commit({"torch": "2"})
    return request.feature_set_id()


class Service:
    """The process, its client, and means to kill and start it again."""

    process = None

    def __init__(self, environment, folder, command):
        self.environment, self.folder, self.command = environment, folder, command

    async def start(self, **settings):
        ports = self.folder / "ports.json"
        ports.unlink(missing_ok=True)
        environment = self.environment | settings | {"VFMALIGN_SERVER__PORTS_FILE": str(ports)}
        with (self.folder / "log").open("ab") as log:
            self.process = self.command(
                [sys.executable, "-m", "vfmalign.monitoring"], env=environment, stdout=log, stderr=log
            )
        while not ports.exists():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            await asyncio.sleep(0.02)
        self.ports = json.loads(ports.read_text())
        self.address = f"127.0.0.1:{self.ports['grpc']}"
        self.client = AsyncClient(monitoring_address=self.address)
        self.monitors = self.client.monitors
        return self

    async def kill(self, number=signal.SIGKILL):
        await self.client.close()
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return await asyncio.to_thread(self.process.wait, 60)

    async def create(self, monitor_id, feature_set, **fields):
        spec = MonitorSpec(reference=MonitorReference(feature_set_id=feature_set), **fields)
        return await self.monitors.create(monitor_id, spec)

    async def observe(self, monitor_id, layers, prefix="o", groups=None, start=0, **fields):
        """Observes rows of arrays, one by one a patient of its own."""
        rows = len(layers[LAYERS[0]])
        observations = [
            Observation(
                ObservedStudy(
                    observation_id=f"{prefix}-{row}", group=groups[row] if groups else f"{prefix}-g{row}", **fields
                ),
                {name: array[row] for name, array in layers.items()},
            )
            for row in range(start, rows)
        ]
        return await self.monitors.observe(monitor_id, observations, ORIGIN)

    def log(self):
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines() if line.startswith("{")]


@pytest.fixture
def database_url(request, tmp_path):
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'monitoring.db'}"
    return request.getfixturevalue("postgres_database")


@pytest.fixture
def environment(store_environment, database_url, tmp_path):
    return store_environment | {
        "VFMALIGN_STATE_DIR": str(tmp_path),
        "VFMALIGN_DATABASE__URL": database_url,
        "VFMALIGN_LEASE__TTL_S": "5",
        "VFMALIGN_MONITORING__POLL_S": "0.2",
        "VFMALIGN_SERVER__GRPC_PORT": "0",
        "VFMALIGN_SERVER__METRICS_PORT": "0",
        "VFMALIGN_SERVER__HEALTH_PORT": "0",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
async def service(environment, tmp_path, python):
    service = await Service(environment, tmp_path, python).start()
    yield service
    code = await service.kill(signal.SIGTERM)
    assert code in {0, -signal.SIGKILL}, (tmp_path / "log").read_text()[-4000:]


@pytest.fixture
def database(database_url):
    database = open_database(database_url)
    yield database
    database.close()


@pytest.fixture(scope="module")
def reference(store):
    """A feature set of 90 patients."""
    return store_set(store, draw(90, seed=1), f"ref{uuid.uuid4().hex[:6]}")


async def rows_of(service, monitor_id, feature_set, start=0, rows=1000):
    return await service.monitors.observe_feature_set(
        monitor_id, FeatureSetRows(feature_set_id=feature_set, start=start, rows=rows)
    )


async def code_of(call):
    """Status code of a raw call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


def observe_alone(reference, patients, layers, prefix, **options):
    """Evidence of the library without a service."""
    monitor = Monitor(MonitorOptions(**options), reference[LAYERS[0]], patients)
    rows = layers[LAYERS[0]]
    observed = monitor.observe(
        rows, [f"{prefix}-{row}" for row in range(len(rows))], [f"{prefix}-g{row}" for row in range(len(rows))]
    )
    return monitor, observed


def evidence_of(monitor):
    return [one.log_evidence for one in monitor.components]
