"""Jobs of the pretrained network that begin with drawn weights: controls, and models that were never pretrained."""

import pytest
import torch
from tests.integration.training.conftest import ARCHITECTURE, INPUT, RECIPE

from vfmalign.core.domain.errors import BadOption
from vfmalign.features.extraction.cache import ModelCache
from vfmalign.models.cards import load_encoder, publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state
from vfmalign.training.data import derive_seed

STILL = RECIPE.model_copy(update={"learning_rate": 0.0, "epochs": 1, "steps_per_epoch": 1})


def test_a_control_begins_in_every_seed_with_the_weights_whose_features_are_those_before(store, make_spec, finish):
    drawn = 2**62 + 1
    before = ModelCache(store, torch.device("cpu"), 2**30).get_random(ARCHITECTURE, drawn).state_dict()
    for seed in (1, 2):
        result = finish(make_spec(f"control-{seed}", recipe=STILL, seed=seed, initial_seed=drawn))
        assert result.weight_change == 0.0
        encoder, card = load_encoder(store, result.encoder)
        assert card.objective == "supervised"
        after = encoder.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_model_with_the_weights_that_a_seed_draws_is_refused_by_name(store, make_spec, finish):
    state = random_state(ARCHITECTURES[ARCHITECTURE], derive_seed(2, "encoder"))
    card = publish(
        store, "untrained", state, architecture=ARCHITECTURE, objective="masked_reconstruction", preprocessing=INPUT
    )
    fields = {"recipe": STILL, "model_id": card.id, "model_sha256": card.checkpoint.sha256}
    with pytest.raises(BadOption, match="the weights of untrained are the random ones that seed 2 draws") as caught:
        finish(make_spec("of-untrained", seed=2, **fields))
    assert caught.value.field == "model_id"
    assert "`--control random-weights`" in caught.value.remedy
    assert finish(make_spec("of-untrained-with-another-seed", **fields)).weight_change == 0.0
