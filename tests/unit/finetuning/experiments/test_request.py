"""Specs of experiments: what is rejected, and which inputs are pinned."""

import hashlib
from types import SimpleNamespace

import pytest
from tests.unit.finetuning.experiments.specs import make_spec

from vfmalign.client.messages.checks import CheckSpec, TrainingPlan
from vfmalign.client.messages.experiments import ExperimentSpec, SmallestDifference
from vfmalign.client.messages.jobs import JobSpec, Recipe
from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.errors import (
    BadDataset,
    BadOption,
    Conflict,
    DigestMismatch,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.core.storage.datasets import load_dataset, save_dataset
from vfmalign.core.storage.keys import model_card_key
from vfmalign.finetuning.checks.request import check_inputs
from vfmalign.finetuning.experiments.request import (
    PinnedInputs,
    check_experiment_spec,
    pin_inputs,
    plan_cells,
)
from vfmalign.finetuning.jobs.request import resolve_job
from vfmalign.v1 import experiment_pb2, finetuning_pb2

NO_JOBS = SimpleNamespace(find_trained=lambda digests: set())


def card(name, modalities=("t2w", "dwi", "adc"), sha256="c" * 64):
    return ModelCard.model_validate({
        "id": name, "architecture": "profound_conv_micro", "objective": "contrastive",
        "checkpoint": {"key": f"models/{name}/w", "sha256": sha256},
        "preprocessing": {"modalities": modalities, "spacing_mm": None, "shape_dhw": (16, 64, 64)},
        "layers": [{"name": "stages.0", "channels": 4}], "primary_layer": "stages.0",
    })  # fmt: skip


@pytest.fixture
def stored(store):
    def case(name):
        digest = hashlib.sha256(name.encode()).hexdigest()
        volumes = {kind: StoredObject(key=f"volumes/{name}", sha256=digest) for kind in ("t2w", "gland", "lesions")}
        return Case(id=name, group=name, volumes=volumes)

    def cases(split, count):
        return tuple(case(f"{split}-{i}") for i in range(count))

    save_dataset(store, DatasetManifest(id="d", train=cases("train", 2), val=cases("val", 1), test=cases("test", 3)))
    save_dataset(store, DatasetManifest(id="no-val", train=cases("train", 2), test=cases("test", 3)))
    program = card("program").model_copy(update={"architecture": "torch_export"})
    for model in (card("m1"), card("m2", sha256="b" * 64), card("t2-only", modalities=("t2w",)), program):
        store.write(model_card_key(model.id), model)
    return store


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"model_ids": []}, "spec.model_ids", "name at least one model"),
        ({"tasks": []}, "spec.tasks", "name at least one task"),
        ({"model_ids": ["m1", "m1"]}, "spec.model_ids", "'m1' is named twice; name each model once"),
        ({"tasks": ["segmentation", "segmentation"]}, "spec.tasks", "named twice"),
        ({"seeds": [3, 3]}, "spec.seeds", "named twice"),
        ({"tasks": ["astrology"]}, "spec.tasks[0].name", "choose one of segmentation"),
        ({"seeds": range(501)}, "spec", "1,002 cells, and the maximum is 1,000"),
        ({"seeds": [-1]}, "spec.seeds[0]", "at least 0"),
        ({"recipe": finetuning_pb2.Recipe(preset="nope")}, "spec.recipe.preset", "choose one of demo, default"),
        ({"recipe": finetuning_pb2.Recipe(epochs=0)}, "spec.recipe.epochs", "at least 1"),
        ({"model_ids": ["Not An Id"]}, "spec.model_ids[0]", "not a valid id"),
        ({"dataset_digest": "x"}, "spec.dataset_digest", "digest"),
        ({"permutations": 2**31 - 1}, "spec.permutations", "choose a value of at most"),
        ({"bootstrap_resamples": 99}, "spec.bootstrap_resamples", "at least 100"),
        ({"interval_level": 1.0}, "spec.interval_level", "below 1.0"),
        ({"max_running": 65}, "spec.max_running", "at most 64"),
        ({"max_running": -1}, "spec.max_running", "at least 1"),
        ({"recipe": finetuning_pb2.Recipe(patch_shape_dhw=[8, 8])}, "spec.recipe.patch_shape_dhw", "3 sizes, got 2"),
        ({"dataset_id": ""}, "spec.dataset_id", "not a valid id"),
        ({"title": "a\nb"}, "spec.title", "printable"),
        ({"train_cases": [8, 8]}, "spec.train_cases", "number '8' is named twice"),
        ({"train_cases": [0, 0]}, "spec.train_cases", "number 'all' is named twice"),
        ({"train_cases": [0, 1]}, "spec.train_cases", "choose 2 or more, or 0 for all"),
        ({"train_cases": [100_001]}, "spec.train_cases[0]", "at most 100000"),
        ({"train_cases": range(2, 8), "seeds": range(100)}, "spec", "numbers of training cases are 1,200 cells"),
    ],
)
def test_specs_that_can_never_succeed_are_rejected_with_the_field(change, field, words):
    values = {"model_ids": ["m1", "m2"], "dataset_id": "d", "tasks": ["segmentation"]} | change
    values["tasks"] = [{"name": name} for name in values["tasks"]]
    with pytest.raises(BadOption) as caught:
        check_experiment_spec(ExperimentSpec.from_proto(experiment_pb2.ExperimentSpec(**values), "spec"))
    assert caught.value.field == field
    assert words in str(caught.value)


