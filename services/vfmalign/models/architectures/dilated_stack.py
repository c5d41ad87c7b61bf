"""Stacks of dilated convolutions. A description defines a stack completely.

MeshNet (Fedorov et al., "End-to-end learning of brain tissue segmentation from imperfect labeling", IJCNN 2017, arXiv
1612.00940) and dilated convolutional autoencoders are such stacks. Each layer is a convolution with an optional
instance norm and activation. Layers work at full resolution. Between a strided and a transposed convolution, layers
work at a coarser resolution. Dilations widen the receptive field, so that no pyramid is needed.

Axes: N batch, C channels, D depth, H height, W width.
"""

from __future__ import annotations

from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.record import Record
from vfmalign.models.encoder import POOLED_LAYER, Encoder, Stride, pool

Activation = Literal["none", "relu", "elu", "gelu", "silu"]
MAX_WEIGHTS = 200_000_000
"""Maximum number of weights of a stack. A description comes from a request and must not exhaust the memory."""
_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class ConvolutionLayer(Record):
    """Layer that consists of a convolution, a norm and an activation.

    Because of zero padding, the size of the map stays the same or is divided exactly by the stride.

    Attributes:
        channels: number of output channels.
        kernel: side of the kernel, which must be odd or equal to the stride.
        dilation: distance between neighbouring voxels of the kernel.
        stride: factor by which the layer makes the map coarser or, if `transposed`, finer.
        transposed: whether the convolution upsamples.
        bias: whether the convolution has a bias.
        norm: `instance` normalises every channel of a study to mean 0 and SD 1; it has no parameters.
    """

    channels: int = Field(ge=1, le=1024)
    kernel: int = Field(default=3, ge=1, le=11)
    dilation: int = Field(default=1, ge=1, le=64)
    stride: int = Field(default=1, ge=1, le=8)
    transposed: bool = False
    bias: bool = True
    norm: Literal["none", "instance"] = "none"
    activation: Activation = "none"

    @model_validator(mode="after")
    def _check_kernel(self) -> Self:
        if self.kernel % 2 == 0 and (self.kernel != self.stride or self.dilation > 1):
            raise ValueError(f"the kernel of {self.kernel} is neither odd nor equal to an undilated stride")
        return self


class StackDescription(Record):
    """Description of a stack of dilated convolutions.

    Attributes:
        layers: layers from input to output.
        compared: indices of the layers that checks compare, in ascending order; empty for all layers. Checks also
            compare the layers that a dense head reads.
        input: the encoder's input. Every side of the input is a multiple of the coarsest stride.
        initialisation: how random weights are drawn. `DilatedStack` describes `layer_sequential_unit_variance`.
    """

    layers: tuple[ConvolutionLayer, ...] = Field(min_length=1, max_length=64)
    compared: tuple[int, ...] = Field(default=(), max_length=64)
    input: Preprocessing
    initialisation: Literal["layer_sequential_unit_variance"] = "layer_sequential_unit_variance"

    @model_validator(mode="after")
    def _check_stack(self) -> Self:
        if list(self.compared) != sorted({i for i in self.compared if 0 <= i < len(self.layers)}):
            raise ValueError("`compared` does not list indices of layers in ascending order")
        strides = self.strides
        coarsest = max(strides)
        if any(side % coarsest for side in self.input.network_shape_dhw):
            shape = self.input.network_shape_dhw
            raise ValueError(f"the input's sides {shape} are not multiples of the stride {coarsest}")
        if (weights := self._count_weights()) > MAX_WEIGHTS:
            raise ValueError(f"the stack has {weights:,} weights, more than {MAX_WEIGHTS:,}")
        return self

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of every layer's output relative to the input."""
        strides, stride = [], 1
        for i, layer in enumerate(self.layers):
            if layer.transposed and stride % layer.stride:
                raise ValueError(f"layer {i} upsamples a map of stride {stride} by {layer.stride}")
            stride = stride // layer.stride if layer.transposed else stride * layer.stride
            strides.append(stride)
        return tuple(strides)

    @property
    def dense(self) -> tuple[int, ...]:
        """Indices of the layers that a dense head reads.

        The output of such a layer is finer than the output of every later layer.
        """
        strides = self.strides
        return tuple(i for i, stride in enumerate(strides) if all(stride < later for later in strides[i + 1 :]))

    @property
    def outputs(self) -> tuple[int, ...]:
        """Indices of the layers that the encoder returns."""
        return tuple(sorted({*(self.compared or range(len(self.layers))), *self.dense}))

    def _count_weights(self) -> int:
        widths = (len(self.input.modalities), *(layer.channels for layer in self.layers))
        return sum(a * b * layer.kernel**3 for a, b, layer in zip(widths, widths[1:], self.layers, strict=False))


