"""`Extract` of a study at a PACS beside the same study as NIfTI in the message, and where the time goes.

Service, object store and PACS (Orthanc) are processes of this machine, reached over loopback. The study is a prostate
phantom. Calls alternate; the stages are those that each answer states. Then calls with NIfTI alternate with the same
calls beside others that wait for a PACS that answers one byte a second.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
import numpy as np
from pydicom import dcmread
from tests.dataset_imports import import_dataset
from tests.dicom_files import write_prostate
from tests.orthanc import run_orthanc
from tests.pacs_proxy import run_proxy, trickle

from bench import tables
from bench.endpoint.server import running_store
from bench.measure import MeasurementSettings, median_range
from bench.services import run_service
from bench.tables import Section, Table
from vfmalign.client import Client, PacsReference
from vfmalign.client.features import StudyFeatures
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.datasets.discovery import ImportOptions
from vfmalign.imaging.phantoms.rendering import generate_case
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state
from vfmalign.v1 import features_pb2, features_pb2_grpc

MODEL = "profound_conv_micro"
RULES = "rules"
CALLS = 3
"""Calls of each kind in a turn, of which the median counts."""
WAITING = 8
"""Calls that wait for the slow PACS; four of them have a reader, and the others wait for one."""
NEIGHBOUR_CALLS = 20
MODALITIES = ("t2w", "dwi", "adc")
NIFTI, PACS = "NIfTI in the message", "DICOM at a PACS"
Call = Callable[[], StudyFeatures]
Figures = dict[str, dict[str, float]]
"""Seconds of stages by kind of call; `call` is all of it."""


def run(settings: MeasurementSettings) -> Section:
    """Measures both calls in turns."""
    section = Section("dicom_extract", f"Extract by reference beside NIfTI in the message, prostate phantom, {MODEL}")
    with tempfile.TemporaryDirectory() as name, running_store(Path(name)) as (store, environment):
        folder = Path(name)
        publish(store, MODEL, random_state(ARCHITECTURES[MODEL], 0), architecture=MODEL, objective="random")
        files = _write_study(folder / "study")
        volumes = _import(folder, store)
        reference = PacsReference(server="bench", study_uid=dcmread(files[0]).StudyInstanceUID)
        with (
            run_orthanc() as orthanc,
            run_proxy(orthanc.port) as proxy,
            run_service(
                "features",
                folder,
                environment
                | orthanc.to_environment("bench")
                | orthanc.to_environment("slow", proxy.port)
                | {"VFMALIGN_FEATURES__DEVICE": "cpu", "VFMALIGN_FEATURES__DICOM_FOLDER": str(folder / "dicom")},
                settings.threads,
            ) as service,
        ):
            orthanc.store(files)
            proxy.fault = trickle
            with Client(features_address=service.address) as client:
                calls: dict[str, Call] = {
                    NIFTI: lambda: client.features.extract(MODEL, volumes),
                    PACS: lambda: client.features.extract(MODEL, dicom=reference, rules_dataset_id=RULES),
                }
                turns = [_measure(calls) for _ in range(settings.repeats + 1)][1:]  # the first one warms up
                neighbours = [
                    _measure_beside(calls[NIFTI], service.address, reference.study_uid) for _ in range(settings.repeats)
                ]
        sizes = {NIFTI: [len(data) for data in volumes.values()], PACS: [path.stat().st_size for path in files]}
        _add_times(section, turns, sizes)
    _add_neighbours(section, neighbours)
    _add_stages(section, turns)
    section.records += [{"case": section.name, "turn": number, **turn} for number, turn in enumerate(turns)]
    return section


def _write_study(folder: Path) -> list[Path]:
    write_prostate(folder, generate_case(0, 0), patient_id="bench")
    return sorted(folder.rglob("*.dcm"))


def _import(folder: Path, store: ObjectStore) -> dict[str, bytes]:
    """Imports the study; returns its volumes as they are stored."""
    options, mapping = ImportOptions(layout="dicom"), folder / "mapping.csv"
    dataset = import_dataset(folder / "study", store, RULES, options, mapping_path=mapping, salt=bytes(32))
    (case,) = dataset.test
    return {kind: store.get(case.volumes[kind].key) for kind in MODALITIES}


def _measure(calls: Mapping[str, Call]) -> Figures:
    """Makes calls of each kind in turn; returns the medians, after a comparison of the features."""
    timed: dict[str, list[dict[str, float]]] = {name: [] for name in calls}
    features: dict[str, dict[str, np.ndarray]] = {}
    for _ in range(CALLS):
        for name, call in calls.items():
            start = time.perf_counter()
            answer = call()
            seconds = time.perf_counter() - start
            stages = {timing.stage: timing.seconds for timing in answer.cost.stages}
            timed[name].append({"call": seconds, **stages})
            features[name] = answer.layers
    if any((features[NIFTI][layer] != features[PACS][layer]).any() for layer in features[NIFTI]):
        raise RuntimeError("the features of the two calls differ")
    return {
        name: {stage: statistics.median(one[stage] for one in figures) for stage in figures[0]}
        for name, figures in timed.items()
    }


def _measure_beside(call: Call, address: str, study_uid: str) -> tuple[float, float]:
    """Returns the median seconds of a call alone, and beside calls that wait for the slow PACS."""
    alone = _time_calls(call)
    reference = features_pb2.PacsReference(server="slow", study_uid=study_uid)
    study = features_pb2.Study(dicom=features_pb2.DicomStudy(reference=reference, rules_dataset_id=RULES))
    request = features_pb2.ExtractRequest(model_id=MODEL, study=study)
    with grpc.insecure_channel(address) as channel:
        stub = features_pb2_grpc.FeatureServiceStub(channel)
        waiting = [stub.Extract.future(request, timeout=600) for _ in range(WAITING)]
        time.sleep(1.0)
        beside = _time_calls(call)
        if any(future.done() for future in waiting):
            raise RuntimeError("a call did not wait for the slow PACS")
        for future in waiting:
            future.cancel()
    return alone, beside


def _time_calls(call: Call) -> float:
    seconds = []
    for _ in range(NEIGHBOUR_CALLS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _add_neighbours(section: Section, turns: Sequence[tuple[float, float]]) -> None:
    ratios = median_range([beside / alone for alone, beside in turns])
    section.sentences.append(
        f"Beside {WAITING} calls that wait for a PACS of one byte a second, NIfTI in the message takes "
        f"{tables.times(ratios)} as long as alone."
    )
    section.records += [
        {"case": section.name, "turn": number, "alone": alone, "beside": beside}
        for number, (alone, beside) in enumerate(turns)
    ]


def _add_times(section: Section, turns: Sequence[Figures], sizes: Mapping[str, Sequence[int]]) -> None:
    rows = [
        (
            name,
            tables.with_range(median_range([turn[name]["call"] for turn in turns])),
            f"{len(sizes[name])}",
            f"{sum(sizes[name]) / 1e6:.1f}",
        )
        for name in (NIFTI, PACS)
    ]
    section.tables.append(Table("Time", ("study", "seconds per call (min–max)", "files", "MB"), rows))
    ratios = median_range([turn[PACS]["call"] / turn[NIFTI]["call"] for turn in turns])
    section.sentences.append(
        f"A study at a PACS takes {tables.times(ratios)} as long as NIfTI in the message; the features are equal."
    )


def _add_stages(section: Section, turns: Sequence[Figures]) -> None:
    stages = list(dict.fromkeys(stage for name in (PACS, NIFTI) for stage in turns[0][name] if stage != "call"))
    rows = []
    for stage in stages:
        medians = [statistics.median(turn[name].get(stage, 0.0) for turn in turns) for name in (NIFTI, PACS)]
        rows.append((stage, *(f"{seconds * 1000:.0f}" for seconds in medians)))
    section.tables.append(Table("Where the time goes, ms", ("stage", NIFTI, PACS), rows))
