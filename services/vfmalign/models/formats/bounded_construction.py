"""Limits the size of a network that is built from untrusted arguments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from vfmalign.core.domain.errors import BadCheckpoint

MAX_MODULES = 5_000
MAX_ELEMENTS = 2**31
"""Maximum number of elements of all parameters and buffers together: 8 GiB as float32."""


class _BoundedRanges(TorchFunctionMode):
    """Limits the length of `torch.linspace` results. Creates them on the CPU if the network reads them."""

    def __init__(self, *, readable: bool) -> None:
        super().__init__()
        self._options = {"device": "cpu"} if readable else {}

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        if func is not torch.linspace:
            return func(*args, **(kwargs or {}))
        values = func(*args, **{**(kwargs or {}), **self._options})
        _check_number("modules", len(values), MAX_MODULES)  # SwinUNETR draws a rate for each of its blocks
        return values


@contextmanager
def bounded_construction(*, readable_ranges: bool = False) -> Iterator[None]:
    """Rejects a network once it has registered too many submodules or weights.

    Args:
        readable_ranges: whether the CPU, instead of the meta device, computes the values of `torch.linspace`. SwinUNETR
            needs these values: its constructor reads the drop rates, which fails on the meta device. Everything else
            stays on the meta device: SwinUNETR's position tables grow with the sixth power of the window. On the CPU,
            they would take gigabytes before they are registered.

    Raises:
        BadCheckpoint: the network exceeds `MAX_MODULES` or `MAX_ELEMENTS`.
    """
    thread, counts = threading.get_ident(), {"modules": 0, "elements": 0}

    def count(what: str, number: int, limit: int) -> None:
        if threading.get_ident() != thread:  # the hooks of torch are global
            return
        counts[what] += number
        _check_number(what, counts[what], limit)

    def count_module(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
        count("modules", 1, MAX_MODULES)

    def count_tensor(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        count("elements", 0 if tensor is None else tensor.numel(), MAX_ELEMENTS)

    with ExitStack() as hooks:
        handles: list[RemovableHandle] = [
            registration.register_module_module_registration_hook(count_module),
            registration.register_module_parameter_registration_hook(count_tensor),
            registration.register_module_buffer_registration_hook(count_tensor),
        ]
        for handle in handles:
            hooks.callback(handle.remove)
        hooks.enter_context(_BoundedRanges(readable=readable_ranges))
        yield


def _check_number(what: str, number: int, limit: int) -> None:
    if number > limit:
        raise BadCheckpoint(
            f"the network has more than {limit} {what}",
            subject="architecture",
            remedy="import a network of a usual size",
        )
