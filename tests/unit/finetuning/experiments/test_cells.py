"""The cells of an experiment, and the checks they consist of."""

import re

import pytest
from tests.unit.finetuning.experiments.specs import PINNED, make_spec

from vfmalign.client.messages.jobs import JobSpec, Recipe
from vfmalign.client.recipes import get_recipe
from vfmalign.core.domain.errors import (
    BadOption,
)
from vfmalign.finetuning.experiments.request import (
    check_experiment_spec,
    make_check_id,
    plan_cells,
)


def test_every_model_task_and_seed_is_a_cell_of_its_own():
    cells = plan_cells("s", make_spec(), PINNED)
    assert [(cell.seed, cell.task, cell.model_id) for cell in cells] == [
        (seed, task, model) for seed in (1, 2) for task in ("segmentation", "distortion") for model in ("m1", "m2")
    ]
    assert len({cell.check_id for cell in cells}) == 8
    assert cells[0].check_id == "s-segmentation-m1-1"


def test_a_cell_s_check_uses_the_pinned_inputs():
    spec = make_spec(
        recipe=Recipe(preset="demo", epochs=3, patch_shape_dhw=(8, 16, 32)), permutations=99, interval_level=0.9
    )
    first, second = (cell.request for cell in plan_cells("s", spec, PINNED)[:2])
    assert (first.model_sha256, second.model_sha256, first.dataset_digest) == ("a" * 64, "b" * 64, "d" * 64)
    assert first.recipe.patch_shape_dhw == (8, 16, 32)
    assert second.recipe.preset == "demo"
    assert (first.recipe.epochs, first.permutations, first.interval_level) == (3, 99, 0.9)


def test_long_ids_of_checks_are_cut_and_stay_apart():
    experiment, model = "s" * 60, "m" * 100
    ids = {
        make_check_id(experiment, task, model, seed)
        for task in ("segmentation", "translation")
        for seed in (0, 2**63 - 1)
    }
    assert len(ids) == 4
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,79}", one) for one in ids)
    assert make_check_id("s", "segmentation", "m" * 63, 7) == f"s-segmentation-{'m' * 63}-7", "80 characters fit"


def test_cut_organs_are_allowed_in_every_check_of_an_experiment_or_in_none():
    cells = plan_cells("s", make_spec(allow_cut_organs=True, shuffled_labels=True), PINNED)
    assert all(cell.request.allow_cut_organs for cell in cells)
    assert not any(cell.request.allow_cut_organs for cell in plan_cells("s", make_spec(), PINNED))


def test_every_model_task_and_seed_has_a_cell_with_a_frozen_encoder_and_no_other_cell_changes():
    assert b"frozen" not in make_spec().to_json()
    plain = plan_cells("s", make_spec(), PINNED)
    cells = plan_cells("s", make_spec(frozen=True), PINNED)
    assert cells[: len(plain)] == plain, "their results stay valid"
    for cell, frozen in zip(plain, cells[len(plain) :], strict=True):
        assert (frozen.check_id, frozen.frozen) == (f"{cell.check_id}-frozen", True)
        assert frozen.request == cell.request.model_copy(update={"frozen": True})
        assert frozen.result_digest != cell.result_digest


def test_cells_with_a_frozen_encoder_count_towards_the_maximum():
    check_experiment_spec(make_spec(seeds=tuple(range(250))))
    with pytest.raises(BadOption, match="2,000 cells"):
        check_experiment_spec(make_spec(seeds=tuple(range(250)), frozen=True))


def test_controls_shuffle_the_labels_of_every_model_and_task_with_the_first_seed_and_change_no_cell():
    plain = plan_cells("s", make_spec(), PINNED)
    cells = plan_cells("s", make_spec(shuffled_labels=True), PINNED)
    assert cells[: len(plain)] == plain, "their results stay valid"
    controls = cells[len(plain) :]
    assert [(cell.task, cell.model_id, cell.seed) for cell in controls] == [
        (task, model, 1) for task in ("segmentation", "distortion") for model in ("m1", "m2")
    ]
    for cell, control in zip(plain, controls, strict=False):
        assert control.check_id == f"{cell.check_id}-shuffled"
        assert control.request == cell.request.model_copy(update={"shuffled_labels": True})
        for network in ("scratch", "specialised"):
            assert get_recipe(control.request, network) == get_recipe(cell.request, network), "they share baselines"


def test_every_number_of_training_cases_has_cells_and_those_with_all_cases_are_the_plain_ones():
    plain = plan_cells("s", make_spec(), PINNED)
    cells = plan_cells("s", make_spec(train_cases=(8, 0)), PINNED.model_copy(update={"train_size": 20}))
    assert [(cell.seed, cell.train_cases) for cell in cells] == [
        (s, n) for s in (1, 2) for n in (8, 0) for _ in range(4)
    ]
    assert tuple(cell for cell in cells if not cell.train_cases) == plain, "their results and trainings are reused"
    few = [cell for cell in cells if cell.train_cases]
    assert [cell.check_id for cell in few] == [f"{cell.check_id}-n8" for cell in plain]
    assert [cell.request for cell in few] == [cell.request.model_copy(update={"train_cases": 8}) for cell in plain]
    control = plan_cells("s", make_spec(train_cases=(16, 8), shuffled_labels=True), PINNED)[-1]
    assert (control.check_id, control.train_cases) == ("s-distortion-m2-1-n16-shuffled", 16)
    frozen = [cell for cell in plan_cells("s", make_spec(train_cases=(8, 0), frozen=True), PINNED) if cell.frozen]
    assert [cell.check_id for cell in frozen] == [f"{cell.check_id}-frozen" for cell in plain], "with all cases alone"


def test_specs_without_numbers_of_training_cases_keep_their_digests():
    for one in (
        make_spec(),
        PINNED,
        plan_cells("s", make_spec(), PINNED)[0].request,
        JobSpec(kind="finetune", dataset_id="d"),
    ):
        assert b"train_" not in one.to_json()
    assert type(make_spec(train_cases=(8,))).model_validate_json(make_spec(train_cases=(8,)).to_json()).train_cases == (
        8,
    )
