"""Numbers of a check of several training seeds are means over them."""

from __future__ import annotations

from typing import Any

from vfmalign.analysis.checks.gate_intervals import observe
from vfmalign.cli.views.check_tables import show_check
from vfmalign.cli.views.tables import primary_shift
from vfmalign.client.messages.checks import (
    Check,
    LayerSummary,
    SeedResult,
    SeedSummary,
    SeedVariation,
    StepsSummary,
)
from vfmalign.client.messages.common import Estimate, Interval

SHIFT = Estimate(value=0.2, interval=Interval(lower=0.1, upper=0.3, level=0.95, method="t"))
RAW = Estimate(value=0.4, interval=Interval(lower=0.3, upper=0.5, level=0.95, method="t"))


def of_two_seeds(check: Check) -> Check:
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
    variation = SeedVariation(
        layers=(
            LayerSummary(
                layer=result.primary_layer,
                raw=SeedSummary(mean=RAW),
                standardised=SeedSummary(mean=SHIFT, standard_deviation=0.07),
            ),
        ),
        steps_to_95=StepsSummary(mean=72.0, standard_deviation=12.0),
        steps_to_baseline=StepsSummary(mean=110.0, censored_seeds=(8,)),
        specialised_deviation=0.05,
    )
    changes = {
        "seeds": seeds,
        "seed_variation": variation,
        "interval_scope": "covers patients and training",
    }
    return check.model_copy(update={"result": result.model_copy(update=changes)})


def test_the_check_shows_the_means_over_the_seeds_and_what_its_intervals_cover(
    finished_check: Check, show: Any
) -> None:
    text = show(show_check(of_two_seeds(finished_check), "reports/c1.html"))
    assert "mean of 2 seeds" in text
    assert "0.200 [0.100, 0.300]" in text
    assert "interval of a gain: covers patients and training." in text


def test_gates_and_lists_compare_the_mean_over_the_seeds(finished_check: Check) -> None:
    result = of_two_seeds(finished_check).result
    assert result is not None
    assert primary_shift(result) == SHIFT
    observed = observe(result)
    assert (observed["mmd2_std"].lower, observed["mmd2_std"].upper) == (0.1, 0.3)
    assert (observed["mmd2"].lower, observed["mmd2"].upper) == (0.3, 0.5)
