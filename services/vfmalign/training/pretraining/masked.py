"""Masked reconstruction: most of the volume is hidden and has to be restored from the rest.

FCMAE (Woo et al., "ConvNeXt V2", CVPR 2023, arXiv 2301.00808) in its dense form: hidden units are set to 0, the mean
after normalisation, and the squared error counts inside them alone. The decoder sees the encoder's stage maps and not
the input. Axes: N batch, C channels, D H W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from vfmalign.core.artifacts import MetricSpec, Recipe
from vfmalign.models.encoder import Encoder
from vfmalign.training.data import Batch, PreparedCase, generator
from vfmalign.training.figures import Panel, percentiles
from vfmalign.training.heads import EncoderDecoder
from vfmalign.training.learner import predictions

MASKED_SHARE = 0.6
UNITS_DHW = (4, 8, 8)
"""Hidden units along each axis: relative to the volume, so that they keep their anatomical size in every resolution."""

RECONSTRUCTION_ERROR = MetricSpec(name="masked_reconstruction_error", unit="", higher_is_better=False, floor=1e-6)


class MaskedReconstruction:
    """A learner that restores hidden parts of its input; see `learner.Learner`."""

    metrics = (RECONSTRUCTION_ERROR,)

    def __init__(self, encoder: Encoder, recipe: Recipe, device: torch.device, seed: int) -> None:
        self.encoder = encoder
        self.network = EncoderDecoder(encoder, encoder.in_channels, input_skip=False).to(device)
        self.device = device
        self.seed = seed

    def loss(self, batch: Batch, draw: torch.Generator) -> Tensor:
        """Squared error inside the hidden units, per voxel and channel."""
        hidden_N1DHW = hidden_units(batch.clean_NCDHW.shape, draw).to(self.device)
        return masked_error(self.network(batch.clean_NCDHW * ~hidden_N1DHW), batch.clean_NCDHW, hidden_N1DHW)

    def validate(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> float:
        """The mean loss over cases, with each case's mask the same at every epoch."""
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
        """The middle slice of the first channel: what the encoder sees, the reference, what it restores."""
        (hidden_1DHW,), (output_CDHW,) = self._restore([case], lambda: None)
        seen_CDHW = case.clean_CDHW * ~hidden_1DHW
        restored_CDHW = torch.where(hidden_1DHW, output_CDHW, case.clean_CDHW)
        d = case.clean_CDHW.shape[1] // 2
        limits = percentiles(case.clean_CDHW[0, d].numpy())
        aspect = case.spacing_mm[1] / case.spacing_mm[2]
        shown = (("masked input", seen_CDHW), ("reference", case.clean_CDHW), ("prediction", restored_CDHW))
        return [Panel(title, volume_CDHW[0, d].numpy(), limits, aspect=aspect) for title, volume_CDHW in shown]

    def _restore(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> tuple[list[Tensor], list[Tensor]]:
        """Each case's mask, the same at every epoch, and what the network makes of the rest."""
        masks = [
            hidden_units((1, *case.clean_CDHW.shape), generator(self.seed, "validation-mask", number))[0]
            for number, case in enumerate(cases)
        ]
        seen = [replace(c, input_CDHW=c.clean_CDHW * ~mask) for c, mask in zip(cases, masks, strict=True)]
        return masks, list(predictions(self.network, seen, self.device, check))


def hidden_units(shape_NCDHW: Sequence[int], draw: torch.Generator) -> Tensor:
    """Draws which units are hidden: exactly `MASKED_SHARE` of each volume's, rounded down.

    Returns:
        (N, 1, D, H, W) bool, True where hidden; the same for all channels.
    """
    n, size_DHW = shape_NCDHW[0], shape_NCDHW[2:]
    grid = [min(units, size) for units, size in zip(UNITS_DHW, size_DHW, strict=True)]
    count = grid[0] * grid[1] * grid[2]
    ranks_NU = torch.rand((n, count), generator=draw).argsort(1).argsort(1)
    mask = (ranks_NU < int(MASKED_SHARE * count)).reshape(n, *grid)
    for axis, (units, size) in enumerate(zip(grid, size_DHW, strict=True), start=1):
        mask = mask.index_select(axis, torch.arange(size) * units // size)
    return mask[:, None]


def masked_error(output_NCDHW: Tensor, clean_NCDHW: Tensor, hidden_N1DHW: Tensor) -> Tensor:
    """Mean squared error over hidden voxels, without the zero padding around a volume."""
    counted_N1DHW = hidden_N1DHW & (clean_NCDHW != 0).any(1, keepdim=True)
    squared_NCDHW = (output_NCDHW - clean_NCDHW).square() * counted_N1DHW
    return squared_NCDHW.sum() / (counted_N1DHW.sum() * clean_NCDHW.shape[1]).clamp(min=1)
