"""Every kernel in every exact estimator, raw and standardised, in several tilings, against plain numpy formulas."""

import numpy as np
import pytest
import torch

from vfmalign.mmd.engine.kernels import KERNELS, WITHOUT_BANDWIDTH

SIGMA = 2.5


def distance2(a, b):
    return ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)


def _gaussian(a, b, sigma):
    return np.exp(-distance2(a, b) / (2.0 * sigma**2))


# What each kernel is, written out; scikit-learn's `rbf_kernel` with γ = 1/(2σ²) is the first.
PLAIN = {
    "gaussian": _gaussian,
    "gaussian_mixture": lambda a, b, s: np.mean([_gaussian(a, b, s * c) for c in (0.25, 0.5, 1, 2, 4)], axis=0),
    "laplacian": lambda a, b, s: np.exp(-np.sqrt(distance2(a, b)) / s),
    "rational_quadratic": lambda a, b, s: 1.0 / (1.0 + distance2(a, b) / (2.0 * s**2)),
    "inverse_multiquadric": lambda a, b, s: 1.0 / np.sqrt(1.0 + distance2(a, b) / s**2),
    "polynomial": lambda a, b, s: (a @ b.T / a.shape[1] + 1.0) ** 3,
    "linear": lambda a, b, s: a @ b.T,
}
OF_DISTANCES = sorted(set(PLAIN) - WITHOUT_BANDWIDTH)


def biased(k_xx, k_yy, k_xy):
    return k_xx.mean() + k_yy.mean() - 2.0 * k_xy.mean()


def unbiased_independent(k_xx, k_yy, k_xy):
    n, m = k_xy.shape
    within_x = (k_xx.sum() - np.trace(k_xx)) / (n * (n - 1))
    within_y = (k_yy.sum() - np.trace(k_yy)) / (m * (m - 1))
    return within_x + within_y - 2.0 * k_xy.mean()


def unbiased_paired(k_xx, k_yy, k_xy):
    h = k_xx + k_yy - k_xy - k_xy.T
    n = len(h)
    return (h.sum() - np.trace(h)) / (n * (n - 1))


CASES = [
    ("paired", "biased", biased),
    ("paired", "unbiased_paired", unbiased_paired),
    ("independent", "biased", biased),
    ("independent", "unbiased_independent", unbiased_independent),
]


def plain(name, estimate, x, y, sigma):
    kernel = PLAIN[name]
    return estimate(kernel(x, x, sigma), kernel(y, y, sigma), kernel(x, y, sigma))


def two_samples(rng, pairing, channels=6, scale=1.0):
    x = scale * rng.normal(size=(23, channels)) + 1.0
    rows = 23 if pairing == "paired" else 31
    y = scale * (0.4 + 1.3 * rng.normal(size=(rows, channels))) + 1.0
    return x, (0.5 * (x + y) if pairing == "paired" else y)


def test_every_kernel_has_a_plain_formula():
    assert set(PLAIN) == set(KERNELS)


