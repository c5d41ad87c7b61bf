"""What a training may be, whoever asks: the services before they store it, the process before it trains."""

import pytest
from tests.prostate import PROSTATE, SPECS

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.errors import BadDataset, BadOption, Conflict
from vfmalign.core.domain.jobs import TrainingRecipe, TrainingSpec
from vfmalign.core.domain.models import ModelCard, Preprocessing
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.domain.task_text import Task
from vfmalign.core.storage.keys import model_card_key
from vfmalign.core.storage.trainings import (
    check_free,
    check_kind,
    check_publication,
    resolve_training,
)

INPUT = Preprocessing(modalities=("t2w", "input"), spacing_mm=None, shape_dhw=(8, 32, 32))
RECIPE = TrainingRecipe(epochs=2, steps_per_epoch=5, batch_size=1, learning_rate=0.1)


def make_case(name, *kinds):
    volumes = {kind: StoredObject(key=f"volumes/{name}/{kind}", sha256="a" * 64) for kind in ("t2w", "adc", *kinds)}
    return Case(id=name, group=name, volumes=volumes)


CASES = {split: (make_case(split, "gland", "lesions"),) for split in ("pretrain", "train", "val", "test")}


def resolve(task="segmentation", *, modality_map=None, patch=None, **splits):
    dataset = DatasetManifest(id="d", declaration=PROSTATE, **(CASES | splits))
    recipes = [RECIPE, RECIPE.model_copy(update={"patch_shape_dhw": patch})]
    modality_map = {"adc": "input"} if modality_map is None else modality_map
    spec = SPECS[task] if task else None
    return resolve_training(dataset, spec, "vfm", INPUT, modality_map=modality_map, recipes=recipes)


def test_the_models_inputs_are_named_as_the_datasets_modalities():
    assert resolve().modalities == resolve(task=None).modalities == ("t2w", "adc")
    assert resolve(patch=(8, 32, 32)).shape_dhw == (8, 32, 32)


@pytest.mark.parametrize(
    ("changes", "error", "field", "says"),
    [
        ({"val": ()}, BadDataset, "spec.dataset_id", "'val' holds no case; import the dataset again"),
        ({"test": ()}, BadDataset, "spec.dataset_id", "'test' holds no case"),
        ({"task": None, "pretrain": ()}, BadDataset, "spec.dataset_id", "'pretrain' holds no case"),
        ({"test": (make_case("bare"),)}, BadDataset, "d", "missing in 1 of 3 cases, such as bare of test"),
        ({"modality_map": {}}, BadOption, "spec.modality_map", "vfm takes input, which the dataset"),
        ({"modality_map": {"adc": "inptu"}}, BadOption, "spec.modality_map", "vfm has no input inptu"),
        ({"task": "distortion"}, BadOption, "model_id", "distortion needs dwi, which vfm does not take"),
        ({"patch": (8, 64, 32)}, BadOption, "recipe.patch_shape_dhw", "use at most the input's size"),
        ({"task": None, "patch": (9, 8, 8)}, BadOption, "recipe.patch_shape_dhw", "use at most the input's size"),
    ],
)
def test_a_training_that_does_not_fit_is_refused(changes, error, field, says):
    with pytest.raises(error) as caught:
        resolve(**changes)
    assert caught.value.field == field
    assert says in str(caught.value)


def test_a_pretraining_needs_no_split_and_no_label_of_a_task():
    resolve(task=None, train=(), test=(), val=(make_case("val"),))


def test_a_pretraining_has_neither_model_nor_task_and_a_fine_tuning_has_a_task():
    check_kind("pretrain", "", None)
    check_kind("finetune", "", Task.parse("segmentation"))
    for model, task in (("m", None), ("", Task.parse("segmentation"))):
        with pytest.raises(BadOption, match=r"spec\.kind: .*takes neither a model nor a task.*leave them empty"):
            check_kind("pretrain", model, task)
    with pytest.raises(BadOption, match=r"spec\.task: required for fine-tuning; name the task"):
        check_kind("finetune", "m", None)


def make_spec(**changes):
    fields = {
        "job_id": "j", "kind": "finetune", "dataset_id": "d", "dataset_digest": "0" * 64, "architecture": "a",
        "task": "segmentation", "recipe": RECIPE, "seed": 1, "publish_as": "child",
    }  # fmt: skip
    return TrainingSpec.model_validate(fields | changes)


def test_a_job_publishes_its_encoder_where_it_has_one():
    check_publication(make_spec())
    check_publication(make_spec(network="specialised", publish_as=""))


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"publish_as": ""}, "spec.publish_as", "name the model to publish the encoder as"),
        ({"publish_as": "Not An Id"}, "spec.publish_as", "lower-case letters"),
        ({"network": "specialised"}, "spec.publish_as", "no encoder to publish; leave it empty"),
    ],
)
def test_what_cannot_be_published_is_refused(changes, field, says):
    with pytest.raises(BadOption) as caught:
        check_publication(make_spec(**changes))
    assert caught.value.field == field
    assert says in str(caught.value)


def test_a_spec_without_a_task_is_read_back():
    for task in ("", None):
        spec = make_spec(kind="pretrain", task=task)
        assert spec.task is None
        assert TrainingSpec.model_validate_json(spec.to_json()) == spec
    named = make_spec(task="segmentation:structure=lesion")
    assert named.task == Task.parse("segmentation:structure=lesion")
    assert TrainingSpec.model_validate_json(named.to_json()) == named


def write_card(store, model_id, source):
    card = {
        "id": model_id, "architecture": "a", "objective": "contrastive",
        "checkpoint": {"key": f"models/{model_id}/w", "sha256": "c" * 64}, "preprocessing": INPUT,
        "layers": [], "primary_layer": "stages.0", "source": source,
    }  # fmt: skip
    store.write(model_card_key(model_id), ModelCard.model_validate(card))


def test_an_id_is_free_for_the_job_that_publishes_under_it(store):
    spec = make_spec()
    check_free(store, spec)
    write_card(store, "child", "job j")
    check_free(store, spec)
    store.put(model_card_key("child"), b"damaged, so that it is replaced")
    check_free(store, spec)
    check_free(store, make_spec(network="specialised", publish_as=""))
    write_card(store, "child", "job other")
    with pytest.raises(Conflict, match="child: another model is published under this id; choose another id"):
        check_free(store, spec)
