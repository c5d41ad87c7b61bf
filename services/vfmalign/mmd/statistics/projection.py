"""Two-dimensional projection of two samples onto principal axes. Only figures use it; no statistic depends on it.

Legend: F rows of the fitted sample, N rows of x, M rows of y, K channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from vfmalign.client.messages.mmd import Projection, ProjectionPoint
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.row_streams import FeatureArray
from vfmalign.mmd.engine.rows import Affine, prepare

_DECOMPOSED_SIDE = 64
"""Maximum number of rows or channels for which a full decomposition computes all axes."""
_MIN_RELATIVE_VARIANCE = 1e-13
"""Maximum share of the variance at which an axis is considered to consist of rounding errors."""


def project(
    samples: Sequence[FeatureArray], affine: Affine, device: torch.device, context: WorkContext = UNLIMITED
) -> Projection:
    """Projects standardised features onto the principal axes of the reference or, without a reference, of x.

    The sign of each axis is chosen so that its largest entry is positive. If there is only one row or one channel, an
    axis may not exist. Its coordinates are then 0.

    Args:
        samples: features of x, of y and optionally of the reference.
        affine: standardisation of the features.
        device: device to compute on.
        context: checked before every block of rows and before every matrix-vector product.
    """
    fitted_NC = samples[2] if len(samples) > 2 else samples[0]
    fitted_FK = prepare([(fitted_NC, None)], affine, "float64", device, context=context).values_NK
    mean_K = fitted_FK.mean(dim=0)
    centred_FK = fitted_FK - mean_K
    total = float(centred_FK.square().sum())
    variance, axes_AK = _leading_axes(centred_FK, context) if total else ([], centred_FK[:0])
    axes_2K = torch.zeros(2, fitted_FK.shape[1], dtype=fitted_FK.dtype, device=fitted_FK.device)
    explained = [0.0, 0.0]
    for axis in range(min(2, len(axes_AK))):
        if variance[axis] <= _MIN_RELATIVE_VARIANCE * total:
            break
        largest = axes_AK[axis].abs().argmax()
        axes_2K[axis] = axes_AK[axis] * torch.sign(axes_AK[axis, largest])
        explained[axis] = variance[axis] / total

    def points(features_NC: FeatureArray) -> tuple[ProjectionPoint, ...]:
        values_NK = prepare([(features_NC, None)], affine, "float64", device, context=context).values_NK
        return tuple(ProjectionPoint(u=u, v=v) for u, v in ((values_NK - mean_K) @ axes_2K.T).tolist())

    return Projection(x=points(samples[0]), y=points(samples[1]), explained_variance=tuple(explained))


def _leading_axes(centred_FK: Tensor, context: WorkContext) -> tuple[list[float], Tensor]:
    """Returns the first two principal axes as rows, and the variance along each axis, summed over the feature rows.

    ARPACK needs only matrix-vector products: about a hundred, even if the variance is equal in all directions. A full
    decomposition of 100,000 rows takes minutes and cannot be interrupted.
    """
    rows, channels = centred_FK.shape
    if min(rows, channels) <= _DECOMPOSED_SIDE:
        _, singular, axes_AK = torch.linalg.svd(centred_FK, full_matrices=False)
        return singular.square().tolist(), axes_AK

    def multiply(direction_K: NDArray[np.float64]) -> NDArray[np.float64]:
        context.checkpoint()
        on_device_K = torch.from_numpy(direction_K.reshape(-1).copy()).to(centred_FK)
        product_K: NDArray[np.float64] = (centred_FK.T @ (centred_FK @ on_device_K)).cpu().numpy()
        return product_K

    scatter = LinearOperator((channels, channels), matvec=multiply, dtype=np.float64)
    start_K = np.random.default_rng(0).normal(size=channels)
    variance, axes_K2 = eigsh(scatter, k=2, which="LA", v0=start_K, tol=1e-10)
    return variance[::-1].tolist(), torch.from_numpy(axes_K2[:, ::-1].T.copy()).to(centred_FK)
