"""Error bounds hold, digits are not lost in silence, and float32 is computed again where it would lose them."""

import numpy as np
import pytest
import torch

from vfmalign.core.domain.errors import BadTensor
from vfmalign.mmd.engine import precision
from vfmalign.mmd.engine.kernels import KERNELS


def exact(x, y, sigma, kind):
    """The estimate in extended precision from inputs as they are."""
    x, y = x.astype(np.longdouble), y.astype(np.longdouble)

    def gram(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(axis=2) / (2 * np.longdouble(sigma) ** 2))

    n, m = len(x), len(y)
    if kind == "biased":
        return gram(x, x).mean() + gram(y, y).mean() - 2 * gram(x, y).mean()
    if kind == "unbiased_paired":
        h = gram(x, x) + gram(y, y) - gram(x, y) - gram(y, x)
        return (h.sum() - np.trace(h)) / (n * (n - 1))
    within = (gram(x, x).sum() - n) / (n * (n - 1)) + (gram(y, y).sum() - m) / (m * (m - 1))
    return within - 2 * gram(x, y).mean()


@pytest.mark.parametrize("name", precision.PRECISIONS)
@pytest.mark.parametrize("offset", [0.0, 10.0, 1e4])
@pytest.mark.parametrize(
    ("pairing", "kind"), [("paired", "biased"), ("paired", "unbiased_paired"), ("independent", "unbiased_independent")]
)
@pytest.mark.parametrize("noise", [1e-3, 0.3])
def test_errors_stay_within_the_stated_bound(brute, rng, name, offset, pairing, kind, noise):
    d = 48
    x = rng.normal(size=(60, d)) + offset
    y = x + noise * rng.normal(size=(60, d))
    sigma = float(np.sqrt(d))
    shift = brute.compare(x, y, pairing=pairing, estimator=kind, fixed_sigma=sigma, forced=name, tile_rows=25).raw
    assert shift.precision == name
    assert abs(shift.mmd2.value - float(exact(x, y, sigma, kind))) <= shift.error_bound
    assert shift.error_bound < {"bfloat16": 5e-2, "float32": 2e-5, "float64": 1e-13}[name]


def test_nearly_equal_sets_keep_their_digits_in_float64(brute, rng):
    """Biased MMD² near 1e-10 with a common offset of 10: resolved in float64, said to be lost in float32."""
    d = 96
    x = rng.normal(size=(80, d)) + 10.0
    y = x + 1e-4 * rng.normal(size=(80, d))
    sigma = float(np.sqrt(d))
    truth = float(exact(x, y, sigma, "biased"))
    assert 0 < truth < 1e-9
    double = brute.compare(x, y, estimator="biased", fixed_sigma=sigma, forced="float64").raw
    assert double.mmd2.value == pytest.approx(truth, rel=1e-3)
    assert not double.below_error_bound
    single = brute.compare(x, y, estimator="biased", fixed_sigma=sigma, forced="float32").raw
    assert single.below_error_bound


def test_float32_that_would_lose_digits_is_computed_again_in_float64(brute, rng, monkeypatch):
    monkeypatch.setitem(precision.EXACT_FLOP, "cpu", 0.0)
    x = rng.normal(size=(50, 8))
    near = brute.compare(x, x + 1e-4 * rng.normal(size=(50, 8)), fixed_sigma=3.0).raw
    assert near.precision == "float64"
    far = brute.compare(x, x + 2.0, fixed_sigma=3.0).raw
    assert far.precision == "float32"
    assert far.mmd2.value == pytest.approx(brute.estimators["unbiased_paired"](x, x + 2.0, 3.0), abs=far.error_bound)


def errors_and_bounds(brute, x, y, **options):
    low, high = (brute.compare(x, y, forced=name, **options).raw for name in ("float32", "float64"))
    return abs(low.mmd2.value - high.mmd2.value), low.error_bound + high.error_bound


