"""Measures beside MMD: against slow plain formulas, closed forms, scipy and what must not change them."""

import numpy as np
import pytest
from scipy import linalg, stats
from scipy.spatial.distance import cdist

from vfmalign.core.domain.errors import BadOption, BadTensor, Cancelled
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.statistics import similarity
from vfmalign.mmd.statistics.similarity import MEASURES, MeasureInput, cka, energy, frechet


def slow_hsic(k, l_):
    """Song et al., term by term."""
    n = len(k)
    k, l_ = k - np.diag(np.diag(k)), l_ - np.diag(np.diag(l_))
    one = np.ones(n)
    spread = (one @ k @ one) * (one @ l_ @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l_) + spread - 2 / (n - 2) * (one @ k @ l_ @ one)) / (n * (n - 3))


def slow_cka(x, y):
    k, l_ = x @ x.T, y @ y.T
    return slow_hsic(k, l_) / np.sqrt(slow_hsic(k, k) * slow_hsic(l_, l_))


def slow_energy(x, y, *, paired):
    def mean(a, b, *, own):
        pairs = [np.linalg.norm(p - q) for i, p in enumerate(a) for j, q in enumerate(b) if own or i != j]
        return float(np.mean(pairs))

    return 2 * mean(x, y, own=not paired) - mean(x, x, own=False) - mean(y, y, own=False)


def moved(rng, rows=24, channels=5):
    x = rng.normal(size=(rows, channels))
    return x, 0.6 * x + rng.normal(size=(rows, channels)) + 0.3


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that sums run over several."""
    monkeypatch.setattr(similarity, "BLOCK_ENTRIES", 100)


@pytest.mark.usefixtures("small_blocks")
def test_cka_is_the_plain_formula(rng):
    x, y = moved(rng)
    assert cka(x, y).value == pytest.approx(slow_cka(x, y), rel=1e-10)
    assert cka(x, y[:, :2]).value == pytest.approx(slow_cka(x, y[:, :2]), rel=1e-10)
    assert cka(x, y).dimension == 5


def test_cka_does_not_see_rotation_scale_and_place(rng):
    x, y = moved(rng)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert cka(x, 1e-4 * x @ turn + 1e3).value == pytest.approx(1.0, abs=1e-9)
    assert cka(1e5 * y @ turn - 3.0, x).value == pytest.approx(cka(x, y).value, abs=1e-9)
    assert cka(x, y * [1, 1, 1, 1, 9]).value != pytest.approx(cka(x, y).value, abs=1e-3)


def test_cka_of_unrelated_rows_is_about_0_in_many_channels(rng):
    values = [cka(*rng.normal(size=(2, 10, 200))).value for _ in range(40)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert all(-1.0 <= value <= 1.0 for value in values)


def test_cka_says_why_it_is_undefined(rng):
    x, _ = moved(rng)
    assert "at least 4 rows, got 3" in cka(x[:3], x[:3]).absent_reason
    assert "all rows of y are equal" in cka(x, np.full_like(x, 0.1)).absent_reason
    assert "all distances between rows are equal" in cka(np.eye(5), np.eye(5)).absent_reason
    assert cka(x[:3], x[:3]).value is None


def test_frechet_of_gaussians_is_the_closed_form(rng):
    """Samples whose mean and covariance are exact: Σ(√a − √b)² where covariances commute, else scipy's square root."""
    white = rng.normal(size=(400, 3))
    white -= white.mean(axis=0)
    white = white @ np.linalg.inv(linalg.sqrtm(np.cov(white.T)))
    a, b, move = np.array([4.0, 1.0, 9.0]), np.array([1.0, 16.0, 9.0]), np.array([1.0, 0.0, -2.0])
    found = frechet(white * np.sqrt(a), white * np.sqrt(b) + move)
    assert found.value == pytest.approx(5.0 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-9)
    assert found.dimension == 3

    mixed = white @ rng.normal(size=(3, 3))
    covariances = np.diag(a), np.cov(mixed.T)
    expected = (
        sum(np.trace(one) for one in covariances) - 2 * np.trace(linalg.sqrtm(covariances[0] @ covariances[1])).real
    )
    assert frechet(white * np.sqrt(a), mixed).value == pytest.approx(expected, rel=1e-8)


def test_frechet_is_0_of_the_same_rows_and_turns_with_the_space(rng):
    x, y = moved(rng)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert frechet(x, x).value == pytest.approx(0.0, abs=1e-12)
    assert frechet(x @ turn + 5.0, y @ turn + 5.0).value == pytest.approx(frechet(x, y).value, rel=1e-9)
    assert frechet(3 * x, 3 * y).value == pytest.approx(9 * frechet(x, y).value, rel=1e-9)


@pytest.mark.parametrize(("rows", "expected"), [(3, 1), (10, 4), (11, 5), (40, 19), (200, 64)])
def test_frechet_takes_fewer_axes_than_half_the_rows(rng, rows, expected):
    wide = rng.normal(size=(3, max(rows, 40), 300))
    assert frechet(wide[0][:rows], wide[1], wide[2]).dimension == expected


