"""Scale and bandwidth from a reference sample, so that they do not grow with the shift they should measure.

Legend: R rows of the reference, C channels, K kept channels, I and J rows of one tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.errors import BadOption, Cancelled
from vfmalign.mmd.engine import ShouldStop

# A channel with less than this share of the median SD carries rounding, which scaling would blow up.
SMALLEST_RELATIVE_SD = 1e-6
# Up to this many rows the median is exact; a larger reference is sampled without replacement, with a fixed seed.
EXACT_MEDIAN_ROWS = 4096
_TILE = 512


@dataclass(frozen=True)
class Scale:
    """Per-channel standardisation.

    Attributes:
        mean_C, sd_C: of the reference (SD with R − 1), in feature units.
        kept_C: channels that are kept.
    """

    mean_C: Tensor  # noqa: N815
    sd_C: Tensor  # noqa: N815
    kept_C: Tensor  # noqa: N815

    @property
    def left_out(self) -> int:
        """Number of channels that are left out."""
        return int((~self.kept_C).sum())

    def apply(self, features_NC: Tensor) -> Tensor:
        """(x − mean)/SD over the kept channels, in float64; shape [N, K]."""
        centred_NK = features_NC[:, self.kept_C].double() - self.mean_C[self.kept_C]
        return centred_NK.div_(self.sd_C[self.kept_C])


def scale_of(reference_RC: Tensor, layer: str) -> Scale:
    """Mean and SD per channel; channels with SD under 1e-6 of the median SD are left out.

    Raises:
        BadOption: fewer than 2 rows, or no channel varies.
    """
    if reference_RC.shape[0] < 2:
        raise BadOption("a scale needs at least 2 rows", field="reference", remedy="use a larger reference")
    exact_RC = reference_RC.double()
    mean_C, sd_C = exact_RC.mean(dim=0), exact_RC.std(dim=0)
    median = float(np.median(sd_C.cpu().numpy()))
    kept_C = (sd_C >= SMALLEST_RELATIVE_SD * median) & (exact_RC != exact_RC[:1]).any(dim=0)
    if not bool(kept_C.any()):
        raise BadOption(
            f"no channel of layer `{layer}` varies over the reference",
            field="reference",
            remedy="use cases that differ",
        )
    return Scale(mean_C, sd_C, kept_C)


def median_distance(reference_RK: Tensor, layer: str, should_stop: ShouldStop) -> float:
    """σ = median of ‖x_i − x_j‖ over i < j (the mean of the middle two where their number is even).

    Distances are differences taken directly, so that equal rows are exactly 0 apart.

    Raises:
        BadOption: fewer than 2 rows, or σ = 0.
        Cancelled: `should_stop` said so.
    """
    rows = reference_RK.shape[0]
    if rows < 2:
        raise BadOption("a bandwidth needs at least 2 rows", field="reference", remedy="use a larger reference")
    if rows > EXACT_MEDIAN_ROWS:
        chosen = np.random.Generator(np.random.Philox(key=0)).choice(rows, EXACT_MEDIAN_ROWS, replace=False)
        reference_RK, rows = reference_RK[torch.from_numpy(np.sort(chosen)).to(reference_RK.device)], EXACT_MEDIAN_ROWS
    distances = np.empty(rows * (rows - 1) // 2, np.float64)
    filled = 0
    for start_i in range(0, rows, _TILE):
        for start_j in range(start_i, rows, _TILE):
            if should_stop():
                raise Cancelled("the comparison was stopped between two tiles", remedy="ask again to start it anew")
            part = _upper_distances(reference_RK, slice(start_i, start_i + _TILE), slice(start_j, start_j + _TILE))
            distances[filled : filled + part.size] = part
            filled += part.size
    sigma = float(np.median(distances, overwrite_input=True))
    if sigma == 0.0:
        raise BadOption(
            f"the median distance of the reference in layer `{layer}` is 0, so that no bandwidth follows from it",
            field="reference",
            remedy="use cases that differ, or give a fixed σ",
        )
    return sigma


def _upper_distances(reference_RK: Tensor, rows: slice, columns: slice) -> NDArray[np.float64]:
    """Distances of the pairs i < j in one tile."""
    distances_IJ = torch.cdist(
        reference_RK[rows], reference_RK[columns], compute_mode="donot_use_mm_for_euclid_dist"
    ).cpu()
    if rows == columns:
        upper = torch.triu_indices(distances_IJ.shape[0], distances_IJ.shape[1], offset=1)
        return distances_IJ[upper[0], upper[1]].numpy()
    return distances_IJ.flatten().numpy()
