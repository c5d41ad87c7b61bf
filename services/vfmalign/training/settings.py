"""Settings and job spec of a training process, read before torch is imported, which takes seconds."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from vfmalign.core.domain.artifacts import TrainingSpec, job_key
from vfmalign.core.domain.errors import BadOption, NotFound, PreconditionFailed
from vfmalign.core.runtime.settings import LogSettings, Settings, StoreSettings
from vfmalign.core.storage.object_store import ObjectStore


class TrainingOptions(BaseModel, frozen=True):
    """`VFMALIGN_TRAINING__*`: where and how a job computes."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where to train; auto: CUDA if there is")
    # A number and not "all cores": sums depend on it in the last bit, and one seed shall give one result.
    threads: int = Field(
        default=2, ge=1, le=256, description="torch's CPU threads; a seed repeats a run bit for bit with one number"
    )
    workers: int = Field(default=4, ge=1, le=64, description="cases that are read and prepared at once")


class TrainingSettings(Settings):
    """All a training process reads from its environment."""

    store: StoreSettings = Field(default_factory=StoreSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    training: TrainingOptions = TrainingOptions()


def read_spec(store: ObjectStore, uri: str) -> TrainingSpec:
    """Reads a job's spec and checks that it lies at its own address.

    Raises:
        BadOption: no such spec, or one that is not valid.
    """
    try:
        key = store.key(uri)
        spec = store.read(key, TrainingSpec)
    except NotFound as error:
        raise BadOption("no job spec is stored here", subject=uri, remedy="create the job first") from error
    except PreconditionFailed as error:
        raise BadOption(error.message, subject=uri, remedy="write a spec of this version") from error
    if key != job_key(spec.id, "spec.json"):
        raise BadOption(f"the spec of job {spec.id} lies at another job's address", subject=uri, remedy="move it")
    return spec
