"""`Observe` one by one and in batches: observations per second of a monitor whose bag has 2,000 rows.

The service and the object store are processes of this machine, reached over loopback; the database is SQLite, on the
disk of the temporary folder. Each sender waits for an answer before its next call. Every call ends with one write that
the disk confirms, so that the time of such a write stands beside the calls.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from bench.endpoint.server import running_store
from bench.measure import MeasurementSettings, median_range
from bench.services import RunningService, run_service
from bench.tables import Section, Table
from vfmalign.client import Client, FeatureOrigin, MonitorReference, MonitorSpec, Observation, ObservedStudy
from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest
from vfmalign.core.storage.store.object_store import ObjectStore

LAYER, CHANNELS = "stages.3", 768
REFERENCE_ROWS = 600
"""Of which 400 are in the bag."""
BAG_ROWS = 2_000
BATCH = 64


@dataclass(frozen=True)
class Sending:
    """One way of sending.

    Attributes:
        batch: observations of a call.
        senders: at once.
        rows: observations of a turn.
    """

    batch: int
    senders: int
    rows: int


WAYS = (Sending(1, 1, 500), Sending(1, 4, 500), Sending(BATCH, 1, 640))
"""The state is stored after every 500 observations, so that a turn of as many pays for this once, as a stream does."""
PREPROCESSING = Preprocessing(modalities=("t2w",), shape_dhw=(8, 8, 8))
ORIGIN = FeatureOrigin(checkpoint_sha256="0" * 64, preprocessing_sha256=PREPROCESSING.content_digest())


def run(settings: MeasurementSettings) -> Section:
    """Measures all ways of sending in turns."""
    section = Section("observe", f"Observe, {CHANNELS} channels, a bag of {BAG_ROWS:,} rows, SQLite")
    with tempfile.TemporaryDirectory() as name, running_store(Path(name)) as (store, environment):
        variables = environment | {"VFMALIGN_STATE_DIR": name}
        with run_service("monitoring", Path(name), variables, settings.threads) as service:
            reference = MonitorReference(feature_set_id=_store_reference(store))
            with Client(monitoring_address=service.address) as client:
                turns = [
                    [_measure(client, service, reference, f"m{turn}-{number}", way) for number, way in enumerate(WAYS)]
                    for turn in range(settings.repeats)
                ]
        write_ms = 1e3 * statistics.median(_time_writes(Path(name)))
    columns = (
        "observations of a call",
        "senders",
        "observations/s",
        "per CPU-second of the service",
        "median call, ms",
    )
    table = Table("", columns, [])
    for way, results in zip(WAYS, zip(*turns, strict=True), strict=True):
        rates, per_cpu, calls_ms = zip(*results, strict=True)
        table.rows.append(
            [
                str(way.batch),
                str(way.senders),
                f"{median_range(rates).median:.0f} ({min(rates):.0f} to {max(rates):.0f})",
                f"{statistics.median(per_cpu):.0f}",
                f"{statistics.median(calls_ms):.1f}",
            ]
        )
        section.records += [
            {"case": section.name, "turn": turn, **asdict(way), "per_second": rate, "per_cpu_second": cpu}
            for turn, (rate, cpu, _) in enumerate(results)
        ]
    section.tables.append(table)
    section.sentences.append(f"A write of 16 KiB that the disk confirms takes {write_ms:.1f} ms (median of 100).")
    return section


def _time_writes(folder: Path) -> list[float]:
    """Returns how long writes take that the disk confirms, in seconds."""
    seconds = []
    with (folder / "writes").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(bytes(2**14))
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - start)
    return seconds


def _store_reference(store: ObjectStore) -> str:
    rng = np.random.default_rng(0)
    volume = StoredObject(key="volumes/x.nii.gz", sha256="2" * 64)
    cases = tuple(
        Case(id=f"r{row}", group=f"r{row}", volumes=dict.fromkeys(("t2w", "dwi", "adc"), volume))
        for row in range(REFERENCE_ROWS)
    )
    dataset = DatasetManifest(id="reference", test=cases)
    save_dataset(store, dataset)
    request = FeatureRequest(
        model_id="vfm",
        model_sha256="0" * 64,
        dataset_id=dataset.id,
        dataset_digest=dataset.digest(),
        split="test",
        layers=(LAYER,),
        preprocessing=PREPROCESSING,
    )
    writer = FeatureSetWriter(store, request, [case.id for case in cases], [case.group for case in cases])
    writer.write_part(0, {LAYER: rng.normal(size=(REFERENCE_ROWS, CHANNELS)).astype(np.float32)})
    writer.commit({})
    return request.feature_set_id()


def _measure(
    client: Client, service: RunningService, reference: MonitorReference, monitor_id: str, way: Sending
) -> tuple[float, float, float]:
    """Returns observations per second, the same per second of the service's CPU time, and the median call in ms."""
    client.monitors.create(monitor_id, MonitorSpec(reference=reference))
    rng = np.random.default_rng(way.batch)
    filled = BAG_ROWS - REFERENCE_ROWS * 2 // 3
    observations = [
        Observation(
            ObservedStudy(observation_id=f"o{place}", group=f"g{place}"),
            {LAYER: rng.normal(size=CHANNELS).astype(np.float32)},
        )
        for place in range(filled + way.rows)
    ]
    _send(client, monitor_id, observations[:filled], BATCH)
    parts = [observations[filled + sender :: way.senders] for sender in range(way.senders)]
    with ThreadPoolExecutor(way.senders) as threads:
        cpu_s, start = service.get_cpu_s(), time.perf_counter()
        calls_s = list(chain(*threads.map(lambda part: _send(client, monitor_id, part, way.batch), parts)))
        elapsed_s, used_s = time.perf_counter() - start, service.get_cpu_s() - cpu_s
    if (recorded := client.monitors.get(monitor_id).epoch.rows) != len(observations):
        raise RuntimeError(f"{recorded} of {len(observations)} observations were recorded")
    client.monitors.delete(monitor_id)
    return way.rows / elapsed_s, way.rows / used_s, 1e3 * statistics.median(calls_s)


def _send(client: Client, monitor_id: str, observations: Sequence[Observation], batch: int) -> list[float]:
    """Sends observations in calls of `batch`; returns how long each call took, in seconds."""
    seconds = []
    for first in range(0, len(observations), batch):
        start = time.perf_counter()
        client.monitors.observe(monitor_id, observations[first : first + batch], ORIGIN)
        seconds.append(time.perf_counter() - start)
    return seconds
