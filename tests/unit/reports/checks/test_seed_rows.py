"""Training seeds on a check's page: each one, their mean and spread, and the variance components."""

import numpy as np
import pytest
from tests.prostate import SPECS

from vfmalign.analysis.checks.records import SeedAnalysis
from vfmalign.analysis.checks.seed_variation import summarise_seeds
from vfmalign.analysis.gains.crossed_gain import estimate_crossed_gain
from vfmalign.analysis.gains.paired_scores import pair_seeds
from vfmalign.client.messages.checks import Steps
from vfmalign.core.domain.jobs import CaseScore
from vfmalign.reports.checks.number_rows import list_numbers
from vfmalign.reports.checks.page import PageSources, render
from vfmalign.reports.checks.score_table import list_score_rows
from vfmalign.reports.checks.seed_rows import list_component_rows, list_seed_notes, list_seed_rows

METRIC = SPECS["segmentation"].metrics[0]


def scores(values):
    return [CaseScore(case=f"c{i}", group=f"g{i}", values={METRIC.name: value}) for i, value in enumerate(values)]


def estimate_gain(rng, difference):
    patients = rng.normal(0.5, 0.1, 12)
    network, baseline = (
        patients + shift + rng.normal(0, 0.02, (2, 1)) + rng.normal(0, 0.01, (2, 12)) for shift in (difference, 0.0)
    )
    pairs = pair_seeds([scores(row) for row in network], [scores(row) for row in baseline], METRIC)
    return estimate_crossed_gain(pairs, METRIC, level=0.95)


@pytest.fixture
def make_two_seeds(make_report):
    """Builds a report of two seeds; the second's steps may be replaced."""

    def build(**steps):
        one = make_report().result
        rng = np.random.default_rng(4)
        seeds = []
        for number, networks in ((7, one.networks), (8, tuple(change(network, steps) for network in one.networks))):
            seeds.append(
                SeedAnalysis(
                    seed=number, networks=networks, rpg_specialised=one.rpg_specialised, rpg_scratch=one.rpg_scratch,
                    shift=one.shift, shift_ratio=one.shift_ratio, paired_similarity=one.paired_similarity,
                )
            )  # fmt: skip
        return make_report(
            rpg_specialised=estimate_gain(rng, 0.1), rpg_scratch=estimate_gain(rng, 0.2), seeds=tuple(seeds),
            seed_variation=summarise_seeds(seeds),
        )  # fmt: skip

    return build


def change(network, steps):
    job = f"{network.job_id}-s2"
    return network.model_copy(update={"job_id": job, "convergence": network.convergence.model_copy(update=steps)})


def test_every_seed_their_mean_and_spread_are_rows(make_two_seeds):
    result = make_two_seeds().result
    rows = list_seed_rows(result)
    assert [row.name for row in rows] == ["7", "8", "mean", "standard deviation"]
    assert rows[0].shift == "0.0830 (0.0710 to 0.0950)"
    assert rows[2].specialised.startswith(f"{result.rpg_specialised.absolute.value:.3f} (")
    assert rows[3].specialised == "0.00", "the two seeds of this report are equal"
    assert rows[2].steps_to_baseline == "48.0"


def test_components_of_both_networks_and_of_the_differences_are_rows(make_two_seeds):
    result = make_two_seeds().result
    rows = list_component_rows(result)
    assert [row.name for row in rows] == [
        "foundation model", "specialised network", "difference to specialised network", "random weights",
        "difference to random weights",
    ]  # fmt: skip
    variance = result.rpg_specialised.variance
    assert rows[2].residual == f"{variance.difference.residual**0.5:.4f}"
    assert rows[2].degrees == f"{variance.degrees_of_freedom:.2f}"
    assert rows[0].standard_error == ""


def test_a_component_that_is_set_to_zero_is_marked(make_two_seeds):
    result = make_two_seeds().result
    variance = result.rpg_specialised.variance
    zero = variance.network.model_copy(update={"seed": 0.0, "set_to_zero": ("seed",)})
    gain = result.rpg_specialised.model_copy(update={"variance": variance.model_copy(update={"network": zero})})
    assert list_component_rows(result.model_copy(update={"rpg_specialised": gain}))[0].seed == "0 *"


def test_censored_and_absent_steps_are_named(make_two_seeds):
    result = make_two_seeds(
        steps_to_baseline=Steps(value=120, censored=True), steps_to_95=Steps(absent_reason="the rise is within noise")
    ).result
    assert list_seed_notes(result) == [
        "mean steps to 95 %: seed 8: the rise is within noise",
        "mean steps to the specialised network's best: censored in seed 8, so that the true mean is larger",
    ]
    mean, deviation = list_seed_rows(result)[2:]
    assert (mean.steps_to_95, mean.steps_to_baseline) == ("–", "> 84.0")
    assert deviation.steps_to_baseline == "–"


def test_the_page_shows_seeds_and_what_the_intervals_cover(make_two_seeds):
    report = make_two_seeds()
    html = render(report, PageSources()).decode()
    assert "<h2>Training seeds</h2>" in html
    assert "The interval of a gain covers patients and training." in html
    assert "are those of seed 7" in html
    mean = report.result.seed_variation.layers[0].standardised.mean
    shift = list_numbers(report.result)[0]
    assert shift.interval == f"{mean.interval.lower:.4f} to {mean.interval.upper:.4f}"
    assert list_numbers(report.result)[1].name == "shift ratio, seed 7"


def test_the_page_of_one_seed_states_that_training_is_not_covered(make_report):
    report = make_report()
    assert list_seed_rows(report.result) == list_component_rows(report.result) == list_seed_notes(report.result) == []
    html = render(report, PageSources()).decode()
    assert "The interval of a gain covers patients, not training: each network was trained once." in html
    assert "Training seeds" not in html


def test_baselines_of_other_checks_are_named_with_their_seed(make_two_seeds):
    report = make_two_seeds()
    trained_by = {
        "scratch": "other-scratch", "specialised_s2": "other-s2", "pretrained": "check-7f3a-pretrained-r1",
    }  # fmt: skip
    run = report.run.model_copy(update={"trained_by": trained_by})
    html = render(report.model_copy(update={"run": run}), PageSources()).decode()
    assert "Same architecture, random weights, seed 7: reused from job <code>other-scratch</code>" in html
    assert "Specialised network, seed 8: reused from job <code>other-s2</code>" in html
    assert "-r1</code>" not in html, "the trial of a recipe is one of the check's own trainings"


def test_the_scores_of_the_first_screen_have_the_differences_beside_them(make_two_seeds):
    result = make_two_seeds().result
    row = list_score_rows(result, METRIC, {})[0]
    tuned, specialised, scratch = (float(value) for value in row.values[:3])
    assert row.name == "mean lesion Dice over 2 trainings"
    assert tuned - specialised == pytest.approx(result.rpg_specialised.absolute.value, abs=1e-3)
    assert scratch == pytest.approx(result.rpg_scratch.baseline, abs=5e-4)
