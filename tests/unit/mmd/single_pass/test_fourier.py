"""Random Fourier features against slow float64 formulas, and how often their error bounds hold."""

import math

import numpy as np
import pytest
from bench.noise import GaussianRows
from scipy.stats import binom
from tests.mmd_options import make_options

from vfmalign.core.domain.errors import BadOption, BadTensor, Cancelled
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.row_streams import ArrayRows
from vfmalign.mmd.single_pass import spectra
from vfmalign.mmd.single_pass.fourier import fourier_mmd2

SIGMA = 1.7
KERNELS = {
    "gaussian": lambda d2: np.exp(-d2 / (2 * SIGMA**2)),
    "gaussian_mixture": lambda d2: np.mean(
        [np.exp(-d2 / (2 * (SIGMA * s) ** 2)) for s in (0.25, 0.5, 1, 2, 4)], axis=0
    ),
    "laplacian": lambda d2: np.exp(-np.sqrt(d2) / SIGMA),
    "rational_quadratic": lambda d2: 1 / (1 + d2 / (2 * SIGMA**2)),
    "inverse_multiquadric": lambda d2: 1 / np.sqrt(1 + d2 / SIGMA**2),
}


def gram(kernel, a, b):
    return KERNELS[kernel](((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2))


def exact(kernel, x, y, *, paired):
    """JMLR 2012, eqs. (3) and (4), as they are written."""
    xx, yy, xy = gram(kernel, x, x), gram(kernel, y, y), gram(kernel, x, y)
    n, m = len(x), len(y)
    if paired:
        h = xx + yy - xy - xy.T
        return (h.sum() - np.trace(h)) / (n * (n - 1))
    within = (xx.sum() - n) / (n * (n - 1)) + (yy.sum() - m) / (m * (m - 1))
    return within - 2 * xy.mean()


def features(x, omega):
    return np.exp(1j * x @ omega.T)


def plain(x, y, omega, *, paired):
    """The estimate with the kernel Re mean_r φ_r(a)·conj φ_r(b), as a double sum."""
    fx, fy = features(x, omega), features(y, omega)
    xx, yy, xy = ((a @ b.conj().T).real / len(omega) for a, b in ((fx, fx), (fy, fy), (fx, fy)))
    n, m = len(x), len(y)
    if paired:
        h = xx + yy - xy - xy.T
        return (h.sum() - np.trace(h)) / (n * (n - 1))
    return (xx.sum() - n) / (n * (n - 1)) + (yy.sum() - m) / (m * (m - 1)) - 2 * xy.mean()


@pytest.fixture
def samples(rng):
    def draw(n, m, d=3, shift=0.5, scale=1.0):
        return rng.normal(size=(n, d)), shift + scale * rng.normal(size=(m, d))

    return draw


def run(x, y, *, memory_bytes=2**30, context=UNLIMITED, **options):
    engine = ComputeConfig(memory_bytes=memory_bytes, context=context)
    return run_streams(ArrayRows(x, "x"), ArrayRows(y, "y"), engine=engine, **options)


def run_streams(x, y, *, paired, engine=None, sigma=SIGMA, **arguments):
    own = {name: arguments.pop(name) for name in ("precision", "groups_x", "groups_y") if name in arguments}
    options = make_options("paired" if paired else "independent", **arguments)
    return fourier_mmd2(x, y, options, engine or ComputeConfig(), sigma=sigma, **own)


@pytest.mark.parametrize("kernel", KERNELS)
def test_frequencies_have_the_kernel_as_their_characteristic_function(kernel):
    spectrum = spectra.draw_spectrum(kernel, SIGMA, 3, 40_000, seed=3)
    for length in (0.1, 1.0, 3.0):
        difference = length * np.array([0.6, 0.0, -0.8])
        waves = np.cos(spectrum.omega_RC @ difference)
        wanted = float(KERNELS[kernel](length**2))
        assert abs(waves.mean() - wanted) < 4 * waves.std() / math.sqrt(spectrum.count) + 1e-12
        assert spectrum.one_minus_kernel(difference) == pytest.approx(1.0 - wanted, abs=1e-14)
    assert spectra.draw_spectrum("gaussian", SIGMA, 3, 40, 0).one_minus_kernel(np.full(3, 1e-9)) == pytest.approx(
        1.5e-18 / SIGMA**2
    )


def test_a_mixture_has_as_many_frequencies_of_each_width():
    spectrum = spectra.draw_spectrum("gaussian_mixture", 1.0, 2000, 101, seed=0)
    assert spectrum.count == 105
    lengths = np.linalg.norm(spectrum.omega_RC, axis=1) / math.sqrt(2000)
    assert np.unique(np.round(np.log2(lengths)), return_counts=True)[1].tolist() == [21] * 5


@pytest.mark.parametrize("paired", [True, False])
def test_sums_permutations_and_left_out_buckets_are_the_formulas(samples, monkeypatch, paired):
    monkeypatch.setattr("vfmalign.mmd.single_pass.fourier._BLOCK", (1, 8))  # the smallest blocks there are: 64 rows
    x, y = samples(150, 150 if paired else 131)
    groups_x, groups_y = [f"{i // 4:03d}" for i in range(len(x))], [f"{i % 40:03d}" for i in range(len(y))]
    found = run(
        x,
        y,
        paired=paired,
        seed=5,
        frequencies=64,
        precision="float64",
        permutations=7,
        groups_x=groups_x,
        groups_y=groups_y,
    )
    omega = spectra.draw_spectrum("gaussian", SIGMA, 3, 64, 5).omega_RC
    assert found.uncorrected == pytest.approx(plain(x, y, omega, paired=paired), abs=1e-14)

    _, group_x = np.unique(groups_x, return_inverse=True)
    _, group_y = np.unique(groups_y, return_inverse=True)
    weights_GB = found.permutations.weights_GB
    assert found.buckets == len(weights_GB) == (38 if paired else 78)
    for b in range(7):
        if paired:
            swapped = (weights_GB[group_x, b] < 0)[:, None]
            pair = np.where(swapped, y, x), np.where(swapped, x, y)
        else:
            pooled, group = np.concatenate([x, y]), np.concatenate([group_x, group_y + 38])
            is_x = weights_GB[group, b] == 1
            pair = pooled[is_x], pooled[~is_x]
        assert found.permuted_B[b] == pytest.approx(plain(*pair, omega, paired=paired), abs=1e-14)

    assert [len(part) for part in found.left_out] == ([38] if paired else [38, 40])
    for g in (0, 17, 37):
        without_x, without_y = x[group_x != g], y[group_y != g]
        pairs = ((without_x, y[group_x != g]),) if paired else ((without_x, y), (x, without_y))
        wanted = [plain(*pair, omega, paired=paired) for pair in pairs]
        assert [part[g] for part in found.left_out] == pytest.approx(wanted, abs=1e-13)


@pytest.mark.parametrize("change", ["shift", "spread", "near", "near, one channel"])
def test_the_error_bound_holds_as_often_as_it_says(rng, change):
    """Nearly equal pairs are the hardest: few frequencies carry the whole error.

    It holds in 30 runs of each kernel, and in the 150 of all: a bound that held in 90 % of the runs would fail.
    """
    x = rng.normal(size=(30, 1 if change == "near, one channel" else 5))
    y = x + 0.05 * rng.normal(size=x.shape)
    if not change.startswith("near"):
        y = rng.permutation(y) + 0.5 if change == "shift" else 1.5 * rng.normal(size=x.shape)
    held = []
    for kernel in KERNELS:
        options = {"paired": change.startswith("near"), "kernel": kernel}
        wanted = exact(kernel, x, y, paired=options["paired"])
        runs = [run(x, y, **options, frequencies=256, precision="float64", seed=seed) for seed in range(30)]
        errors = np.array([abs(one.mmd2.value - wanted) for one in runs])
        bounds = np.array([one.approximation_error for one in runs])
        held.append(int((errors <= bounds).sum()))
        assert np.median(errors) > 0.002 * np.median(bounds), kernel  # and it is not idle
    assert min(held) >= binom.ppf(1e-3, 30, 0.98), held
    assert sum(held) >= binom.ppf(1e-3, 150, 0.98), held


@pytest.mark.parametrize("kernel", KERNELS)
def test_lengths_of_frequencies_are_spread_evenly_over_their_distribution(kernel):
    """Each tenth of the distribution, known from many frequencies, holds nearly a tenth of every few."""
    lengths = [
        np.linalg.norm(spectra.draw_spectrum(kernel, SIGMA, 3, count, seed).omega_RC, axis=1)
        for count, seed in ((20_000, 0), (200, 1))
    ]
    counts, _ = np.histogram(lengths[1], [0.0, *np.quantile(lengths[0], np.arange(1, 10) / 10), math.inf])
    assert np.abs(counts - 20).max() <= 4  # of independent ones 20 ± 4.2


@pytest.mark.parametrize("paired", [True, False])
def test_every_form_is_within_its_bound(samples, paired):
    x, y = samples(60, 60 if paired else 45)
    if paired:
        y = x + 0.3 * y
    found = run(x, y, paired=paired, frequencies=4096)
    wanted = exact("gaussian", x, y, paired=paired)
    assert abs(found.mmd2.value - wanted) <= found.approximation_error < 0.1 * wanted


def test_the_control_variate_takes_most_of_the_error_of_a_shift():
    x, y = GaussianRows(20_000, 64, seed=1), GaussianRows(20_000, 64, seed=1, mean=0.05)
    found = run_streams(x, y, paired=True, sigma=math.sqrt(128.0))
    exact_value = 2 * (128 / 130) ** 32 * -math.expm1(-64 * 0.05**2 / (2 * 130))
    uncontrolled = 2.58 * found.uncorrected * math.sqrt(2 / 1024)  # terms are about χ² with one degree
    assert found.approximation_error < 0.2 * uncontrolled
    sampling = 4 * (found.mmd2.interval.upper - found.mmd2.value)
    assert abs(found.mmd2.value - exact_value) < found.approximation_error + sampling


def test_the_population_value_of_gaussians_is_recovered():
    """MMD² of N(0, 1) and N(μ, s²) in closed form, from independent streams, with an interval that holds it."""
    d, mean, sd, sigma = 8, 0.2, 1.3, 3.0

    def expected(variance, distance2):
        return (sigma**2 / (sigma**2 + variance)) ** (d / 2) * math.exp(-distance2 / (2 * (sigma**2 + variance)))

    wanted = expected(2, 0) + expected(2 * sd**2, 0) - 2 * expected(1 + sd**2, d * mean**2)
    for seed in range(5):
        x, y = GaussianRows(8000, d, seed=100 + seed), GaussianRows(6000, d, seed=200 + seed, mean=mean, sd=sd)
        found = run_streams(x, y, paired=False, sigma=sigma, frequencies=512, seed=seed, interval_level=0.999)
        assert found.mmd2.interval.lower < wanted < found.mmd2.interval.upper
        assert found.mmd2.interval.upper - found.mmd2.value < 0.25 * wanted


def test_intervals_cover_and_tests_keep_their_level(rng):
    """Over both rows and frequencies: coverage of 95 % intervals, and the size at 5 %, in 300 runs."""
    covered, rejected = 0, 0
    population = 2 * (4 / 6) ** 1 * -math.expm1(-2 * 0.25 / (2 * 6))
    for seed in range(300):
        x, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 2))
        shifted = run(x, y + 0.5, paired=False, sigma=2.0, frequencies=64, seed=seed)
        covered += shifted.mmd2.interval.lower <= population <= shifted.mmd2.interval.upper
        null = run(x, y, paired=seed % 2 == 0, sigma=2.0, frequencies=64, seed=seed, permutations=99)
        rejected += null.p_value.value <= 0.05
    assert binom.ppf(5e-4, 300, 0.93) <= covered
    assert binom.ppf(5e-4, 300, 0.05) <= rejected <= binom.ppf(1 - 5e-4, 300, 0.05)


