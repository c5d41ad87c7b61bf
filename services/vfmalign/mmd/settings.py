"""Settings of the MMD service, and their conversion to a compute configuration."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, Field

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime.settings import OptionalStoreSettings, ServiceSettings
from vfmalign.mmd.engine.compute_config import ComputeConfig


class MmdOptions(BaseModel, frozen=True):
    """`VFMALIGN_MMD__*`: device, precision and limits of comparisons."""

    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:<index>"
    )
    precision: Literal["fast", "high", "exact"] = Field(
        default="high",
        description="minimum precision if a request sets none: fast (bfloat16, on CUDA only), high (float32) or "
        "exact (float64)",
    )
    backend: Literal["auto", "torch", "triton"] = Field(
        default="auto", description="backend that sums kernel matrices; auto selects torch on every device"
    )
    memory_mib: int = Field(default=4096, ge=16, le=4_194_304, description="memory limit of one comparison, in MiB")
    queue_size: int = Field(
        default=32,
        ge=1,
        le=10_000,
        description="maximum number of waiting comparisons, for short and long ones separately; beyond it, one "
        "comparison of the tenant with the most is rejected",
    )
    cache_mib: int = Field(
        default=512, ge=0, le=4_194_304, description="memory for samples that several pairs of a batch use, in MiB"
    )
    max_uploaded_bytes: int = Field(
        default=64 * 2**30,
        ge=0,
        le=2**60,
        description="maximum bytes of one tenant's uploads; further uploads are rejected; 0 for no limit",
    )
    upload_url_s: int = Field(default=3600, ge=1, le=7 * 86_400, description="seconds for which an upload URL is valid")
    upload_age_s: int = Field(
        default=86_400, ge=3600, le=366 * 86_400, description="age after which an upload is deleted, in seconds"
    )


class MmdSettings(ServiceSettings):
    """All settings of the MMD service."""

    store: OptionalStoreSettings = Field(default_factory=OptionalStoreSettings)
    mmd: MmdOptions = MmdOptions()


def to_compute_config(options: MmdOptions) -> ComputeConfig:
    """Converts the options to a compute configuration.

    Raises:
        BadOption: the CUDA device does not exist.
    """
    return ComputeConfig(
        device=_device(options.device),
        precision=options.precision,
        backend=options.backend,
        memory_bytes=options.memory_mib * 2**20,
    )


def _device(name: str) -> torch.device:
    """Returns the device with a name. For `auto`, this is CUDA if available."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadOption(
            f"`{name}` does not exist: torch finds {torch.cuda.device_count()} CUDA devices",
            subject="VFMALIGN_MMD__DEVICE",
            remedy="set it to auto or cpu, or make the device visible",
        )
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device
