"""What susceptibility does to echo-planar images: displacement along the phase-encoding axis, with pile-up.

An off-resonance field ΔB moves the signal of a place by d = ΔB / bandwidth along the phase-encoding axis and by almost
nothing along the others (Jezzard & Balaban, Magn Reson Med 34 (1995)). What arrives is density: where places are moved
together signal piles up, by 1 / (1 + ∂d/∂y); where they are moved apart it thins out; the total stays. So signal is
carried as the mass between moved edges, which conserves it to rounding. A ratio of two images of one field, such as an
ADC map, moves but does not pile up.

Phase is encoded along H (front to back), as is usual where the rectum's gas, behind the gland, disturbs most. Knows
fields and lines of voxels; knows nothing of studies or datasets. Axes: D slices, H rows, W columns; E = H + 1 edges.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PEAK_MM = (4.0, 10.0)
"""Least and most of a case's largest displacement: single-shot EPI of the prostate at 3 T shows some millimetres, and
about a centimetre next to rectal gas."""
SOURCES = 6
WIDTH_MM = (10.0, 22.0)
REACH_MM = (18.0, 25.0, 25.0)
"""How far from the centre of the field of view, along D, H, W, a source may lie."""
MARGIN_MM = 15.0
"""Over which the displacement dies off towards the ends of a line, so that no signal leaves the field of view."""
LEAST_STRETCH = 0.35
"""Least 1 + ∂d/∂y: signal piles up threefold at most, and no two places fold onto one, so an inverse exists."""


def displacement(shape_DHW: tuple[int, int, int], spacing_mm: tuple[float, float, float], seed: int) -> Tensor:
    """A case's field: where each edge between voxels goes.

    A sum of a few Gaussian bumps of either sign, in mm from the centre of the field of view, so that one seed is the
    same field on any grid of that centre.

    Args:
        shape_DHW: voxels.
        spacing_mm: along D, H, W.
        seed: of the case.

    Returns:
        (D, H + 1, W) float64, in voxels of H; 0 at both ends, and ∂d/∂y is at least `LEAST_STRETCH` − 1.
    """
    rng = np.random.default_rng(seed)
    sizes_mm = [n * step for n, step in zip(shape_DHW, spacing_mm, strict=True)]
    z, x = (
        spacing_mm[axis] * (np.arange(shape_DHW[axis]) + 0.5) - sizes_mm[axis] / 2 for axis in (0, 2)
    )  # centres of voxels
    y = spacing_mm[1] * np.arange(shape_DHW[1] + 1) - sizes_mm[1] / 2  # edges
    field_DEW = np.zeros((len(z), len(y), len(x)))
    for _ in range(SOURCES):
        centre_mm, width_mm = rng.uniform(-1.0, 1.0, 3) * REACH_MM, rng.uniform(*WIDTH_MM, 3)
        bumps = [np.exp(-0.5 * ((p - c) / w) ** 2) for p, c, w in zip((z, y, x), centre_mm, width_mm, strict=True)]
        field_DEW += rng.normal() * np.einsum("d,e,w->dew", *bumps)
    to_end = np.clip((sizes_mm[1] / 2 - np.abs(y)) / MARGIN_MM, 0.0, 1.0)
    field_DEW *= (to_end**2 * (3.0 - 2.0 * to_end))[:, np.newaxis]
    peak = rng.uniform(*PEAK_MM) / spacing_mm[1]
    field_DEW *= peak / np.abs(field_DEW).max()
    squeeze = -np.diff(field_DEW, axis=1).min()
    return torch.from_numpy(field_DEW * min(1.0, (1.0 - LEAST_STRETCH) / max(squeeze, 1e-12)))


def distort(signal_DHW: Tensor, displacement_DEW: Tensor) -> Tensor:
    """The image that arrives: every voxel's signal moved, piled up and thinned out. Its total is the signal's."""
    return _between(signal_DHW, _origins(displacement_DEW))


def undistort(signal_DHW: Tensor, displacement_DEW: Tensor) -> Tensor:
    """The inverse of `distort` for a known field, up to what the voxels' size has blurred."""
    return _between(signal_DHW, _edges(displacement_DEW) + displacement_DEW)


def move(ratio_DHW: Tensor, displacement_DEW: Tensor) -> Tensor:
    """The map of a ratio of two distorted images: moved, linearly interpolated, its values kept."""
    origins_DEW = _origins(displacement_DEW)
    middle_DHW = (origins_DEW[:, 1:] + origins_DEW[:, :-1]) / 2 - 0.5  # in voxels' centres
    last = ratio_DHW.shape[1] - 1
    middle_DHW = middle_DHW.clamp(0, last)
    below_DHW = middle_DHW.floor().clamp(max=max(0, last - 1)).long()
    share_DHW = (middle_DHW - below_DHW).to(ratio_DHW.dtype)
    above_DHW = (below_DHW + 1).clamp(max=last)
    return ratio_DHW.gather(1, below_DHW) * (1 - share_DHW) + ratio_DHW.gather(1, above_DHW) * share_DHW


def _edges(displacement_DEW: Tensor) -> Tensor:
    return torch.arange(displacement_DEW.shape[1], dtype=displacement_DEW.dtype)[None, :, None]


def _origins(displacement_DEW: Tensor) -> Tensor:
    """From where each edge's signal came: the inverse of edge + displacement, which is linear between edges."""
    regular_DEW = _edges(displacement_DEW).expand_as(displacement_DEW)
    moved_DWE = (regular_DEW + displacement_DEW).transpose(1, 2).contiguous()
    wanted_DWE = regular_DEW.transpose(1, 2).contiguous()
    upper_DWE = torch.searchsorted(moved_DWE, wanted_DWE).clamp(1, moved_DWE.shape[2] - 1)
    left_DWE, right_DWE = moved_DWE.gather(2, upper_DWE - 1), moved_DWE.gather(2, upper_DWE)
    return (upper_DWE - 1 + (wanted_DWE - left_DWE) / (right_DWE - left_DWE)).transpose(1, 2)


def _between(signal_DHW: Tensor, edges_DEW: Tensor) -> Tensor:
    """The signal that lies between each two edges, of a signal that is not negative.

    Differences of the running total, which is interpolated by cubics whose slopes at the voxels' edges are the mean of
    both neighbours, limited so that the total never falls (Fritsch & Carlson, SIAM J Numer Anal 17 (1980)).
    """
    value_DHW = signal_DHW.double()
    total_DEW = torch.cat((torch.zeros_like(value_DHW[:, :1]), value_DHW.cumsum(1)), dim=1)
    before, after = value_DHW[:, :-1], value_DHW[:, 1:]
    inner = torch.minimum((before + after) / 2, 3 * torch.minimum(before, after))
    slope_DEW = torch.cat((value_DHW[:, :1], inner, value_DHW[:, -1:]), dim=1)
    edges_DEW = edges_DEW.clamp(0, value_DHW.shape[1])
    left_DEW = edges_DEW.floor().clamp(max=value_DHW.shape[1] - 1).long()
    t = edges_DEW - left_DEW
    y0, y1 = total_DEW.gather(1, left_DEW), total_DEW.gather(1, left_DEW + 1)
    m0, m1 = slope_DEW.gather(1, left_DEW), slope_DEW.gather(1, left_DEW + 1)
    at_DEW = y0 + t * (m0 + t * (3 * (y1 - y0) - 2 * m0 - m1 + t * (2 * (y0 - y1) + m0 + m1)))
    return at_DEW.diff(dim=1).to(signal_DHW.dtype)