@pytest.mark.parametrize("paired", [True, False])
def test_a_shift_is_detected_and_identical_samples_are_not(samples, paired):
    x, y = samples(80, 80)
    assert run(x, y, paired=paired, permutations=199).p_value.value == 1 / 200
    same = run(x, x, paired=paired, permutations=199)
    assert same.p_value.value > 0.5
    if paired:
        assert (same.mmd2.value, same.p_value.value, same.approximation_error) == (0.0, 1.0, 0.0)


def test_rows_beyond_the_buckets_are_permuted_in_buckets(rng):
    x, y = rng.normal(size=(5000, 2)), rng.normal(size=(3000, 2))
    found = run(x, y + 0.2, paired=False, permutations=199, frequencies=128)
    assert found.buckets <= 1024
    assert abs(found.permutations.weights_GB.sum(axis=0)[0] / found.buckets - 5 / 8) < 0.01
    assert found.p_value.value == 1 / 200
    found = run(x[:3000], y, paired=True, permutations=99, frequencies=128)
    assert found.buckets == 1024
    assert found.p_value.value > 0.05


def test_nearly_equal_pairs_far_from_the_origin(rng):
    """y = x + 1e-3 SD at a common offset of 30,000 SD: float32 phases of centred rows keep the digits."""
    x = SIGMA / 5 * rng.normal(size=(500, 16)) + 1e4
    y = x + 1e-3 * SIGMA / 5 * rng.normal(size=x.shape)
    low, high = (run(x, y, paired=True, precision=one).mmd2.value for one in ("float32", "float64"))
    scale = 2 * (1 - np.diag(gram("gaussian", x, y)).mean()) / len(x)  # what one pair contributes to the sum
    assert high == pytest.approx(exact("gaussian", x, y, paired=True), abs=0.1 * scale)
    assert low == pytest.approx(high, abs=1e-2 * scale)


