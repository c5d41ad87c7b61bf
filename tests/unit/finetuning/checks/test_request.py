"""Requested checks: defaults, rules and the recipes of the three trainings."""

import json

import pytest

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.recipes import get_recipe, get_second_recipe
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.models import Layer, ModelCard, Preprocessing
from vfmalign.core.domain.recipes import check_patch, get_finetuning_recipe
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.finetuning.checks.request import check_card, check_spec
from vfmalign.finetuning.jobs.request import NETWORKS
from vfmalign.v1 import alignment_pb2, finetuning_pb2

INPUT = Preprocessing(modalities=("t2w",), shape_dhw=(24, 16, 40))


def make_spec(**fields):
    return CheckSpec(model_id="vfm", dataset_id="demo", task="segmentation", **fields)


def test_a_field_that_is_set_replaces_the_presets_and_no_other():
    spec = make_spec(recipe=Recipe(preset="demo", learning_rate=0.0))
    preset = get_finetuning_recipe("pretrained", "segmentation", "demo")
    assert get_recipe(spec, "pretrained") == preset.model_copy(update={"learning_rate": 0.0})


def test_both_arms_have_one_recipe_and_the_specialised_network_keeps_its_rates_within_their_budget():
    spec = make_spec(
        recipe=Recipe(preset="demo", epochs=3, batch_size=5, learning_rate=0.5, patch_shape_dhw=(8, 32, 32))
    )
    assert get_recipe(spec, "scratch") == get_recipe(spec, "pretrained")
    assert get_second_recipe(spec) is None
    own, preset = get_recipe(spec, "specialised"), get_finetuning_recipe("specialised", "segmentation", "demo")
    assert (own.epochs, own.batch_size, own.patch_shape_dhw) == (3, 5, (8, 32, 32))
    assert own.steps_per_epoch == get_recipe(spec, "pretrained").steps_per_epoch
    assert (own.learning_rate, own.layer_decay) == (preset.learning_rate, 1.0)


def test_the_second_recipe_has_the_rates_of_random_weights_and_the_budget_of_the_first():
    spec = make_spec(recipe=Recipe(preset="demo", epochs=3, batch_size=5))
    second, preset = get_second_recipe(spec), get_finetuning_recipe("scratch", "segmentation", "demo")
    first = get_recipe(spec, "scratch")
    assert second == preset.model_copy(update={"epochs": 3, "batch_size": 5})
    assert first.learning_rate == get_recipe(spec, "pretrained").learning_rate
    assert first.learning_rate != second.learning_rate
    assert get_second_recipe(spec, INPUT).patch_shape_dhw == (16, 16, 32)
    assert get_second_recipe(make_spec(recipe=spec.recipe, scratch_recipe=Recipe())) is None


def test_patches_of_a_preset_fit_the_models_input_and_those_of_a_request_stay():
    for network in NETWORKS:
        of_preset = make_spec(recipe=Recipe(preset="demo"))
        assert get_recipe(of_preset, network, INPUT).patch_shape_dhw == (16, 16, 32)
        requested = make_spec(recipe=Recipe(preset="demo", patch_shape_dhw=(16, 32, 32)))
        assert get_recipe(requested, network, INPUT).patch_shape_dhw == (16, 32, 32)
        assert get_recipe(make_spec(), network, INPUT).patch_shape_dhw is None


def test_a_model_that_reads_patches_determines_their_size():
    patched = INPUT.model_copy(update={"patch_shape_dhw": (8, 16, 40)})
    for preset in ("demo", "default"):
        for network in NETWORKS:
            assert get_recipe(make_spec(recipe=Recipe(preset=preset)), network, patched).patch_shape_dhw == (8, 16, 40)
    requested = get_recipe(make_spec(recipe=Recipe(patch_shape_dhw=(8, 16, 16))), "scratch", patched)
    with pytest.raises(BadOption, match=r"recipe\.patch_shape_dhw: the model reads patches of \(8, 16, 40\) voxels"):
        check_patch(requested, patched)


def test_a_baselines_own_recipe_is_followed():
    spec = make_spec(recipe=Recipe(epochs=3), scratch_recipe=Recipe(preset="demo", epochs=7))
    assert get_recipe(spec, "scratch").epochs == 7
    assert get_recipe(spec, "specialised").epochs == 3


def test_zeros_take_the_defaults_that_the_api_states():
    spec = CheckSpec.from_proto(
        alignment_pb2.CheckSpec(model_id="vfm", dataset_id="demo", task={"name": "segmentation"})
    )
    assert (spec.permutations, spec.bootstrap_resamples, spec.interval_level) == (1000, 2000, 0.95)
    assert spec.scratch_recipe is None
    assert spec.recipe == Recipe()


