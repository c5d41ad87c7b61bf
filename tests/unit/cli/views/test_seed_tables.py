"""What a person reads about the training seeds of a check."""

from __future__ import annotations

from typing import Any

from tests.unit.cli.conftest import with_changes

from vfmalign.cli.views.check_tables import show_check
from vfmalign.cli.views.gate_tables import observe
from vfmalign.cli.views.tables import primary_shift
from vfmalign.client.messages.checks import (
    Check,
    GainVariance,
    LayerSummary,
    SeedResult,
    SeedSummary,
    SeedVariation,
    StepsSummary,
    VarianceComponents,
)
from vfmalign.client.messages.common import Estimate, Interval

SHIFT = Estimate(value=0.2, interval=Interval(lower=0.1, upper=0.3, level=0.95, method="t"))
RAW = Estimate(value=0.4, interval=Interval(lower=0.3, upper=0.5, level=0.95, method="t"))


def of_two_seeds(check: Check, **steps: Any) -> Check:
    """The check as if its networks had been trained with two seeds."""
    result = check.result
    assert result is not None
    seeds = tuple(
        SeedResult(
            seed=seed,
            shift=SHIFT,
            rpg_specialised=result.rpg_specialised,
            rpg_scratch=result.rpg_scratch,
            convergence=result.convergence,
        )
        for seed in (7, 8)
    )
    zero = VarianceComponents(seed=0.0, patient=0.04, residual=0.01, set_to_zero=("seed",))
    variance = GainVariance(
        network=zero,
        baseline=VarianceComponents(seed=0.0025, patient=0.04, residual=0.01),
        difference=VarianceComponents(seed=0.0025, patient=0.0001, residual=0.02),
        standard_error=0.031,
        degrees_of_freedom=2.6,
        seeds=2,
    )
    variation = SeedVariation(
        layers=(
            LayerSummary(
                layer=result.primary_layer,
                raw=SeedSummary(mean=RAW),
                standardised=SeedSummary(mean=SHIFT, standard_deviation=0.07),
            ),
        ),
        steps_to_95=steps.get("steps_to_95", StepsSummary(mean=72.0, standard_deviation=12.0)),
        steps_to_baseline=StepsSummary(mean=110.0, censored_seeds=(8,)),
        specialised_deviation=0.05,
    )
    gain = result.rpg_specialised.model_copy(update={"variance": variance})
    changes = {
        "rpg_specialised": gain,
        "seeds": seeds,
        "seed_variation": variation,
        "interval_scope": "covers patients and training",
    }
    return check.model_copy(update={"result": result.model_copy(update=changes)})


def line(text: str, *words: str) -> str:
    """The only line with some words."""
    (found,) = (one for one in text.splitlines() if all(word in one for word in words))
    return found


def test_every_seed_their_mean_and_spread_are_shown(finished_check: Check, show: Any) -> None:
    text = show(show_check(of_two_seeds(finished_check)))
    assert "Results of 2 training seeds" in text
    rows = [one for one in text.splitlines() if one.startswith(("7 ", "8 ", "mean ", "SD "))]
    assert [row.split()[0] for row in rows] == ["7", "8", "mean", "SD"]
    assert "0.200 [0.100, 0.300]" in rows[2]
    assert "> 110 (censored: seed 8)" in rows[2]
    assert rows[3].split() == ["SD", "0.0700", "0.0500", "–", "12.0", "–"]
    assert "interval of a gain: covers patients and training." in text
    assert "mean of 2 seeds" in line(text, "Gain in")
    assert "seed 7" in line(text, "Shift", "unbiased MMD²")


def test_components_are_standard_deviations_and_zeros_are_marked(finished_check: Check, show: Any) -> None:
    text = show(show_check(of_two_seeds(finished_check)))
    assert line(text, "0*", "0.200").split() == ["pretrained", "0*", "0.200", "0.100"]
    assert "another draw" not in text
    assert line(text, "difference to specialised", "0.0310").split()[-5:] == [
        "0.0500",
        "0.0100",
        "0.141",
        "0.0310",
        "2.60",
    ]


def test_another_draw_of_random_weights_has_a_row(finished_check: Check, show: Any) -> None:
    check = of_two_seeds(finished_check)
    assert check.result is not None
    assert check.result.rpg_specialised.variance is not None
    variance = check.result.rpg_specialised.variance.model_copy(update={"another_draw": 0.0025})
    scratch = check.result.rpg_scratch.model_copy(update={"variance": variance})
    result = check.result.model_copy(update={"rpg_scratch": scratch})
    text = show(show_check(check.model_copy(update={"result": result})))
    assert line(text, "another draw of scratch").split()[-1] == "0.0500"


def test_a_mean_that_is_absent_has_its_reason(finished_check: Check, show: Any) -> None:
    absent = StepsSummary(absent_reason="seed 8: the rise is within noise")
    text = show(show_check(of_two_seeds(finished_check, steps_to_95=absent)))
    assert "– mean steps to 95 %: seed 8: the rise is within noise" in text


def test_one_seed_has_no_tables_of_seeds_and_states_what_is_not_covered(finished_check: Check, show: Any) -> None:
    check = with_changes(finished_check, {"result.interval_scope": "covers patients, not training"})
    text = show(show_check(check))
    assert "training seed" not in text
    assert "Variance components" not in text
    assert "interval of a gain: covers patients, not training." in text


def test_gates_and_lists_compare_the_mean_over_the_seeds(finished_check: Check) -> None:
    result = of_two_seeds(finished_check).result
    assert result is not None
    assert primary_shift(result) == SHIFT
    observed = observe(result)
    assert (observed["mmd2_std"].lower, observed["mmd2_std"].upper) == (0.1, 0.3)
    assert (observed["mmd2"].lower, observed["mmd2"].upper) == (0.3, 0.5)