def test_float32_differs_from_float64_by_rounding_alone(samples):
    x, y = samples(300, 300, d=32)
    low, high = (run(x, y, paired=False, precision=precision) for precision in ("float32", "float64"))
    assert low.precision, high.precision == ("float32", "float64")
    assert low.mmd2.value == pytest.approx(high.mmd2.value, rel=1e-6)
    assert run(x, y, paired=False, kernel="laplacian", precision="float32").precision == "float64"


def test_few_groups_leave_test_and_interval_out_with_the_reason(samples):
    x, y = samples(30, 30)
    labels = [str(i % 5) for i in range(30)]
    found = run(x, y, paired=True, groups_x=labels, permutations=99)
    assert found.p_value.value is None
    assert "5 buckets" in found.p_value.absent_reason
    assert found.mmd2.interval is None
    assert "too few" in found.mmd2.absent_reason
    found = run(x, y, paired=False, groups_x=["a"] * 30, permutations=99)
    assert "one bucket cannot be permuted" in found.p_value.absent_reason
    assert run(x, y, paired=False).p_value.absent_reason == "no test was requested"


def groups_of(rng, groups, rows, shift, noise=0.1, d=10):
    """Rows that differ little within a group: each is the group's own point plus noise."""
    points = np.repeat(rng.normal(size=(groups, d)), rows, axis=0) + shift
    return points + noise * rng.normal(size=points.shape), [f"{i // rows:03d}" for i in range(groups * rows)]


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_that_the_bias_of_groups_would_move_off_are_withheld(rng, paired):
    """20 groups of 8 rows that are almost copies: shown, such intervals never cover."""
    population = 2 * (9 / 11.02) ** 5 * -math.expm1(-10 * 0.2**2 / (2 * 11.02))
    withheld, above = 0, 0
    for seed in range(20):
        (x, labels), (y, _) = groups_of(rng, 20, 8, 0.0), groups_of(rng, 20, 8, 0.2)
        found = run(x, y, paired=paired, sigma=3.0, frequencies=128, seed=seed, groups_x=labels, groups_y=labels)
        withheld += found.mmd2.interval is None
        above += found.mmd2.value > population
        assert (found.mmd2.interval is None) == (not found.left_out) == ("within groups" in found.mmd2.absent_reason)
    assert withheld == above == 20


