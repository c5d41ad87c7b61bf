"""Encoder that wraps any network. The layers of the encoder are the outputs of named submodules.

Axes are the same as in `encoder`, with L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vfmalign.core.domain.errors import BadOption
from vfmalign.models.encoder import POOLED_LAYER, Encoder, Stride, pool

AXES = "SPL"
"""Directions of D, H and W in every input: to the head, to the back and to the left."""
_OPPOSITES = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}


class HookedEncoder(Encoder):
    """Encoder that wraps any network. The layers of this encoder are the outputs of named submodules.

    The whole network runs, but the encoder ignores the network's own output. A layer of shape (N, C, D, H, W) stays
    unchanged. Tokens (N, L, C) become maps: of their grid if there is one token for each patch, otherwise of L × 1 × 1
    voxels. Vectors (N, C) become maps of one voxel. `pooled` is the mean of the last layer.

    Args:
        network: any module whose input has the shape (N, C, D, H, W).
        layers: names of the submodules, from shallow to deep.
        shape_DHW: size of the input. The shapes of the layers are determined for this size.
        in_channels: number of input channels.
        axes: directions of the axes of the network's input, such as RAS. Maps keep the axes of the encoder's input.
        patch: size of a patch along the axes of the network's input; empty if tokens are no grid of patches.

    Raises:
        BadOption: `axes` does not name one direction of each axis of the body, or the input does not fit the network.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        shape_DHW: Stride,
        in_channels: int,
        *,
        axes: str = AXES,
        patch: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self._patch = tuple(patch)
        order = [next((i for i, own in enumerate(AXES) if axis in {own, _OPPOSITES[own]}), 0) for axis in axes]
        if sorted(order) != [0, 1, 2]:
            raise BadOption(f"{axes} names no three axes", field="axes", remedy="name three directions, such as RAS")
        self._order = [0, 1, *(2 + i for i in order)]
        self._flipped = [2 + place for place, (axis, i) in enumerate(zip(axes, order, strict=True)) if axis != AXES[i]]
        self.network, self.layers, self.in_channels = network, tuple(layers), in_channels
        outputs = outputs_on_meta(self, shape_DHW)
        self._channels = {layer: as_map(output, layer).shape[1] for layer, output in outputs.items()}
        self._strides = {
            layer: stride for layer, o in outputs.items() if (stride := get_stride(o, shape_DHW)) is not None
        }

    def layer_channels(self) -> dict[str, int]:
        """Number of channels of each named submodule and of `pooled`."""
        return {**self._channels, POOLED_LAYER: self._channels[self.layers[-1]]}

    def dense_layers(self) -> dict[str, Stride]:
        """The layers that are maps, if the sides of these maps divide the sides of the input."""
        return dict(self._strides)

    def feature_maps(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the output of every named submodule as a map."""
        maps = {layer: as_map(output, layer) for layer, output in self.outputs(input_NCDHW).items()}
        return {**maps, POOLED_LAYER: pool(maps[self.layers[-1]])}

    def outputs(self, input_NCDHW: Tensor) -> dict[str, object]:
        """Returns the outputs of the named submodules; None for a submodule that the network does not call."""
        outputs_by_layer: dict[str, object] = dict.fromkeys(self.layers)

        def make_hook(layer: str) -> Callable[[nn.Module, object, object], None]:
            return lambda module, arguments, output: outputs_by_layer.__setitem__(layer, output)

        hooks = [self.network.get_submodule(layer).register_forward_hook(make_hook(layer)) for layer in self.layers]
        turned = input_NCDHW.permute(self._order)
        turned = turned.flip(self._flipped) if self._flipped else turned  # a flip copies
        try:
            self.network(turned)
        finally:
            for hook in hooks:
                hook.remove()
        return {layer: self._turn_back(output, turned.shape[2:]) for layer, output in outputs_by_layer.items()}

    def _turn_back(self, output: object, shape: Sequence[int]) -> object:
        """Gives a map the axes of the encoder's input. Arranges one token per patch as a map."""
        if isinstance(output, Tensor) and output.ndim == 3 and self._patch:
            grid = [side // step for side, step in zip(shape, self._patch, strict=True)]
            if math.prod(grid) == output.shape[1]:
                output = output.transpose(1, 2).reshape(len(output), -1, *grid)
        if not isinstance(output, Tensor) or output.ndim != 5:
            return output
        output = output.flip(self._flipped) if self._flipped else output
        return output.permute([self._order.index(axis) for axis in range(5)])


def as_map(output: object, layer: str) -> Tensor:
    """Converts a layer's output to (N, C, D, H, W).

    Raises:
        BadOption: the output is not one tensor of features.
    """
    output = output[0] if isinstance(output, (tuple, list)) and len(output) == 1 else output
    if isinstance(output, Tensor) and output.is_floating_point():
        if output.ndim == 5:
            return output
        if output.ndim == 3:
            return output.transpose(1, 2)[..., None, None]
        if output.ndim == 2:
            return output[..., None, None, None]
    if output is None:
        raise BadOption(
            f"layer {layer[:64]!r} has no output: the network does not call it, or it returns nothing",
            field="layers",
            remedy="name a submodule that forward() calls, such as the last block of the encoder",
        )
    kind = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise BadOption(
        f"layer {layer[:64]!r} returns {kind}, expected features of (N, C, D, H, W), (N, L, C) or (N, C)",
        field="layers",
        remedy="name a submodule that the network calls and that returns one tensor of features",
    )


def outputs_on_meta(encoder: HookedEncoder, shape_DHW: Stride) -> dict[str, object]:
    """Returns the outputs of the layers as tensors on the meta device.

    Meta tensors replace the weights. The function computes only shapes, which takes almost no time or memory.
    """
    state = {f"encoder.{name}": torch.empty_like(t, device="meta") for name, t in encoder.state_dict().items()}
    probe_NCDHW = torch.empty((1, encoder.in_channels, *shape_DHW), device="meta")
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            return cast(dict[str, object], torch.func.functional_call(_Outputs(encoder), state, (probe_NCDHW,)))
    except Exception as error:  # a network may raise any type on an input that does not fit
        raise BadOption(
            f"the network does not take an input of {[encoder.in_channels, *shape_DHW]}: {str(error)[:200]}",
            field="input",
            remedy="set the modalities and the size with which the network was trained",
        ) from error
    finally:
        encoder.train(training)


class _Outputs(nn.Module):
    """Adapter whose `forward` is `outputs`, because `functional_call` can call only `forward`."""

    def __init__(self, encoder: HookedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_NCDHW: Tensor) -> dict[str, object]:
        return self.encoder.outputs(input_NCDHW)


def get_stride(output: object, shape_DHW: Stride) -> Stride | None:
    """Returns the stride of a map; None for tokens and vectors.

    Also returns None if a side of the map does not divide the input's side.
    """
    if not isinstance(output, Tensor) or output.ndim != 5:
        return None
    sides = tuple(output.shape[2:])
    if any(side == 0 or whole % side for whole, side in zip(shape_DHW, sides, strict=True)):
        return None
    d, h, w = (whole // side for whole, side in zip(shape_DHW, sides, strict=True))
    return d, h, w