def test_zero_and_empty_take_the_defaults():
    message = experiment_pb2.ExperimentSpec(model_ids=["m1"], dataset_id="d", tasks=[{"name": "segmentation"}])
    spec = ExperimentSpec.from_proto(message)
    assert (spec.seeds, spec.max_running, spec.permutations, spec.bootstrap_resamples) == ((0, 1, 2), 2, 1000, 2000)
    assert spec.interval_level == 0.95


def test_digests_are_pinned_when_the_experiment_is_created(stored):
    pinned = pin_inputs(stored, make_spec())
    assert pinned.model_sha256 == ("c" * 64, "b" * 64)
    assert len(pinned.dataset_digest) == 64


def test_the_cases_are_looked_at_once_for_all_models(stored, monkeypatch):
    looked = []
    monkeypatch.setattr(TaskSpec, "check_cases", lambda task, _: looked.append(task))
    pin_inputs(stored, make_spec())
    assert [task.name for task in looked] == ["segmentation", "distortion"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model_ids": ("m1", "gone")}, NotFound, "gone: no model has this id"),
        ({"dataset_id": "gone"}, NotFound, "not found"),
        ({"dataset_digest": "0" * 64}, PreconditionFailed, "its digest is"),
        ({"dataset_id": "no-val"}, BadDataset, "'val' holds no case"),
        (
            {"model_ids": ("m1", "t2-only")},
            BadOption,
            "distortion needs dwi, which t2-only does not take as input",
        ),
        ({"model_ids": ("m1", "program")}, BadOption, "program is an exported program"),
        (
            {"recipe": Recipe(patch_shape_dhw=(32, 64, 64))},
            BadOption,
            "a patch of (32, 64, 64) voxels does not fit the model's input",
        ),
    ],
)
def test_inputs_that_would_make_cells_fail_are_rejected(stored, change, error, words):
    with pytest.raises(error) as caught:
        pin_inputs(stored, make_spec(**change))
    assert words in str(caught.value)
    assert ";" in str(caught.value), "a remedy"


def test_a_model_without_a_channel_may_do_the_tasks_that_do_not_need_it(stored):
    assert pin_inputs(stored, make_spec(model_ids=("t2-only",), tasks=("segmentation",))).model_sha256 == ("c" * 64,)


def smallest_differences(**values):
    return tuple(SmallestDifference(metric=metric, value=value) for metric, value in values.items())


def test_a_cell_s_check_has_the_smallest_difference_of_its_task_s_metric(stored):
    spec = make_spec(smallest_differences=smallest_differences(psnr=0.5))
    requests = {cell.task: cell.request for cell in plan_cells("s", spec, pin_inputs(stored, spec))}
    assert requests["distortion"].smallest_difference == 0.5
    assert requests["segmentation"].smallest_difference == 0.0


