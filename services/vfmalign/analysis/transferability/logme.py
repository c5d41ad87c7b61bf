"""LogME: log evidence per case of a linear model that predicts the classes of cases from features.

Source: You, Liu, Wang and Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning" (ICML 2021).
All arithmetic is in float64.

Each class has an indicator y and the model y = Fw + ε, w ~ N(0, I/α), ε ~ N(0, I/β). As in the paper, there is no
intercept and the features are not centred. The evidence p(y | F, α, β) is the density of y ~ N(0, (I + FFᵀ/δ)/β) with δ
= α/β. The best β for a given δ has a closed form, so the search is over δ only. The evidence may have several maxima,
such as one for each group of channels of similar scale. The paper uses MacKay's fixed-point iteration, which may end at
any of these maxima. The evidence is therefore evaluated at values of δ over its whole range, and the best point is
refined.

Legend: N cases, C channels, S = min(N, C), R principal axes of F about zero, D values of log δ.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from vfmalign.core.domain.errors import BadTensor

_MAX_RATIO = 1e12  # bound of δ / λ_max and of its inverse; beyond it the evidence does not change
# Four values per decade: the evidence of a channel changes over a decade or more.
_LOG_RATIO_D = np.linspace(-np.log(_MAX_RATIO), np.log(_MAX_RATIO), 97)

Array = NDArray[np.float64]


def logme(features_NC: NDArray[np.floating], class_N: NDArray[np.generic]) -> float:
    """Maximum log evidence per case, averaged over the classes.

    If the evidence is higher, the classes are easier to predict.

    The value is invariant to rotation and to a common scale of the features, but not to translation.

    Args:
        features_NC: features of each case; all values must be finite.
        class_N: class of each case. The classes must be sortable, and at least two must differ.

    Raises:
        BadTensor: the shapes do not match, a value is not finite, or all cases have the same class.
    """
    rows_NC, classes = check_features(features_NC, class_N)
    axes_NR, power_R = get_principal_axes(rows_NC)
    targets = [(class_N == label).astype(np.float64) for label in classes]
    return float(np.mean([_maximum_evidence(axes_NR, power_R, target_N) for target_N in targets]))


def check_features(
    features_NC: NDArray[np.floating], class_N: NDArray[np.generic]
) -> tuple[Array, NDArray[np.generic]]:
    """Returns the features in float64 and the classes that occur.

    Raises:
        BadTensor: the shapes do not match, a value is not finite, or all cases have the same class.
    """
    rows_NC = np.asarray(features_NC, dtype=np.float64)
    if rows_NC.ndim != 2 or 0 in rows_NC.shape or class_N.shape != rows_NC.shape[:1]:
        raise BadTensor(f"expected [cases, channels] and a class per case, got {rows_NC.shape} and {class_N.shape}")
    if not np.isfinite(rows_NC).all():
        raise BadTensor("the features contain NaN or infinity", remedy="extract the features again")
    classes = np.unique(class_N)
    if len(classes) < 2:
        raise BadTensor("all cases are of one class", remedy="provide cases of at least two classes")
    return rows_NC, classes


def get_principal_axes(rows_NC: Array) -> tuple[Array, Array]:
    """Returns orthonormal axes of FFᵀ, [N, R], and their eigenvalues divided by the largest one, so that δ is unitless.

    The smaller of FFᵀ and FᵀF is decomposed, which takes much less time than an SVD of F. Directions whose extent is
    below about 1e-6 of the largest extent are lost. In float32 features, such directions contain only rounding errors.
    """
    wide = rows_NC.shape[0] < rows_NC.shape[1]
    power_R, vectors_SR = scipy.linalg.eigh(rows_NC @ rows_NC.T if wide else rows_NC.T @ rows_NC)
    mask_R = power_R > max(power_R[-1], 0.0) * max(rows_NC.shape) * np.finfo(np.float64).eps
    power_R, vectors_SR = power_R[mask_R], vectors_SR[:, mask_R]
    axes_NR = vectors_SR if wide else rows_NC @ vectors_SR / np.sqrt(power_R)
    return axes_NR, power_R / power_R.max(initial=0.0)


def _maximum_evidence(axes_NR: Array, power_R: Array, target_N: Array) -> float:
    """Log evidence per case of one target, maximised over δ and β."""
    z2_R = np.square(axes_NR.T @ target_N)
    outside = max(float(target_N @ target_N - z2_R.sum()), 0.0)

    def evaluate(log_ratio_D: Array) -> Array:
        ratio_D1 = np.exp(log_ratio_D)[:, np.newaxis]
        shrinkage_DR = ratio_D1 / (ratio_D1 + power_R)
        return _evidence(outside + shrinkage_DR @ z2_R, shrinkage_DR, len(target_N))

    coarse_D = evaluate(_LOG_RATIO_D)
    best = int(coarse_D.argmax())
    refined = scipy.optimize.minimize_scalar(
        lambda log_ratio: -float(evaluate(np.array([log_ratio]))[0]),
        bounds=(_LOG_RATIO_D[max(best - 1, 0)], _LOG_RATIO_D[min(best + 1, len(_LOG_RATIO_D) - 1)]),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return max(float(coarse_D[best]), -float(refined.fun))


def _evidence(quadratic_D: Array, shrinkage_DR: Array, cases: int) -> Array:
    """Log evidence per case at the best β: 1/β = quadratic/N with quadratic = yᵀ(I + FFᵀ/δ)⁻¹y."""
    log_density_D = -cases * (np.log(2.0 * np.pi * quadratic_D / cases) + 1.0)
    evidence_D: Array = (log_density_D + np.log(shrinkage_DR).sum(axis=-1)) / (2.0 * cases)
    return evidence_D
