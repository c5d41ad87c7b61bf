"""Requested jobs: recipes, specs and the digest of shared baselines."""

import pytest

from vfmalign.client.messages.jobs import JobSpec, Recipe
from vfmalign.client.messages.tasks import Task
from vfmalign.client.recipes import apply_recipe, make_request
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.recipes import get_finetuning_recipe
from vfmalign.finetuning.jobs.request import baseline_digest, check_objective, finetuning_spec
from vfmalign.v1 import features_pb2, finetuning_pb2

CARD = ModelCard.model_validate(
    {
        "id": "vfm", "architecture": "profound_conv_micro", "objective": "masked_reconstruction",
        "checkpoint": {"key": "models/vfm/w", "sha256": "c" * 64},
        "preprocessing": {"modalities": ("t2w", "dwi", "adc"), "spacing_mm": None, "shape_dhw": (16, 64, 64)},
        "layers": [{"name": "stages.3", "channels": 4}], "primary_layer": "stages.3",
    }
)  # fmt: skip


def test_a_recipe_of_a_spec_sets_every_field_of_its_training():
    training = get_finetuning_recipe("scratch", "segmentation", "demo").model_copy(
        update={"patch_shape_dhw": (8, 16, 16)}
    )
    recipe = make_request(training, "demo")
    assert (recipe.preset, recipe.epochs, recipe.patch_shape_dhw) == ("demo", training.epochs, (8, 16, 16))
    assert apply_recipe(recipe, get_finetuning_recipe("pretrained", "translation", "default")) == training


def test_specs_of_the_three_networks():
    recipe = get_finetuning_recipe("pretrained", "segmentation", "demo")
    for network, publishes in (("pretrained", "j-encoder"), ("scratch", "j-encoder"), ("specialised", "")):
        request = JobSpec(
            kind="finetune", dataset_id="demo", network=network, model_id="vfm", task="segmentation", seed=4
        )
        spec = finetuning_spec("j", request, CARD, "d" * 64, recipe)
        assert (spec.publish_as, spec.architecture, spec.model_sha256) == (publishes, CARD.architecture, "c" * 64)
        assert spec.seed == 4
    with pytest.raises(BadOption, match="publish"):
        finetuning_spec("j", request.model_copy(update={"publish_as": "x"}), CARD, "d" * 64, recipe)


def digest_of(network, card=CARD, digest="d" * 64, name="a", **changes):
    request = JobSpec(kind="finetune", dataset_id="demo", network=network, model_id=card.id, task="segmentation")
    request = request.model_copy(update=changes)
    recipe = apply_recipe(request.recipe, get_finetuning_recipe(network, request.task.name, "demo"))
    return baseline_digest(finetuning_spec(name, request, card, digest, recipe), card)


@pytest.mark.parametrize("network", ["scratch", "specialised"])
def test_baselines_are_the_same_whatever_model_is_checked_against_them(network):
    weights = CARD.checkpoint.model_copy(update={"sha256": "e" * 64})
    other = CARD.model_copy(update={"id": "another", "checkpoint": weights})
    assert digest_of(network) == digest_of(network, name="b") == digest_of(network, other, model_id="another")
    different = {
        "data": digest_of(network, digest="f" * 64),
        "task": digest_of(network, task=Task.parse("translation")),
        "seed": digest_of(network, seed=1),
        "recipe": digest_of(network, recipe=Recipe(epochs=3)),
        "input": digest_of(
            network,
            CARD.model_copy(update={"preprocessing": CARD.preprocessing.model_copy(update={"shape_dhw": (8, 64, 64)})}),
        ),
    }
    assert len({digest_of(network), *different.values()}) == 1 + len(different)


def test_the_seed_of_drawn_weights_changes_the_digest_and_its_absence_does_not():
    """Trainings that are stored keep their digests."""
    assert digest_of("pretrained", initial_seed=7) != digest_of("pretrained")
    assert digest_of("pretrained", initial_seed=7) != digest_of("pretrained", initial_seed=8)
    recipe = get_finetuning_recipe("pretrained", "segmentation", "demo")
    request = JobSpec(kind="finetune", dataset_id="demo", model_id="vfm", task="segmentation")
    assert b"initial_seed" not in finetuning_spec("a", request, CARD, "d" * 64, recipe).to_json()


def test_the_architecture_is_the_random_networks_own():
    larger = CARD.model_copy(update={"architecture": "profound_conv_tiny"})
    assert digest_of("scratch") != digest_of("scratch", larger)
    assert digest_of("specialised") == digest_of("specialised", larger)
    assert digest_of("scratch") != digest_of("specialised")


PRETRAIN = {"kind": finetuning_pb2.JOB_KIND_PRETRAIN, "dataset_id": "d"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "spec.kind"),
        (PRETRAIN, "spec.objective"),
        (
            {"kind": finetuning_pb2.JOB_KIND_PRETRAIN, "dataset_id": "d", "objective": features_pb2.OBJECTIVE_RANDOM},
            "spec.objective",
        ),
        ({"kind": finetuning_pb2.JOB_KIND_FINETUNE, "dataset_id": "../x"}, "spec.dataset_id"),
        ({"kind": finetuning_pb2.JOB_KIND_FINETUNE, "dataset_id": "d", "dataset_digest": "x"}, "spec.dataset_digest"),
    ],
)
def test_wrong_fields_are_called_as_the_api_calls_them(fields, field):
    with pytest.raises(BadOption) as caught:
        check_objective(JobSpec.from_proto(finetuning_pb2.JobSpec(**fields), "spec"))
    assert caught.value.field == field


def test_a_number_out_of_range_is_named_by_its_path():
    recipe = finetuning_pb2.Recipe(learning_rate=-1.0)
    message = finetuning_pb2.JobSpec(kind=finetuning_pb2.JOB_KIND_FINETUNE, dataset_id="d", recipe=recipe)
    with pytest.raises(BadOption) as caught:
        JobSpec.from_proto(message, "spec")
    assert caught.value.field == "spec.recipe.learning_rate"
