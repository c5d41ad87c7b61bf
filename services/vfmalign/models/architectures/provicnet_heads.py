"""The published networks of ProViCNet: its encoder with the heads that it was trained with.

vfmalign compares and fine-tunes the encoder only. The heads are needed to read the published state dicts strictly and
to reproduce their predictions. Parameter names are upstream's (github.com/pimed/ProViCNet).

Axes as in `provicnet`: S slices, C channels, H W of a map.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfmalign.models.architectures.provicnet import SliceEncoder
from vfmalign.models.architectures.transformer import PATCH_LAYER, TransformerSize


class ProViCNet(SliceEncoder):
    """The published network of one sequence: encoder, segmentation head and contrastive head.

    Args:
        size: size of the encoder's transformer.
        patch: side of a patch in pixels.
        classes: classes of the segmentation: background, gland, indolent and clinically significant cancer.
        widths: widths of the segmentation head after its first two convolutions.
        contrast: widths of the contrastive head: hidden, bottleneck and prototypes.
    """

    def __init__(
        self,
        size: TransformerSize,
        patch: int = 14,
        *,
        classes: int = 4,
        widths: tuple[int, int] = (128, 64),
        contrast: tuple[int, int, int] = (2048, 256, 65536),
    ) -> None:
        super().__init__(size, patch)
        self.head = SegmentationHead(size.dim, widths, classes)
        self.CL_Head = ContrastiveHead(size.dim, *contrast)

    def segment(self, images_SCHW: Tensor, position_S2: Tensor) -> Tensor:
        """Class scores, (S, classes, 8·H/patch, 8·W/patch); arguments as in `slice_maps`."""
        return cast(Tensor, self.head(self.slice_maps(images_SCHW, position_S2)[PATCH_LAYER]))

    def contrast(self, tokens_NC: Tensor) -> Tensor:
        """Scores of tokens against the prototypes."""
        return cast(Tensor, self.CL_Head(tokens_NC))


class SegmentationHead(nn.Module):
    """Three stages of nearest-neighbour upsampling by 2 and a convolution."""

    def __init__(self, dim: int, widths: tuple[int, int], classes: int) -> None:
        super().__init__()
        wide, narrow = widths
        self.segmentation_conv = nn.Sequential(
            *_up(dim, wide), *_up(wide, narrow), nn.Upsample(scale_factor=2), nn.Conv2d(narrow, classes, 3, padding=1)
        )

    def forward(self, map_SCHW: Tensor) -> Tensor:
        """Returns (S, classes, 8·H, 8·W)."""
        return cast(Tensor, self.segmentation_conv(map_SCHW))


class ContrastiveHead(nn.Module):
    """DINO's projection head (Caron et al., ICCV 2021): an MLP, a unit vector, weight-normalised prototypes."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.last_layer = Prototypes(bottleneck, prototypes)

    def forward(self, tokens_NC: Tensor) -> Tensor:
        """Returns (N, prototypes)."""
        return cast(Tensor, self.last_layer(functional.normalize(self.mlp(tokens_NC), dim=-1)))


class Prototypes(nn.Module):
    """A linear map without bias whose rows have the norms `weight_g` and the directions of `weight_v`."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=False)
        self.weight_v = nn.Parameter(torch.empty(count, dim))
        nn.init.trunc_normal_(self.weight_v, std=0.02)

    def forward(self, vectors_NC: Tensor) -> Tensor:
        """Returns (N, count)."""
        return functional.linear(vectors_NC, self.weight_g * functional.normalize(self.weight_v, dim=1, eps=0.0))


class FusionHead(nn.Module):
    """The published fusion: from the patch tokens of three sequences to one segmentation."""

    def __init__(self, dim: int = 384, width: int = 128, classes: int = 4) -> None:
        super().__init__()
        self.Stream_T2W = FusionStream(dim, width)
        self.Stream_ADC = FusionStream(dim, width)
        self.Stream_DWI = FusionStream(dim, width)
        self.FusionSegmentation = nn.Sequential(
            *_up(3 * width, width), nn.Upsample(scale_factor=2), nn.Conv2d(width, classes, 3, padding=1)
        )

    def forward(self, t2w_SCHW: Tensor, adc_SCHW: Tensor, dwi_SCHW: Tensor) -> Tensor:
        """Returns (S, classes, 8·H, 8·W) from the layer `patch_tokens` of the three sequences."""
        streams = (self.Stream_T2W(t2w_SCHW), self.Stream_ADC(adc_SCHW), self.Stream_DWI(dwi_SCHW))
        return cast(Tensor, self.FusionSegmentation(torch.cat(streams, dim=1)))


class FusionStream(nn.Module):
    """One sequence's part of the fusion."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.UpsampleModule = nn.Sequential(*_up(dim, width))

    def forward(self, map_SCHW: Tensor) -> Tensor:
        """Returns (S, width, 2·H, 2·W)."""
        return cast(Tensor, self.UpsampleModule(map_SCHW))


def _up(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    return (
        nn.Upsample(scale_factor=2),
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
