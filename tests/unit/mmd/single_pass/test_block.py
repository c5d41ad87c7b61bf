"""Linear-time and block estimators against their formulas, and how often their intervals and tests are right."""

import math

import numpy as np
import pytest
from bench.noise import GaussianRows
from scipy.stats import binom, t

from vfmalign.core.domain.errors import BadOption, BadTensor, Cancelled
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.engine.kernels import KERNELS
from vfmalign.mmd.engine.row_streams import ArrayRows
from vfmalign.mmd.single_pass import block as module
from vfmalign.mmd.single_pass.block import block_mmd2, linear_mmd2

SIGMA = 1.7
WIDTHS = (0.25, 0.5, 1, 2, 4)


def distances(a, b):
    return ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)


FORMULAS = {
    "gaussian": lambda a, b: np.exp(-distances(a, b) / (2 * SIGMA**2)),
    "gaussian_mixture": lambda a, b: (
        sum(np.exp(-distances(a, b) / (2 * (SIGMA * s) ** 2)) for s in (0.25, 0.5, 1, 2, 4)) / 5
    ),
    "laplacian": lambda a, b: np.exp(-np.sqrt(distances(a, b)) / SIGMA),
    "rational_quadratic": lambda a, b: 1 / (1 + distances(a, b) / (2 * SIGMA**2)),
    "inverse_multiquadric": lambda a, b: 1 / np.sqrt(1 + distances(a, b) / SIGMA**2),
    "polynomial": lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3,
    "linear": lambda a, b: a @ b.T,
}


def unbiased(k, x, y, group_x, group_y, *, paired):
    """JMLR 2012, eqs. (3) and (4), over rows of different groups."""
    differ_x, differ_y = group_x[:, None] != group_x[None, :], group_y[:, None] != group_y[None, :]
    xx, yy, xy = k(x, x), k(y, y), k(x, y)
    if paired:
        return (xx + yy - xy - xy.T)[differ_x].mean()
    return xx[differ_x].mean() + yy[differ_y].mean() - 2 * xy.mean()


def stream(x, y):
    return ArrayRows(x, "x"), ArrayRows(y, "y")


def kernel_of(name, x):
    return KERNELS[name](SIGMA, x.shape[1])


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("n", "m"), [(101, 101), (60, 83)])
def test_linear_time_is_its_formula(rng, monkeypatch, name, n, m):
    monkeypatch.setattr(module, "_READ_BYTES", 8 * 3 * 10)  # ten rows at a time
    x, y = rng.normal(size=(n, 3)), 0.4 + rng.normal(size=(m, 3))
    k = FORMULAS[name]
    h = np.array(
        [
            k(x[i : i + 1], x[i + 1 : i + 2])
            + k(y[i : i + 1], y[i + 1 : i + 2])
            - k(x[i : i + 1], y[i + 1 : i + 2])
            - k(x[i + 1 : i + 2], y[i : i + 1])
            for i in range(0, min(n, m) - 1, 2)
        ]
    )
    found = linear_mmd2(*stream(x, y), kernel_of(name, x), paired=n == m)
    error = h.std(ddof=1) / math.sqrt(len(h))
    assert found.estimates == len(h)
    assert found.rows_used == (2 * len(h), 2 * len(h))
    assert found.mmd2.value == pytest.approx(h.mean(), rel=1e-12, abs=1e-15)
    assert found.standard_error == pytest.approx(error, rel=1e-10)
    assert found.p_value.value == pytest.approx(t.sf(h.mean() / error, len(h) - 1), rel=1e-9)
    half = t.ppf(0.975, len(h) - 1) * error
    assert (found.mmd2.interval.lower, found.mmd2.interval.upper) == pytest.approx((h.mean() - half, h.mean() + half))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("paired", [True, False])
