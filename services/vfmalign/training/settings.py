"""Settings and job spec of a training process. This module does not import torch, because the import takes seconds."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from vfmalign.core.domain.errors import BadOption, NotFound, PreconditionFailed
from vfmalign.core.domain.jobs import TrainingSpec
from vfmalign.core.runtime.settings import LogSettings, Settings, StoreSettings
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.store.object_store import ObjectStore


class TrainingOptions(BaseModel, frozen=True):
    """`VFMALIGN_TRAINING__*`: device and parallelism of a job."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="device to train on; auto selects CUDA if available"
    )
    # A fixed number rather than all cores: sums depend on it in the last bit, and a seed must determine the result.
    threads: int = Field(
        default=2,
        ge=1,
        le=256,
        description="number of CPU threads of torch; runs with the same seed and number of threads are bit-identical",
    )
    workers: int = Field(default=4, ge=1, le=64, description="number of cases that are read and prepared concurrently")


class TrainingSettings(Settings):
    """All settings of a training process."""

    store: StoreSettings = Field(default_factory=StoreSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    training: TrainingOptions = TrainingOptions()


def read_spec(store: ObjectStore, uri: str) -> TrainingSpec:
    """Reads a job's spec and checks that it is stored at this job's address.

    Raises:
        BadOption: no valid spec is stored at this address.
    """
    try:
        key = store.key(uri)
        spec = store.read(key, TrainingSpec)
    except NotFound as error:
        raise BadOption("no job spec is stored at this URI", subject=uri, remedy="create the job first") from error
    except PreconditionFailed as error:
        raise BadOption(error.message, subject=uri, remedy="write a spec of this version") from error
    if key != job_key(spec.job_id, "spec.json"):
        raise BadOption(
            f"the spec of job {spec.job_id} is stored at another job's address", subject=uri, remedy="move it"
        )
    return spec
