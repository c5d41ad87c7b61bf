"""The library face: what it takes, what it refuses by name, and that it answers as the service does."""

import numpy as np
import pytest
import torch
from tests.mmd_options import make_options

from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.mmd import mmd2, mmd_test
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.statistics import permutations


@pytest.fixture
def samples(rng):
    return rng.normal(size=(24, 3)), rng.normal(size=(31, 3)) + 0.4


@pytest.fixture
def pairs(rng):
    x = rng.normal(size=(24, 3))
    return x, x + 0.7 * rng.normal(size=(24, 3)) + 0.3


def median_distance(*parts):
    rows = np.concatenate(parts).astype(np.float64)
    return np.median(np.linalg.norm(rows[:, None] - rows[None], axis=2)[np.triu_indices(len(rows), 1)])


def service(x, y, reference=None, groups=((), ()), **options):
    """What the service computes from the same features."""
    fitted = None if reference is None else Sample("reference", {"stages.3": reference})
    one, other = (
        Sample(name, {"stages.3": array}, labels)
        for name, array, labels in zip("xy", (x, y), map(tuple, groups), strict=True)
    )
    return compare(one, other, fitted, make_options(**options), ComputeConfig()).layers[0].raw


def test_default_is_the_unbiased_value_at_the_pooled_median(brute, samples, pairs):
    x, y = samples
    sigma = median_distance(x, y)
    assert mmd2(x, y, pairing="independent") == pytest.approx(
        brute.estimators["unbiased_independent"](x, y, sigma), rel=1e-12
    )
    result = mmd_test(x, y, pairing="independent", permutations=99)
    assert result.sigma == pytest.approx(sigma, rel=1e-12)
    assert result.mmd2 == mmd2(x, y, pairing="independent")
    x, y = pairs
    sigma = median_distance(x, y)
    assert mmd2(x, y, pairing="paired") == pytest.approx(brute.estimators["unbiased_paired"](x, y, sigma), rel=1e-12)


@pytest.mark.parametrize("estimator", ["biased", "unbiased_independent"])
def test_estimators_kernels_and_bandwidths_are_as_asked(brute, samples, estimator):
    x, y = samples
    expected = brute.estimators[estimator](x, y, 0.9)
    assert mmd2(x, y, pairing="independent", estimator=estimator, sigma=0.9) == pytest.approx(expected, rel=1e-12)
    assert mmd2(x, y, pairing="independent", kernel="linear", estimator="biased") == pytest.approx(
        ((x.mean(0) - y.mean(0)) ** 2).sum()
    )


def test_a_reference_gives_the_bandwidth(brute, rng, samples):
    x, y = samples
    reference = 3.0 * rng.normal(size=(12, 3))
    sigma = median_distance(reference)
    assert mmd_test(x, y, pairing="independent", reference=reference, permutations=0).sigma == pytest.approx(
        sigma, rel=1e-12
    )
    expected = brute.estimators["unbiased_independent"](x, y, sigma)
    assert mmd2(x, y, pairing="independent", reference=reference) == pytest.approx(expected, rel=1e-12)
    assert mmd2(x, y, pairing="independent", reference=torch.from_numpy(reference)) == mmd2(
        x, y, pairing="independent", reference=reference
    )
    # σ in features' units goes before a reference.
    assert mmd_test(x, y, pairing="independent", reference=reference, sigma=0.5, permutations=0).sigma == 0.5


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.int8, np.uint8, np.int64])
def test_numbers_of_every_width_count_as_they_are(brute, rng, dtype):
    """No rounding but that of the features themselves."""
    x, y = ((5 + 2 * rng.normal(size=(20, 3))).clip(0, 200).astype(dtype) for _ in range(2))
    exact_x, exact_y = x.astype(np.float64), y.astype(np.float64)
    expected = brute.estimators["unbiased_independent"](exact_x, exact_y, 2.0)
    assert (
        mmd2(x, y, pairing="independent", sigma=2.0)
        == mmd2(exact_x, exact_y, pairing="independent", sigma=2.0)
        == pytest.approx(expected, abs=1e-13)
    )
    if np.dtype(dtype).isnative:
        assert mmd2(torch.from_numpy(x), torch.from_numpy(y), pairing="independent", sigma=2.0) == mmd2(
            x, y, pairing="independent", sigma=2.0
        )


