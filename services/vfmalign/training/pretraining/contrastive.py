"""Contrastive pretraining: features of two augmented crops should be similar only if both show the same case.

SimCLR (Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv
2002.05709): NT-Xent loss, computed by MONAI's `ContrastiveLoss` on a projection of the pooled feature.

Axes: N batch, C channels, D H W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.losses.contrastive import ContrastiveLoss
from torch import Tensor

from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.domain.jobs import MetricSpec, TrainingRecipe
from vfmalign.models.encoder import Encoder
from vfmalign.training.data import Batch, PreparedCase, collate, generator
from vfmalign.training.figures import Panel
from vfmalign.training.networks.heads import Projector, stage_shapes
from vfmalign.training.process_group import Forward

TEMPERATURE = 0.2
PROJECTION_CHANNELS = 64
CROP_SHARE = 0.75
"""Side of a crop relative to the volume in plane; all slices are kept because there are few."""
SCALE, SHIFT, NOISE = 0.2, 0.2, 0.1
"""Changes of contrast, brightness and noise per channel, in SDs of the normalised volume: scanners differ in them."""

NT_XENT = MetricSpec(name="nt_xent", unit="nat", higher_is_better=False, floor=1e-6)


class Contrastive:
    """Learner of the contrastive objective; see `learner.Learner`."""

    metrics = (NT_XENT,)

    def __init__(self, encoder: Encoder, recipe: TrainingRecipe, device: torch.device, seed: int) -> None:
        if recipe.batch_size < 2:
            raise BadOption(
                "contrastive pretraining compares the cases of a batch, but the batch size is 1",
                field="recipe.batch_size",
                remedy="use at least 2, or better 8",
            )
        self.encoder = encoder
        self.network = Projector(encoder, PROJECTION_CHANNELS).to(device)
        self.device = device
        self.seed = seed
        self.batch_size = recipe.batch_size
        self.multiple_DHW = stage_shapes(encoder)[1][-1]
        self.criterion = ContrastiveLoss(temperature=TEMPERATURE)

    def loss(self, batch: Batch, draw: torch.Generator, forward: Forward) -> Tensor:
        """NT-Xent loss of two views of every case."""
        return self._nt_xent(batch, draw, forward)

    def validate(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> float:
        """The NT-Xent loss over all validation cases together. The views are the same in every epoch."""
        if len({case.case for case in cases}) < 2:
            raise BadDataset(
                "contrastive validation needs at least two different cases", subject="val", remedy="add cases to `val`"
            )
        check()
        self.network.eval()
        with torch.no_grad():
            draw = generator(self.seed, "validation-views")
            return float(self._nt_xent(collate(cases, self.device), draw, self.network))

    def score(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> list[dict[str, float | None]]:
        """Returns None for every case, because the loss needs several cases."""
        return [{NT_XENT.name: None} for _ in cases]

    def panels(self, case: PreparedCase) -> list[Panel]:
        """No panels."""
        return []

    def _nt_xent(self, batch: Batch, draw: torch.Generator, forward: Forward) -> Tensor:
        # All crops have the same size, because a batch needs one shape.
        views = torch.cat([self._view(batch.clean_NCDHW, draw), self._view(batch.clean_NCDHW, draw)])
        first_NF, second_NF = forward(views, batch.slices_N2.repeat(2, 1)).chunk(2)
        value: Tensor = self.criterion(first_NF, second_NF)
        return value

    def _view(self, volumes_NCDHW: Tensor, draw: torch.Generator) -> Tensor:
        views = [self._augment(volume_CDHW, draw) for volume_CDHW in volumes_NCDHW]
        return torch.stack(views).contiguous(memory_format=torch.channels_last_3d)

    def _augment(self, volume_CDHW: Tensor, draw: torch.Generator) -> Tensor:
        channels, *size_DHW = volume_CDHW.shape
        _, *multiples_HW = self.multiple_DHW
        crop_HW = [
            max(multiple, int(CROP_SHARE * size) // multiple * multiple)
            for size, multiple in zip(size_DHW[1:], multiples_HW, strict=True)
        ]
        for axis, side in zip((2, 3), crop_HW, strict=True):
            margin = volume_CDHW.shape[axis] - side
            volume_CDHW = volume_CDHW.narrow(axis, int(torch.randint(0, margin + 1, (), generator=draw)), side)
        if torch.rand((), generator=draw) < 0.5:
            volume_CDHW = volume_CDHW.flip(-1)
        scale_C = 1 + SCALE * torch.randn(channels, generator=draw)
        shift_C = SHIFT * torch.randn(channels, generator=draw)
        noise_CDHW = NOISE * torch.randn(volume_CDHW.shape, generator=draw)
        scale, shift = (values_C[:, None, None, None].to(self.device) for values_C in (scale_C, shift_C))
        return volume_CDHW * scale + shift + noise_CDHW.to(self.device)
