"""Crossed analysis of seeds and patients, against a table computed by hand and against brute-force simulation."""

import numpy as np
import pytest
from scipy import stats

from vfmalign.analysis.gains.crossed import analyse_crossed, get_mean_squares, get_pseudo_values
from vfmalign.core.domain.jobs import MetricSpec

# Rows are seeds, columns patients. Mean 4.5; seed means 4, 5; patient means 2, 4.5, 7.
VALUES = np.array([[2.0, 4.0, 6.0], [2.0, 5.0, 8.0]])


def test_mean_squares_of_a_table_computed_by_hand():
    squares = get_mean_squares(VALUES)
    # 3·(0.25 + 0.25)/1; 2·(6.25 + 0 + 6.25)/2; residuals ±0.5, 0, ∓0.5: 4·0.25/2
    assert (squares.seed, squares.patient, squares.residual) == pytest.approx((1.5, 12.5, 0.5))


def test_components_variance_and_degrees_of_a_table_computed_by_hand():
    result = analyse_crossed([VALUES])
    components = result.components
    assert (components.seed, components.patient, components.residual) == pytest.approx((1 / 3, 6.0, 0.5))
    assert components.set_to_zero == ()
    # σ²_seed/S + σ²_patient/G + σ²_residual/(S·G)
    assert result.variance == pytest.approx((1 / 3) / 2 + 6.0 / 3 + 0.5 / 6)
    assert result.degrees == pytest.approx(13.5**2 / (1.5**2 / 1 + 12.5**2 / 2 + 0.5**2 / 2))
    half = stats.t.ppf(0.975, result.degrees) * result.standard_error
    interval = result.get_interval(4.5, 0.95)
    assert (interval.lower, interval.upper) == pytest.approx((4.5 - half, 4.5 + half))


def test_a_negative_component_is_set_to_zero_and_leaves_the_variance():
    values = np.array([[1.0, 5.0, 3.0, 7.0], [2.0, 4.0, 4.0, 6.0]])  # the seeds' means are equal
    result = analyse_crossed([values])
    assert result.components.set_to_zero == ("seed",)
    assert result.components.seed == 0.0
    squares = get_mean_squares(values)
    assert result.variance == pytest.approx(squares.patient / 8)
    assert result.degrees == 3


def test_equal_patients_leave_the_seeds_alone():
    values = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [4.0, 4.0, 4.0]])
    result = analyse_crossed([values])
    assert result.variance == pytest.approx(np.var([1, 2, 4], ddof=1) / 3)
    assert result.degrees == 2
    assert analyse_crossed([np.ones((2, 3))]).variance == 0.0


def test_the_difference_pairs_patients_and_adds_the_seeds_of_both_networks():
    rng = np.random.default_rng(0)
    patient_G = rng.normal(0, 5, 12)
    score, baseline = (patient_G + rng.normal(0, 1, (3, 1)) + rng.normal(0, 0.1, (3, 12)) for _ in range(2))
    result = analyse_crossed([score, -baseline])
    single = [analyse_crossed([values]) for values in (score, baseline)]
    assert result.components.residual == pytest.approx(sum(one.components.residual for one in single))
    assert result.components.seed == pytest.approx(sum(one.components.seed for one in single))
    assert result.components.patient < 0.01 < single[0].components.patient, "the patients' own level cancels"


def test_the_degrees_of_a_difference_are_those_of_its_mean_squares():
    other = np.array([[1.0, 0.0, 2.0], [3.0, 1.0, 2.5]])  # mean squares: seeds 2.0417, residual 0.2917
    first, second = get_mean_squares(VALUES), get_mean_squares(other)
    result = analyse_crossed([VALUES, -other])
    patient = 2 * np.var(VALUES.mean(axis=0) - other.mean(axis=0), ddof=1)
    total = first.seed + second.seed + patient - first.residual - second.residual
    spread = (first.seed**2 + second.seed**2) / 1 + patient**2 / 2 + (first.residual**2 + second.residual**2) / 2
    assert result.variance == pytest.approx(total / 6)
    assert result.degrees == pytest.approx(total**2 / spread)


