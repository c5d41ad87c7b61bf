"""Evaluates a program on torch's meta device, which computes shapes but stores no data. Limits the program's cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vfmalign.core.domain.errors import BadCheckpoint
from vfmalign.models.encoder import StateDict
from vfmalign.models.formats.operators import DTYPES, Operator
from vfmalign.models.formats.program_constants import ProgramConstants, get_storage_id
from vfmalign.models.formats.program_graph import Node, ProgramGraph, reject
from vfmalign.models.formats.program_interpreter import ProgramInterpreter

MAX_LIVE_BYTES = 3 * 2**30
"""Maximum bytes of one tensor, and of all intermediate values that exist at the same time. The service has 8 GiB."""
MAX_TOTAL_ELEMENTS = 2**38
"""Maximum number of elements that all operators together read and write."""
MAX_FLOPS = 5 * 10**13
"""Maximum number of operations of all convolutions and matrix products. ViT-B needs 2·10¹¹ for 1024 patches."""
MAX_AXES = 8


class ProgramMeasurement:
    """Single evaluation of a graph whose operators and arguments have been checked.

    Args:
        graph: the graph.
        subject: name of the program in errors.
    """

    def __init__(self, graph: ProgramGraph, subject: str) -> None:
        self._graph, self._subject = graph, subject
        self._interpreter = ProgramInterpreter(graph, subject)
        self._fixed: set[int] = set()
        self._live: Counter[int] = Counter()
        self._live_bytes = 0
        self._constants = ProgramConstants(graph)

    def run(self, state: StateDict) -> dict[str, Tensor]:
        """Evaluates the graph.

        Returns:
            The layers as tensors without data.

        Raises:
            BadCheckpoint: the graph exceeds a limit. Or an operator rejects its arguments, changes a weight, or uses an
                index that is out of range or depends on the image.
        """
        meta, shape = torch.device("meta"), self._graph.input_shape
        if math.prod(shape) * torch.float32.itemsize > MAX_LIVE_BYTES:
            raise reject(f"the program takes an image of {list(shape)}, which is too large", self._subject)
        values = {value: torch.empty_like(state[name], device=meta) for value, name in self._graph.weights}
        values[self._graph.input] = torch.empty(shape, device=meta)
        fixed = [*values.values()]  # kept, so that no other storage gets the identity of a released one
        self._fixed = {get_storage_id(tensor) for tensor in fixed}
        with torch.no_grad(), _DispatchMeter() as meter:
            for number, node in enumerate(self._graph.nodes):
                inputs, outputs = self._interpreter.run_node(number, values, meta)
                changed = meter.take_changed()
                if changed & self._fixed:
                    raise self._reject(node, "changes a weight or the image")
                self._check_tensors(node, inputs, outputs)
                self._check_computation(node, meter)
                if problem := self._constants.add(number, values, changed, meter.take_cost()):
                    raise self._reject(node, problem)
                released = self._interpreter.release(number, values)
                self._check_memory(node, outputs, list(released.values()))
                self._constants.release(released)
        self._constants.check_indices(state, self._subject)
        return {layer: values[value] for layer, value in self._graph.layers}

    def _check_tensors(self, node: Node, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        # Some kernels leave the result for an empty input uninitialised.
        if node[0] != "cat" and any(t.numel() == 0 for t in inputs) and any(t.numel() for t in outputs):
            raise self._reject(node, "makes values from an empty tensor")
        for tensor in outputs:
            if tensor.ndim > MAX_AXES or tensor.dtype not in DTYPES.values() or not tensor.is_meta:
                raise self._reject(node, f"makes a {tensor.dtype} of {tensor.ndim} axes on {tensor.device}")

    def _check_computation(self, node: Node, meter: _DispatchMeter) -> None:
        if meter.largest_bytes > MAX_LIVE_BYTES:
            raise self._reject(node, f"makes a tensor of {meter.largest_bytes >> 20} MiB")
        if meter.elements > MAX_TOTAL_ELEMENTS or meter.flops > MAX_FLOPS:
            raise self._reject(node, "computes more than an encoder may need")

    def _check_memory(self, node: Node, outputs: Sequence[Tensor], released: Sequence[Tensor]) -> None:
        for tensor in outputs:
            storage_id = get_storage_id(tensor)
            if storage_id not in self._fixed and not self._live[storage_id]:
                self._live_bytes += tensor.untyped_storage().nbytes()
            self._live[storage_id] += 1
        if self._live_bytes > MAX_LIVE_BYTES:
            raise self._reject(node, f"needs more than {MAX_LIVE_BYTES >> 20} MiB of memory")
        for tensor in released:
            storage_id = get_storage_id(tensor)
            self._live[storage_id] -= 1
            if storage_id not in self._fixed and not self._live[storage_id]:
                self._live_bytes -= tensor.untyped_storage().nbytes()

    def _reject(self, node: Node, problem: str) -> BadCheckpoint:
        return reject(f"the operator aten.{node[0]}.{node[1]} {problem}", self._subject)


class _DispatchMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measures the cost of the kernels that operators call on the meta device.

    Attributes:
        elements: number of elements that the kernels read and wrote.
        flops: number of operations of convolutions and matrix products.
        largest_bytes: bytes of the largest tensor, with repeated (expanded) elements counted individually.
    """

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # imported here: only programs need it

        super().__init__()  # type: ignore[no-untyped-call]
        self._formulas = flop_registry
        self.elements = self.flops = self.largest_bytes = 0
        self._changed: set[int] = set()
        self._taken_cost = 0

    def take_changed(self) -> set[int]:
        """Returns the storages that were changed since the last call of this method."""
        changed, self._changed = self._changed, set()
        return changed

    def take_cost(self) -> int:
        """Returns the number of elements plus the number of operations that were counted since the last call."""
        before, self._taken_cost = self._taken_cost, self.elements + self.flops
        return self._taken_cost - before

    def __torch_dispatch__(
        self, func: Operator, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        output = func(*args, **(kwargs or {}))
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.is_write and func is not torch.ops.aten.detach_.default:  # which changes no value
                self._changed |= {get_storage_id(tensor) for tensor in _list_tensors(value)}
        tensors = _list_tensors((args, kwargs, output))
        self.elements += sum(tensor.numel() for tensor in tensors)
        self.largest_bytes = max([self.largest_bytes, *(t.numel() * t.element_size() for t in tensors)])
        if formula := self._formulas.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        return output


def _list_tensors(values: object) -> list[Tensor]:
    return [item for item in tree_leaves(values) if isinstance(item, Tensor)]