def test_tensors_lists_views_and_gradients_are_taken(samples):
    x, y = samples
    expected = mmd2(x, y, pairing="independent")
    assert mmd2(torch.tensor(x, requires_grad=True), y, pairing="independent") == expected
    assert mmd2(x.tolist(), y.tolist(), pairing="independent") == expected
    assert mmd2(np.asfortranarray(x), y[::-1][::-1], pairing="independent") == pytest.approx(expected, rel=1e-11)
    wide = np.zeros((24, 6))
    wide[:, ::2] = x
    assert mmd2(wide[:, ::2], y, pairing="independent") == pytest.approx(expected, rel=1e-11)
    half = torch.from_numpy(x).bfloat16()
    assert mmd2(half, y, pairing="independent") == mmd2(half.float(), y, pairing="independent")


def test_input_is_left_as_it_was(samples):
    x, y = samples
    before = x.copy(), y.copy()
    mmd_test(x, y, pairing="independent", permutations=50, aggregated=True)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize("paired", [False, True])
def test_it_is_what_the_service_computes(pairs, paired):
    x, y = pairs
    pairing = "paired" if paired else "independent"
    shared = {"permutations": 150, "seed": 9, "kernel": "laplacian", "aggregated": True}
    result = mmd_test(x, y, pairing=pairing, level=0.9, **shared)
    shift = service(x, y, pairing=pairing, bandwidth_rule="pooled_median", interval_level=0.9, **shared)
    assert result.mmd2 == shift.mmd2.value
    assert result.interval == shift.mmd2.interval
    assert result.interval.level == 0.9
    assert result.p_value == shift.p_value.value
    assert result.aggregated_p_value == shift.aggregated_p_value.value
    assert (result.sigma, result.error_bound, result.below_error_bound) == (shift.sigma, shift.error_bound, False)
    assert (result.permutations, result.enumerated, result.approximation_error) == (150, False, 0.0)
    assert (result.precision, result.backend) == ("float64", "torch")


def test_it_is_what_the_service_computes_with_a_reference_and_groups(rng, samples, grouped):
    x, y = samples
    reference = rng.normal(size=(15, 3))
    groups = [grouped(rng, 24, 9), grouped(rng, 31, 10, prefix="h")]
    result = mmd_test(
        x,
        y,
        pairing="independent",
        reference=reference,
        groups_x=groups[0],
        groups_y=groups[1],
        permutations=99,
        seed=4,
    )
    shift = service(x, y, reference, groups, pairing="independent", permutations=99, seed=4)
    assert (result.mmd2, result.p_value) == (shift.mmd2.value, shift.p_value.value)
    assert result.interval == shift.mmd2.interval


def test_groups_of_pairs_may_be_given_once(rng, pairs, grouped):
    x, y = pairs
    labels = grouped(rng, 24, 14)
    once = mmd_test(x, y, pairing="paired", groups_x=labels, permutations=99)
    assert once == mmd_test(x, y, pairing="paired", groups_x=labels, groups_y=labels, permutations=99)
    assert once.p_value != mmd_test(x, y, pairing="paired", permutations=99).p_value
    assert once.mmd2 == pytest.approx(mmd2(x, y, pairing="paired"), rel=1e-12)


def test_few_pairs_are_enumerated(rng):
    x = rng.normal(size=(9, 2))
    y = x + 0.5 + rng.normal(size=(9, 2))
    first, second = (mmd_test(x, y, pairing="paired", permutations=10, seed=seed) for seed in (1, 2))
    assert (first.permutations, first.enumerated) == (512, True)
    assert first.p_value == second.p_value
    assert (first.p_value * 512) % 2 == 0
    none = mmd_test(x[:7], y[:7], pairing="paired")
    assert none.p_value is None
    assert none.interval is None
    assert "7 groups are too few" in none.absent_reason


@pytest.mark.parametrize("estimator", [None, "biased"])
def test_wild_bootstrap_is_signs_applied_to_h(brute, rng, estimator):
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 3)) + 0.35
    result = mmd_test(
        x, y, pairing="independent", sigma=1.5, estimator=estimator, method="wild_bootstrap", permutations=120, seed=6
    )
    h = brute.gram(x, x, 1.5) + brute.gram(y, y, 1.5) - brute.gram(x, y, 1.5) - brute.gram(y, x, 1.5)
    signs_NB = permutations.draw_swaps(30, 120, seed=6).weights_GB.astype(np.float64)
    flipped_B = ((h @ signs_NB) * signs_NB).sum(axis=0)
    left_out = 0.0 if estimator else np.trace(h)
    pairs = 900 if estimator else 870
    observed = (h.sum() - left_out) / pairs
    assert result.mmd2 == pytest.approx(observed, abs=1e-14)
    assert result.p_value == (1 + np.sum((flipped_B - left_out) / pairs >= observed - 1e-13)) / 121
    assert 0.0 < result.p_value < 0.5


