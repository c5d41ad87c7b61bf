"""H-score: how much of the variation of the features is variation between the classes.

Source: Bao et al., "An Information-Theoretic Approach to Transferability in Task Transfer Learning" (ICIP 2019):
H(f) = tr(cov(f)⁻¹ cov(E[f | y])). If there are fewer cases than channels, the covariance is singular. H then equals the
number of classes minus one for every model. The covariance is therefore shrunk as by Ibrahim, Ponomareva and Mazumder,
"Newer is not always better" (ECML PKDD 2022): H_α = tr(cov_α⁻¹ (1 − α) cov(E[f | y])) with cov_α = (1 − α) cov + α μ I,
where μ is the mean variance of a channel and α the shrinkage of Ledoit and Wolf (J. Multivariate Anal. 88, 2004). All
arithmetic is in float64.

Legend: the axes of arrays are N cases, C channels, K classes and R principal axes of the centred features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vfmalign.analysis.transferability.logme import Array, check_features, get_principal_axes


def h_score(features_NC: NDArray[np.floating], class_N: NDArray[np.generic]) -> float:
    """Computes the shrunk H-score in [0, classes − 1]. If the score is higher, the classes are easier to predict.

    The value is invariant to rotation, translation and a common scale of the features.

    Args:
        features_NC: features of each case; all values must be finite.
        class_N: class of each case. The classes must be sortable, and at least two must differ.

    Raises:
        BadTensor: the shapes do not match, a value is not finite, or all cases have the same class.
    """
    rows_NC, classes = check_features(features_NC, class_N)
    rows_NC = rows_NC - rows_NC[0]  # exact zeros in constant channels; subtracting the mean alone may leave rounding
    rows_NC = rows_NC - rows_NC.mean(axis=0)
    axes_NR, power_R = get_principal_axes(rows_NC)
    if not len(power_R):
        return 0.0
    channels = rows_NC.shape[1]
    shrinkage = _get_shrinkage(rows_NC, power_R)
    # Projections of the class means on the principal axes; everything else cancels out.
    indicator_KN = np.stack([class_N == label for label in classes]).astype(np.float64)
    between_R = (np.square(indicator_KN @ axes_NR) / indicator_KN.sum(axis=1, keepdims=True)).sum(axis=0)
    within_R = (1.0 - shrinkage) * power_R + shrinkage * power_R.sum() / channels
    return float((1.0 - shrinkage) * (between_R * power_R / within_R).sum())


def _get_shrinkage(rows_NC: Array, power_R: Array) -> float:
    """Ledoit and Wolf's share of the scaled identity, in [0, 1], for centred rows.

    The share does not depend on the scale of the covariance. It is set to 0 if the covariance is a multiple of the
    identity, because shrinkage then changes nothing. This is always so with one channel, where rounding would otherwise
    decide between 0 and 1.
    """
    cases, channels = rows_NC.shape
    norms_N = np.square(rows_NC).sum(axis=1)
    variance_R = power_R / power_R.sum()
    mean = 1.0 / channels
    # Computed from the deviations, because a difference of the sums of squares would lose digits to cancellation.
    distance = float(np.square(variance_R - mean).sum()) + (channels - len(variance_R)) * mean**2
    if distance <= np.finfo(np.float64).eps:
        return 0.0
    fourth = float(np.square(norms_N / norms_N.mean()).mean())
    squares = float(np.square(variance_R).sum())
    return float(np.clip((fourth - squares) / cases / distance, 0.0, 1.0))
