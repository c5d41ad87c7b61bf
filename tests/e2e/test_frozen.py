"""A check with a frozen encoder, through the services and real trainings."""

from __future__ import annotations

from typing import Any

import pytest
from tests.e2e.conftest import recipe

from vfmalign.core.domain.jobs import JobResult
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.model_cards import load_card

pytestmark = pytest.mark.e2e


def test_only_the_head_is_trained_and_no_shift_is_computed(world: Any) -> None:
    budget = recipe(epochs=1, steps_per_epoch=2)
    check = world.run("frozen", seed=23, task={"name": "super_resolution"}, recipe=budget, frozen=True)
    results = {job: world.store.read(job_key(job, "result.json"), JobResult) for job in check.job_ids}
    assert list(results) == [f"frozen-{name}" for name in ("pretrained", "scratch", "specialised", "scratch-frozen")]
    model = load_card(world.store, check.spec.model_id)
    assert results["frozen-pretrained"].encoder_sha256 == model.checkpoint.sha256
    assert [results[f"frozen-{name}"].weight_change for name in ("pretrained", "scratch-frozen")] == [0.0, 0.0]
    assert results["frozen-scratch"].weight_change > 0.0, "the random arm is trained as a whole"
    assert not {"features_random", "features_after", "mmd"} & {stage.name for stage in check.stages}

    result = check.result
    assert result.gain_frozen_random.score == result.rpg_scratch.score
    assert result.gain_frozen_random.baseline != result.rpg_scratch.baseline
    assert {shift.mmd.standardised.mmd2.absent_reason for shift in result.shifts} == {"not applicable (frozen)"}
    html = world.store.get(world.store.key(result.report_html.uri)).decode()
    assert "Not applicable (frozen)" in html