def test_wild_bootstrap_needs_pairs_of_rows(samples):
    x, y = samples
    with pytest.raises(BadOption, match="equal row counts") as error:
        mmd_test(x, y, pairing="independent", method="wild_bootstrap")
    assert error.value.field == "test.method"
    with pytest.raises(BadOption, match="one row per group"):
        mmd_test(x, y[:24], pairing="independent", groups_x=["a", "b"] * 12, method="wild_bootstrap")
    with pytest.raises(BadOption, match="flips signs of pairs"):
        mmd_test(x, y[:24], pairing="independent", estimator="unbiased_independent", method="wild_bootstrap")


def test_the_aggregated_test_needs_no_bandwidth_and_leaves_the_rest_alone(samples):
    x, y = samples
    plain, aggregated = (
        mmd_test(x, y, pairing="independent", permutations=99, aggregated=asked) for asked in (False, True)
    )
    assert plain.aggregated_p_value is None
    assert 0.0 < aggregated.aggregated_p_value <= 1.0
    assert aggregated.p_value == plain.p_value
    for end in ("lower", "upper"):
        assert getattr(aggregated.interval, end) == pytest.approx(getattr(plain.interval, end), rel=1e-12)
    assert aggregated.mmd2 == pytest.approx(plain.mmd2, rel=1e-12)
    other = mmd_test(x, y, pairing="independent", permutations=99, aggregated=True, kernel="polynomial", sigma=None)
    assert other.aggregated_p_value == aggregated.aggregated_p_value


def test_pairing_has_no_default(samples):
    for function in (mmd2, mmd_test):
        with pytest.raises(TypeError, match="pairing"):
            function(*samples)


def test_precision_is_a_floor(samples):
    x, y = samples
    exact = mmd_test(x, y, pairing="independent", precision="exact", permutations=0)
    assert exact.precision == "float64"
    for floor in ("fast", "high"):
        assert mmd2(x, y, pairing="independent", precision=floor) == exact.mmd2  # so small that it is exact in any case


def test_large_float32_features_are_summed_within_the_bound(rng):
    x = rng.normal(size=(700, 600)).astype(np.float32)
    y = (rng.normal(size=(700, 600)) + 0.1).astype(np.float32)
    levels = ("fast", "high", "exact")
    fast, found, exact = (
        mmd_test(x, y, pairing="independent", precision=least, sigma=30.0, permutations=0) for least in levels
    )
    assert (found.precision, exact.precision) == ("float32", "float64")
    assert fast == found, "on a CPU `fast` is `high`"
    assert 0.0 < abs(found.mmd2 - exact.mmd2) <= found.error_bound + exact.error_bound
    assert found.error_bound < 1e-6


def test_near_equal_features_do_not_lose_their_digits(rng):
    x = (rng.normal(size=(700, 600)) + 10.0).astype(np.float32)
    result = mmd_test(x, x + np.float32(1e-5), pairing="paired", estimator="biased", sigma=30.0, permutations=0)
    assert result.precision == "float64"
    assert not result.below_error_bound


@pytest.mark.parametrize("estimator", ["biased", "random_fourier"])
def test_one_outlier_does_not_cost_the_digits_of_the_other_rows(rng, estimator):
    x = rng.normal(size=(60, 6))
    y = x + 0.1
    options = {"pairing": "independent", "estimator": estimator, "sigma": 1.0, "seed": 3}
    # The kernel between the first row and any other is 0 at both distances, so that the value is the same.
    values = []
    for distance in (1e3, 1e8):
        far = x.copy()
        far[0, 0] = distance
        values.append(mmd2(far, y, **options))
    tolerance = 1e-2 if estimator == "random_fourier" else 1e-12
    assert values[1] == pytest.approx(values[0], rel=tolerance)


@pytest.mark.parametrize("estimator", ["unbiased_independent", "random_fourier"])
def test_reversed_views_are_taken(samples, estimator):
    x, y = (array[:24] for array in samples)
    options = {"pairing": "independent", "estimator": estimator, "sigma": 1.0}
    assert mmd2(x[::-1], y[:, ::-1], **options) == mmd2(x[::-1].copy(), y[:, ::-1].copy(), **options)


