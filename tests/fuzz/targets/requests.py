"""Requests of every RPC: from the bytes of the message to the last check before work begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tests.fuzz.harness import Target
from tests.fuzz.memory_store import MemoryStore

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.features import CreateStudyUploadRequest
from vfmalign.client.messages.imports import (
    CreateDatasetUploadsRequest,
    CreateModelUploadsRequest,
    PublishDatasetRequest,
    PublishModelRequest,
)
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.client.messages.mmd import CreateUploadRequest
from vfmalign.client.messages.monitors import MonitorReference, MonitorSpec
from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.domain.models import ModelCard, Preprocessing
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.rpc.limits.bounds import parse_request
from vfmalign.core.storage.datasets import to_datalist
from vfmalign.core.storage.keys import dataset_key, model_card_key
from vfmalign.database.pagination import PageRequest
from vfmalign.features.converters import to_dicom_request, to_extraction_request, to_study_request
from vfmalign.features.listing import PageQuery, read_page
from vfmalign.finetuning.checks.request import check_inputs, check_spec
from vfmalign.finetuning.checks.tables import CheckRow
from vfmalign.finetuning.experiments.request import check_experiment_spec, pin_inputs, plan_cells
from vfmalign.finetuning.experiments.tables import ExperimentRow
from vfmalign.finetuning.jobs.request import check_objective, resolve_job
from vfmalign.finetuning.jobs.tables import JobRow
from vfmalign.mmd.service.converters import to_options as to_compute_options
from vfmalign.mmd.service.converters import to_source
from vfmalign.monitoring.service.references import make_options
from vfmalign.monitoring.tables import MonitorRow
from vfmalign.v1 import (
    alignment_pb2,
    common_pb2,
    experiment_pb2,
    features_pb2,
    finetuning_pb2,
    imports_pb2,
    mmd_pb2,
    monitoring_pb2,
)

_MODULES = (alignment_pb2, experiment_pb2, features_pb2, finetuning_pb2, imports_pb2, mmd_pb2, monitoring_pb2)
_REQUESTS = sorted(
    {
        method.input_type.full_name: GetMessageClass(method.input_type)
        for module in _MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }.items()
)
"""Classes of the requests; the first byte of an input chooses one."""


def _make_store() -> MemoryStore:
    volumes = {kind: StoredObject(key=f"volumes/d/{kind}", sha256="0" * 64) for kind in ("t2w", "dwi", "adc", "gland")}

    def case(name: str) -> tuple[Case, ...]:
        return (Case(id=name, group=name, volumes=volumes),)

    dataset = DatasetManifest(id="d", train=case("a"), val=case("b"), test=case("c"))
    card = ModelCard(
        id="m",
        architecture="profound_conv_micro",
        objective="contrastive",
        checkpoint=StoredObject(key="models/m/x", sha256="0" * 64),
        preprocessing=Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=None, shape_dhw=(16, 64, 64)),
        layers=(),
        primary_layer="stages.3",
    )
    datalist = json.dumps(to_datalist(dataset)).encode()
    return MemoryStore({dataset_key("d"): datalist, model_card_key("m"): card.to_json()})


class _NoJobs:
    """The jobs of a database without rows."""

    def find_trained(self, digests: Collection[str]) -> set[str]:
        return set()


_STORE = _make_store()
_JOBS: Any = _NoJobs()


def run(data: bytes) -> None:
    """Parses a request and converts it as its servicer does."""
    name, cls = _REQUESTS[data[0] % len(_REQUESTS)] if data else _REQUESTS[0]
    request = parse_request(cls.FromString, data[1:])
    if (convert := _CONVERT.get(name.rsplit(".", 1)[1])) is not None:
        convert(request)


def _job(request: Any) -> None:
    spec = JobSpec.from_proto(request.spec, "spec")
    check_objective(spec)
    resolve_job(_STORE, request.job_id, spec).to_json()


def _check(request: Any) -> None:
    spec = CheckSpec.from_proto(request.spec, "spec")
    check_spec(spec)
    check_inputs(_STORE, _JOBS, request.check_id, spec)
    spec.to_proto()


def _experiment(request: Any) -> None:
    spec = ExperimentSpec.from_proto(request.spec, "spec")
    check_experiment_spec(spec)
    plan_cells("experiment", spec, pin_inputs(_STORE, spec))


def _compute(request: Any) -> None:
    to_compute_options(request)
    for name in ("x", "y", "reference"):
        to_source(getattr(request, name), name)


def _compute_batch(request: Any) -> None:
    for pair in request.requests:
        try:
            _compute(pair)
        except VfmalignError:
            continue  # the next pair is compared


def _list(table: type[Any]) -> Callable[[Any], None]:
    def convert(request: Any) -> None:
        PageRequest.parse(request).select(table)

    return convert


def _publish_model(request: Any) -> None:
    PublishModelRequest.from_proto(request).to_json()


def _extract(request: Any) -> None:
    to_study_request(request, _STORE.key)
    to_dicom_request(request.study, _STORE.key)


def _list_objects(request: Any) -> None:
    read_page(["a", "b"], str, len, PageQuery.parse(request))


def _monitor(request: Any) -> None:
    spec = MonitorSpec.from_proto(request.spec, "spec")
    make_options(spec)
    spec.digest()


def _replace_reference(request: Any) -> None:
    MonitorReference.from_proto(request.reference, "reference")


_CONVERT: Mapping[str, Callable[[Any], object]] = {
    "CreateJobRequest": _job,
    "CreateCheckRequest": _check,
    "CreateExperimentRequest": _experiment,
    "ListJobsRequest": _list(JobRow),
    "ListChecksRequest": _list(CheckRow),
    "ListExperimentsRequest": _list(ExperimentRow),
    "ListModelsRequest": _list_objects,
    "ListDatasetsRequest": _list_objects,
    "ListFeatureSetsRequest": _list_objects,
    "ExtractRequest": _extract,
    "ExtractDatasetRequest": to_extraction_request,
    "CreateDatasetUploadsRequest": CreateDatasetUploadsRequest.from_proto,
    "CreateModelUploadsRequest": CreateModelUploadsRequest.from_proto,
    "PublishDatasetRequest": PublishDatasetRequest.from_proto,
    "PublishModelRequest": _publish_model,
    "ComputeRequest": _compute,
    "ComputeBatchRequest": _compute_batch,
    "CreateUploadRequest": CreateUploadRequest.from_proto,
    "CreateStudyUploadRequest": CreateStudyUploadRequest.from_proto,
    "CreateMonitorRequest": _monitor,
    "ListMonitorsRequest": _list(MonitorRow),
    "ReplaceReferenceRequest": _replace_reference,
}


def make_seeds() -> Mapping[str, bytes]:
    """A valid request of every kind."""
    recipe = {"preset": "demo", "epochs": 2, "steps_per_epoch": 2, "patch_shape_dhw": [16, 32, 32]}
    task = {"name": "segmentation", "parameters": {"labels": ["gland"]}}
    common = {"dataset_id": "d", "recipe": recipe, "seed": 1, "modality_map": {"t2w": "t2w"}}
    tensor = common_pb2.Tensor(data_type=common_pb2.DATA_TYPE_FLOAT32, shape=[1, 2], data=bytes(8))
    inline = {"inline": {"layers": [{"layer": "a", "features": tensor}], "groups": ["g"], "case_ids": ["c"]}}
    ref = common_pb2.ObjectRef(uri="s3://fuzz/default/uploads/x", sha256="0" * 64, size_bytes=1)
    compute = mmd_pb2.ComputeRequest(
        x=inline, y={"uploaded": {"object": ref}}, reference={"feature_set_id": "0" * 32}, pairing=1, estimator=4,
        kernel={"family": 1, "bandwidth_rule": 2}, test={"permutations": 9, "seed": 1, "method": 1, "aggregated": True},
        interval_level=0.9, frequencies=256, measures=[1],
    )  # fmt: skip
    study = {"volumes": [{"modality": "t2w", "nifti": b"x"}, {"modality": "adc", "stored": ref}]}
    filled: dict[str, Message] = {
        "CreateJobRequest": finetuning_pb2.CreateJobRequest(
            job_id="j", spec={**common, "kind": 2, "network": 1, "model_id": "m", "task": task, "publish_as": "p"}
        ),
        "CreateCheckRequest": alignment_pb2.CreateCheckRequest(
            check_id="c", spec={**common, "model_id": "m", "task": task, "layers": ["a"], "seeds": 2}
        ),
        "CreateExperimentRequest": experiment_pb2.CreateExperimentRequest(
            experiment_id="e",
            spec={
                "model_ids": ["m"], "dataset_id": "d", "tasks": [task], "seeds": [1, 2], "title": "t",
                "smallest_differences": [{"metric": "gland_dice", "value": 0.1}],
            },
        ),
        "ListJobsRequest": finetuning_pb2.ListJobsRequest(page_size=2, page_token="WyIyMDI2Il0=", states=[1, 2]),
        "ComputeRequest": compute,
        "ComputeBatchRequest": mmd_pb2.ComputeBatchRequest(requests=[compute]),
        "ExtractRequest": features_pb2.ExtractRequest(
            model_id="m", study=study, layers=["a"], pooling=1, input_transform="hidden:t2w", store_as="s",
            store_group="g",
        ),
        "ExtractDatasetRequest": features_pb2.ExtractDatasetRequest(
            model_id="m", dataset_id="d", split=4, initialisation=2, initialisation_seed=3, modality_map={"t2w": "t2w"}
        ),
    }  # fmt: skip
    content = {"sha256": "0" * 64, "size_bytes": 9}
    preprocessing = {
        "modalities": ["t2w"], "spacing_mm": [1, 1, 1], "shape_dhw": [8, 8, 8], "normalisation": "quantile_range",
        "quantiles": [0.1, 0.9], "reference": "adc",
    }  # fmt: skip
    filled |= {
        "CreateDatasetUploadsRequest": imports_pb2.CreateDatasetUploadsRequest(import_id="i", files=[content]),
        "CreateModelUploadsRequest": imports_pb2.CreateModelUploadsRequest(import_id="i", weights=content),
        "CreateUploadRequest": mmd_pb2.CreateUploadRequest(file=content),
        "CreateStudyUploadRequest": features_pb2.CreateStudyUploadRequest(file=content),
        "PublishDatasetRequest": imports_pb2.PublishDatasetRequest(
            import_id="i", dataset_id="d", datalist_sha256="0" * 64
        ),
        "PublishModelRequest": imports_pb2.PublishModelRequest(
            import_id="i", model_id="m", weights_sha256="0" * 64, architecture="profound_conv_micro", objective=2,
            preprocessing=preprocessing, primary_layer="stages.3", source="s",
        ),
    }  # fmt: skip
    reference = {"feature_set_id": "0" * 32, "manifest_sha256": "0" * 64}
    filled |= {
        "CreateMonitorRequest": monitoring_pb2.CreateMonitorRequest(
            monitor_id="m",
            spec={
                "reference": reference, "layer": "a", "descriptive_layers": ["b"], "stratum": "scanner", "alpha": 0.05,
                "seed": 2**63 - 1, "window_rows": 16, "max_silence_hours": 1, "patient_window_days": 1, "title": "t",
                "first_patients": 20,
            },
        ),
        "ListMonitorsRequest": monitoring_pb2.ListMonitorsRequest(page_size=2, page_token="WyIyMDI2Il0=", states=[1]),
        "ReplaceReferenceRequest": monitoring_pb2.ReplaceReferenceRequest(
            monitor_id="m", epoch=1, reference=reference, start=2
        ),
    }  # fmt: skip
    seeds = {}
    for index, (full_name, _) in enumerate(_REQUESTS):
        name = full_name.rsplit(".", 1)[1]
        message = filled[name].SerializeToString(deterministic=True) if name in filled else b"\x0a\x01a"
        seeds[name] = bytes([index]) + message
    return seeds


TARGET = Target(
    run, make_seeds, words=("segmentation", "classification", "hidden:", "s3://fuzz/default/", "demo", "gland")
)
