"""The plans of experiments: ids, tasks and models that fit each other, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.evidence.plans import DECLARATION, EVIDENCE, SHAPE_DHW, SMALL, Plan, RealPlan

from vfmalign.cli.options import PRETRAINING_OBJECTIVES
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.recipes import get_recipe
from vfmalign.core.domain.declarations import CaseClass
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import is_id
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.finetuning.experiments.request import check_experiment_spec
from vfmalign.models.formats.stack_checkpoint import DEFAULT_INPUT
from vfmalign.models.registry import ARCHITECTURES, get_architecture


@pytest.fixture
def plan(tmp_path: Path) -> RealPlan:
    for name in ("SAE_tissue.pth", "meshnet.safetensors", "README.md"):
        (tmp_path / name).touch()
    return RealPlan(data=tmp_path / "data", encoders=tmp_path)


def test_the_experiment_has_every_model_and_five_tasks_with_three_seeds_and_controls(plan: RealPlan) -> None:
    spec = plan.spec()
    check_experiment_spec(spec)
    assert spec.model_ids[:2] == ("meshnet", "sae-tissue")
    assert len(set(spec.model_ids)) == 5
    assert all(is_id(model) for model in spec.model_ids)
    assert spec.seeds == (2025, 2026, 2027)
    assert spec.modality_map == {"t1w": "input"}
    assert spec.shuffled_labels
    declared = DECLARATION.model_copy(update={"classes": (CaseClass(name="derived_hippocampus_volume_high"),)})
    names = [get_task_spec(task, declared).name for task in spec.tasks]
    assert sorted(names) == ["classification", "denoising", "segmentation", "segmentation", "super_resolution"]
    assert "derived_" in str(spec.tasks[1]), "a class that nobody stated says so wherever its task is named"


def test_every_training_sees_whole_volumes(plan: RealPlan) -> None:
    for architecture, _ in EVIDENCE.models:
        assert get_architecture(architecture).preprocessing == DEFAULT_INPUT.model_copy(
            update={"shape_dhw": SHAPE_DHW}
        ), "else the models would not share their specialised baseline"
    for task in plan.spec().tasks:
        recipe = get_recipe(
            CheckSpec(model_id="m", dataset_id="d", task=task, recipe=EVIDENCE.finetuning), "pretrained"
        )
        assert (recipe.patch_shape_dhw, recipe.batch_size) == (SHAPE_DHW, 1)


def test_the_experiment_splits_the_260_patients_of_the_decathlon() -> None:
    assert sum(EVIDENCE.counts.values()) == 260
    assert EVIDENCE.counts["pretrain"] == 80
    assert EVIDENCE.counts["test"] >= 60


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadOption, match=r"no file that ends with \.pth or \.safetensors"):
            RealPlan(data=tmp_path, encoders=folder).spec()


def test_phantoms_have_one_architecture_with_both_objectives_and_one_budget() -> None:
    plan = Plan()
    models = plan.pretrainings()
    objectives: dict[str, set[str]] = {}
    for model in models:
        assert model.architecture in ARCHITECTURES
        assert model.objective in PRETRAINING_OBJECTIVES
        objectives.setdefault(model.architecture, set()).add(model.objective)
    assert {"masked_reconstruction", "contrastive"} in objectives.values()
    assert len({architecture.split("_")[0] for architecture in objectives}) >= 2, "two families"
    assert len({model.recipe for model in models}) == 1
    ids = [plan.experiment, plan.dataset, *(model.model for model in models), *(model.job for model in models)]
    assert all(is_id(one) for one in ids)
    assert len(set(ids)) == len(ids)
    spec = plan.spec()
    check_experiment_spec(spec)
    longest = max(
        len(f"{plan.experiment}-{task}-{model.model}-{plan.seed}") for task in SMALL.tasks for model in models
    )
    assert longest <= 80, "ids of checks that can be read"
    assert spec.title == "rehearsal on phantoms: not evidence"
