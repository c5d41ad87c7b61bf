"""Two-dimensional projection of two samples onto principal axes, for figures; no statistic depends on it.

Legend: F rows of the fitted sample, N and M rows of x and y, K channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vfmalign.client.messages.mmd import Projection, ProjectionPoint
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.row_streams import FeatureArray
from vfmalign.mmd.engine.rows import Affine, prepare


def project(
    samples: Sequence[FeatureArray], affine: Affine, device: torch.device, context: WorkContext = UNLIMITED
) -> Projection:
    """Project standardised features onto the principal axes of the reference, or of x without one.

    The sign of an axis makes its largest entry positive. Coordinates on an axis that does not exist (one row, one
    channel) are 0.

    Args:
        samples: features of x, of y and optionally of the reference.
        affine: standardisation.
        device: where to compute.
        context: checked before every block of rows; the decomposition itself cannot be interrupted.
    """
    fitted_NC = samples[2] if len(samples) > 2 else samples[0]
    fitted_FK = prepare([(fitted_NC, None)], affine, "float64", device, context=context).values_NK
    mean_K = fitted_FK.mean(dim=0)
    _, singular, axes_AK = torch.linalg.svd(fitted_FK - mean_K, full_matrices=False)
    variance = singular.square()
    total = float(variance.sum())
    axes_2K = torch.zeros(2, fitted_FK.shape[1], dtype=fitted_FK.dtype, device=fitted_FK.device)
    explained = [0.0, 0.0]
    for axis in range(min(2, axes_AK.shape[0])):
        if float(variance[axis]) <= 1e-24 * total or total == 0.0:
            break
        largest = axes_AK[axis].abs().argmax()
        axes_2K[axis] = axes_AK[axis] * torch.sign(axes_AK[axis, largest])
        explained[axis] = float(variance[axis]) / total

    def points(features_NC: FeatureArray) -> tuple[ProjectionPoint, ...]:
        values_NK = prepare([(features_NC, None)], affine, "float64", device, context=context).values_NK
        return tuple(ProjectionPoint(u=u, v=v) for u, v in ((values_NK - mean_K) @ axes_2K.T).tolist())

    return Projection(x=points(samples[0]), y=points(samples[1]), explained_variance=tuple(explained))
