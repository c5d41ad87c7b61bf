"""Checks the operators, the weights and the cost of a stored program before the program runs.

A program is checked when it is imported. It is checked again whenever it is loaded, because someone may have changed
the stored program. The check runs only the integer arithmetic that computes indices. All other operators are evaluated
on torch's meta device, which computes shapes but stores no data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vfmalign.models.encoder import StateDict
from vfmalign.models.formats.hooked_encoder import as_map, get_stride
from vfmalign.models.formats.operators import DTYPES, check_arguments, find_operator
from vfmalign.models.formats.program_graph import PROGRAM, ProgramGraph, parse_graph, reject
from vfmalign.models.formats.program_interpreter import list_argument_names
from vfmalign.models.formats.program_measurement import MAX_AXES, ProgramMeasurement

# Types that an import writes: real numbers become float32.
_WEIGHT_TYPES = {torch.float32} | {dtype for dtype in DTYPES.values() if not dtype.is_floating_point}


def check_program(state: StateDict, subject: str) -> ProgramGraph:
    """Checks a stored program.

    Args:
        state: the program's weights by name, and its graph under the name `program`.
        subject: name of the program in errors.

    Returns:
        The graph. The operators of the graph may run with these weights.

    Raises:
        BadCheckpoint: the graph calls an operator that is not allowed, changes a weight, does not run, exceeds a limit,
            or does not match its weights or its declared layers.
    """
    graph = parse_graph(state, subject)
    channels, strides = measure_layers(graph, state, subject)
    if graph.channels != channels or dict(graph.strides) != strides:
        raise reject("the graph declares other channels or strides than its layers have", subject)
    return graph


def measure_layers(
    graph: ProgramGraph, state: StateDict, subject: str
) -> tuple[dict[str, int], dict[str, tuple[int, int, int]]]:
    """Checks a graph as `check_program` does, but does not check the declared channels and strides of its layers.

    Returns:
        The number of channels of all layers, and the strides of the layers that are maps.
    """
    _check_weights(graph, state, subject)
    _check_nodes(graph, subject)
    layers = ProgramMeasurement(graph, subject).run(state)
    for name, output in layers.items():
        if not isinstance(output, Tensor) or not output.numel() or output.shape[0] != graph.input_shape[0]:
            raise reject(f"layer {name[:64]!r} does not contain features of every study of the batch", subject)
    channels = {name: as_map(output, name).shape[1] for name, output in layers.items()}
    strides = {name: get_stride(output, graph.input_shape[2:]) for name, output in layers.items()}
    return channels, {name: stride for name, stride in strides.items() if stride is not None}


def _check_weights(graph: ProgramGraph, state: StateDict, subject: str) -> None:
    """Checks that the graph uses exactly these weights, and that an import can have written their types."""
    names = [name for _, name in graph.weights]
    if len({*names}) != len(names) or {*names} != {*state} - {PROGRAM}:
        raise reject("the weights do not match the names in the graph", subject)
    for name in names:
        tensor = state[name]
        if tensor.dtype not in _WEIGHT_TYPES or tensor.ndim > MAX_AXES:
            raise reject(f"the weight {name[:64]!r} has type {tensor.dtype} and {tensor.ndim} axes", subject)
    if not any(state[name].is_floating_point() for name in names):
        raise reject("the program has no weights", subject)


def _check_nodes(graph: ProgramGraph, subject: str) -> None:
    """Checks all operators and their arguments. Each value must be computed once, and before it is used."""
    known = {graph.input, *(value for value, _ in graph.weights)}
    if len(known) != len(graph.weights) + 1:
        raise reject("two values of the graph have the same name", subject)
    made: set[str] = set()
    for operator, overload, arguments, results in graph.nodes:
        function = find_operator(operator, overload, subject)
        check_arguments(function, arguments, subject)
        names = [name for _, argument in arguments for name in list_argument_names(argument)]
        if missing := [name for name in names if name not in known]:
            raise reject(f"{function} takes {missing[0][:64]!r}, which no earlier operator makes", subject)
        for name in filter(None, results):
            if name in known:
                raise reject(f"the value {name[:64]!r} is made twice", subject)
            known.add(name)
            made.add(name)
    if unknown := [value for _, value in graph.layers if value not in made]:
        raise reject(f"no operator makes the layer {unknown[0][:64]!r}", subject)
    if len(dict(graph.layers)) != len(graph.layers):
        raise reject("a layer is named twice", subject)
