"""`torch.export` programs as encoders: an interpreter for a graph of ATen operators.

`program_archive` checks an archive and writes its graph as JSON text. The text is stored next to the weights as a
tensor of bytes, so that one safetensors file holds the whole model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from vfmalign.core.domain.models import LayerSpec
from vfmalign.models.encoder import POOLED_LAYER, Encoder, StateDict, Stride, pool
from vfmalign.models.formats.hooked_encoder import as_map

ARCHITECTURE = "torch_export"
PROGRAM = "program"
"""Name of the tensor that holds the graph's JSON text."""

# torch's serialised enumerations (torch/_export/serde/schema.py), as far as an encoder may use them.
DTYPES = {2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32}
DTYPES |= {1: torch.uint8, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}
FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}


class ExportedEncoder(Encoder):
    """A program as an encoder: values of its graph are the layers, and `pooled` is the mean of the last layer.

    Args:
        state: the program's weights by name, and its graph under `program`.
    """

    def __init__(self, state: StateDict) -> None:
        super().__init__()
        self._graph = json.loads(bytes(state[PROGRAM].tolist()))
        shape = self._graph["input_shape"]
        self.in_channels, self._batch = shape[1], shape[0]
        self.shape_DHW: Stride = (shape[2], shape[3], shape[4])
        self.weights = nn.Module()
        for i, (_, name) in enumerate(self._graph["weights"]):
            tensor = state[name]
            if tensor.is_floating_point():
                self.weights.register_parameter(f"w{i}", nn.Parameter(tensor))
            else:
                self.weights.register_buffer(f"w{i}", tensor)

    def layer_channels(self) -> dict[str, int]:
        """The layers and `pooled`, with their channels."""
        return {**self._graph["channels"], POOLED_LAYER: self._graph["channels"][self._graph["layers"][-1][0]]}

    def layer_names(self) -> list[str]:
        """The layers in the order in which the import named them."""
        return [layer for layer, _ in self._graph["layers"]]

    def dense_layers(self) -> dict[str, Stride]:
        """The layers that are maps whose sides divide the input's."""
        return {layer: cast(Stride, tuple(stride)) for layer, stride in self._graph["strides"]}

    def feature_maps(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> dict[str, Tensor]:
        """Every layer as a map; studies pass in batches of the size that the program was exported for."""
        parts = [self.outputs(part) for part in torch.split(input_NCDHW, self._batch)]
        maps = {name: torch.cat([as_map(part[name], name) for part in parts]) for name in parts[0]}
        return {**maps, POOLED_LAYER: pool(next(reversed(maps.values())))}

    def outputs(self, input_NCDHW: Tensor) -> dict[str, Any]:
        """Values of the layers for one batch of the size that the program was exported for."""
        values: dict[str, Any] = {self._graph["input"]: input_NCDHW}
        for i, (value, _) in enumerate(self._graph["weights"]):
            values[value] = getattr(self.weights, f"w{i}")
        for operator, overload, arguments, results in self._graph["nodes"]:
            function = getattr(getattr(torch.ops.aten, operator), overload)
            arguments_by_name = {
                name: _decode_argument(argument, values, input_NCDHW.device) for name, argument in arguments
            }
            positional, named = _bind(function, arguments_by_name)
            output = function(*positional, **named)
            outputs = [output] if isinstance(output, Tensor) else output
            values |= dict(zip(results, outputs, strict=False))
        return {layer: values[value] for layer, value in self._graph["layers"]}


def get_layer_specs(encoder: ExportedEncoder) -> tuple[LayerSpec, ...]:
    """Layers of an exported program, for its model card."""
    channels = encoder.layer_channels()
    return tuple(LayerSpec(name=name, channels=channels[name]) for name in encoder.layer_names())


def build_exported(state: StateDict, device: torch.device | str = "cpu") -> ExportedEncoder:
    """Build the encoder of a stored program on `device`."""
    return ExportedEncoder(state).to(device).eval()


def _decode_argument(argument: Sequence[Any], values: Mapping[str, Any], device: torch.device) -> Any:
    """Decode an argument as encoded by `program_archive._encode_argument`."""
    kind, content = argument
    makers = {
        "tensor": lambda: values[content],
        "tensors": lambda: [values[name] for name in content],
        "optional": lambda: [_decode_argument(item, values, device) for item in content],
        "value": lambda: content,
        "number": lambda: float(content),
        "dtype": lambda: DTYPES[content],
        "format": lambda: FORMATS[content],
        "device": lambda: device,
    }
    return cast(Any, makers[kind])()


def _bind(function: Any, arguments_by_name: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Split arguments into positional and keyword arguments of an operator.

    Arguments are passed by position as far as possible, because not every operator accepts `self` by name.
    """
    positional: list[Any] = []
    for argument in function._schema.arguments:
        if argument.kwarg_only or argument.name not in arguments_by_name:
            break
        positional.append(arguments_by_name.pop(argument.name))
    return positional, arguments_by_name