@pytest.mark.parametrize("paired", [True, False])
def test_the_bias_of_groups_is_the_difference_to_pairs_across_groups(rng, paired):
    (x, labels_x), (y, labels_y) = groups_of(rng, 12, 3, 0.0), groups_of(rng, 12 if paired else 14, 3, 0.2)
    options = {"groups_x": labels_x, "groups_y": labels_y, "paired": paired, "sigma": 3.0, "precision": "float64"}
    found = run(x, y, **options, frequencies=64, seed=2)
    fx, fy = (features(rows, spectra.draw_spectrum("gaussian", 3.0, 10, 64, 2).omega_RC) for rows in (x, y))
    xx, yy, xy = ((a @ b.conj().T).real / 64 for a, b in ((fx, fx), (fy, fy), (fx, fy)))
    across_x, across_y = (np.not_equal.outer(labels, labels) for labels in (labels_x, labels_y))
    if paired:
        unbiased = (xx + yy - xy - xy.T)[across_x].mean()
    else:
        unbiased = xx[across_x].mean() + yy[across_y].mean() - 2.0 * xy.mean()
    assert f"bias it by {found.uncorrected - unbiased:.2g}," in found.mmd2.absent_reason


@pytest.mark.parametrize("paired", [True, False])
def test_groups_with_little_bias_keep_their_interval(rng, paired):
    """Rows of a group that have nothing in common bias nothing, whether a bucket holds one group or several."""
    shown = 0
    for seed, rows in enumerate((400, 400, 400, 3000, 3000, 3000)):
        x, y = rng.normal(size=(rows, 3)), rng.normal(size=(rows, 3)) + 0.5
        labels = [f"{i // 2:04d}" for i in range(rows)]
        options = {"groups_x": labels, "groups_y": labels, "frequencies": 64, "memory_bytes": 2**20}
        shown += run(x, y, **options, paired=paired, seed=seed).mmd2.interval is not None
    assert shown >= 5


