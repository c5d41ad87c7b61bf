"""A check whose networks are trained with two seeds, through the three services and real trainings."""

from __future__ import annotations

from typing import Any

import pytest
from tests.e2e.conftest import recipe

pytestmark = pytest.mark.e2e


def test_two_seeds_are_trained_and_crossed_with_the_patients(world: Any) -> None:
    budget = recipe(epochs=1, steps_per_epoch=2)  # scores in dB differ from the first step on
    check = world.run("two-seeds", seed=21, seeds=2, task={"name": "super_resolution"}, recipe=budget)
    networks = ("pretrained", "scratch", "specialised")
    assert list(check.job_ids) == [f"two-seeds-{name}{suffix}" for suffix in ("", "-s2") for name in networks]
    assert all(stage.attempts == 1 for stage in check.stages)

    result = check.result
    first, second = result.seeds
    assert (first.seed, second.seed) == (21, 22)
    assert first.shift == result.shifts[0].mmd.standardised.mmd2
    assert first.shift.value != second.shift.value, "another seed trains another network"
    assert first.rpg_specialised.score != second.rpg_specialised.score
    assert result.interval_scope == "covers patients and training"
    for crossed, own in ((result.rpg_specialised, "rpg_specialised"), (result.rpg_scratch, "rpg_scratch")):
        differences = [getattr(seed, own).absolute.value for seed in result.seeds]
        assert crossed.absolute.value == pytest.approx(sum(differences) / 2)
        assert crossed.absolute.interval.method.startswith("crossed")
        assert crossed.variance.seeds == 2
        assert crossed.variance.difference.residual > 0
    mean = result.seed_variation.layers[0].standardised.mean
    assert mean.value == pytest.approx((first.shift.value + second.shift.value) / 2)
    for seed in result.seeds:
        assert mean.interval.upper - mean.interval.lower > 0
        assert seed.convergence.steps == 2
    html = world.store.get(world.store.key(result.report_html.uri)).decode()
    assert "<h2>Training seeds</h2>" in html