def test_float8_tensors_are_taken(samples):
    x, y = (torch.from_numpy(array).to(torch.float8_e4m3fn) for array in samples)
    assert mmd2(x, y, pairing="independent") == mmd2(x.float(), y.float(), pairing="independent")


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy])
def test_large_integers_lose_no_digit(samples, wrap):
    """Neighbours above 2²⁴, which float32 cannot tell apart."""
    x, y = ((2**24 + 10.0 * array.round(1)).astype(np.int32) for array in samples)
    expected = mmd2(x.astype(np.float64), y.astype(np.float64), pairing="independent", sigma=10.0)
    assert mmd2(wrap(x), wrap(y), pairing="independent", sigma=10.0) == expected


def bad(array, value):
    changed = array.copy()
    changed[3, 1] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: bad(x, np.nan), r"^x: layer `features`: row 3 \(from 0\) contains NaN or infinity"),
        (lambda x: bad(x, np.inf), r"^x: layer `features`: row 3 \(from 0\) contains NaN or infinity"),
        (lambda x: x[:, 0], r"expected shape \[rows, channels\], got \[24\]"),
        (lambda x: x[None], r"expected shape \[rows, channels\], got \[1, 24, 3\]"),
        (lambda x: x[:0], r"got \[0, 3\]"),
        (lambda x: x[:, :2], "2 in `x`, 3 in `y`"),
        (lambda x: x > 0, "bool is not a feature type"),
        (lambda x: x + 1j, "complex128 is not a feature type"),
        (lambda x: torch.from_numpy(x > 0), "bool is not a feature type"),
        (lambda x: torch.from_numpy(x + 1j), r"torch\.complex128 is not a feature type"),
        (lambda x: torch.from_numpy(x + 1j).conj(), r"torch\.complex128 is not a feature type"),
        (lambda x: x.astype(str), "is not a feature type"),
        (lambda x: x * 1e200, "too large for the kernel"),
    ],
)
def test_bad_features_are_refused_by_name(samples, change, message):
    x, y = samples
    with pytest.raises(BadTensor, match=message):
        mmd2(change(x), y, pairing="independent", sigma=1.0)


def test_features_too_large_for_a_median_distance_are_refused(samples):
    x, y = samples
    with pytest.raises(BadTensor, match="too large to square"):
        mmd2(x * 1e160, y * 1e160, pairing="independent")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"kernel": "cosine"}, "kernel.family"),
        ({"sigma": 0.0}, "kernel.fixed_sigma"),
        ({"sigma": -1.0}, "kernel.fixed_sigma"),
        ({"sigma": float("nan")}, "kernel.fixed_sigma"),
        ({"pairing": "Paired"}, "pairing"),
        ({"estimator": "unbiased_paired"}, "estimator"),
        ({"pairing": "paired", "estimator": "unbiased_independent"}, "estimator"),
        ({"permutations": -1}, "test.permutations"),
        ({"permutations": 100_001}, "test.permutations"),
        ({"seed": -1}, "test.seed"),
        ({"seed": 2**64}, "test.seed"),
        ({"level": 0.0}, "interval_level"),
        ({"level": 1.0}, "interval_level"),
    ],
)
def test_bad_options_are_refused_by_name(samples, options, field):
    x, y = samples
    with pytest.raises(BadOption) as error:
        mmd_test(x, y[:24], **{"pairing": "independent", **options})
    assert error.value.field == field


def test_what_has_no_bandwidth_or_no_value_says_so(rng):
    same = np.ones((6, 3))
    with pytest.raises(BadOption, match="median distance"):
        mmd2(same, same, pairing="independent")
    assert mmd2(same, same, pairing="independent", sigma=1.0) == 0.0
    with pytest.raises(BadOption, match="at least 2 rows"):
        mmd2(rng.normal(size=(1, 3)), rng.normal(size=(5, 3)), pairing="independent", sigma=1.0)
    one_row = mmd_test(rng.normal(size=(1, 3)), rng.normal(size=(1, 3)), pairing="independent", sigma=1.0)
    assert (one_row.mmd2, one_row.p_value) == (None, None)
    assert "at least 2 rows" in one_row.absent_reason
    with pytest.raises(BadTensor, match="equal row counts"):
        mmd2(rng.normal(size=(4, 3)), rng.normal(size=(5, 3)), pairing="paired")
    with pytest.raises(BadTensor, match="3 groups for 9 rows"):
        mmd_test(rng.normal(size=(9, 3)), rng.normal(size=(9, 3)), pairing="independent", groups_x=["a", "b", "c"])
    with pytest.raises(BadOption, match="occur in both samples"):
        mmd_test(
            rng.normal(size=(2, 3)),
            rng.normal(size=(2, 3)),
            pairing="independent",
            groups_x=["a", "b"],
            groups_y=["b", "c"],
        )