def test_what_cannot_be_computed_is_refused_by_name(samples):
    x, y = samples(20, 20)
    for kernel in ("polynomial", "linear"):
        with pytest.raises(BadOption, match=f"`{kernel}` is not a kernel of a distance") as caught:
            run(x, y, paired=False, kernel=kernel)
        assert caught.value.field == "kernel"
    with pytest.raises(BadTensor, match="equal row counts"):
        run(x, y[:10], paired=True)
    with pytest.raises(BadTensor, match="channels"):
        run(x, y[:, :2], paired=False)
    with pytest.raises(BadTensor, match="at least 2 rows"):
        run(x[:1], y, paired=False)
    with pytest.raises(BadTensor, match=r"^y\.groups: expected one group per row, got 3 groups for 20 rows"):
        run(x, y, paired=False, groups_y=["a", "b", "c"])
    y[3, 1] = math.inf
    with pytest.raises(BadTensor, match=r"^y: row 3 "):
        run(x, y, paired=True)


def test_it_stops_between_blocks_when_told_to(samples, monkeypatch):
    monkeypatch.setattr("vfmalign.mmd.single_pass.fourier._BLOCK", (1, 8))
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled("enough")

    x, y = samples(640, 640)
    with pytest.raises(Cancelled):
        run(x, y, paired=False, context=WorkContext(is_cancelled=stop))
    assert len(calls) == 3


def test_little_memory_means_smaller_blocks_and_fewer_buckets(rng):
    x, y = (rng.normal(size=(3000, 4)) for _ in range(2))
    options = {"paired": False, "sigma": 2.0, "frequencies": 500, "permutations": 19}
    found, wanted = run(x, y, **options, memory_bytes=2**20), run(x, y, **options)
    assert found.buckets == 32
    assert wanted.buckets == 1000
    assert found.mmd2.value == pytest.approx(wanted.mmd2.value, abs=1e-6)
    assert found.mmd2.interval is not None
