"""Finds the values of a program that depend only on its weights. Checks those of these values that are indices.

On a GPU, an index out of range triggers an assertion in the kernel. The process can then no longer use the device. An
index must therefore not depend on the image. The check of a program runs only the integer arithmetic that computes
indices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from vfmalign.models.encoder import StateDict
from vfmalign.models.formats.operators import INDEX_ARGUMENTS
from vfmalign.models.formats.program_graph import Node, ProgramGraph, reject
from vfmalign.models.formats.program_interpreter import ProgramInterpreter, list_argument_names

MAX_INDEX_COST = 2**28
"""Maximum number of elements plus operations for computing all indices."""
_INDEX_TYPES = {torch.int32, torch.int64}
_FROM_THE_END = {"index"}
"""Operators that interpret a negative index as a position from the end."""


@dataclass(frozen=True)
class _IndexUse:
    """Use of an operator that selects elements of a tensor by index.

    Attributes:
        node: the operator.
        shape: shape of the tensor.
        indices: pairs of an axis and the name of the value that is the index along this axis.
    """

    node: Node
    shape: torch.Size
    indices: Sequence[tuple[int, str]]


class ProgramConstants:
    """Tracks which values are constant while a graph is evaluated on the meta device."""

    def __init__(self, graph: ProgramGraph) -> None:
        self._graph = graph
        self._constants = {value for value, _ in graph.weights}
        # The node that makes each constant, even if the constant is changed or released afterwards.
        self._producers: dict[str, int] = {}
        self._names_by_storage: defaultdict[int, set[str]] = defaultdict(set)
        self._costs: list[int] = []
        self._uses: list[_IndexUse] = []

    def add(self, number: int, values: Mapping[str, Tensor], changed: set[int], cost: int) -> str:
        """Records one evaluated node.

        Args:
            number: index of the node in the graph.
            values: all values that exist after the node.
            changed: storages that the node changed. The content of these storages is no longer constant.
            cost: number of elements plus operations of the node.

        Returns:
            What is wrong with the node's indices; empty if they are correct.
        """
        _, _, arguments, results = node = self._graph.nodes[number]
        self._costs.append(cost)
        for storage_id in changed:
            self._constants -= self._names_by_storage.pop(storage_id, set())
        names = [name for _, argument in arguments for name in list_argument_names(argument)]
        if not changed and self._constants.issuperset(names):
            for name in filter(None, results):
                self._constants.add(name)
                self._producers[name] = number
                self._names_by_storage[get_storage_id(values[name])].add(name)
        if use := _find_index_use(node, values):
            if any(values[index].dtype not in _INDEX_TYPES for _, index in use.indices):
                return "takes an index that is not an integer"
            if not self._constants.issuperset(index for _, index in use.indices):
                return "takes an index that depends on the image"
            self._uses.append(use)
        return ""

    def release(self, values: Mapping[str, Tensor]) -> None:
        """Removes the records of storages whose values are no longer needed."""
        for name, tensor in values.items():
            self._names_by_storage[get_storage_id(tensor)].discard(name)

    def check_indices(self, state: StateDict, subject: str) -> None:
        """Computes all indices and checks that they are in range.

        Raises:
            BadCheckpoint: an index is out of range, or its computation exceeds the limit.
        """
        indices = self._compute_indices(state, subject)
        for use in self._uses:
            for axis, name in use.indices:
                size, index = use.shape[axis], indices[name]
                lowest = -size if use.node[0] in _FROM_THE_END else 0
                if index.min() < lowest or index.max() >= size:
                    operator = f"aten.{use.node[0]}.{use.node[1]}"
                    raise reject(f"the operator {operator} takes an index outside of its {size} elements", subject)

    def _compute_indices(self, state: StateDict, subject: str) -> dict[str, Tensor]:
        names = sorted({name for use in self._uses for _, name in use.indices})
        needed, pending = set[int](), [*names]
        while pending:
            producer = self._producers.get(pending.pop())  # None for weights
            if producer is not None and producer not in needed:
                needed.add(producer)
                arguments = self._graph.nodes[producer][2]
                pending += [name for _, argument in arguments for name in list_argument_names(argument)]
        if sum(self._costs[number] for number in needed) > MAX_INDEX_COST:
            raise reject("computing the indices of the graph takes too long", subject)
        nodes = tuple(self._graph.nodes[number] for number in sorted(needed))
        part = self._graph.model_copy(update={"nodes": nodes, "layers": tuple((name, name) for name in names)})
        weights = {value: state[name] for value, name in self._graph.weights}
        with torch.inference_mode():
            return ProgramInterpreter(part, subject).run(weights, torch.device("cpu"))


def get_storage_id(tensor: Tensor) -> int:
    """Returns the identity of a tensor's storage. All views of a tensor have the same storage."""
    return int(tensor.untyped_storage()._cdata)


def _find_index_use(node: Node, values: Mapping[str, Tensor]) -> _IndexUse | None:
    operator, overload, pairs, _ = node
    if f"{operator}.{overload}" not in INDEX_ARGUMENTS:
        return None
    source_name, index_name = INDEX_ARGUMENTS[f"{operator}.{overload}"]
    arguments = dict(pairs)
    (source,) = list_argument_names(arguments[source_name])
    kind, content = cast(tuple[str, Any], arguments[index_name])
    if kind in {"tensors", "optional"}:  # one index for each axis, or none
        items = [[name] if kind == "tensors" else list_argument_names(name) for name in content]
        indices = [(axis, name) for axis, names in enumerate(items) for name in names]
    else:
        dim = cast(int, arguments["dim"][1]) if "dim" in arguments else 0
        indices = [(dim, content)]
    return _IndexUse(node, values[source].shape, indices)
