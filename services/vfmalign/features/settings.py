"""Settings of the feature service."""

from __future__ import annotations

from pydantic import BaseModel, Field

from vfmalign.core.runtime.settings import ServiceSettings


class FeaturesOptions(BaseModel, frozen=True):
    """`VFMALIGN_FEATURES__*`: where and how features are computed."""

    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="device that computes: auto (CUDA where there is one), cpu, cuda or cuda:<index>",
    )
    model_cache_bytes: int = Field(
        default=4 * 2**30, ge=2**20, description="weights kept on the device, in bytes; least recently used go first"
    )
    batch_size: int = Field(default=4, ge=1, le=256, description="studies per forward pass on an accelerator")
    part_cases: int = Field(
        default=16, ge=1, le=65_536, description="cases per stored part of a feature set: what a kill loses at most"
    )
    readers: int = Field(default=2, ge=1, le=64, description="threads that read and prepare studies beside the encoder")
    queue_size: int = Field(default=32, ge=1, le=65_536, description="Extract calls that may wait for the device")
    bulk_queue_size: int = Field(
        default=16, ge=1, le=65_536, description="ExtractDataset calls that may wait their turn"
    )


class FeaturesSettings(ServiceSettings):
    """All settings of the feature service."""

    features: FeaturesOptions = FeaturesOptions()
