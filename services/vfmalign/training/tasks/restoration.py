"""Parts shared by the tasks that output an image: restored channels, loss, PSNR, SSIM and panels.

Axes: N batch, C channels, D H W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import cast

import torch
from monai.metrics.regression import PSNRMetric, SSIMMetric
from torch import Tensor
from torch.nn import functional

from vfmalign.core.domain.declarations import Modality
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.training.data import Batch, PreparedCase
from vfmalign.training.figures import Panel, grey_limits
from vfmalign.training.tasks.task import TrainableTask

PSNR_CEILING_DB = 100.0
"""PSNR of two equal volumes, in place of infinity."""
SSIM_WINDOW = 7


@dataclass(frozen=True)
class Restoration:
    """Loss, metrics and panels of a task that restores modalities.

    Attributes:
        restores: modalities to restore. Modalities that the model's input lacks are ignored.
        unit: unit of the output, as a multiple of the clean channels' unit.
    """

    restores: tuple[Modality, ...]
    unit: float = 1.0

    def channels(self, modalities: Sequence[Modality]) -> list[int]:
        """Indices of the input channels to restore."""
        return [channel for channel, modality in enumerate(modalities) if modality in self.restores]

    def loss(self, output_NCDHW: Tensor, batch: Batch) -> Tensor:
        """Mean squared error. Minimising it maximises PSNR."""
        return functional.mse_loss(output_NCDHW, batch.clean_NCDHW[:, self.channels(batch.modalities)] / self.unit)

    def target(self, case: PreparedCase) -> Tensor:
        """The reference for the output."""
        return case.clean_CDHW[self.channels(case.modalities)] / self.unit

    def primary(self, output_CDHW: Tensor, case: PreparedCase) -> float | None:
        """PSNR in dB."""
        return psnr(output_CDHW, self.target(case))

    def score(self, output_CDHW: Tensor, case: PreparedCase) -> dict[str, float | None]:
        """PSNR and SSIM."""
        target_CDHW = self.target(case)
        return {"psnr": psnr(output_CDHW, target_CDHW), "ssim": ssim(output_CDHW, target_CDHW)}

    def uncorrected(self, train: Sequence[PreparedCase]) -> Callable[[PreparedCase], Tensor]:
        """The naive baseline: returns the input's own channels."""
        return lambda case: case.input_CDHW[self.channels(case.modalities)] / self.unit

    def panels(self, output_CDHW: Tensor, case: PreparedCase) -> list[Panel]:
        """Middle slice of the first restored channel: inputs, reference, prediction and error."""
        d = output_CDHW.shape[1] // 2
        first = self.channels(case.modalities)[0]
        # Where the restored channel is hidden, the channels from which it is predicted are shown instead.
        input_channels = (
            [first] if bool(case.input_CDHW[first].any()) else [c for c, v in enumerate(case.input_CDHW) if v.any()]
        )
        clean_HW, output_HW = (volume[0, d].numpy() for volume in (self.target(case), output_CDHW))
        limits = grey_limits(clean_HW)
        aspect = case.spacing_mm[1] / case.spacing_mm[2]
        error_limit = (limits[1] - limits[0]) / 4
        inputs = [
            Panel(
                f"input ({case.modalities[channel]})",
                case.input_CDHW[channel, d].numpy(),
                limits if channel == first else None,
                aspect=aspect,
            )
            for channel in input_channels
        ]
        return [
            *inputs,
            Panel("reference", clean_HW, limits, aspect=aspect),
            Panel("prediction", output_HW, limits, aspect=aspect),
            Panel("prediction − reference", output_HW - clean_HW, (-error_limit, error_limit), aspect=aspect),
        ]


def make_restoration(spec: TaskSpec) -> TrainableTask:
    """Returns a task whose network predicts a residual. The residual is added to the degraded modalities."""
    restoration = Restoration(spec.restores)
    return TrainableTask(
        spec=spec,
        loss=restoration.loss,
        primary=restoration.primary,
        score=restoration.score,
        panels=restoration.panels,
        naive_baseline=restoration.uncorrected,
        restores=restoration.restores,
        residual=True,
    )


@cache
def _psnr() -> PSNRMetric:
    return PSNRMetric(max_val=1.0)


@cache
def _ssim() -> SSIMMetric:
    return SSIMMetric(spatial_dims=3, data_range=1.0, win_size=SSIM_WINDOW)


def psnr(output_CDHW: Tensor, clean_CDHW: Tensor) -> float | None:
    """Mean over channels of 10·log10(range² / MSE) in dB, where `range` is the range of the reference channel.

    Returns:
        The mean is None if every reference channel is constant, and `PSNR_CEILING_DB` for equal volumes.
    """
    pair = _unit_range(output_CDHW, clean_CDHW)
    if pair is None:
        return None
    return _mean(cast(Tensor, _psnr()(*pair)).clamp(max=PSNR_CEILING_DB))


def ssim(output_CDHW: Tensor, clean_CDHW: Tensor) -> float | None:
    """Mean over channels of the 3D structural similarity (Wang et al., 2004). Channels are scaled as in `psnr`."""
    pair = _unit_range(output_CDHW, clean_CDHW)
    return None if pair is None else _mean(cast(Tensor, _ssim()(*pair)))


def _mean(values: Tensor) -> float:
    return fmean(values.flatten().tolist())


def _unit_range(output_CDHW: Tensor, clean_CDHW: Tensor) -> tuple[Tensor, Tensor] | None:
    """Channels as a batch, scaled so that each reference runs from 0 to 1; constant references are left out."""
    low_C, high_C = clean_CDHW.flatten(1).min(1).values, clean_CDHW.flatten(1).max(1).values
    varies_C = high_C > low_C
    if not bool(varies_C.any()):
        return None
    low, span = low_C[varies_C, None, None, None], (high_C - low_C)[varies_C, None, None, None]
    output, clean = ((volume[varies_C] - low) / span for volume in (output_CDHW, clean_CDHW))
    return output[:, None].to(torch.float32), clean[:, None].to(torch.float32)