@pytest.mark.parametrize("channels", [6, 60])
def test_frechet_sees_the_leading_axes_of_the_reference_alone(rng, channels):
    """Rows move along an axis on which the reference hardly varies: on its leading axes nothing happened."""
    reference = rng.normal(size=(9, channels)) * np.r_[50.0, 40.0, 30.0, 20.0, np.full(channels - 4, 1e-6)]
    x, step = reference + 0.0, np.zeros(channels)
    step[-1] = 100.0
    assert frechet(x, x + step, reference).value == pytest.approx(0.0, abs=1e-3)
    assert frechet(x, x + step, reference + np.outer(np.arange(9), step)).value == pytest.approx(1e4, rel=1e-3)


def test_frechet_says_why_it_is_undefined(rng):
    x, y = moved(rng)
    assert "at least 3 rows" in frechet(x, y[:2]).absent_reason
    assert "no channel varies" in frechet(x, y, np.ones_like(x)).absent_reason


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("paired", [False, True])
def test_energy_is_the_plain_formula(rng, paired):
    x, y = moved(rng)
    y = y if paired else y[:17]
    assert energy(x, y, paired=paired).value == pytest.approx(slow_energy(x, y, paired=paired), rel=1e-9)


def test_energy_in_one_channel_is_scipys_squared_and_unbiased(rng):
    x, y = rng.normal(size=(30, 1)), rng.normal(size=(20, 1)) + 1.0

    def own(rows):
        """What the biased form adds: a row's distance to itself counts as a pair."""
        return np.abs(rows - rows.T).sum() * (1 / (len(rows) * (len(rows) - 1)) - 1 / len(rows) ** 2)

    biased = stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert energy(x, y).value == pytest.approx(biased - own(x) - own(y), rel=1e-9)


def test_energy_is_0_of_the_same_pairs_and_grows_with_the_unit(rng):
    x, y = moved(rng)
    assert energy(x, x, paired=True).value == pytest.approx(0.0, abs=1e-12)
    assert energy(7 * x + 1e3, 7 * y + 1e3).value == pytest.approx(7 * energy(x, y).value, rel=1e-8)
    assert "at least 2 rows" in energy(x[:1], y).absent_reason


@pytest.mark.parametrize("name", MEASURES)
def test_bad_rows_are_refused(rng, monkeypatch, name):
    x, y = moved(rng)
    take = MEASURES[name]
    spoiled = y.copy()
    spoiled[3, 1] = np.nan
    for bad, words in ((spoiled, "NaN"), (y[:, 0], r"\[rows, channels\]"), (y * 1e90, "above 1e\\+70")):
        with pytest.raises(BadTensor, match=words):
            take(MeasureInput(x, bad))
    monkeypatch.setattr(similarity, "MAX_ROWS", 20)
    with pytest.raises(BadOption, match="at most 20 rows of a sample, got 24 in `x`"):
        take(MeasureInput(x, y))


@pytest.mark.parametrize("constant", [0.1, 0.3, 1e3 + 0.1])
def test_a_constant_reference_has_no_axes(rng, constant):
    """Also where the mean of equal rows differs from them by rounding."""
    y = rng.normal(size=(9, 3))
    for rows in (3, 7, 11):
        for found in (frechet(np.full((rows, 3), constant), y), frechet(y, y, np.full((rows, 3), constant))):
            assert found.value is None
            assert "no channel varies" in found.absent_reason


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("far", [0.0, 1e7, 1e9])
def test_the_energy_distance_keeps_its_digits_beside_a_far_row(rng, far, paired):
    """A row far from all others, close to another one, and two far rows of one sample close to each other."""
    x = rng.normal(size=(30, 5))
    x[:2] += far
    y = x + 0.3 * rng.normal(size=x.shape)
    xx, yy, xy = (cdist(a, b) for a, b in ((x, x), (y, y), (x, y)))
    across = (xy.sum() - np.trace(xy)) / (30 * 29) if paired else xy.mean()
    wanted = 2.0 * across - (xx.sum() + yy.sum()) / (30 * 29)
    found = energy(x, y, paired=paired).value
    assert found == pytest.approx(wanted, abs=1e-14 * max(1.0, far))


def test_samples_that_do_not_fit_together_are_refused(rng):
    x, y = moved(rng)
    with pytest.raises(BadTensor, match="pairs of rows, got 24 and 9"):
        cka(x, y[:9])
    with pytest.raises(BadTensor, match="equal row counts, got 24 and 9"):
        energy(x, y[:9], paired=True)
    for take in (energy, frechet):
        with pytest.raises(BadTensor, match="different numbers of channels"):
            take(x, y[:, :4])


def test_too_large_a_space_to_fit_is_refused(rng, monkeypatch):
    monkeypatch.setattr(similarity, "MAX_EIGEN_SIZE", 4)
    x, y = moved(rng)
    with pytest.raises(BadOption, match="at most 4 rows or channels, got 24 rows of 5 channels in `x`"):
        frechet(x, y)
    assert frechet(x, y, x[:4]).dimension == 1


@pytest.mark.parametrize("take", [cka, energy])
def test_a_measure_stops_between_blocks(rng, take):
    def stop():
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        take(*moved(rng), context=WorkContext(is_cancelled=stop))