def test_equal_numbers_of_seeds_have_the_variance_of_earlier_versions():
    """The numbers are those of version 35f245a6, which knew no other numbers of seeds and no further draw."""
    rng = np.random.default_rng(5)
    score, baseline = (
        rng.normal(0, 0.5, (3, 1)) + rng.normal(0, 1, 8) + rng.normal(0, 0.3, (3, 8)) for _ in range(2)
    )  # fmt: skip
    result = analyse_crossed([score, -baseline], correct_skewness=True)
    assert result.variance == pytest.approx(0.26711615500402264, rel=1e-12)
    assert result.degrees == pytest.approx(8.343034878578235, rel=1e-12)
    assert result.skewness == pytest.approx(0.06534094935103477, rel=1e-12)
    assert result.another_draw == 0.0


# Three seeds. Mean 2; seed means 1, 2, 3; patient means 0, 0, 6; mean squares: seeds 3, residual 0.25.
RANDOM = np.array([[-1.5, -1.0, 5.5], [0.0, 0.0, 6.0], [1.5, 1.0, 6.5]])


def test_unequal_numbers_of_seeds_have_the_variance_computed_by_hand():
    result = analyse_crossed([VALUES, -RANDOM])
    # The patients' differences are 2, 4.5 and 1: their mean square is 3.25, less 0.5/2 + 0.25/3 of the residuals.
    components = result.components
    assert (components.seed, components.patient, components.residual) == pytest.approx((1.25, 3.25 - 1 / 3, 0.75))
    # σ²_seed/S and σ²_residual/(S·G) of either network, and σ²_patient/G
    of_seeds, of_residuals = (1 / 3) / 2 + (11 / 12) / 3, 0.5 / (2 * 3) + 0.25 / (3 * 3)
    assert result.variance == pytest.approx(of_seeds + (3.25 - 1 / 3) / 3 + of_residuals)
    spread = (1.5 / 2) ** 2 / 1 + (3 / 3) ** 2 / 2 + 3.25**2 / 2 + (0.5 / 2) ** 2 / 2 + (0.25 / 3) ** 2 / 4
    assert result.degrees == pytest.approx((3 * result.variance) ** 2 / spread)


def test_another_draw_adds_the_variance_between_the_trainings_of_the_last_network():
    """σ²_random · (1 + 1/S) in place of σ²_random / S: the means of the draws are 1, 2 and 3, with variance 1."""
    without, result = (analyse_crossed([VALUES, -RANDOM], another_draw=draw) for draw in (False, True))
    assert result.another_draw == pytest.approx(1.0)
    assert result.variance == pytest.approx(without.variance + 1.0)
    assert result.components == without.components
    spread = (1.5 / 2) ** 2 / 1 + (3 + 3 / 3) ** 2 / 2 + 3.25**2 / 2 + (0.5 / 2) ** 2 / 2 + (0.25 / 3) ** 2 / 4
    assert result.degrees == pytest.approx((3 * result.variance) ** 2 / spread)


def test_another_draw_counts_where_the_seeds_are_set_to_zero():
    values = np.array([[1.0, 5.0, 3.0, 7.0], [2.1, 4.1, 4.1, 6.1]])  # the seeds' means are 4 and 4.1
    result = analyse_crossed([values], another_draw=True)
    assert result.components.set_to_zero == ("seed",)
    assert result.another_draw == pytest.approx(0.005)
    assert result.variance == pytest.approx(get_mean_squares(values).patient / 8 + 0.005)


def test_fewer_degrees_of_the_patients_widen_the_interval():
    assert analyse_crossed([VALUES], 1).degrees == pytest.approx(13.5**2 / (1.5**2 / 1 + 12.5**2 / 1 + 0.5**2 / 1))