def test_blocks_are_their_formula(rng, name, paired):
    n, m = 100, 100 if paired else 75
    x, y = rng.normal(size=(n, 3)), 0.4 + rng.normal(size=(m, 3))
    values = []
    count = m // 9
    for b in range(count):
        x_rows, y_rows = (np.arange(b * size // count, (b + 1) * size // count) for size in (n, m))
        values.append(unbiased(FORMULAS[name], x[x_rows], y[y_rows], x_rows, y_rows, paired=paired))
    found = block_mmd2(*stream(x, y), kernel_of(name, x), paired=paired, block_rows=9, precision="float64")
    assert found.estimates == count
    assert found.rows_used == (n, m)
    assert found.mmd2.value == pytest.approx(np.mean(values), rel=1e-11, abs=1e-14)
    assert found.standard_error == pytest.approx(np.std(values, ddof=1) / math.sqrt(count), rel=1e-9)
    low = block_mmd2(*stream(x, y), kernel_of(name, x), paired=paired, block_rows=9)
    assert low.precision == "float32"
    assert low.mmd2.value == pytest.approx(found.mmd2.value, rel=1e-4)


@pytest.mark.parametrize("paired", [True, False])
def test_blocks_hold_whole_groups_and_compare_no_two_rows_of_one(rng, paired):
    def groups(prefix, sizes):
        return [f"{prefix}{g:02d}" for g in rng.permutation(len(sizes)) for _ in range(sizes[g])]

    labels_x = groups("a", rng.integers(1, 6, size=30))
    labels_y = labels_x if paired else groups("b", rng.integers(2, 5, size=26))
    x, y = rng.normal(size=(len(labels_x), 2)), 0.3 + rng.normal(size=(len(labels_y), 2))
    found = block_mmd2(
        *stream(x, y), kernel_of("gaussian", x), paired=paired, block_rows=8, groups_x=labels_x, groups_y=labels_y,
        precision="float64",
    )  # fmt: skip
    count = min(min(len(x), len(y)) // 8, 15, 13)
    order_x, order_y = list(dict.fromkeys(labels_x)), list(dict.fromkeys(labels_y))
    group_x, group_y = (
        np.array([order.index(label) for label in labels])
        for order, labels in ((order_x, labels_x), (order_y, labels_y))
    )
    values = []
    for b in range(count):
        in_x, in_y = (
            (group >= b * len(order) // count) & (group < (b + 1) * len(order) // count)
            for group, order in ((group_x, order_x), (group_y, order_y))
        )
        values.append(unbiased(FORMULAS["gaussian"], x[in_x], y[in_y], group_x[in_x], group_y[in_y], paired=paired))
    assert found.estimates == count
    assert found.mmd2.value == pytest.approx(np.mean(values), abs=1e-14)


def test_a_block_takes_the_root_of_the_rows_unless_told_otherwise(rng):
    x, y = rng.normal(size=(401, 2)), rng.normal(size=(500, 2))
    found = block_mmd2(*stream(x, y), kernel_of("gaussian", x), paired=False)
    assert (found.estimates, found.block_rows) == (20, 20)


def test_dependent_groups_do_not_bias_the_blocks(rng):
    """Eight equal rows per group: comparing them with each other would add about 0.2."""
    values = []
    labels = [str(i // 8).zfill(3) for i in range(512)]
    for _ in range(60):
        x, y = (np.repeat(rng.normal(size=(64, 2)), 8, axis=0) for _ in range(2))
        options = {"block_rows": 32, "groups_x": labels, "groups_y": labels}
        values.append(block_mmd2(*stream(x, y), kernel_of("gaussian", x), paired=False, **options).mmd2.value)
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(60)
    assert abs(np.mean(values)) < 0.02


@pytest.mark.parametrize("estimator", ["linear", "blocks"])
@pytest.mark.parametrize("paired", [True, False])
def test_intervals_cover_and_tests_keep_their_level(rng, estimator, paired):
    """The population value of shifted Gaussians is covered, and at the null 5 % are rejected, in many runs."""
    covered, rejected = 0, 0
    population = 2 * (4 / 6) * -math.expm1(-2 * 0.25 / (2 * 6))
    kernel = KERNELS["gaussian"](2.0, 2)
    run, runs = {"linear": (linear_mmd2, 300), "blocks": (block_mmd2, 150)}[estimator]
    for _ in range(runs):
        x, y = rng.normal(size=(120, 2)), rng.normal(size=(120, 2))
        if paired:
            y = 0.8 * x + 0.6 * y  # the margins stay N(0, 1)
        shifted = run(*stream(x, y + 0.5), kernel, paired=paired).mmd2.interval
        covered += shifted.lower <= population <= shifted.upper
        rejected += run(*stream(x, y), kernel, paired=paired).p_value.value <= 0.05
    assert binom.ppf(5e-4, runs, 0.93) <= covered <= binom.ppf(1 - 5e-4, runs, 0.97)
    # Statistics of small blocks are skewed to the right, mean and SD then rise together: the test is cautious.
    assert binom.ppf(5e-4, runs, 0.02) <= rejected <= binom.ppf(1 - 5e-4, runs, 0.05)


@pytest.mark.parametrize("run", [linear_mmd2, block_mmd2])
def test_seeded_streams_of_shifted_gaussians_are_told_apart(run):
    x, y = GaussianRows(20_000, 4, seed=1), GaussianRows(20_000, 4, seed=2, mean=0.3)
    found = run(x, y, KERNELS["gaussian"](2.0, 4), paired=False)
    population = 2 * (4 / 6) ** 2 * -math.expm1(-4 * 0.09 / (2 * 6))
    assert abs(found.mmd2.value - population) < 4 * found.standard_error
    assert found.p_value.value < 1e-3
    same = run(x, x, KERNELS["gaussian"](2.0, 4), paired=True)
    assert (same.mmd2.value, same.p_value.value) == (0.0, 1.0)


def test_offsets_do_not_cost_digits(rng):
    x, y = rng.normal(size=(400, 3)), 0.5 + rng.normal(size=(400, 3))
    kernel = kernel_of("gaussian", x)
    for run in (linear_mmd2, block_mmd2):
        near, far = (run(*stream(x + offset, y + offset), kernel, paired=False) for offset in (0.0, 1e6))
        assert far.mmd2.value == pytest.approx(near.mmd2.value, rel=1e-4)


def test_few_estimates_leave_interval_and_test_out_with_the_reason(rng):
    x, y = rng.normal(size=(14, 2)), rng.normal(size=(14, 2))
    for found in (
        linear_mmd2(*stream(x, y), kernel_of("gaussian", x), paired=False),
        block_mmd2(*stream(x, y), kernel_of("gaussian", x), paired=False, block_rows=2),
    ):
        assert found.estimates == 7
        assert found.mmd2.value is not None
        assert (found.mmd2.interval, found.p_value.value) == (None, None)
        assert "7 independent estimates are too few" in found.p_value.absent_reason
    constant = linear_mmd2(*stream(np.zeros((40, 2)), np.ones((40, 2))), kernel_of("gaussian", x), paired=False)
    assert constant.mmd2.value == pytest.approx(2 - 2 * math.exp(-1 / SIGMA**2))
    assert "all estimates are equal" in constant.p_value.absent_reason
    single = block_mmd2(*stream(x, y), kernel_of("gaussian", x), paired=False, block_rows=14)
    assert (single.estimates, math.isnan(single.standard_error)) == (1, True)


def test_what_cannot_be_computed_is_refused_by_name(rng):
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(20, 2))
    kernel = kernel_of("gaussian", x)
    twos = [str(i // 2) for i in range(20)]
    with pytest.raises(BadOption, match=r"`y` has groups of several rows.*block estimator") as caught:
        linear_mmd2(*stream(x, y), kernel, paired=False, groups_y=twos)
    assert caught.value.field == "estimator"
    with pytest.raises(BadOption, match="rows of a group of `x` are not contiguous"):
        block_mmd2(*stream(x, y), kernel, paired=False, groups_x=twos[::2] + twos[1::2])
    with pytest.raises(BadOption, match="needs at least 2 groups"):
        block_mmd2(*stream(x, y), kernel, paired=True, groups_x=["a"] * 20)
    for rows in (1, 21, -1):
        with pytest.raises(BadOption, match="blocks of 2 to 20 rows"):
            block_mmd2(*stream(x, y), kernel, paired=False, block_rows=rows)
    for run in (linear_mmd2, block_mmd2):
        with pytest.raises(BadTensor, match="equal row counts"):
            run(*stream(x, y[:19]), kernel, paired=True)
        with pytest.raises(BadTensor, match="at least 2 rows"):
            run(*stream(x[:1], y), kernel, paired=False)
        with pytest.raises(BadTensor, match="channels"):
            run(*stream(x, y[:, :1]), kernel, paired=False)
        with pytest.raises(BadTensor, match="expected one group per row, got 2 groups"):
            run(*stream(x, y), kernel, paired=False, groups_x=["a", "b"])


def test_they_stop_when_told_to(rng):
    def stop():
        raise Cancelled("enough")

    x, y = rng.normal(size=(20, 2)), rng.normal(size=(20, 2))
    kernel = kernel_of("gaussian", x)
    with pytest.raises(Cancelled):
        linear_mmd2(*stream(x, y), kernel, paired=False, context=WorkContext(is_cancelled=stop))
    with pytest.raises(Cancelled):
        block_mmd2(*stream(x, y), kernel, paired=False, context=WorkContext(is_cancelled=stop))
