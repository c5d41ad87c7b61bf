"""The plan of a rehearsal on real volumes: ids, tasks and models that fit each other, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from tests.dicom_files import Examination, make_array, make_segmentation, make_series, save

from vfmalign.cli.demo import real_plan
from vfmalign.cli.demo.real_plan import REAL_SIZES, SHAPE_DHW, RealPlan
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.cli.target import Target
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.recipes import get_recipe
from vfmalign.core.domain.declarations import CaseClass, get_declaration
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import is_id
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.finetuning.experiments.request import check_experiment_spec
from vfmalign.imaging.datasets.importer import DatasetToImport
from vfmalign.imaging.dicom.rules import Selections
from vfmalign.models.formats.stack_checkpoint import DEFAULT_INPUT
from vfmalign.models.registry import get_architecture

HIPPOCAMPUS = get_declaration("hippocampus")
SIZE = REAL_SIZES["evidence"]


@pytest.fixture
def plan(tmp_path: Path) -> RealPlan:
    for name in ("SAE_tissue.pth", "meshnet.safetensors", "README.md"):
        (tmp_path / name).touch()
    return RealPlan("evidence", SIZE, 7, tmp_path / "data", tmp_path, HIPPOCAMPUS)


def test_the_experiment_has_every_model_and_five_tasks_with_three_seeds(plan: RealPlan) -> None:
    spec = plan.spec()
    check_experiment_spec(spec)
    assert spec.model_ids[:2] == ("meshnet", "sae-tissue")
    assert len(set(spec.model_ids)) == 5
    assert all(is_id(model) for model in spec.model_ids)
    assert spec.seeds == (7, 8, 9)
    assert spec.modality_map == {"t1w": "input"}
    declared = HIPPOCAMPUS.model_copy(update={"classes": (CaseClass(name="derived_hippocampus_volume_high"),)})
    names = [get_task_spec(task, declared).name for task in spec.tasks]
    assert sorted(names) == ["classification", "denoising", "segmentation", "segmentation", "super_resolution"]
    assert "derived_" in str(spec.tasks[1]), "a class that nobody stated says so wherever its task is named"


def test_every_training_sees_whole_volumes(plan: RealPlan) -> None:
    for architecture, _ in SIZE.models:
        assert get_architecture(architecture).preprocessing == DEFAULT_INPUT.model_copy(
            update={"shape_dhw": SHAPE_DHW}
        ), "else the models would not share their specialised baseline"
    for task in plan.spec().tasks:
        recipe = get_recipe(CheckSpec(model_id="m", dataset_id="d", task=task, recipe=SIZE.finetuning), "pretrained")
        assert (recipe.patch_shape_dhw, recipe.batch_size) == (SHAPE_DHW, 1)


def test_the_size_for_evidence_splits_the_260_patients_of_the_decathlon() -> None:
    assert sum(SIZE.counts.values()) == 260
    assert SIZE.counts["pretrain"] == 80
    assert SIZE.counts["test"] >= 60


def test_what_cannot_be_rehearsed_is_refused_before_a_stack_starts(plan: RealPlan, tmp_path: Path) -> None:
    plan.check()
    prostate = RealPlan("evidence", SIZE, 7, tmp_path, tmp_path, get_declaration("prostate_mpmri"))
    with pytest.raises(BadOption, match="does not declare one modality and a label map of two structures"):
        prostate.check()
    with pytest.raises(BadOption, match="--encoders"):
        RealPlan("evidence", SIZE, 7, tmp_path, tmp_path / "data", HIPPOCAMPUS).check()


def test_dicom_is_imported_by_the_selections_of_the_declaration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        examination = Examination(patient_id=f"PID-{number}")
        array = np.repeat(make_array((40, 34, 4), seed=number), 4, axis=2)
        images = make_series(array, examination=examination, number=2, description="t1_mprage")
        masks = {"Anterior": array > 3000, "Posterior": array < 1000 + number}
        save(images, tmp_path / f"data/{number}")
        save(make_segmentation(images, masks), tmp_path / f"data/{number}", prefix="SEG")
    rules = [
        {"name": "t1w", "conditions": {"Modality": "MR"}},
        {
            "name": "hippocampus",
            "conditions": {"Modality": "SEG"},
            "segments": {"1": {"label": "anterior"}, "2": {"label": "posterior"}},
        },
    ]
    selections = Selections.model_validate({"selections": rules}).selections
    imported: list[DatasetToImport] = []
    monkeypatch.setattr(real_plan, "import_dataset", lambda target, checked: imported.append(checked))
    directory = StateDirectory(tmp_path / "home")
    directory.create()
    size = replace(SIZE, counts={"train": 1, "val": 1, "test": 1})
    plan = RealPlan("evidence", size, 7, tmp_path / "data", tmp_path, HIPPOCAMPUS, selections)
    dataset = plan._import_dataset(cast(Target, None), directory)
    assert [sorted(case.volumes) for case in dataset.split("train")] == [["hippocampus", "t1w"]]
    assert imported[0].dataset is dataset
