"""From what is asked to what is run: recipes, budgets, specs and the API's words for fields."""

import pytest

from vfmalign.core.domain.artifacts import ModelCard
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.recipes import recipe_for
from vfmalign.finetuning.checks import converters as check_messages
from vfmalign.finetuning.checks.request import CheckId, CheckRequest
from vfmalign.finetuning.jobs import converters as job_messages
from vfmalign.finetuning.jobs.request import (
    JobRequest,
    RecipeRequest,
    baseline_digest,
    finetuning_spec,
)
from vfmalign.v1 import alignment_pb2, features_pb2, finetuning_pb2

CARD = ModelCard.model_validate(
    {
        "id": "vfm", "architecture": "profound_conv_micro", "objective": "masked_reconstruction",
        "checkpoint": {"key": "models/vfm/w", "sha256": "c" * 64},
        "preprocessing": {"spacing_mm": None, "shape_DHW": (16, 64, 64)},
        "layers": [{"name": "stages.3", "channels": 4}], "primary_layer": "stages.3",
    }
)  # fmt: skip


def check_request(**fields):
    return CheckRequest(model="vfm", dataset="demo", task="segmentation", **fields)


def test_a_field_that_is_set_replaces_the_presets_and_no_other():
    asked = check_request(recipe=RecipeRequest(preset="demo", learning_rate=0.0))
    preset = recipe_for("pretrained", "segmentation", "demo")
    assert asked.recipe_of("pretrained") == preset.model_copy(update={"learning_rate": 0.0})


def test_baselines_share_the_budget_and_keep_their_own_rates():
    asked = check_request(
        recipe=RecipeRequest(preset="demo", epochs=3, batch_size=5, learning_rate=0.5, patch_shape_DHW=(8, 32, 32))
    )
    for network in ("scratch", "specialised"):
        own, preset = asked.recipe_of(network), recipe_for(network, "segmentation", "demo")
        assert (own.epochs, own.batch_size, own.patch_shape_DHW) == (3, 5, (8, 32, 32))
        assert own.steps_per_epoch == asked.recipe_of("pretrained").steps_per_epoch
        assert (own.learning_rate, own.layer_decay) == (preset.learning_rate, 1.0)


def test_a_baselines_own_recipe_is_followed():
    asked = check_request(recipe=RecipeRequest(epochs=3), scratch_recipe=RecipeRequest(preset="demo", epochs=7))
    assert asked.recipe_of("scratch").epochs == 7
    assert asked.recipe_of("specialised").epochs == 3


def test_a_recipe_out_of_range_is_refused():
    with pytest.raises(BadOption, match=r"spec\.recipe\.learning_rate"):
        job_messages.parse_record(
            JobRequest, {"kind": "finetune", "dataset": "d", "recipe": {"learning_rate": -1.0}}, "spec"
        )


def test_only_the_pretrained_network_of_a_check_is_probed():
    asked = check_request(recipe=RecipeRequest(preset="demo", probe_steps=(16, 48)))
    asked.check()
    assert asked.recipe_of("pretrained").probe_steps == (16, 48)
    assert asked.recipe_of("scratch").probe_steps == asked.recipe_of("specialised").probe_steps == ()
    for name in ("scratch_recipe", "specialised_recipe"):
        with pytest.raises(BadOption, match="only the pretrained network") as caught:
            check_request(recipe=asked.recipe, **{name: RecipeRequest(probe_steps=(16,))}).check()
        assert caught.value.field == f"{name}.probe_steps"
    with pytest.raises(BadOption, match="no validation after step 20"):
        check_request(recipe=RecipeRequest(preset="demo", probe_steps=(20,))).check()


def test_probes_need_an_encoder_and_room_for_their_names():
    recipe = recipe_for("pretrained", "segmentation", "demo").model_copy(update={"probe_steps": (16,)})
    request = JobRequest(kind="finetune", dataset="demo", model="vfm", task="segmentation")
    assert finetuning_spec("j", request, CARD, "d" * 64, recipe).recipe.probe_steps == (16,)
    with pytest.raises(BadOption, match="no encoder to probe"):
        finetuning_spec("j", request.model_copy(update={"network": "specialised"}), CARD, "d" * 64, recipe)
    with pytest.raises(BadOption, match="at most 100"):
        finetuning_spec("j", request.model_copy(update={"publish_as": "x" * 125}), CARD, "d" * 64, recipe)