@pytest.mark.parametrize(
    ("metrics", "message", "remedy"),
    [
        (["dice"], "'dice' is not the primary metric of any task", "choose from lesion_dice, psnr"),
        (["lesion_hd95"], "'lesion_hd95' is not the primary metric of any task", "choose from lesion_dice, psnr"),
        (["auroc"], "'auroc' is not the primary metric of any task", "choose from lesion_dice, psnr"),
        (["psnr", "psnr"], "a metric is named twice", "name each metric once"),
    ],
)
def test_smallest_differences_are_of_the_tasks_primary_metrics_once(stored, metrics, message, remedy):
    spec = make_spec(smallest_differences=tuple(SmallestDifference(metric=metric, value=0.1) for metric in metrics))
    with pytest.raises(BadOption) as caught:
        pin_inputs(stored, spec)
    assert caught.value.field == "spec.smallest_differences"
    assert message in caught.value.message
    assert caught.value.remedy == remedy


def test_tasks_with_parameters_are_cells_of_their_own(stored):
    tasks = ("segmentation", "segmentation:structure=lesion", "translation:from=t2w+dwi,to=adc")
    spec = make_spec(tasks=tasks, model_ids=("m1",), seeds=(1,))
    pinned = pin_inputs(stored, spec)
    assert pinned.primary_metrics == ("lesion_dice", "lesion_dice", "psnr")
    cells = plan_cells("s", spec, pinned)
    assert [cell.task for cell in cells] == list(tasks)
    assert [cell.check_id for cell in cells] == [
        "s-segmentation-m1-1",
        "s-segmentation.structure-lesion-m1-1",
        "s-translation.from-t2w-dwi.to-adc-m1-1",
    ]


def test_a_task_that_is_the_default_of_the_dataset_is_not_run_twice(stored):
    with pytest.raises(BadOption, match="are the same task for dataset d; name the task once"):
        pin_inputs(stored, make_spec(tasks=("segmentation", "segmentation:label=gland+lesions")))


def test_a_parameter_that_the_dataset_does_not_declare_is_refused(stored):
    with pytest.raises(BadOption, match="liver is not a label map of prostate_mpmri") as caught:
        pin_inputs(stored, make_spec(tasks=("segmentation:label=liver",)))
    assert caught.value.field == "spec.tasks[0].parameters.labels"
    with pytest.raises(BadOption, match="does not use modality"):
        check_experiment_spec(make_spec(tasks=("segmentation:modality=t2w",)))


def test_a_map_applies_to_the_models_that_have_its_input(stored):
    stored.write(model_card_key("one-channel"), card("one-channel", modalities=("input",)))
    spec = make_spec(model_ids=("one-channel", "m1"), tasks=("segmentation",), modality_map={"adc": "input"})
    pinned = pin_inputs(stored, spec)
    assert pinned.modality_maps == ({"adc": "input"}, {})
    assert PinnedInputs.model_validate_json(pinned.to_json()) == pinned
    maps = [cell.request.modality_map for cell in plan_cells("s", spec, pinned)]
    assert maps == [{"adc": "input"}, {}] * 2
    assert b"modality_map" not in pin_inputs(stored, make_spec(tasks=("segmentation",))).to_json()


@pytest.mark.parametrize(
    ("modality_map", "says"),
    [
        ({}, "one-channel takes input, which the dataset (prostate_mpmri) does not have"),
        ({"adc": "inptu"}, "no model has an input inptu"),
        ({"t1w": "input"}, "the dataset (prostate_mpmri) has no modality t1w"),
    ],
)
def test_wrong_maps_are_refused_before_a_cell_begins(stored, modality_map, says):
    stored.write(model_card_key("one-channel"), card("one-channel", modalities=("input",)))
    spec = make_spec(model_ids=("one-channel", "m1"), tasks=("segmentation",), modality_map=modality_map)
    with pytest.raises(BadOption) as caught:
        pin_inputs(stored, spec)
    assert says in caught.value.message
    assert caught.value.field == "spec.modality_map"


