"""The inputs that a check's report lists."""

from types import SimpleNamespace

import pytest
from tests.unit.finetuning.checks.test_request import make_card

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.recipes import TrainingBudget
from vfmalign.core.domain.models import TensorCounts
from vfmalign.finetuning.checks import assembly


def make_inputs():
    """What `_settings` reads of a check beside its request."""
    recipe = SimpleNamespace(model_dump=lambda **_: {})
    valid = SimpleNamespace(
        recipes=dict.fromkeys(assembly.NETWORKS, recipe),
        card=make_card(id="m"),
        dataset_digest="b" * 64,
        input_transform="identity",
        layers=("stages.3",),
        primary_layer="stages.3",
    )
    measured = SimpleNamespace(before_id="1", after_id="2", reinitialised_id="3", reference_id="4")
    main = SimpleNamespace(encoder="e", encoder_sha256="c" * 64)
    return valid, [SimpleNamespace(jobs={"pretrained": main}, measured=measured)]


@pytest.mark.parametrize(
    ("modality_map", "listed"),
    [({}, None), ({"t1w": "input"}, "t1w=input"), ({"flair": "b", "adc": "a"}, "adc=a, flair=b")],
)
def test_settings_list_the_modality_map_where_there_is_one(modality_map, listed):
    """Results of checks without a map keep their digests."""
    request = CheckSpec.from_fields(model_id="m", dataset_id="d", task="segmentation", modality_map=modality_map)
    settings = assembly._settings(request, *make_inputs())
    assert settings.get("modality_map") == listed
    assert settings["model_id"] == "m"


def test_settings_list_what_the_card_states_of_the_weights():
    """Results of models without these facts keep their digests."""
    request = CheckSpec.from_fields(model_id="m", dataset_id="d", task="segmentation")
    valid, trained = make_inputs()
    facts = {"licence", "model_source", "tensors"}
    assert not facts & assembly._settings(request, valid, trained).keys()
    valid.card = make_card(licence="MIT", source="hf://a/b@1", tensors=TensorCounts(loaded=3, dropped=2))
    settings = assembly._settings(request, valid, trained)
    assert [settings[name] for name in sorted(facts)] == ["MIT", "hf://a/b@1", "3 loaded, 2 dropped, 0 initialised"]


def test_a_result_names_its_budget_only_where_that_is_below_the_recipe(make_report):
    """Results of whole trainings keep their digests."""
    result = make_report().result
    assert "shortened" not in result.model_dump(mode="json")
    shortened = TrainingBudget(network="pretrained", steps=64, preset_steps=128)
    stored = result.model_copy(update={"shortened": shortened}).model_dump(mode="json")
    assert type(result).model_validate(stored).shortened == shortened
