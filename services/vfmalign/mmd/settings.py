"""Settings of the MMD service: what it reads from the environment, and the device that follows from it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, Field

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime.settings import ServiceSettings
from vfmalign.mmd.comparison.options import ComputeConfig


class MmdOptions(BaseModel, frozen=True):
    """`VFMALIGN_MMD__*`: where and how comparisons run."""

    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:<index>"
    )
    precision: Literal["fast", "high", "exact"] = Field(
        default="high",
        description="least precision where a request names none: fast (bfloat16, on CUDA only), high (float32) or "
        "exact (float64)",
    )
    backend: Literal["auto", "torch", "triton"] = Field(
        default="auto", description="what sums kernel matrices: auto takes triton on CUDA where it runs"
    )
    memory_mib: int = Field(
        default=4096, ge=16, le=4_194_304, description="memory for one comparison, in MiB; more is refused"
    )
    queue_size: int = Field(default=32, ge=1, le=10_000, description="comparisons that may wait; more are refused")
    cache_mib: int = Field(
        default=512, ge=0, le=4_194_304, description="memory for sets that pairs of one batch share, in MiB"
    )


class MmdSettings(ServiceSettings):
    """Everything the MMD service reads."""

    mmd: MmdOptions = MmdOptions()


def to_compute_config(options: MmdOptions) -> ComputeConfig:
    """The engine these options ask for.

    Raises:
        BadOption: a CUDA device is asked for and not there.
    """
    return ComputeConfig(
        device=_device(options.device),
        precision=options.precision,
        backend=options.backend,
        memory_bytes=options.memory_mib * 2**20,
    )


def _device(name: str) -> torch.device:
    """The device by its name; `auto` is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadOption(
            f"`{name}` is not there: torch sees {torch.cuda.device_count()} CUDA devices",
            subject="VFMALIGN_MMD__DEVICE",
            remedy="set it to auto or cpu, or make the device visible",
        )
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device
