"""Runs the operators of a program's graph in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from vfmalign.core.domain.errors import VfmalignError
from vfmalign.models.formats.operators import DTYPES, FORMATS, Operator, find_operator
from vfmalign.models.formats.program_graph import Argument, Node, ProgramGraph, reject


class ProgramInterpreter:
    """Interpreter for a graph in which all operators are allowed.

    Args:
        graph: the graph.
        subject: name of the program in errors.

    Raises:
        BadCheckpoint: an operator is not allowed.
    """

    def __init__(self, graph: ProgramGraph, subject: str) -> None:
        self._graph, self._subject = graph, subject
        self._operators = [find_operator(operator, overload, subject) for operator, overload, _, _ in graph.nodes]
        self._released = _list_released(graph)

    def run(self, values: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Runs the whole graph.

        Args:
            values: maps names of the graph to the image and the weights.
            device: device on which new tensors are created.

        Returns:
            The layers.

        Raises:
            BadCheckpoint: an operator rejects its arguments.
        """
        current = dict(values)
        for number in range(len(self._graph.nodes)):
            self.run_node(number, current, device)
            self.release(number, current)
        return {layer: current[value] for layer, value in self._graph.layers}

    def run_node(
        self, number: int, values: dict[str, Tensor], device: torch.device
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Runs one operator and adds its results to `values`. Returns the operator's input and output tensors."""
        _, _, encoded, results = node = self._graph.nodes[number]
        arguments = {name: _decode(argument, values) for name, argument in encoded}
        inputs = _list_tensors(list(arguments.values()))
        if any(argument.name == "device" for argument in self._operators[number]._schema.arguments):
            arguments["device"] = device  # without it, new tensors would lie on the CPU
        outputs = self._call(node, self._operators[number], arguments)
        named = {name: output for name, output in zip(results, outputs, strict=False) if name}
        values |= named
        return inputs, list(named.values())

    def release(self, number: int, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Removes and returns the values that no later operator uses."""
        return {name: values.pop(name) for name in self._released[number]}

    def _call(self, node: Node, function: Operator, arguments: dict[str, object]) -> Sequence[Tensor]:
        positional, named = _bind(function, arguments)
        try:
            output = function(*positional, **named)
        except (VfmalignError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # an operator may raise any type on arguments that it rejects
            problem = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise reject(f"the program does not run: {function}: {problem}", self._subject) from error
        outputs = [output] if isinstance(output, Tensor) else output
        if not isinstance(outputs, list | tuple) or not all(
            isinstance(item, Tensor) for item, name in zip(outputs, node[3], strict=False) if name
        ):
            raise reject(f"{function} returns something other than tensors", self._subject)
        if len(outputs) < len(node[3]):
            raise reject(f"{function} returns {len(outputs)} tensors instead of {len(node[3])}", self._subject)
        return outputs


def list_argument_names(argument: Argument) -> list[str]:
    """Returns the names of the values to which an argument refers."""
    kind, content = argument
    if kind == "tensor":
        return [cast(str, content)]
    if kind == "tensors":
        return list(cast(list[str], content))
    if kind == "optional":
        return [name for item in cast(list[Argument], content) for name in list_argument_names(item)]
    return []


def _list_released(graph: ProgramGraph) -> list[list[str]]:
    """Returns, for each node, those of its inputs and results that no later node needs."""
    pending = {value for _, value in graph.layers}
    released: list[list[str]] = []
    for _, _, arguments, results in reversed(graph.nodes):
        names = {name for _, argument in arguments for name in list_argument_names(argument)} | {*filter(None, results)}
        released.append(sorted(names - pending))
        pending |= names
    return released[::-1]


def _decode(argument: Argument, values: Mapping[str, Tensor]) -> object:
    kind, content = cast(tuple[str, Any], argument)
    match kind:
        case "tensor":
            return values[content]
        case "tensors":
            return [values[name] for name in content]
        case "optional":
            return [_decode(item, values) for item in content]
        case "number":
            return float(content)
        case "dtype":
            return DTYPES[content]
        case "format":
            return FORMATS[content]
    return content


def _list_tensors(arguments: Sequence[object]) -> list[Tensor]:
    tensors: list[Tensor] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            tensors.append(argument)
        elif isinstance(argument, list):
            tensors += _list_tensors(argument)
    return tensors


def _bind(function: Operator, arguments: dict[str, object]) -> tuple[list[object], dict[str, object]]:
    """Splits the arguments of an operator into positional and keyword arguments.

    Passes as many arguments as possible by position, because not every operator accepts `self` by name.
    """
    positional: list[object] = []
    for argument in function._schema.arguments:
        if argument.kwarg_only or argument.name not in arguments:
            break
        positional.append(arguments.pop(argument.name))
    return positional, arguments
