"""Library functions that compute the MMD of numpy arrays or torch tensors with the engine of the MMD service.

Legend: n rows of x, m rows of y, r rows of the reference, d channels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from vfmalign.client.messages.base import to_bad_option
from vfmalign.client.messages.common import Interval
from vfmalign.client.messages.mmd import (
    UNNAMED_LAYER,
    ComputeOptions,
    Estimator,
    ExcludedMovement,
    KernelFamily,
    LayerResult,
    Pairing,
    Precision,
    TestMethod,
    TopChannels,
)
from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.mmd.comparison.compare import compare, get_value
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.row_streams import FeatureArray, to_numpy

Features: TypeAlias = NDArray[np.generic] | Tensor


@dataclass(frozen=True)
class MmdResult:
    """MMD² of two samples with its uncertainty.

    Attributes:
        mmd2: the estimate; an unbiased estimate may be negative. None if the estimate cannot be computed, for example
            because a sample has only one row.
        p_value: p-value of the test that x and y have the same distribution; None if there was no test.
        interval: delete-one-group jackknife interval of the estimate; None if there is no interval.
        aggregated_p_value: p-value of the test over a grid of bandwidths; None unless requested.
        sigma: bandwidth in units of the features; 0 for kernels without a bandwidth.
        error_bound: upper bound on the absolute error that `precision` causes in the estimate.
        below_error_bound: whether |MMD²| is at most `error_bound`.
        approximation_error: half-width of the 99 % interval for the exact MMD²; 0 if the estimator is exact.
        permutations: number of permutations of the test, including the identity if `enumerated` is true.
        enumerated: whether the test used all possible permutations.
        precision: floating-point type of the rows in the computation: bfloat16, float32 or float64.
        backend: backend that summed the kernel matrix: `torch` or `triton`.
        absent_reason: why the estimate, the p-value or the interval is None; empty otherwise.
        top_channels: the channels that move most, and MMD² without these channels; None for raw features.
        excluded_movement: channels that do not vary in the reference but move between x and y; None for raw features.
    """

    mmd2: float | None
    p_value: float | None
    interval: Interval | None
    aggregated_p_value: float | None
    sigma: float
    error_bound: float
    below_error_bound: bool
    approximation_error: float
    permutations: int
    enumerated: bool
    precision: str
    backend: str
    absent_reason: str = ""
    top_channels: TopChannels | None = None
    excluded_movement: ExcludedMovement | None = None


def mmd2(
    x: Features,
    y: Features,
    *,
    pairing: Pairing,
    estimator: Estimator | None = None,
    kernel: KernelFamily = "gaussian",
    sigma: float | None = None,
    reference: Features | None = None,
    standardised: bool = False,
    precision: Precision = "high",
    device: str | torch.device | None = None,
    frequencies: int = 0,
    seed: int = 0,
) -> float:
    """Estimates MMD² between two samples (Gretton et al., JMLR 13, 2012).

    Args:
        x: features (n, d) as a numpy array or torch tensor, of type float16 to float64 or integer. Integers become
            float64.
        y: features (m, d).
        pairing: `paired` if row i of x and row i of y come from the same case (n = m), otherwise `independent`. The
            pairing has no default, because the unbiased estimator depends on the pairing.
        estimator: `biased`, `unbiased_paired`, `unbiased_independent` or `random_fourier`. None selects the unbiased
            estimator for `pairing`.
        kernel: `gaussian`, `gaussian_mixture`, `laplacian`, `rational_quadratic`, `inverse_multiquadric`, `polynomial`
            or `linear`.
        sigma: bandwidth in units of the features. If None, the bandwidth is the median distance between the rows of
            `reference` or, without `reference`, between the rows of x and y together.
        reference: features (r, d) whose median distance is the bandwidth. Without a reference, the bandwidth grows with
            the shift between x and y.
        standardised: whether to centre and scale each channel by the reference. A check does so too. The scale is the
            channel's SD, but at least 0.1 of the median SD. `sigma` is then in units of the standardised features.
        precision: minimum precision: `fast` (bfloat16 on CUDA, float32 elsewhere), `high` (float32) or `exact`
            (float64).
        device: torch device to compute on; None for the device of x.
        frequencies: number of random Fourier frequencies, at least 256; 0 selects 1,024.
        seed: seed of the random Fourier frequencies, 0 to 2⁶⁴ − 1.

    Returns:
        The estimate. Unbiased estimates may be negative and are not clipped.

    Raises:
        BadTensor: features are not finite, or their shapes do not match.
        BadOption: an option is out of range or conflicts with another option, or the bandwidth is 0.
        Exhausted: the comparison needs more memory than the machine has.
    """
    options = _to_options(
        {
            "pairing": pairing,
            "estimator": estimator,
            "kernel": _to_kernel(kernel, sigma, reference),
            "test": {"seed": seed},
            "precision": precision,
            "frequencies": frequencies,
        }
    )
    samples = _sample("x", x), _sample("y", y)
    layer, _ = _compare(
        *samples, reference, options, device or _get_device(x), standardised=standardised, measure_channels=False
    )
    return get_value(layer.standardised or layer.raw)


def mmd_test(
    x: Features,
    y: Features,
    *,
    pairing: Pairing,
    groups_x: Sequence[str] = (),
    groups_y: Sequence[str] = (),
    estimator: Estimator | None = None,
    kernel: KernelFamily = "gaussian",
    sigma: float | None = None,
    reference: Features | None = None,
    standardised: bool = False,
    permutations: int = 1000,
    seed: int = 0,
    method: TestMethod = "permutation",
    aggregated: bool = False,
    level: float = 0.95,
    precision: Precision = "high",
    device: str | torch.device | None = None,
    frequencies: int = 0,
) -> MmdResult:
    """Estimates MMD² between two samples, and computes its p-value and interval in the same pass.

    Args:
        x: features (n, d) as a numpy array or torch tensor, of type float16 to float64 or integer. Integers become
            float64.
        y: features (m, d).
        pairing: see `mmd2`.
        groups_x: group label (patient) of each row of x; empty if every row is its own group. The test permutes all
            rows of a group together, and the jackknife leaves all rows of a group out together.
        groups_y: group label of each row of y. For paired samples, `groups_x` also contains the groups of y.
        permutations: number of permutations. For paired samples, a permutation swaps x and y in some groups. For
            independent samples, a permutation assigns the groups to x and y at random.
        seed: seed of the permutations, 0 to 2⁶⁴ − 1.
        method: `permutation` or `wild_bootstrap`. The wild bootstrap flips the signs of random pairs of rows and
            requires independent samples with n = m.
        aggregated: whether to run a second test over a grid of bandwidths, which does not depend on `sigma`.
        level: nominal coverage of the interval.
        estimator: see `mmd2`.
        kernel: see `mmd2`.
        sigma: see `mmd2`.
        reference: see `mmd2`.
        standardised: see `mmd2`.
        precision: see `mmd2`.
        device: see `mmd2`.
        frequencies: see `mmd2`.

    Raises:
        BadTensor, BadOption, CaseOrderMismatch, Exhausted: as for `mmd2`. Also if the groups do not match the rows.
    """
    options = _to_options(
        {
            "pairing": pairing,
            "estimator": estimator,
            "kernel": _to_kernel(kernel, sigma, reference),
            "test": {"permutations": permutations, "seed": seed, "method": method, "aggregated": aggregated},
            "interval_level": level,
            "precision": precision,
            "frequencies": frequencies,
        }
    )
    samples = _sample("x", x, groups_x), _sample("y", y, groups_y)
    return _to_result(*_compare(*samples, reference, options, device or _get_device(x), standardised=standardised))


def _to_result(layer: LayerResult, backend: str) -> MmdResult:
    """Converts the service's result of one layer to the library's result."""
    shift = layer.standardised or layer.raw
    return MmdResult(
        mmd2=shift.mmd2.value,
        p_value=shift.p_value.value,
        interval=shift.mmd2.interval,
        aggregated_p_value=shift.aggregated_p_value.value,
        sigma=shift.sigma,
        error_bound=shift.error_bound,
        below_error_bound=shift.below_error_bound,
        approximation_error=shift.approximation_error,
        permutations=shift.permutations,
        enumerated=shift.enumerated,
        precision=shift.precision,
        backend=backend,
        absent_reason=shift.p_value.absent_reason or shift.mmd2.absent_reason,
        top_channels=layer.top_channels,
        excluded_movement=layer.excluded_movement,
    )


def _sample(name: str, features: Features, groups: Sequence[str] = ()) -> Sample:
    """Returns features as a sample of the engine."""
    return Sample(name, {UNNAMED_LAYER: _array(features, name)}, tuple(groups))


def _to_kernel(family: KernelFamily, sigma: float | None, reference: Features | None) -> Mapping[str, object]:
    """Returns the fields of a kernel with bandwidth σ, or with a median distance as its bandwidth if σ is None."""
    if sigma is not None:
        return {"family": family, "bandwidth_rule": "fixed", "fixed_sigma": sigma}
    return {"family": family, "bandwidth_rule": "pooled_median" if reference is None else "reference_median"}


def _to_options(fields: Mapping[str, object]) -> ComputeOptions:
    """Creates options from their fields; raises `BadOption` with the API's name of the field."""
    try:
        return ComputeOptions.model_validate(fields)
    except ValidationError as error:
        raise to_bad_option(error) from error


