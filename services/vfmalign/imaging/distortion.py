"""Simulated susceptibility distortion of echo-planar images: moves signal along the phase-encoding axis, with pile-up.

An off-resonance field ΔB displaces the signal by d = ΔB / bandwidth along the phase-encoding axis. The field hardly
displaces the signal along the other axes (Jezzard & Balaban, Magn Reson Med 34 (1995)). The image shows signal density.
Displacement multiplies the signal by 1 / (1 + ∂d/∂y). The signal piles up where neighbouring positions are pushed
together, and thins out where they are pulled apart. The total is unchanged. The simulation therefore moves the signal
between two edges as one mass. This conserves the total up to rounding. The ratio of two images acquired in the same
field, such as an ADC map, is displaced but does not pile up.

The phase-encoding axis is H (front to back), as usual. Gas in the rectum, behind the gland, disturbs the field most
along this axis. Axes: D slices, H rows, W columns; E = H + 1 edges.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PEAK_DISPLACEMENT_MM = (4.0, 10.0)
"""Range of a case's largest displacement: single-shot EPI of the prostate at 3 T shows some millimetres, and about a
centimetre next to rectal gas.
"""
N_SOURCES = 6
SOURCE_WIDTH_MM = (10.0, 22.0)
SOURCE_EXTENT_MM = (18.0, 25.0, 25.0)
"""Largest distance of a source from the centre of the field of view along D, H, W."""
END_MARGIN_MM = 15.0
"""Distance over which the displacement fades to 0 towards the ends of a line, so that no signal leaves the image."""
MIN_STRETCH = 0.35
"""Smallest 1 + ∂d/∂y: signal piles up at most threefold, and no two positions are mapped to the same one, so that the
displacement is invertible.
"""


def simulate_displacement(shape_DHW: tuple[int, int, int], spacing_mm: tuple[float, float, float], seed: int) -> Tensor:
    """Simulates a case's displacement field at the edges between voxels.

    The field is a sum of positive and negative Gaussian bumps. The positions of the bumps are in mm from the centre of
    the field of view. The same seed therefore gives the same field on every grid with this centre.

    Args:
        shape_DHW: number of voxels.
        spacing_mm: along D, H, W.
        seed: the case's seed.

    Returns:
        (D, H + 1, W) float64, displacement in voxels along H. The displacement is 0 at both ends of a line. ∂d/∂y is at
        least `MIN_STRETCH` − 1.
    """
    rng = np.random.default_rng(seed)
    sizes_mm = [n * step for n, step in zip(shape_DHW, spacing_mm, strict=True)]
    z, x = (
        spacing_mm[axis] * (np.arange(shape_DHW[axis]) + 0.5) - sizes_mm[axis] / 2 for axis in (0, 2)
    )  # voxel centres
    y = spacing_mm[1] * np.arange(shape_DHW[1] + 1) - sizes_mm[1] / 2  # voxel edges
    field_DEW = np.zeros((len(z), len(y), len(x)))
    for _ in range(N_SOURCES):
        centre_mm, width_mm = rng.uniform(-1.0, 1.0, 3) * SOURCE_EXTENT_MM, rng.uniform(*SOURCE_WIDTH_MM, 3)
        bumps = [np.exp(-0.5 * ((p - c) / w) ** 2) for p, c, w in zip((z, y, x), centre_mm, width_mm, strict=True)]
        field_DEW += rng.normal() * np.einsum("d,e,w->dew", *bumps)
    to_line_end = np.clip((sizes_mm[1] / 2 - np.abs(y)) / END_MARGIN_MM, 0.0, 1.0)
    field_DEW *= (to_line_end**2 * (3.0 - 2.0 * to_line_end))[:, np.newaxis]
    peak = rng.uniform(*PEAK_DISPLACEMENT_MM) / spacing_mm[1]
    field_DEW *= peak / np.abs(field_DEW).max()
    max_compression = -np.diff(field_DEW, axis=1).min()
    return torch.from_numpy(field_DEW * min(1.0, (1.0 - MIN_STRETCH) / max(max_compression, 1e-12)))


def distort(signal_DHW: Tensor, displacement_DEW: Tensor) -> Tensor:
    """Displaces a signal image with pile-up. The sum over each line is conserved."""
    return _mass_between_edges(signal_DHW, _edge_origins(displacement_DEW))


def displace_ratio(ratio_DHW: Tensor, displacement_DEW: Tensor) -> Tensor:
    """Displaces a ratio of two distorted images by linear interpolation, without pile-up."""
    origins_DEW = _edge_origins(displacement_DEW)
    position_DHW = (origins_DEW[:, 1:] + origins_DEW[:, :-1]) / 2 - 0.5  # relative to voxel centres
    last = ratio_DHW.shape[1] - 1
    position_DHW = position_DHW.clamp(0, last)
    below_DHW = position_DHW.floor().clamp(max=max(0, last - 1)).long()
    weight_DHW = (position_DHW - below_DHW).to(ratio_DHW.dtype)
    above_DHW = (below_DHW + 1).clamp(max=last)
    return ratio_DHW.gather(1, below_DHW) * (1 - weight_DHW) + ratio_DHW.gather(1, above_DHW) * weight_DHW


def _regular_edges(displacement_DEW: Tensor) -> Tensor:
    return torch.arange(displacement_DEW.shape[1], dtype=displacement_DEW.dtype)[None, :, None]


def _edge_origins(displacement_DEW: Tensor) -> Tensor:
    """Undistorted position of each edge: the inverse of edge + displacement, which is linear between edges."""
    regular_DEW = _regular_edges(displacement_DEW).expand_as(displacement_DEW)
    moved_DWE = (regular_DEW + displacement_DEW).transpose(1, 2).contiguous()
    target_DWE = regular_DEW.transpose(1, 2).contiguous()
    upper_DWE = torch.searchsorted(moved_DWE, target_DWE).clamp(1, moved_DWE.shape[2] - 1)
    left_DWE, right_DWE = moved_DWE.gather(2, upper_DWE - 1), moved_DWE.gather(2, upper_DWE)
    return (upper_DWE - 1 + (target_DWE - left_DWE) / (right_DWE - left_DWE)).transpose(1, 2)


def _mass_between_edges(signal_DHW: Tensor, edges_DEW: Tensor) -> Tensor:
    """Integrates a non-negative signal between consecutive edges.

    The result is the difference of the cumulative sum at the edges. The cumulative sum is interpolated by cubics. Their
    slope at a voxel edge is the mean of both neighbours, limited so that the interpolant never decreases (Fritsch &
    Carlson, SIAM J Numer Anal 17 (1980)).
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
    total_at_edges_DEW = y0 + t * (m0 + t * (3 * (y1 - y0) - 2 * m0 - m1 + t * (2 * (y0 - y1) + m0 + m1)))
    return total_at_edges_DEW.diff(dim=1).to(signal_DHW.dtype)