@pytest.mark.parametrize("shape", [(2, 20), (3, 8), (5, 20)])
def test_components_and_variance_are_unbiased_in_simulation(shape):
    n_seeds, n_groups = shape
    rng = np.random.default_rng(7)
    sd_seed, sd_patient, sd_residual = 0.8, 1.5, 0.5  # large enough that no component is set to 0 often
    estimates, means = [], []
    for _ in range(4000):
        values = (
            rng.normal(0, sd_seed, (n_seeds, 1)) + rng.normal(0, sd_patient, n_groups)
            + rng.normal(0, sd_residual, shape)
        )  # fmt: skip
        squares = get_mean_squares(values)
        estimates.append([
            (squares.seed - squares.residual) / n_groups, (squares.patient - squares.residual) / n_seeds,
            squares.residual, analyse_crossed([values]).variance,
        ])  # fmt: skip
        means.append(values.mean())
    truth = sd_seed**2 / n_seeds + sd_patient**2 / n_groups + sd_residual**2 / (n_seeds * n_groups)
    expected = [sd_seed**2, sd_patient**2, sd_residual**2, truth]
    assert np.mean(estimates, axis=0) == pytest.approx(expected, rel=0.1)
    assert np.var(means) == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize("sd_seed", [0.0, 0.3, 1.0])
def test_the_interval_of_a_difference_covers_in_simulation(sd_seed):
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(2000):
        patient = rng.normal(0, 1, (2, 20))
        networks = [
            one + rng.normal(0, sd_seed, (3, 1)) + rng.normal(0, 0.5, (3, 20)) for one in patient
        ]  # fmt: skip
        result = analyse_crossed([networks[0], -networks[1]])
        interval = result.get_interval(networks[0].mean() - networks[1].mean(), 0.95)
        covered += interval.lower <= 0 <= interval.upper
    assert 0.935 <= covered / 2000 <= 0.98


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_with_another_draw_the_interval_covers_an_untrained_model(n_seeds):
    """Seeds differ in their initial weights alone. With 8,000 datasets, 6.7 and 5.2 % of the intervals miss 0."""
    rng = np.random.default_rng([1, n_seeds])
    false = {True: 0, False: 0}
    for _ in range(1000):
        of_model, of_random = rng.normal(0, 0.02, (2, 64))  # of the patients
        model = rng.normal(0, 0.008) + of_model + rng.normal(0, 0.02, (n_seeds, 64))
        random = rng.normal(0, 0.008, (n_seeds, 1)) + of_random + rng.normal(0, 0.02, (n_seeds, 64))
        for another_draw in false:
            result = analyse_crossed([model, -random], correct_skewness=True, another_draw=another_draw)
            interval = result.get_interval(model.mean() - random.mean(), 0.95)
            false[another_draw] += not interval.lower <= 0 <= interval.upper
    assert false[True] <= 80
    assert false[False] >= 160


def metric(of_set):
    return MetricSpec(name="m", unit="", higher_is_better=True, floor=0.0, of_set=of_set)


def test_pseudo_values_of_a_mean_are_the_patients_values():
    values = np.array([[0.2, 0.4, 0.9], [0.1, 0.5, 0.6]])
    result = get_pseudo_values(metric("mean"), values, np.zeros(3, bool), np.arange(3))
    assert result == pytest.approx(values)


def test_pseudo_values_of_patients_with_several_cases_sum_up_to_the_mean_over_cases():
    values = np.array([[0.2, 0.4, 0.9, 0.3]])
    result = get_pseudo_values(metric("mean"), values, np.zeros(4, bool), np.array([0, 0, 1, 2]))
    without_first = (0.9 + 0.3) / 2
    assert result[0, 0] == pytest.approx(3 * 0.45 - 2 * without_first)


def test_the_jackknife_variance_of_an_auroc_agrees_with_delong():
    rng = np.random.default_rng(3)
    positive_N = np.arange(60) < 25
    value_N = rng.normal(0, 1, 60) + positive_N
    pseudo_SG = get_pseudo_values(metric("auroc"), value_N[None], positive_N, np.arange(60))
    ordered = (value_N[positive_N][:, None] > value_N[~positive_N][None]).astype(float)
    assert pseudo_SG.mean() == pytest.approx(ordered.mean())
    delong = ordered.mean(axis=1).var(ddof=1) / 25 + ordered.mean(axis=0).var(ddof=1) / 35
    assert pseudo_SG.var(ddof=1) / 60 == pytest.approx(delong, rel=0.05)
