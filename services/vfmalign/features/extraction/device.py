"""Selects and names the device, and measures its peak memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime import metrics

T = TypeVar("T")


def choose_device(name: str) -> torch.device:
    """Returns the device for the setting `auto` (CUDA if available, else CPU), `cpu`, `cuda` or `cuda:<index>`.

    Raises:
        BadOption: this machine does not have the device.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if available else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind == "cuda" and (index or "0").isdecimal() and int(index or 0) < available:
        return torch.device("cuda", int(index or 0))
    raise BadOption(
        f"this machine has no device {name[:32]!r} ({available} CUDA devices)",
        field="VFMALIGN_FEATURES__DEVICE",
        remedy="choose auto, cpu or cuda:<index>",
    )


def describe_device(device: torch.device) -> str:
    """Returns `cpu` or `cuda:<index> <name>`."""
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


class MemoryMeter:
    """Runs functions on a device and records the peak memory of the device in bytes (0 on the CPU).

    Call this method only from the thread that owns the device, because torch has one peak counter per device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.peak_bytes = 0

    def run(self, function: Callable[[], T]) -> T:
        """Runs the function and records the peak memory."""
        if self._device.type != "cuda":
            return function()
        torch.cuda.reset_peak_memory_stats(self._device)
        try:
            return function()
        finally:
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated(self._device))
            metrics.gpu_memory_used_bytes.labels(str(self._device)).set(torch.cuda.memory_allocated(self._device))