@pytest.mark.parametrize("pairing", ["paired", "independent"])
@pytest.mark.parametrize("kernel", ["gaussian", "gaussian_mixture", "rational_quadratic", "inverse_multiquadric"])
@pytest.mark.parametrize("multiple", [1.0, 4.0, 30.0, 300.0])
def test_the_bound_holds_for_kernels_wider_than_the_distances(brute, kernel, multiple, pairing):
    """Kernel values close to 1 and to each other: sums of a row over a tile, and the values, err in the same way."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(500, 32)).astype(np.float32)
        y = x if pairing == "paired" else rng.normal(size=(500, 32))
        y = (y + (0.1, 1.0)[seed % 2] * (1.0 + rng.normal(size=x.shape))).astype(np.float32)
        error, bound = errors_and_bounds(
            brute, x, y, pairing=pairing, kernel=kernel, fixed_sigma=multiple * 8.0, permutations=0
        )
        assert error <= bound, seed


@pytest.mark.parametrize("spread", [1e-1, 1e-3, 1e-5])
def test_the_bound_holds_for_separate_clusters(brute, spread):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = ((spread * rng.normal(size=(500, 16)) + centre).astype(np.float32) for centre in (0.0, 1.0))
        error, bound = errors_and_bounds(brute, x, y, pairing="independent", fixed_sigma=4.0, permutations=0)
        assert error <= bound < 1e-6, seed


@pytest.mark.parametrize("kernel", ["gaussian", "inverse_multiquadric"])
def test_samples_of_one_distribution_stay_in_float32(brute, monkeypatch, kernel):
    """Their estimates are around 0, and all but few lie far above the bound."""
    monkeypatch.setitem(precision.EXACT_FLOP, "cpu", 0.0)
    chosen = []
    for seed in range(20):
        x, y = np.random.default_rng(seed).normal(size=(2, 400, 64))
        found = brute.compare(x, y, pairing="independent", kernel=kernel, fixed_sigma=11.0, permutations=0).raw
        chosen.append(found.precision)
    assert chosen.count("float32") >= 19


def products_of(kernel, a, b):
    product = a @ b.T
    return (product / a.shape[1] + 1.0) ** 3 if kernel == "polynomial" else product


@pytest.mark.parametrize("pairing", ["paired", "independent"])
@pytest.mark.parametrize("kernel", ["polynomial", "linear"])
@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_the_bound_holds_for_kernels_of_products_far_larger_than_one(brute, rng, kernel, pairing, offset):
    """Values of similar pairs are small differences of large kernel values, whose rounding errors are large."""
    for seed in range(12):
        n, d = (40, 16) if seed % 2 else (120, 48)
        x = np.maximum(rng.normal(size=(n, d)) + offset, 0.0).astype(np.float32).astype(np.float64)
        y = np.maximum(x + 10.0 ** -(seed % 3) * rng.normal(size=(n, d)), 0.0).astype(np.float32).astype(np.float64)
        if seed >= 9:
            y[0] = 20.0 * x[0]
        found = brute.compare(x, y, pairing=pairing, kernel=kernel, forced="float32", tile_rows=64).raw
        xx, yy, xy = (products_of(kernel, a, b) for a, b in ((x, x), (y, y), (x, y)))
        if pairing == "paired":
            h = xx + yy - xy - xy.T
            wanted = (h.sum() - np.trace(h)) / (n * (n - 1))
        else:
            wanted = (xx.sum() + yy.sum() - np.trace(xx) - np.trace(yy)) / (n * (n - 1)) - 2.0 * xy.mean()
        assert abs(found.mmd2.value - wanted) <= found.error_bound, (seed, wanted)


@pytest.mark.parametrize("pairing", ["paired", "independent"])
@pytest.mark.parametrize("kernel", ["polynomial", "linear", "gaussian"])
@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_ordinary_differences_stay_in_float32(brute, rng, monkeypatch, kernel, pairing, scale):
    """The bound is not so large that what a comparison usually finds is computed twice."""
    monkeypatch.setitem(precision.EXACT_FLOP, "cpu", 0.0)
    for _ in range(3):
        x = scale * (rng.normal(size=(400, 96)) + 1.0)
        y = 0.9 * x + scale * (0.4 * rng.normal(size=x.shape) + 0.3)
        assert brute.compare(x, y, pairing=pairing, kernel=kernel, fixed_sigma=14.0 * scale).raw.precision == "float32"


@pytest.mark.parametrize("kernel", ["polynomial", "linear"])
def test_magnitudes_of_the_rows_bound_those_of_their_pairs(rng, kernel):
    """Root mean squares over all pairs of |k|, and of the slope times ‖x_i‖‖x_j‖, with a row far larger than others."""
    for offset in (0.0, 2.0):
        rows_NK = torch.from_numpy(rng.normal(size=(50, 8)) + offset)
        rows_NK[0] *= 10.0
        bound, magnitudes = KERNELS[kernel](1.0, 8), precision.Magnitudes(KERNELS[kernel](1.0, 8))
        for part_NK in rows_NK.split(20):
            magnitudes.add(part_NK.square().sum(dim=1))
        products_NN = rows_NK @ rows_NK.T
        values_NN = bound.evaluate(products_NN, torch.empty_like(products_NN))
        norm_N = rows_NK.square().sum(dim=1)
        slopes_NN = bound.slope * values_NN.abs() ** (1.0 - 1.0 / bound.degree) * (norm_N[:, None] * norm_N).sqrt()
        assert float(values_NN.square().mean().sqrt()) <= magnitudes.largest
        assert float(slopes_NN.square().mean().sqrt()) <= magnitudes.steepness
        assert magnitudes.norm == pytest.approx(float(norm_N.square().mean().sqrt()))


@pytest.mark.parametrize(
    ("least", "rows", "device", "wanted"),
    [
        ("fast", 1_000, "cpu", "float64"),
        ("fast", 4_000, "cpu", "float32"),
        ("fast", 20_000, "cpu", "float32"),
        ("fast", 4_000, "cuda", "float64"),
        ("fast", 20_000, "cuda", "bfloat16"),
        ("high", 4_000, "cpu", "float32"),
        ("high", 20_000, "cpu", "float32"),
        ("high", 20_000, "cuda", "float32"),
        ("exact", 20_000, "cpu", "float64"),
        ("exact", 20_000, "cuda", "float64"),
    ],
)
def test_what_is_asked_for_is_a_floor_and_fast_is_high_on_a_cpu(least, rows, device, wanted):
    assert precision.choose(least, rows, 768, torch.device(device)) == wanted


def test_features_that_overflow_are_refused(brute, rng):
    x = rng.normal(size=(9, 2))
    with pytest.raises(BadTensor, match="too large"):
        brute.compare(x * 1e160, x, fixed_sigma=1.0)
    # Squares beyond float32 but not beyond float64.
    assert brute.compare(x * 1e30, x * 2e30, fixed_sigma=1e30).raw.precision == "float64"


@pytest.mark.parametrize(
    ("kernel", "sigma", "scale"),
    [("gaussian", 1e-90, 1.0), ("laplacian", 1e-10, 1e70), ("polynomial", 0.0, 1e40), ("linear", 0.0, 1e90)],
)
def test_features_too_large_for_the_kernel_are_refused(brute, rng, kernel, sigma, scale):
    """Their bound is not a number, and every permutation would count as smaller than what was observed."""
    x, y = rng.normal(size=(2, 9, 4)) * scale
    with pytest.raises(BadTensor, match="relative to σ"):
        brute.compare(x, y, kernel=kernel, fixed_sigma=sigma, permutations=99)


def test_values_that_overflow_float32_are_computed_in_float64(brute, rng, monkeypatch):
    monkeypatch.setattr(precision, "EXACT_FLOP", {"cpu": 0.0})
    x, y = rng.normal(size=(2, 30, 4)) * 1e14
    raw = brute.compare(x, y, kernel="polynomial", fixed_sigma=0.0, pairing="independent").raw
    assert raw.precision == "float64"
    assert np.isfinite(raw.mmd2.value)


@pytest.mark.parametrize("pairing", ["paired", "independent"])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_the_bound_holds_for_equal_rows_under_a_kernel_without_a_slope_at_0(brute, rng, name, pairing):
    """√ makes 1e-8 of the 1e-16 that rounding puts between equal rows, and 3e-4 of float32's 1e-7."""
    x = np.repeat(rng.normal(size=(8, 200)), 6, axis=0).astype(np.float32).astype(np.float64)
    y = np.tile(x[::6] + 0.1, (6, 1)).astype(np.float32).astype(np.float64)
    shift = brute.compare(
        x, y, pairing=pairing, estimator="biased", kernel="laplacian", fixed_sigma=9.0, forced=name
    ).raw
    gram = [np.exp(-np.linalg.norm(a[:, None] - b[None], axis=2) / 9.0).mean() for a, b in ((x, x), (y, y), (x, y))]
    error = abs(shift.mmd2.value - (gram[0] + gram[1] - 2.0 * gram[2]))
    assert error > {"float32": 1e-5, "float64": 1e-10}[name]
    assert error <= shift.error_bound
