"""Checks the options of a comparison before any feature is read.

`ComputeOptions` checks the value of each field. This module checks that the fields of `ComputeOptions` are consistent
with each other.
"""

from __future__ import annotations

from vfmalign.client.messages.mmd import ComputeOptions, Kernel
from vfmalign.core.domain.errors import BadOption
from vfmalign.mmd.engine.kernels import WITHOUT_BANDWIDTH
from vfmalign.mmd.statistics import estimators
from vfmalign.mmd.statistics.similarity import PAIRED_MEASURES

MIN_FREQUENCIES = 256  # with fewer, the error bound covers less often than stated (`bench.statistics`)


def check_options(options: ComputeOptions, *, has_reference: bool) -> None:
    """Checks that options are valid and consistent with each other.

    Raises:
        BadOption: an option is out of range or conflicts with another option. The error contains the name of the option
            in the API.
    """
    if options.first_groups and (has_reference or options.pairing != "independent"):
        raise BadOption(
            "takes scale and bandwidth from a third of x, which requires independent samples",
            field="first_groups",
            remedy="leave out `reference`, and set PAIRING_INDEPENDENT",
        )
    has_reference = has_reference or options.first_groups > 0
    _check_sigma(options.kernel)
    estimators.check(options.pairing, options.estimator, options.test.method)
    _check_bandwidth(options.kernel, has_reference=has_reference)
    _check_test(options)
    _check_frequencies(options)
    for name in options.measures:
        if name in PAIRED_MEASURES and options.pairing != "paired":
            raise BadOption(
                f"`{name}` needs paired samples (row i of x and of y from the same case), but they are independent",
                field="measures",
                remedy="leave it out, or compare the same cases before and after",
            )


def _check_sigma(kernel: Kernel) -> None:
    sigma = kernel.fixed_sigma
    if sigma == 0.0 and kernel.bandwidth_rule != "fixed":
        return
    if kernel.bandwidth_rule not in (None, "fixed"):
        raise BadOption(
            "the request sets a fixed σ, but the bandwidth rule uses a median",
            field="kernel.fixed_sigma",
            remedy="set BANDWIDTH_RULE_FIXED, or leave out fixed_sigma",
        )
    if not 1e-100 <= sigma <= 1e100:  # its square and the inverse of that must be finite in float64
        raise BadOption(
            f"expected σ from 1e-100 to 1e100, got {sigma}",
            field="kernel.fixed_sigma",
            remedy="set σ in units of the features, for example to their median distance",
        )


def _check_bandwidth(kernel: Kernel, *, has_reference: bool) -> None:
    has_bandwidth = kernel.family in WITHOUT_BANDWIDTH or kernel.fixed_sigma or kernel.bandwidth_rule == "pooled_median"
    if not has_bandwidth and not has_reference:
        raise BadOption(
            "the bandwidth needs a reference or a fixed σ, and the request has neither",
            field="kernel",
            remedy="send `reference` (features of the training split before fine-tuning), `kernel.fixed_sigma`, or "
            "BANDWIDTH_RULE_POOLED_MEDIAN, which is valid for a test, but yields values that cannot be ranked",
        )


def _check_test(options: ComputeOptions) -> None:
    test = options.test
    if test.permutations == 0 and (test.aggregated or test.method != "permutation"):
        raise BadOption(
            "is an option of the test, but the request sets no permutations",
            field="test.aggregated" if test.aggregated else "test.method",
            remedy="set `test.permutations`, for example to 1000, or leave out this option",
        )


def _check_frequencies(options: ComputeOptions) -> None:
    if 0 < options.frequencies < MIN_FREQUENCIES:
        raise BadOption(
            f"expected at least {MIN_FREQUENCIES} frequencies, got {options.frequencies}",
            field="frequencies",
            remedy="start with 1,024; the error decreases with the square root of the number of frequencies",
        )
    if options.frequencies and options.estimator != "random_fourier":
        raise BadOption(
            "only the estimator `random_fourier` has frequencies",
            field="frequencies",
            remedy="set `estimator` to `random_fourier` (ESTIMATOR_RANDOM_FOURIER), or leave out the frequencies",
        )
