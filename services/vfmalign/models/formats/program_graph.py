"""Stored form of an exported program: a graph of operators as JSON. Every part of the graph has a size limit.

The JSON text is stored as a tensor of bytes next to the weights. One safetensors file therefore contains the whole
model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StringConstraints, ValidationError
from torch import Tensor

from vfmalign.core.domain.errors import BadCheckpoint
from vfmalign.core.domain.models import MAX_LAYER_CHANNELS, LayerName
from vfmalign.core.domain.record import Record
from vfmalign.models.encoder import StateDict

PROGRAM = "program"
"""Name of the tensor with the graph's JSON text."""
MAX_GRAPH_BYTES = 8 * 2**20
MAX_NODES = 10_000
MAX_WEIGHTS = 20_000
_MAX_LIST = 1024
_MAX_INT = 2**31

Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]
ResultName = Annotated[str, StringConstraints(max_length=512)]
Side = Annotated[int, Field(ge=1, le=2**20)]
Shape = tuple[Side, Side, Side, Side, Side]
# Slices without an end are exported with an end of 2^63 − 1.
Int = Annotated[StrictInt, Field(ge=-_MAX_INT, le=_MAX_INT)] | Literal[9223372036854775807]
Scalar = StrictBool | Int | Annotated[StrictFloat, Field(allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(max_length=1024)]
Value = Scalar | Text | Annotated[list[Scalar], Field(max_length=_MAX_LIST)] | None
TensorArgument = tuple[Literal["tensor"], Name]
ValueArgument = tuple[Literal["value"], Value]
Argument = (
    TensorArgument
    | ValueArgument
    | tuple[Literal["tensors"], Annotated[list[Name], Field(max_length=_MAX_LIST)]]
    | tuple[Literal["optional"], Annotated[list[TensorArgument | ValueArgument], Field(max_length=_MAX_LIST)]]
    | tuple[Literal["number"], Literal["inf", "-inf"]]
    | tuple[Literal["dtype", "format"], Annotated[StrictInt, Field(ge=0, le=64)]]
    | tuple[Literal["device"], None]
)
"""Kind and content of an argument. The content is a value's name, a plain value or a serialised torch enumeration."""
Node = tuple[
    Name,
    Name,
    Annotated[tuple[tuple[Name, Argument], ...], Field(max_length=64)],
    Annotated[tuple[ResultName, ...], Field(max_length=_MAX_LIST)],
]
"""Node of a graph: an operator, its overload, its named arguments, and the names of its results."""


class ProgramGraph(Record):
    """Graph of a program.

    Attributes:
        input: name of the value that contains the image.
        input_shape: shape (N, C, D, H, W) of the image.
        weights: pairs of a value's name in the graph and a weight's name in the file.
        nodes: operators in the order in which they run.
        layers: pairs of a layer's name and the name of the layer's value.
        channels: number of channels of every layer.
        strides: strides along D, H, W of the layers that are maps.
    """

    input: Name
    input_shape: Shape
    weights: tuple[tuple[Name, Name], ...] = Field(max_length=MAX_WEIGHTS)
    nodes: tuple[Node, ...] = Field(max_length=MAX_NODES)
    layers: tuple[tuple[LayerName, Name], ...] = Field(min_length=1, max_length=256)
    channels: dict[LayerName, Annotated[int, Field(ge=1, le=MAX_LAYER_CHANNELS)]] = Field(default_factory=dict)
    strides: tuple[tuple[Name, tuple[Side, Side, Side]], ...] = ()


def parse_graph(state: StateDict, subject: str) -> ProgramGraph:
    """Reads the graph from a program's weights.

    Raises:
        BadCheckpoint: there is no graph, or the graph exceeds the limits of `ProgramGraph`.
    """
    text = state.get(PROGRAM)
    if text is None or text.dtype != torch.uint8 or text.ndim != 1 or text.numel() > MAX_GRAPH_BYTES:
        raise reject(f"the file holds no graph of at most {MAX_GRAPH_BYTES} bytes", subject)
    return validate_graph(text.numpy().tobytes(), subject)


def validate_graph(content: bytes | Mapping[str, object], subject: str) -> ProgramGraph:
    """Checks a graph (JSON or values) against the limits of `ProgramGraph`. Raises the errors of `parse_graph`."""
    try:
        if isinstance(content, bytes):
            return ProgramGraph.model_validate_json(content)
        return ProgramGraph.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])[:200]
        raise reject(f"the graph is not valid: {where} {str(problem['msg'])[:200]}", subject) from None


def encode_graph(graph: ProgramGraph) -> Tensor:
    """Converts the graph to a tensor of bytes, which `parse_graph` can read."""
    return torch.frombuffer(bytearray(graph.to_json()), dtype=torch.uint8)


def reject(message: str, subject: str) -> BadCheckpoint:
    """Returns the error for a program that cannot be used."""
    return BadCheckpoint(
        message,
        subject=subject,
        remedy="export the encoder alone with torch 2.9 or later, in evaluation mode, for one input of fixed size",
    )
