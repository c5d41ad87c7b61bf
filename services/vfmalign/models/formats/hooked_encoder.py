"""Encoder that wraps any network. The layers of the encoder are the outputs of named submodules.

Axes are the same as in `encoder`, with L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vfmalign.core.domain.errors import BadOption
from vfmalign.models.encoder import POOLED_LAYER, Encoder, Stride, pool


class HookedEncoder(Encoder):
    """Encoder that wraps any network. The layers of this encoder are the outputs of named submodules.

    The whole network runs, but the encoder ignores the network's own output. A layer of shape (N, C, D, H, W) stays
    unchanged. Tokens (N, L, C) become maps of L × 1 × 1 voxels. Vectors (N, C) become maps of one voxel. `pooled` is
    the mean of the last layer.

    Args:
        network: any module whose input has the shape (N, C, D, H, W).
        layers: names of the submodules, from shallow to deep.
        shape_DHW: size of the input. The shapes of the layers are determined for this size.
        in_channels: number of input channels.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], shape_DHW: Stride, in_channels: int) -> None:
        super().__init__()
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
        try:
            self.network(input_NCDHW)
        finally:
            for hook in hooks:
                hook.remove()
        return outputs_by_layer


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