def test_specs_of_the_three_networks():
    recipe = recipe_for("pretrained", "segmentation", "demo")
    for network, publishes in (("pretrained", "j-encoder"), ("scratch", "j-encoder"), ("specialised", "")):
        request = JobRequest(kind="finetune", dataset="demo", network=network, model="vfm", task="segmentation", seed=4)
        spec = finetuning_spec("j", request, CARD, "d" * 64, recipe)
        assert (spec.publish_as, spec.architecture, spec.model_sha256) == (publishes, CARD.architecture, "c" * 64)
        assert spec.seed == 4
    with pytest.raises(BadOption, match="publish"):
        finetuning_spec("j", request.model_copy(update={"publish_as": "x"}), CARD, "d" * 64, recipe)


def digest_of(network, card=CARD, digest="d" * 64, name="a", **changes):
    request = JobRequest(kind="finetune", dataset="demo", network=network, model=card.id, task="segmentation")
    request = request.model_copy(update=changes)
    recipe = request.recipe.applied_to(recipe_for(network, request.task, "demo"))
    return baseline_digest(finetuning_spec(name, request, card, digest, recipe), card)


@pytest.mark.parametrize("network", ["scratch", "specialised"])
def test_baselines_are_the_same_whatever_model_is_checked_against_them(network):
    weights = CARD.checkpoint.model_copy(update={"sha256": "e" * 64})
    other = CARD.model_copy(update={"id": "another", "checkpoint": weights})
    assert digest_of(network) == digest_of(network, name="b") == digest_of(network, other, model="another")
    different = {
        "data": digest_of(network, digest="f" * 64),
        "task": digest_of(network, task="translation"),
        "seed": digest_of(network, seed=1),
        "recipe": digest_of(network, recipe=RecipeRequest(epochs=3)),
        "input": digest_of(
            network,
            CARD.model_copy(update={"preprocessing": CARD.preprocessing.model_copy(update={"shape_DHW": (8, 64, 64)})}),
        ),
    }
    assert len({digest_of(network), *different.values()}) == 1 + len(different)


def test_the_architecture_is_the_random_networks_own():
    larger = CARD.model_copy(update={"architecture": "profound_conv_tiny"})
    assert digest_of("scratch") != digest_of("scratch", larger)
    assert digest_of("specialised") == digest_of("specialised", larger)
    assert digest_of("scratch") != digest_of("specialised")


def test_a_check_survives_the_way_through_the_api():
    asked = check_request(
        layers=("stages.3",), seed=2**63 - 1, permutations=50, bootstrap_resamples=500, interval_level=0.9,
        recipe=RecipeRequest(
            preset="demo", epochs=2, learning_rate=0.0, patch_shape_DHW=(8, 16, 16), probe_steps=(16, 32)
        ),
        specialised_recipe=RecipeRequest(weight_decay=0.0),
    )  # fmt: skip
    assert check_messages.parse_check(check_messages._pack_spec(asked)) == asked


def test_zeros_take_the_defaults_that_the_api_states():
    spec = alignment_pb2.CheckSpec(model_id="vfm", dataset_id="demo", task="segmentation")
    asked = check_messages.parse_check(spec)
    assert (asked.permutations, asked.bootstrap_resamples, asked.interval_level) == (1000, 2000, 0.95)
    assert asked.scratch_recipe is None


def test_a_job_survives_the_way_through_the_api():
    asked = JobRequest(
        kind="finetune", dataset="demo", network="scratch", model="vfm", model_sha256="c" * 64, task="segmentation",
        recipe=RecipeRequest(preset="demo", layer_decay=0.5, probe_steps=(16,)), seed=3, publish_as="mine",
    )  # fmt: skip
    assert job_messages.parse_job(job_messages._pack_spec(asked)) == asked


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "spec.kind"),
        ({"kind": finetuning_pb2.JOB_KIND_PRETRAIN}, "spec.objective"),
        ({"kind": finetuning_pb2.JOB_KIND_PRETRAIN, "objective": features_pb2.OBJECTIVE_RANDOM}, "spec.objective"),
        ({"kind": finetuning_pb2.JOB_KIND_FINETUNE, "dataset_id": "../x"}, "spec.dataset_id"),
        ({"kind": finetuning_pb2.JOB_KIND_FINETUNE, "dataset_id": "d", "dataset_digest": "x"}, "spec.dataset_digest"),
    ],
)
def test_wrong_fields_are_called_as_the_api_calls_them(fields, field):
    with pytest.raises(BadOption) as caught:
        job_messages.parse_job(finetuning_pb2.JobSpec(**fields))
    assert caught.value.field == field


@pytest.mark.parametrize("text", ["", "UPPER", "a/b", "..", "x" * 81, "SURNAME^GIVEN"])
def test_ids_that_are_none(text):
    with pytest.raises(BadOption) as caught:
        job_messages.parse_id(CheckId, text, "check_id")
    assert caught.value.field == "check_id"
    assert "SURNAME" not in str(caught.value)