def test_a_patch_shape_has_three_axes():
    recipe = finetuning_pb2.Recipe(patch_shape_dhw=[8, 8])
    message = alignment_pb2.CheckSpec(model_id="m", dataset_id="d", task={"name": "segmentation"}, recipe=recipe)
    with pytest.raises(BadOption, match="expected no size or 3 sizes, got 2") as caught:
        CheckSpec.from_proto(message, "spec")
    assert caught.value.field == "spec.recipe.patch_shape_dhw"


def test_three_seeds_are_the_default():
    assert make_spec().seeds == 3
    message = make_spec(seeds=1).to_proto()
    message.ClearField("seeds")
    assert CheckSpec.from_proto(message).seeds == 3


def test_seeds_beyond_the_largest_are_refused():
    check_spec(make_spec(seed=2**63 - 3, seeds=3))
    with pytest.raises(BadOption, match="3 seeds from 9223372036854775806 exceed"):
        check_spec(make_spec(seed=2**63 - 2, seeds=3))
    with pytest.raises(BadOption, match="4 seeds from 9223372036854775805 exceed"):
        check_spec(make_spec(seed=2**63 - 3, seeds=3, random_seeds=4))


def test_random_weights_are_trained_at_least_as_often_as_the_model():
    for random_seeds in (0, 3, 6):
        check_spec(make_spec(random_seeds=random_seeds))
    with pytest.raises(BadOption, match="random_seeds is 2, but random weights need at least 3 trainings") as caught:
        check_spec(make_spec(random_seeds=2))
    assert (caught.value.field, caught.value.remedy) == ("random_seeds", "choose at least 3, or leave it out")


def test_a_stored_spec_without_parameters_keeps_its_content_and_digest():
    content = json.loads(make_spec().to_json())
    assert content["task"] == "segmentation", "as before tasks had parameters"
    assert CheckSpec.model_validate(content) == make_spec()
    with_parameters = CheckSpec(model_id="vfm", dataset_id="demo", task="segmentation:label=gland,structure=gland")
    assert json.loads(with_parameters.to_json())["task"] == "segmentation:label=gland,structure=gland"


def test_a_request_that_allows_no_cut_organs_keeps_its_digest():
    assert b"allow_cut_organs" not in make_spec().to_json()
    allowed = make_spec(allow_cut_organs=True)
    assert CheckSpec.from_proto(allowed.to_proto()) == allowed
    assert allowed.digest() != make_spec().digest() == CheckSpec.from_proto(make_spec().to_proto()).digest()


def test_a_request_without_a_frozen_encoder_keeps_its_digest():
    assert b"frozen" not in make_spec().to_json()
    frozen = make_spec(frozen=True)
    assert CheckSpec.from_proto(frozen.to_proto()) == frozen
    assert frozen.digest() != make_spec().digest()


def test_a_task_is_checked_before_its_dataset_is_read():
    with pytest.raises(BadOption, match="segmentation does not use class"):
        check_spec(CheckSpec(model_id="vfm", dataset_id="demo", task="segmentation:class=x"))


def make_card(**fields):
    layer = Layer(name="a", channels=1)
    return ModelCard(
        id="vfm", architecture="profound_conv_micro", objective="unknown",
        checkpoint=StoredObject(key="models/vfm/w", sha256="0" * 64), layers=(layer,), primary_layer="a",
        preprocessing=Preprocessing(modalities=("t2w",), shape_dhw=(8, 8, 8)),
    ).model_copy(update=fields)  # fmt: skip


@pytest.mark.parametrize("pattern", ["Apache-2.0", "Apache-*", "*", "[AM]*"])
def test_a_model_with_the_required_licence_is_accepted(pattern):
    check_card(make_spec(require_licence=pattern), make_card(licence="Apache-2.0"))


@pytest.mark.parametrize(
    ("pattern", "licence", "message"),
    [
        ("Apache-*", "CC-BY-NC-4.0", r"vfm has the licence CC-BY-NC-4\.0, but 'Apache-\*' is required"),
        ("*", "", "vfm has no licence"),
        ("apache-*", "Apache-2.0", "is required"),
    ],
)
def test_a_model_without_the_required_licence_is_refused(pattern, licence, message):
    check_card(make_spec(), make_card(licence=licence))  # nothing is required by default
    with pytest.raises(BadOption, match=message) as caught:
        check_card(make_spec(require_licence=pattern), make_card(licence=licence))
    assert caught.value.field == "require_licence"


def test_an_exported_program_is_refused_before_anything_is_stored():
    with pytest.raises(BadOption, match="vfm is an exported program") as caught:
        check_card(make_spec(), make_card(architecture="torch_export"))
    assert caught.value.field == "model_id"
    assert caught.value.remedy


def test_a_specification_without_a_required_licence_keeps_its_digest():
    assert b"require_licence" not in make_spec().to_json()
    assert make_spec(require_licence="MIT").digest() != make_spec().digest()
