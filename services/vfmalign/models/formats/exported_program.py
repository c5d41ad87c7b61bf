"""`torch.export` programs as encoders: the operators of a graph, called one after the other.

Knows ATen's operators and the JSON text that `programs` makes of an archive; knows nothing of archives or storage. The
text lies beside the weights as a tensor of bytes, so that one safetensors file is the whole model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from vfmalign.core.domain.artifacts import LayerSpec
from vfmalign.models.checkpoints import State
from vfmalign.models.encoder import POOLED_LAYER, Encoder, Stride, pool
from vfmalign.models.formats.hooked import as_map

ARCHITECTURE = "torch_export"
PROGRAM = "program"
"""Name of the tensor that holds the graph's JSON text."""

# torch's serialised enumerations (torch/_export/serde/schema.py): what an encoder can be made of.
DTYPES = {2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32}
DTYPES |= {1: torch.uint8, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}
FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}


class ExportedEncoder(Encoder):
    """A program as an encoder: values of its graph are the layers, `pooled` is the mean of the last.

    Args:
        state: the program's weights by name, and its graph under `program`.
    """

    def __init__(self, state: State) -> None:
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
        """The named values and `pooled`."""
        return {**self._graph["channels"], POOLED_LAYER: self._graph["channels"][self._graph["layers"][-1][0]]}

    def layer_names(self) -> list[str]:
        """The named values, in the order they were asked for."""
        return [layer for layer, _ in self._graph["layers"]]

    def dense_layers(self) -> dict[str, Stride]:
        """The layers that are maps and whose sides divide the input's."""
        return {layer: cast(Stride, tuple(stride)) for layer, stride in self._graph["strides"]}

    def feature_maps(self, input_NCDHW: Tensor) -> dict[str, Tensor]:
        """Every named value as a map; studies go through as many at a time as the program was exported for."""
        parts = [self.outputs(part) for part in torch.split(input_NCDHW, self._batch)]
        maps = {name: torch.cat([as_map(part[name], name) for part in parts]) for name in parts[0]}
        return {**maps, POOLED_LAYER: pool(next(reversed(maps.values())))}

    def outputs(self, input_NCDHW: Tensor) -> dict[str, Any]:
        """The named values for as many studies as the program was exported for."""
        values: dict[str, Any] = {self._graph["input"]: input_NCDHW}
        for i, (value, _) in enumerate(self._graph["weights"]):
            values[value] = getattr(self.weights, f"w{i}")
        for operator, overload, arguments, results in self._graph["nodes"]:
            call = getattr(getattr(torch.ops.aten, operator), overload)
            given = {name: _value(argument, values, input_NCDHW.device) for name, argument in arguments}
            positional, named = _bind(call, given)
            output = call(*positional, **named)
            outputs = [output] if isinstance(output, Tensor) else output
            values |= dict(zip(results, outputs, strict=False))
        return {layer: values[value] for layer, value in self._graph["layers"]}


def layers_of(encoder: ExportedEncoder) -> tuple[LayerSpec, ...]:
    """The layers of an exported program, for its model card."""
    channels = encoder.layer_channels()
    return tuple(LayerSpec(name=name, channels=channels[name]) for name in encoder.layer_names())


def build_exported(state: State, device: torch.device | str = "cpu") -> ExportedEncoder:
    """The encoder of a program that was read and stored, on `device`."""
    return ExportedEncoder(state).to(device).eval()


def _value(argument: Sequence[Any], values: Mapping[str, Any], device: torch.device) -> Any:
    kind, content = argument
    makers = {
        "tensor": lambda: values[content],
        "tensors": lambda: [values[name] for name in content],
        "optional": lambda: [_value(one, values, device) for one in content],
        "value": lambda: content,
        "number": lambda: float(content),
        "dtype": lambda: DTYPES[content],
        "format": lambda: FORMATS[content],
        "device": lambda: device,
    }
    return cast(Any, makers[kind])()


def _bind(call: Any, given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional arguments first, in the operator's own order: `self` cannot be given by name everywhere."""
    positional: list[Any] = []
    for argument in call._schema.arguments:
        if argument.kwarg_only or argument.name not in given:
            break
        positional.append(given.pop(argument.name))
    return positional, given
