"""Masked reconstruction: most of the volume is hidden and must be restored from the rest.

A convolutional encoder is trained as in FCMAE (Woo et al., "ConvNeXt V2", CVPR 2023, arXiv 2301.00808) in its dense
form: hidden units are set to 0, which is the mean after normalisation. A decoder restores the hidden units from the
encoder's maps. ProFound's transformer is trained as a masked autoencoder (He et al., CVPR 2022, arXiv 2111.06377), so
it encodes only the visible patches. The loss is the squared error over hidden voxels.

Axes: N batch, C channels, D H W; U units, K visible patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from vfmalign.core.domain.jobs import MetricSpec, TrainingRecipe
from vfmalign.models.architectures.profound_vit import MaeDecoder, ProFoundViT, patch_grid, to_volume
from vfmalign.models.architectures.transformer import TransformerSize
from vfmalign.models.encoder import Encoder, Stride
from vfmalign.training.data import Batch, PreparedCase, generator
from vfmalign.training.figures import Panel, grey_limits
from vfmalign.training.learner import evaluation_batches
from vfmalign.training.networks.heads import EncoderDecoder
from vfmalign.training.process_group import Forward

MASKED_SHARE = 0.6
UNITS_DHW = (4, 8, 8)
"""Units along each axis, relative to the volume, so that they have the same anatomical size at every resolution."""
MASKED_PATCHES = 0.75
"""Share of the patches that are hidden from a masked autoencoder, as in the paper."""
HEAD_CHANNELS = 24
"""Channels per attention head of its decoder: the published one has 16 heads and a width of 384."""

RECONSTRUCTION_ERROR = MetricSpec(name="masked_reconstruction_error", unit="", higher_is_better=False, floor=1e-6)


class MaskedAutoencoder(nn.Module):
    """ProFound's transformer with a decoder.

    Like the published decoder, the decoder is half as wide as the encoder and two thirds as deep.

    Args:
        encoder: the transformer. The encoder receives only the visible patches.
    """

    def __init__(self, encoder: ProFoundViT) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.dim // 2
        self.decoder = MaeDecoder(
            encoder, TransformerSize(width, 2 * len(encoder.blocks) // 3, max(1, width // HEAD_CHANNELS))
        )

    def forward(self, input_NCDHW: Tensor, hidden_N1DHW: Tensor) -> Tensor:
        """Predicts the whole volume.

        Args:
            input_NCDHW: the input. Hidden patches are not read.
            hidden_N1DHW: True in hidden patches. All volumes must have the same number of hidden patches.

        Returns:
            (N, C, D, H, W).
        """
        grid_DHW = patch_grid(tuple(input_NCDHW.shape[2:]), self.encoder.patch_DHW)
        d, h, w = self.encoder.patch_DHW
        hidden_NL = hidden_N1DHW[:, 0, ::d, ::h, ::w].flatten(1)
        visible_NK = (~hidden_NL).nonzero()[:, 1].reshape(len(hidden_NL), -1)
        patches_NLP = self.decoder(self.encoder.tokens(input_NCDHW, visible_NK), visible_NK, grid_DHW)
        return to_volume(patches_NLP, grid_DHW, self.encoder.patch_DHW)


class MaskedReconstruction:
    """Learner that restores hidden parts of its input; see `learner.Learner`."""

    metrics = (RECONSTRUCTION_ERROR,)

    def __init__(self, encoder: Encoder, recipe: TrainingRecipe, device: torch.device, seed: int) -> None:
        self.encoder = encoder
        self.network: MaskedAutoencoder | EncoderDecoder
        if isinstance(encoder, ProFoundViT):
            self.network = MaskedAutoencoder(encoder).to(device)
        else:
            self.network = EncoderDecoder(encoder, encoder.in_channels, input_skip=False).to(device)
        self.device = device
        self.seed = seed

    def loss(self, batch: Batch, draw: torch.Generator, forward: Forward) -> Tensor:
        """Squared error over hidden voxels, per voxel and channel."""
        hidden_N1DHW = self.hidden(batch.clean_NCDHW.shape, draw).to(self.device)
        restored_NCDHW = self.restore(batch, hidden_N1DHW, forward)
        return masked_error(restored_NCDHW, batch.clean_NCDHW, hidden_N1DHW)

    def hidden(self, shape_NCDHW: Sequence[int], draw: torch.Generator) -> Tensor:
        """Draws the part to hide: patches for ProFound's transformer, units of the volume for other encoders."""
        if isinstance(self.encoder, ProFoundViT):
            grid_DHW = patch_grid(tuple(shape_NCDHW[2:]), self.encoder.patch_DHW)
            return hidden_units(shape_NCDHW, draw, grid_DHW, MASKED_PATCHES)
        return hidden_units(shape_NCDHW, draw)

    def restore(self, batch: Batch, hidden_N1DHW: Tensor, forward: Forward) -> Tensor:
        """Restores the whole volume from its visible part."""
        if isinstance(self.network, MaskedAutoencoder):
            return forward(batch.clean_NCDHW, hidden_N1DHW)
        return forward(batch.clean_NCDHW * ~hidden_N1DHW, batch.slices_N2)

    def validate(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> float:
        """Mean loss over the cases. Each case has the same mask in every epoch."""
        errors = [values[RECONSTRUCTION_ERROR.name] for values in self.score(cases, check)]
        return fmean(error for error in errors if error is not None)

    def score(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> list[dict[str, float | None]]:
        """The error of every case."""
        masks, outputs = self._restore(cases, check)
        triples = zip(outputs, cases, masks, strict=True)
        return [
            {RECONSTRUCTION_ERROR.name: masked_error(output[None], case.clean_CDHW[None], mask[None]).item()}
            for output, case, mask in triples
        ]

    def panels(self, case: PreparedCase) -> list[Panel]:
        """Middle slice of the first channel: the encoder's input, the reference and the restored volume."""
        (hidden_1DHW,), (output_CDHW,) = self._restore([case], lambda: None)
        visible_CDHW = case.clean_CDHW * ~hidden_1DHW
        restored_CDHW = torch.where(hidden_1DHW, output_CDHW, case.clean_CDHW)
        d = case.clean_CDHW.shape[1] // 2
        limits = grey_limits(case.clean_CDHW[0, d].numpy())
        aspect = case.spacing_mm[1] / case.spacing_mm[2]
        volumes = (("masked input", visible_CDHW), ("reference", case.clean_CDHW), ("prediction", restored_CDHW))
        return [Panel(title, volume_CDHW[0, d].numpy(), limits, aspect=aspect) for title, volume_CDHW in volumes]

    def _restore(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> tuple[list[Tensor], list[Tensor]]:
        """Each case's mask, which is the same in every epoch, and the network's output."""
        masks = [
            self.hidden((1, *case.clean_CDHW.shape), generator(self.seed, "validation-mask", number))
            for number, case in enumerate(cases)
        ]
        outputs: list[Tensor] = []
        self.network.eval()
        for batch, indices in evaluation_batches(cases, self.device, check):
            hidden_N1DHW = torch.cat(masks[indices]).to(self.device).expand(len(batch.clean_NCDHW), -1, -1, -1, -1)
            with torch.no_grad():
                restored_NCDHW = self.restore(batch, hidden_N1DHW, self.network)
            outputs += restored_NCDHW.cpu()[: indices.stop - indices.start]
        return [hidden_N1DHW[0] for hidden_N1DHW in masks], outputs


def hidden_units(
    shape_NCDHW: Sequence[int], draw: torch.Generator, units_DHW: Stride = UNITS_DHW, share: float = MASKED_SHARE
) -> Tensor:
    """Draws the hidden units of each volume.

    The number of hidden units is `share` times the number of units, rounded down.

    Args:
        shape_NCDHW: shape of the volumes.
        draw: the source of randomness.
        units_DHW: number of units along each axis, at most one per voxel.
        share: share of units to hide.

    Returns:
        (N, 1, D, H, W) bool, True in hidden units. All channels share this mask.
    """
    n, size_DHW = shape_NCDHW[0], shape_NCDHW[2:]
    grid = [min(units, size) for units, size in zip(units_DHW, size_DHW, strict=True)]
    count = grid[0] * grid[1] * grid[2]
    # Ranks of random numbers are a random permutation, so that every volume has the same number of hidden units.
    ranks_NU = torch.rand((n, count), generator=draw).argsort(1).argsort(1)
    mask = (ranks_NU < int(share * count)).reshape(n, *grid)
    for axis, (units, size) in enumerate(zip(grid, size_DHW, strict=True), start=1):
        mask = mask.index_select(axis, torch.arange(size) * units // size)
    return mask[:, None]


def masked_error(output_NCDHW: Tensor, clean_NCDHW: Tensor, hidden_N1DHW: Tensor) -> Tensor:
    """Mean squared error over hidden voxels, excluding the zero padding around a volume."""
    valid_N1DHW = hidden_N1DHW & (clean_NCDHW != 0).any(1, keepdim=True)
    squared_NCDHW = (output_NCDHW - clean_NCDHW).square() * valid_N1DHW
    return squared_NCDHW.sum() / (valid_N1DHW.sum() * clean_NCDHW.shape[1]).clamp(min=1)
