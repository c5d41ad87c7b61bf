"""Typed Python client of the public API. The client takes numpy arrays, returns records and does not need torch.

    from vfmalign.client import CheckSpec, Client, ComputeOptions, Task

    with Client(mmd_address="mmd:8001", finetuning_address="finetuning:8001") as client:
        response = client.mmd.compute(before, after, ComputeOptions(pairing="paired"), reference=train)
        print(response.layers[0].standardised.mmd2)

        task = Task.parse("segmentation:label=hippocampus,structure=anterior")
        client.checks.create("c1", CheckSpec(model_id="my-model", dataset_id="my-data", task=task))
        check = client.checks.wait("c1")
        print(check.state, check.result)

`AsyncClient` offers the same methods as coroutines. Every message of the API is a frozen record of
`vfmalign.client.messages`. Failed calls raise the errors of `vfmalign.core.domain.errors`. The constructor of a record
raises `pydantic.ValidationError` for invalid values. `CheckSpec.from_fields(…)` raises `BadOption` instead.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vfmalign.client.async_client import AsyncClient
    from vfmalign.client.messages.checks import CheckSpec
    from vfmalign.client.messages.common import ObservedStudy
    from vfmalign.client.messages.experiments import ExperimentSpec
    from vfmalign.client.messages.features import PacsReference, StudyObservation
    from vfmalign.client.messages.jobs import JobSpec, Recipe
    from vfmalign.client.messages.mmd import ComputeOptions, Kernel, TestOptions
    from vfmalign.client.messages.monitors import FeatureOrigin, FeatureSetRows, MonitorReference, MonitorSpec
    from vfmalign.client.messages.tasks import Task
    from vfmalign.client.monitors import Observation
    from vfmalign.client.samples import LabelledFeatures
    from vfmalign.client.sync_client import Client

__all__ = [
    "AsyncClient",
    "CheckSpec",
    "Client",
    "ComputeOptions",
    "ExperimentSpec",
    "FeatureOrigin",
    "FeatureSetRows",
    "JobSpec",
    "Kernel",
    "LabelledFeatures",
    "MonitorReference",
    "MonitorSpec",
    "Observation",
    "ObservedStudy",
    "PacsReference",
    "Recipe",
    "StudyObservation",
    "Task",
    "TestOptions",
]

_MODULES = {
    "AsyncClient": "vfmalign.client.async_client",
    "CheckSpec": "vfmalign.client.messages.checks",
    "Client": "vfmalign.client.sync_client",
    "ComputeOptions": "vfmalign.client.messages.mmd",
    "ExperimentSpec": "vfmalign.client.messages.experiments",
    "FeatureOrigin": "vfmalign.client.messages.monitors",
    "FeatureSetRows": "vfmalign.client.messages.monitors",
    "JobSpec": "vfmalign.client.messages.jobs",
    "Kernel": "vfmalign.client.messages.mmd",
    "LabelledFeatures": "vfmalign.client.samples",
    "MonitorReference": "vfmalign.client.messages.monitors",
    "MonitorSpec": "vfmalign.client.messages.monitors",
    "Observation": "vfmalign.client.monitors",
    "ObservedStudy": "vfmalign.client.messages.common",
    "PacsReference": "vfmalign.client.messages.features",
    "Recipe": "vfmalign.client.messages.jobs",
    "StudyObservation": "vfmalign.client.messages.features",
    "Task": "vfmalign.client.messages.tasks",
    "TestOptions": "vfmalign.client.messages.mmd",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line imports `client.messages` and must start without gRPC.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
