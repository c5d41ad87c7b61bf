"""Settings of a training process."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from vfmalign.core.settings import LogSettings, Settings, StoreSettings


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
