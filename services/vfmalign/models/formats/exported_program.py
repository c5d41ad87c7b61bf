"""`torch.export` programs as encoders. An interpreter runs a program's graph of allowed ATen operators.

`program_archive` reads an archive and converts its graph to JSON text. `program_check` checks the stored graph before
it runs.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from vfmalign.core.domain.models import EXPORTED_PROGRAM, Layer
from vfmalign.models.encoder import POOLED_LAYER, Encoder, StateDict, Stride, pool
from vfmalign.models.formats.hooked_encoder import as_map
from vfmalign.models.formats.program_check import check_program
from vfmalign.models.formats.program_graph import ProgramGraph
from vfmalign.models.formats.program_interpreter import ProgramInterpreter

ARCHITECTURE = EXPORTED_PROGRAM


class ExportedEncoder(Encoder):
    """Encoder that runs an exported program.

    The layers of the encoder are values of the graph; `pooled` averages the last layer.

    Args:
        graph: graph of the program. `check_program` must have accepted the graph with these weights.
        state: maps the names of the program's weights to tensors.
        subject: name of the program in errors.
    """

    def __init__(self, graph: ProgramGraph, state: StateDict, subject: str) -> None:
        super().__init__()
        self._graph = graph
        self._interpreter = ProgramInterpreter(graph, subject)
        self._batch, self.in_channels, *shape_DHW = graph.input_shape
        self.shape_DHW = cast(Stride, tuple(shape_DHW))
        self.weights = nn.Module()
        for i, (_, name) in enumerate(graph.weights):
            tensor = state[name]
            if tensor.is_floating_point():
                self.weights.register_parameter(f"w{i}", nn.Parameter(tensor))
            else:
                self.weights.register_buffer(f"w{i}", tensor)

    def layer_channels(self) -> dict[str, int]:
        """Number of channels of each layer and of `pooled`."""
        return {**self._graph.channels, POOLED_LAYER: self._graph.channels[self._graph.layers[-1][0]]}

    def layer_names(self) -> list[str]:
        """The layers, in the order of the option of the import."""
        return [layer for layer, _ in self._graph.layers]

    def dense_layers(self) -> dict[str, Stride]:
        """The layers that are maps, if the sides of these maps divide the sides of the input."""
        return dict(self._graph.strides)

    def feature_maps(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> dict[str, Tensor]:
        """Returns every layer as a map.

        Processes studies in batches. Their size is the batch size for which the program was exported.
        """
        parts = [self._run_batch(part) for part in torch.split(input_NCDHW, self._batch)]
        maps = {name: torch.cat([as_map(part[name], name) for part in parts]) for name in parts[0]}
        return {**maps, POOLED_LAYER: pool(next(reversed(maps.values())))}

    def _run_batch(self, input_NCDHW: Tensor) -> dict[str, Tensor]:
        """Computes the layers for at most one exported batch of studies. Repeats the last study to fill the batch."""
        count = len(input_NCDHW)
        if count < self._batch:
            input_NCDHW = torch.cat([input_NCDHW, input_NCDHW[-1:].expand(self._batch - count, -1, -1, -1, -1)])
        weights = {value: getattr(self.weights, f"w{i}") for i, (value, _) in enumerate(self._graph.weights)}
        layers = self._interpreter.run({**weights, self._graph.input: input_NCDHW}, input_NCDHW.device)
        return {name: output[:count] for name, output in layers.items()}


def get_layer_specs(encoder: ExportedEncoder) -> tuple[Layer, ...]:
    """Returns the layers of an exported program for its model card."""
    channels = encoder.layer_channels()
    return tuple(Layer(name=name, channels=channels[name]) for name in encoder.layer_names())


def build_exported(state: StateDict, subject: str, device: torch.device | str = "cpu") -> ExportedEncoder:
    """Checks a stored program and builds its encoder on `device`.

    Raises:
        BadCheckpoint: `check_program` rejects the program.
    """
    return ExportedEncoder(check_program(state, subject), state, subject).to(device).eval()
