"""Settings of the feature service."""

from __future__ import annotations

from pydantic import BaseModel, Field

from vfmalign.core.runtime.settings import ServiceSettings


class FeaturesOptions(BaseModel, frozen=True):
    """`VFMALIGN_FEATURES__*`: device, batches and queues."""

    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="device: auto (CUDA if available, else cpu), cpu, cuda or cuda:<index>",
    )
    model_cache_bytes: int = Field(
        default=4 * 2**30,
        ge=2**20,
        description="bytes of weights kept on the device; least recently used models are evicted",
    )
    batch_size: int = Field(default=4, ge=1, le=256, description="studies per forward pass on an accelerator")
    part_cases: int = Field(
        default=16,
        ge=1,
        le=65_536,
        description="cases per stored part of a feature set: the most that a killed process loses",
    )
    readers: int = Field(default=2, ge=1, le=64, description="threads that read and prepare studies")
    queue_size: int = Field(default=32, ge=1, le=65_536, description="Extract calls that may run or wait")
    bulk_queue_size: int = Field(default=16, ge=1, le=65_536, description="ExtractDataset calls that may wait")
    import_queue_size: int = Field(
        default=16, ge=1, le=65_536, description="PublishDataset and PublishModel calls that may wait"
    )
    max_weights_bytes: int = Field(
        default=2**30,
        ge=2**20,
        le=5 * 2**30,
        description="largest weights that PublishModel accepts; checking them takes three times the memory",
    )
    max_stored_bytes: int = Field(
        default=2**40,
        ge=0,
        le=2**60,
        description="bytes of one tenant's objects beyond which uploads are refused; 0 for no limit",
    )
    upload_url_s: int = Field(
        default=3600, ge=1, le=7 * 86_400, description="seconds for which the URL of an upload is valid"
    )
    upload_age_s: int = Field(
        default=7 * 86_400,
        ge=3600,
        le=366 * 86_400,
        description="age at which uploads that nobody published are deleted, in seconds",
    )


class FeaturesSettings(ServiceSettings):
    """All settings of the feature service."""

    features: FeaturesOptions = FeaturesOptions()