def test_checks_and_jobs_with_a_wrong_map_are_refused_before_they_are_stored(stored):
    stored.write(model_card_key("one-channel"), card("one-channel", modalities=("input",)))
    spec = CheckSpec(model_id="one-channel", dataset_id="d", task="segmentation")
    with pytest.raises(BadOption, match="one-channel takes input") as caught:
        check_inputs(stored, NO_JOBS, "c", spec)
    assert "--map t2w=input" in caught.value.remedy
    check_inputs(stored, NO_JOBS, "c", spec.model_copy(update={"modality_map": {"adc": "input"}}))
    job = JobSpec(kind="finetune", model_id="one-channel", dataset_id="d", task="segmentation")
    with pytest.raises(BadOption, match="one-channel takes input"):
        resolve_job(stored, "j", job)
    resolved = resolve_job(stored, "j", job.model_copy(update={"modality_map": {"adc": "input"}}))
    assert resolved.modality_map == {"adc": "input"}
    pretraining = JobSpec(kind="pretrain", dataset_id="d", objective="contrastive", modality_map={"t1w": "input"})
    with pytest.raises(BadOption, match="has no modality t1w"):
        resolve_job(stored, "j", pretraining)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model_id": "m9"}, NotFound, "no model has this id"),
        ({"model_sha256": "d" * 64}, DigestMismatch, "the stored weights have"),
        ({"dataset_id": "e"}, NotFound, "dataset e: not found"),
        ({"dataset_id": "no-val"}, BadDataset, "'val' holds no case"),
        ({"layers": ("blocks.9",)}, BadOption, "no layer 'blocks.9'"),
        ({"model_id": "program"}, BadOption, "program is an exported program"),
        ({"require_licence": "MIT"}, BadOption, "m1 has no licence, but 'MIT' is required"),
    ],
)
def test_checks_that_cannot_succeed_are_refused_before_they_are_stored(stored, changes, error, says):
    spec = CheckSpec(model_id="m1", dataset_id="d", task="segmentation")
    assert check_inputs(stored, NO_JOBS, "c", spec) == (
        TrainingPlan(seeds=3, trainings=11, reused=0), TrainingPlan(seeds=1, trainings=5, reused=0)
    )  # fmt: skip
    with pytest.raises(error, match=says):
        check_inputs(stored, NO_JOBS, "c", spec.model_copy(update=changes))


def test_a_check_is_created_while_the_store_is_unavailable(stored, monkeypatch):
    def get(*_, **__):
        raise StoreUnavailable("the object store does not answer", subject="s3://b")

    monkeypatch.setattr(type(stored), "get", get)
    spec = CheckSpec(model_id="m9", dataset_id="d", task="segmentation")
    assert check_inputs(stored, NO_JOBS, "c", spec) == (), "how many trainings it needs is unknown"


def test_jobs_that_cannot_succeed_are_refused_before_they_are_stored(stored):
    pretraining = JobSpec(kind="pretrain", dataset_id="d", objective="contrastive")
    with pytest.raises(BadDataset, match="'pretrain' holds no case"):
        resolve_job(stored, "j", pretraining)
    manifest = load_dataset(stored, "d")
    save_dataset(stored, manifest.model_copy(update={"id": "whole", "pretrain": manifest.train, "train": ()}))
    pretraining = pretraining.model_copy(update={"dataset_id": "whole", "publish_as": "m1"})
    with pytest.raises(Conflict, match="another model is published under this id"):
        resolve_job(stored, "j", pretraining)
    with pytest.raises(BadOption, match="no encoder to freeze: a pretraining trains the encoder"):
        resolve_job(stored, "j", pretraining.model_copy(update={"publish_as": "m3", "frozen": True}))
    assert resolve_job(stored, "j", pretraining.model_copy(update={"publish_as": "m3"})).publish_as == "m3"
    with pytest.raises(BadDataset, match="'train' holds no case"):
        resolve_job(stored, "j", JobSpec(kind="finetune", model_id="m1", dataset_id="whole", task="segmentation"))


def test_training_cases_are_counted_before_anything_is_stored(stored):
    assert pin_inputs(stored, make_spec(train_cases=(2,), tasks=("segmentation",))).train_size == 2
    with pytest.raises(BadOption, match="2 training cases are all of `train`, which the list has as 0"):
        pin_inputs(stored, make_spec(train_cases=(2, 0), tasks=("segmentation",)))
    says = "3 training cases are more than the 2 of `train`"
    with pytest.raises(BadOption, match=says):
        pin_inputs(stored, make_spec(train_cases=(3,), tasks=("segmentation",)))
    check = CheckSpec(model_id="m1", dataset_id="d", task="segmentation", train_cases=3)
    with pytest.raises(BadOption, match=says):
        check_inputs(stored, NO_JOBS, "c", check)
    job = JobSpec(kind="finetune", dataset_id="d", model_id="m1", task="segmentation", train_cases=3)
    with pytest.raises(BadOption, match=says):
        resolve_job(stored, "j", job)