class ConvolutionBlock(nn.Module):
    """Convolution, norm and activation of one layer."""

    def __init__(self, in_channels: int, layer: ConvolutionLayer) -> None:
        super().__init__()
        self.convolution = _build_convolution(in_channels, layer)
        self.norm = nn.InstanceNorm3d(layer.channels) if layer.norm == "instance" else nn.Identity()
        self.activation = _ACTIVATIONS[layer.activation]()

    def forward(self, input_NCDHW: Tensor) -> Tensor:
        """Applies the layer. Divides D, H and W by the layer's stride; a transposed layer multiplies them."""
        output_NCDHW: Tensor = self.activation(self.norm(self.convolution(input_NCDHW)))
        return output_NCDHW


class DilatedStack(Encoder):
    """Encoder that is built from a `StackDescription`.

    Random weights are drawn from a normal distribution, and biases are 0. The weights are then scaled layer by layer,
    so that the response of every convolution to a smooth random volume has a mean square of 1 (layer-sequential unit
    variance: Mishkin & Matas, "All you need is a good init", ICLR 2016, arXiv 1511.06422). The random volume has the
    size of the input. Scaling takes one forward pass. With torch's default initialisation, the encoder returns nearly
    the same map for any input. A fixed gain for each activation (He et al., ICCV 2015) does not suffice. At a dilation
    of 16, most taps of a small volume lie in the zero padding, and the errors of a narrow stack multiply from layer to
    layer.
    """

    def __init__(self, description: StackDescription) -> None:
        super().__init__()
        self.description = description
        self.in_channels = len(description.input.modalities)
        widths = (self.in_channels, *(layer.channels for layer in description.layers))
        self.layers = nn.ModuleList(
            ConvolutionBlock(width, layer) for width, layer in zip(widths, description.layers, strict=False)
        )
        self._names = {i: f"layers.{i}" for i in description.outputs}
        self._initialise()

    def layer_channels(self) -> dict[str, int]:
        """Number of channels of each returned layer and of `pooled`."""
        channels = {name: self.description.layers[i].channels for i, name in self._names.items()}
        return {**channels, POOLED_LAYER: self.description.layers[-1].channels}

    def dense_layers(self) -> dict[str, Stride]:
        """The layers whose maps are finer than every later map. In an autoencoder, this is only the last map."""
        sides = {f"layers.{i}": self.description.strides[i] for i in self.description.dense}
        return {name: (side, side, side) for name, side in sides.items()}

    def input_multiple(self) -> Stride:
        """The largest stride of all layers. In an autoencoder, the last map has a smaller stride."""
        side = max(self.description.strides)
        return side, side, side

    def feature_maps(self, input_NCDHW: Tensor, slices_N2: Tensor | None = None) -> dict[str, Tensor]:
        """Runs the encoder.

        Args:
            input_NCDHW: float input; D, H and W are multiples of the coarsest stride.
            slices_N2: not used.

        Returns:
            `layers.i`: the map after layer i, (N, C, D/s, H/s, W/s), where s is the stride of layer i.
            `pooled`: (N, C), the mean of the last map over space.
        """
        maps = {}
        map_NCDHW = input_NCDHW
        for i, layer in enumerate(self.layers):
            map_NCDHW = layer(map_NCDHW)
            if i in self._names:
                maps[self._names[i]] = map_NCDHW
        maps[POOLED_LAYER] = pool(map_NCDHW)
        return maps

    @torch.no_grad()
    def _initialise(self) -> None:
        if next(self.parameters()).is_meta:
            return
        map_NCDHW = _make_probe(self.description.input)
        for block in self.layers:
            convolution = cast(ConvolutionBlock, block).convolution
            nn.init.normal_(convolution.weight)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            mean_square = float(convolution(map_NCDHW).double().square().mean())
            # Two digits: the same weights on every machine, although convolutions round differently.
            convolution.weight *= float(f"{mean_square**-0.5:.2g}")
            map_NCDHW = block(map_NCDHW)


def _make_probe(preprocessing: Preprocessing) -> Tensor:
    """Returns a volume for scaling random weights: smooth noise in the value range of the normalised input."""
    draw = torch.Generator().manual_seed(0)
    coarse_DHW = [max(1, side // 6) for side in preprocessing.network_shape_dhw]
    noise = torch.randn((1, len(preprocessing.modalities), *coarse_DHW), generator=draw)
    if preprocessing.normalisation in {"quantile_range", "window"}:
        noise = noise.mul(0.25).add(0.5).clamp(0, 1)
    return functional.interpolate(noise, size=preprocessing.network_shape_dhw, mode="trilinear")


def _build_convolution(in_channels: int, layer: ConvolutionLayer) -> nn.Conv3d | nn.ConvTranspose3d:
    odd = layer.kernel % 2 == 1
    padding = layer.dilation * (layer.kernel - 1) // 2 if odd else 0
    if not layer.transposed:
        return nn.Conv3d(
            in_channels, layer.channels, layer.kernel, layer.stride, padding, layer.dilation, bias=layer.bias
        )
    return nn.ConvTranspose3d(
        in_channels,
        layer.channels,
        layer.kernel,
        layer.stride,
        padding,
        output_padding=layer.stride - 1 if odd else 0,
        bias=layer.bias,
        dilation=layer.dilation,
    )
