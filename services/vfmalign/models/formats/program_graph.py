"""The stored form of an exported program: a graph of operators as JSON, bounded in every part.

The JSON text is stored next to the weights as a tensor of bytes, so that one safetensors file holds the whole model.
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
"""Name of the tensor that holds the graph's JSON text."""
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
"""A kind and its content: values of the graph by name, plain values, and torch's serialised enumerations."""
Node = tuple[
    Name,
    Name,
    Annotated[tuple[tuple[Name, Argument], ...], Field(max_length=64)],
    Annotated[tuple[ResultName, ...], Field(max_length=_MAX_LIST)],
]
"""An operator, its overload, its arguments by name, and the names of its results."""


class ProgramGraph(Record):
    """The graph of a program.

    Attributes:
        input: name of the image.
        input_shape: shape of the image: N, C, D, H, W.
        weights: pairs of a value's name in the graph and a weight's name in the file.
        nodes: operators in the order in which they run.
        layers: pairs of a layer's name and the name of its value.
        channels: channels of every layer.
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
    """Reads the graph that is stored with a program's weights.

    Raises:
        BadCheckpoint: there is no graph, or it exceeds the bounds of `ProgramGraph`.
    """
    text = state.get(PROGRAM)
    if text is None or text.dtype != torch.uint8 or text.ndim != 1 or text.numel() > MAX_GRAPH_BYTES:
        raise reject(f"the file holds no graph of at most {MAX_GRAPH_BYTES} bytes", subject)
    return validate_graph(text.numpy().tobytes(), subject)


def validate_graph(content: bytes | Mapping[str, object], subject: str) -> ProgramGraph:
    """Checks a graph, as JSON or as values, against the bounds of `ProgramGraph`; see `parse_graph` for errors."""
    try:
        if isinstance(content, bytes):
            return ProgramGraph.model_validate_json(content)
        return ProgramGraph.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])[:200]
        raise reject(f"the graph is not valid: {where} {str(problem['msg'])[:200]}", subject) from None


def encode_graph(graph: ProgramGraph) -> Tensor:
    """The graph as a tensor of bytes, which `parse_graph` reads."""
    return torch.frombuffer(bytearray(graph.to_json()), dtype=torch.uint8)


def reject(message: str, subject: str) -> BadCheckpoint:
    """Makes the error of a program that cannot be used."""
    return BadCheckpoint(
        message,
        subject=subject,
        remedy="export the encoder alone with torch 2.9 or later, in evaluation mode, for one input of fixed size",
    )
