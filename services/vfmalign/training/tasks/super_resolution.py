"""Super-resolution: from a volume of half the in-plane resolution back to the one it was made of.

The network predicts a residual over its input, so the untrained network returns the input and step 0 of every curve is
the input's own score. Axes: N batch, C channels, D H W.
"""

from __future__ import annotations

from functools import cache
from statistics import fmean
from typing import cast

import torch
from monai.metrics.regression import PSNRMetric, SSIMMetric
from torch import Tensor
from torch.nn import functional

from vfmalign.core.tasks import SUPER_RESOLUTION as SPEC
from vfmalign.training.data import Batch, PreparedCase
from vfmalign.training.figures import Panel, percentiles
from vfmalign.training.tasks.task import Task

PSNR_CEILING_DB = 100.0
"""PSNR of two equal volumes, which would be infinite."""
SSIM_WINDOW = 7


@cache
def _psnr() -> PSNRMetric:
    return PSNRMetric(max_val=1.0)


@cache
def _ssim() -> SSIMMetric:
    return SSIMMetric(spatial_dims=3, data_range=1.0, win_size=SSIM_WINDOW)


def loss(output_NCDHW: Tensor, batch: Batch) -> Tensor:
    """Mean squared error: its minimum is the maximum of PSNR."""
    return functional.mse_loss(output_NCDHW, batch.clean_NCDHW)


def psnr(output_CDHW: Tensor, clean_CDHW: Tensor) -> float | None:
    """Mean over channels of 10·log10(range² / MSE) in dB, with each reference channel's own range.

    Returns:
        None where every reference channel is constant; equal volumes give `PSNR_CEILING_DB`.
    """
    pair = _unit_range(output_CDHW, clean_CDHW)
    if pair is None:
        return None
    return _mean(cast(Tensor, _psnr()(*pair)).clamp(max=PSNR_CEILING_DB))


def ssim(output_CDHW: Tensor, clean_CDHW: Tensor) -> float | None:
    """Mean over channels of the 3D structural similarity (Wang et al., 2004), scaled as in `psnr`."""
    pair = _unit_range(output_CDHW, clean_CDHW)
    return None if pair is None else _mean(cast(Tensor, _ssim()(*pair)))


def _mean(values: Tensor) -> float:
    return fmean(values.flatten().tolist())


def primary(output_CDHW: Tensor, case: PreparedCase) -> float | None:
    """PSNR in dB."""
    return psnr(output_CDHW, case.clean_CDHW)


def score(output_CDHW: Tensor, case: PreparedCase) -> dict[str, float | None]:
    """PSNR and SSIM."""
    return {"psnr": psnr(output_CDHW, case.clean_CDHW), "ssim": ssim(output_CDHW, case.clean_CDHW)}


def panels(output_CDHW: Tensor, case: PreparedCase) -> list[Panel]:
    """The middle slice of the first channel: input, reference, prediction, what is still wrong."""
    d = output_CDHW.shape[1] // 2
    input_HW, clean_HW, output_HW = (v[0, d].numpy() for v in (case.input_CDHW, case.clean_CDHW, output_CDHW))
    limits = percentiles(clean_HW)
    aspect = case.spacing_mm[1] / case.spacing_mm[2]
    spread = (limits[1] - limits[0]) / 4
    return [
        Panel(f"input ({case.modalities[0]})", input_HW, limits, aspect=aspect),
        Panel("reference", clean_HW, limits, aspect=aspect),
        Panel("prediction", output_HW, limits, aspect=aspect),
        Panel("prediction − reference", output_HW - clean_HW, (-spread, spread), aspect=aspect),
    ]


def _unit_range(output_CDHW: Tensor, clean_CDHW: Tensor) -> tuple[Tensor, Tensor] | None:
    """Channels as a batch, scaled so that each reference runs from 0 to 1; constant references are left out."""
    low_C, high_C = clean_CDHW.flatten(1).min(1).values, clean_CDHW.flatten(1).max(1).values
    varies_C = high_C > low_C
    if not bool(varies_C.any()):
        return None
    low, span = low_C[varies_C, None, None, None], (high_C - low_C)[varies_C, None, None, None]
    output, clean = ((volume[varies_C] - low) / span for volume in (output_CDHW, clean_CDHW))
    return output[:, None].to(torch.float32), clean[:, None].to(torch.float32)


SUPER_RESOLUTION = Task(
    spec=SPEC, out_channels=None, residual=True, loss=loss, primary=primary, score=score, panels=panels
)