@pytest.mark.parametrize("tile_rows", [1, 5, 16, 1000])
@pytest.mark.parametrize(("pairing", "estimator", "formula"), CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_equal_their_formulas_on_features_as_they_are(
    brute, rng, kernel, pairing, estimator, formula, tile_rows
):
    x, y = two_samples(rng, pairing)
    shift = brute.compare(
        x, y, pairing=pairing, estimator=estimator, kernel=kernel, fixed_sigma=SIGMA, tile_rows=tile_rows
    ).raw
    expected = plain(kernel, formula, x, y, SIGMA)
    assert shift.mmd2.value == pytest.approx(expected, rel=1e-12, abs=1e-13)
    assert abs(shift.mmd2.value - expected) <= shift.error_bound
    assert shift.sigma == (0.0 if kernel in WITHOUT_BANDWIDTH else SIGMA)


@pytest.mark.parametrize(("pairing", "estimator", "formula"), CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_equal_their_formulas_on_standardised_features(
    brute, rng, kernel, pairing, estimator, formula, grouped
):
    """Scale and median distance from the reference; groups and their order change nothing."""
    x, y = two_samples(rng, pairing, scale=4.0)
    reference = rng.normal(size=(19, 6)) * [1.0, 2.0, 0.1, 5.0, 1.0, 3.0] + 1.0
    labels_x = grouped(rng, len(x), 9)
    labels_y = labels_x if pairing == "paired" else grouped(rng, len(y), 11, prefix="h")
    layer = brute.compare(
        x,
        y,
        reference=reference,
        pairing=pairing,
        estimator=estimator,
        kernel=kernel,
        groups_x=labels_x,
        groups_y=labels_y,
        tile_rows=7,
    )
    for shift, scaled in (
        (layer.raw, (reference, x, y)),
        (
            layer.standardised,
            brute.standardise(reference, reference, x, y),
        ),
    ):
        fitted, *samples = scaled
        sigma = np.median(np.sqrt(distance2(fitted, fitted))[np.triu_indices(19, 1)])
        assert shift.mmd2.value == pytest.approx(plain(kernel, formula, *samples, sigma), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("pairing", ["paired", "independent"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_rounded_rows_stay_within_the_stated_bound(brute, rng, kernel, pairing):
    x, y = two_samples(rng, pairing, channels=24)
    estimator, formula = CASES[1][1:] if pairing == "paired" else CASES[3][1:]
    shift = brute.compare(x, y, pairing=pairing, kernel=kernel, fixed_sigma=6.0, forced="float32", tile_rows=9).raw
    assert shift.precision == "float32"
    error = abs(shift.mmd2.value - plain(kernel, formula, x, y, 6.0))
    assert error <= shift.error_bound
    # The Laplacian's bound is that of its steepest part, and that of products grows with them: both are wide.
    wide = kernel in (*WITHOUT_BANDWIDTH, "laplacian")
    widest = 2e-4 * max(1.0, shift.mmd2.value) if wide else 3e-6
    assert shift.error_bound < widest, estimator


def test_a_mixture_is_the_mean_of_its_gaussians(brute, rng):
    x, y = two_samples(rng, "independent")

    def value(kernel, sigma):
        return brute.compare(x, y, pairing="independent", kernel=kernel, fixed_sigma=sigma).raw.mmd2.value

    parts = [value("gaussian", SIGMA * multiple) for multiple in (0.25, 0.5, 1.0, 2.0, 4.0)]
    assert value("gaussian_mixture", SIGMA) == pytest.approx(np.mean(parts), rel=1e-12)


def test_polynomial_is_the_kernel_inception_distance(brute, rng):
    """`poly_mmd` of torchmetrics 1.9 (image/kid.py), written out: degree 3, γ = 1/d, coefficient 1, unbiased."""
    real, fake = torch.from_numpy(rng.normal(size=(20, 8))), torch.from_numpy(0.5 + rng.normal(size=(20, 8)))

    def poly_kernel(f1, f2, degree=3, coef=1.0):
        return (f1 @ f2.T * (1.0 / f1.shape[1]) + coef) ** degree

    k_11, k_22, k_12 = poly_kernel(real, real), poly_kernel(fake, fake), poly_kernel(real, fake)
    m = k_11.shape[0]
    kt_xx_sum = (k_11.sum(dim=-1) - torch.diag(k_11)).sum()
    kt_yy_sum = (k_22.sum(dim=-1) - torch.diag(k_22)).sum()
    expected = (kt_xx_sum + kt_yy_sum) / (m * (m - 1)) - 2 * k_12.sum(dim=0).sum() / m**2
    got = brute.compare(real.numpy(), fake.numpy(), pairing="independent", kernel="polynomial").raw.mmd2.value
    assert got == pytest.approx(float(expected), rel=1e-12)


def test_linear_is_the_squared_distance_of_the_means(brute, rng):
    x, y = two_samples(rng, "independent")
    got = brute.compare(x, y, pairing="independent", estimator="biased", kernel="linear").raw.mmd2.value
    assert got == pytest.approx(((x.mean(0) - y.mean(0)) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_translation_changes_the_polynomial_and_no_kernel_of_distances(brute, rng, kernel):
    """Products depend on the origin: such kernels see features as they are, never centred ones."""
    x, y = two_samples(rng, "independent")
    here, there = (
        brute.compare(x + offset, y + offset, pairing="independent", kernel=kernel, fixed_sigma=SIGMA).raw.mmd2.value
        for offset in (0.0, 3.0)
    )
    if kernel == "polynomial":
        assert there > 2.0 * here
    else:  # the linear kernel's MMD² is ‖x̄ − ȳ‖² whatever the origin, its terms are not
        assert there == pytest.approx(here, rel=1e-9)


def test_products_are_not_centred(brute, rng):
    x, y = two_samples(rng, "independent")
    centre = np.concatenate([x, y]).mean(0)
    moved = plain("polynomial", unbiased_independent, x - centre, y - centre, 0.0)
    got = brute.compare(x, y, pairing="independent", kernel="polynomial").raw.mmd2.value
    assert got == pytest.approx(plain("polynomial", unbiased_independent, x, y, 0.0), rel=1e-12)
    assert abs(got - moved) > 0.1 * abs(moved)


@pytest.mark.parametrize("kernel", OF_DISTANCES)
def test_kernels_of_distances_are_one_at_zero_and_fall(kernel):
    distance2_IJ = torch.linspace(0.0, 50.0, 40, dtype=torch.float64)[None]
    value_IJ = KERNELS[kernel](SIGMA, 3).evaluate(distance2_IJ, torch.empty_like(distance2_IJ))
    assert value_IJ[0, 0] == 1.0
    assert (value_IJ.diff() < 0).all()
    assert (value_IJ > 0).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_slopes_bound_the_error_of_the_argument(kernel):
    """|f(u + δ) − f(u)| ≤ slope·|f|^(1 − 1/degree)·δ, for the Laplacian at distances over σ/8."""
    bound = KERNELS[kernel](SIGMA, 4)
    start = (SIGMA / 8) ** 2 if kernel == "laplacian" else 0.0
    argument_IJ = torch.linspace(start, max(start, 60.0), 500, dtype=torch.float64)[None]
    value_IJ, moved_IJ = (
        bound.evaluate(one_IJ, torch.empty_like(one_IJ)) for one_IJ in (argument_IJ, argument_IJ + 1e-7)
    )
    slope_IJ = bound.slope * moved_IJ ** (1.0 - 1.0 / bound.degree)
    assert ((moved_IJ - value_IJ).abs() <= slope_IJ * 1e-7 * (1 + 1e-4)).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_memory_of_a_tile_is_the_callers(kernel):
    """Values land where the caller said, on the argument if need be; else it stays as it is for the next kernel."""
    argument_IJ = torch.rand(4, 6, dtype=torch.float64)
    before_IJ, out_IJ = argument_IJ.clone(), torch.empty(4, 6, dtype=torch.float64)
    bound = KERNELS[kernel](SIGMA, 3)
    assert bound.evaluate(argument_IJ, out_IJ) is out_IJ
    assert torch.equal(argument_IJ, before_IJ)
    assert torch.equal(bound.evaluate(argument_IJ, argument_IJ), out_IJ)
