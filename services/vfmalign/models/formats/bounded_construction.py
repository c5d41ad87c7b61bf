"""Limit the size of a network while it is built from arguments that a stranger may have chosen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as registration

from vfmalign.core.domain.errors import BadCheckpoint

MAX_MODULES = 5_000
MAX_ELEMENTS = 2**31
"""Elements of all parameters and buffers: 8 GiB as float32."""
MAX_CPU_ELEMENTS = 2**27
"""The same for a network that cannot be described on the meta device and takes its memory for a moment: 512 MiB."""


@contextmanager
def bounded_construction(max_elements: int) -> Iterator[None]:
    """Reject a network as soon as it registers too many submodules or weights.

    A parameter is registered after its memory is reserved and before it is filled, so that even a network on the CPU is
    rejected before it takes memory.

    Args:
        max_elements: limit of all parameters and buffers together.

    Raises:
        BadCheckpoint: the network exceeds `MAX_MODULES` or `max_elements`.
    """
    thread, counts = threading.get_ident(), {"modules": 0, "elements": 0}

    def count(what: str, number: int, limit: int) -> None:
        if threading.get_ident() != thread:  # the hooks of torch are global
            return
        counts[what] += number
        if counts[what] > limit:
            raise BadCheckpoint(
                f"the network has more than {limit} {what}",
                subject="architecture",
                remedy="import a network of a usual size",
            )

    def count_module(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
        count("modules", 1, MAX_MODULES)

    def count_tensor(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        count("elements", 0 if tensor is None else tensor.numel(), max_elements)

    with ExitStack() as hooks:
        handles: list[Any] = [
            registration.register_module_module_registration_hook(count_module),
            registration.register_module_parameter_registration_hook(count_tensor),
            registration.register_module_buffer_registration_hook(count_tensor),
        ]
        for handle in handles:
            hooks.callback(handle.remove)
        yield