def _compare(
    x: Sample,
    y: Sample,
    reference: Features | None,
    options: ComputeOptions,
    device: str | torch.device | None,
    *,
    standardised: bool,
    measure_channels: bool = True,
) -> tuple[LayerResult, str]:
    """Compares the features; returns the result and the backend."""
    if standardised and reference is None:
        raise BadOption(
            "standardised features need a reference",
            field="reference",
            remedy="pass the features of the training split before fine-tuning, or leave out `standardised`",
        )
    engine = ComputeConfig(device=torch.device(device or "cpu"), memory_bytes=machine_memory_bytes())
    fitted = None if reference is None else _sample("reference", reference)
    result = compare(x, y, fitted, options, engine, standardise=standardised, measure_channels=measure_channels)
    return result.layers[0], result.backend


def _get_device(features: Features) -> torch.device | None:
    """Returns the device of a tensor; None for arrays."""
    return features.device if isinstance(features, Tensor) else None


def _array(features: Features, name: str) -> FeatureArray:
    """Returns features as a float array; integers become float64, bfloat16 and float8 become float32."""
    if isinstance(features, Tensor):
        # Rejected here because numpy supports neither half-precision complex numbers nor conjugate views.
        if features.is_complex():
            raise _wrong_type(features.dtype, name)
        features = to_numpy(features.detach())
    array: NDArray[np.generic] = np.asarray(features)
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise _wrong_type(array.dtype, name)
    return cast(FeatureArray, array)


def _wrong_type(dtype: object, name: str) -> BadTensor:
    """Returns the error for features that are not real numbers."""
    return BadTensor(f"{dtype} is not a feature type", field=name, remedy="convert to float16, float32 or float64")


def machine_memory_bytes() -> int:
    """Returns the machine's memory in bytes.

    A comparison that needs more memory is rejected, because the system would kill it.
    """
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
