"""LogME: how well a linear model on features explains the classes of cases, as log evidence per case.

Of You, Liu, Wang and Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning" (ICML 2021). Plain
float64 maths; knows nothing of feature sets or jobs.

The model, for each class with its indicator y: y = Fw + ε, w ~ N(0, I/α), ε ~ N(0, I/β), without an intercept and on
features as they are, as in the paper. Its evidence p(y | F, α, β) is that of y ~ N(0, (I + FFᵀ/δ)/β), δ = α/β; for a
given δ the best β has a closed form, so that one number is left to find.

Legend: N cases, C channels, S the smaller of both, R principal axes of F about zero.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from vfmalign.core.domain.errors import BadTensor

MAX_ITERATIONS = 10_000
_CONVERGED = 1e-12  # change of the log evidence per case
_FARTHEST_RATIO = 1e12  # of δ and the largest λ, either way: beyond it the evidence stays the same

Array = NDArray[np.float64]


def logme(features_NC: NDArray[np.floating], class_N: NDArray[np.generic]) -> float:
    """The greatest log evidence per case, averaged over the classes that occur; higher means easier to read off.

    It stays the same when the features are rotated or scaled as a whole; it does not when they are moved.

    Args:
        features_NC: of each case; finite.
        class_N: of each case; any values that can be compared, at least two different ones.

    Raises:
        BadTensor: shapes that do not fit, values that are not finite, or one class alone.
    """
    rows_NC = np.asarray(features_NC, dtype=np.float64)
    if rows_NC.ndim != 2 or 0 in rows_NC.shape or class_N.shape != rows_NC.shape[:1]:
        raise BadTensor(f"expected [cases, channels] and a class per case, got {rows_NC.shape} and {class_N.shape}")
    if not np.isfinite(rows_NC).all():
        raise BadTensor("the features hold NaN or infinity")
    classes = np.unique(class_N)
    if len(classes) < 2:
        raise BadTensor("all cases are of one class", remedy="give cases of at least two")
    axes_NR, power_R = _axes(rows_NC)
    targets = [(class_N == one).astype(np.float64) for one in classes]
    return float(np.mean([_greatest_evidence(axes_NR, power_R, target_N) for target_N in targets]))


def _axes(rows_NC: Array) -> tuple[Array, Array]:
    """Orthonormal axes of FFᵀ, [N, R], and their powers, in units of the largest: the search for δ then knows no scale.

    From the smaller of FFᵀ and FᵀF, which a busy machine decomposes much sooner than F itself. What it loses are
    directions under about 1e-6 of the largest extent, where float32 features hold rounding alone.
    """
    wide = rows_NC.shape[0] < rows_NC.shape[1]
    power_R, vectors_SR = scipy.linalg.eigh(rows_NC @ rows_NC.T if wide else rows_NC.T @ rows_NC)
    kept_R = power_R > max(power_R[-1], 0.0) * max(rows_NC.shape) * np.finfo(np.float64).eps
    power_R, vectors_SR = power_R[kept_R], vectors_SR[:, kept_R]
    axes_NR = vectors_SR if wide else rows_NC @ vectors_SR / np.sqrt(power_R)
    return axes_NR, power_R / power_R.max(initial=0.0)


def _greatest_evidence(axes_NR: Array, power_R: Array, target_N: Array) -> float:
    """The log evidence per case of one target at the δ and β that make it greatest, by MacKay's fixed point.

    With λ the powers and z the target on the axes: γ = Σ λ/(δ+λ) channels are in use, ‖w‖² = Σ λz²/(δ+λ)², and the
    residual is ‖y‖² − Σ z² + Σ (δz/(δ+λ))². The update α ← γ/‖w‖², β ← (N−γ)/residual is one of δ alone.
    """
    cases = len(target_N)
    z2_R = np.square(axes_NR.T @ target_N)
    beyond = max(float(target_N @ target_N - z2_R.sum()), 0.0)
    ratio, found = 1.0, -np.inf
    for _ in range(MAX_ITERATIONS):
        spared_R = ratio / (ratio + power_R)
        before, found = found, _evidence(beyond + float(spared_R @ z2_R), spared_R, cases)
        if abs(found - before) < _CONVERGED:
            break
        used, unused = float((1.0 - spared_R).sum()), cases - len(power_R) + float(spared_R.sum())
        weight = float((power_R * z2_R / np.square(ratio + power_R)).sum())
        residual = beyond + float(np.square(spared_R) @ z2_R)
        if unused * weight == 0.0:  # no feature has anything of the target
            ratio = _FARTHEST_RATIO
        else:
            ratio = min(max(used * residual / (unused * weight), 1.0 / _FARTHEST_RATIO), _FARTHEST_RATIO)
    return found


def _evidence(left: float, spared_R: Array, cases: int) -> float:
    """Log evidence per case at the best β, 1/β = left/N with left = yᵀ(I + FFᵀ/δ)⁻¹y."""
    return float((-cases * (np.log(2.0 * np.pi * left / cases) + 1.0) + np.log(spared_R).sum()) / (2.0 * cases))
