"""Publishing and loading models through a real S3 server."""

import hashlib

import pytest
import torch

from vfmalign.core.domain.errors import (
    BadCheckpoint,
    BadOption,
    Conflict,
    DataLoss,
    NotFound,
    PreconditionFailed,
)
from vfmalign.core.domain.models import Preprocessing, PretrainingDataset
from vfmalign.core.storage.keys import model_card_key
from vfmalign.core.storage.model_cards import list_model_ids, load_card
from vfmalign.models.cards import load_encoder, publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state, to_safetensors

MICRO = ARCHITECTURES["profound_conv_micro"]


@pytest.fixture(scope="module")
def state():
    return random_state(MICRO, 1)


def publish_micro(store, model_id, state, **options):
    return publish(store, model_id, state, architecture=MICRO.name, objective="masked_reconstruction", **options)


def test_a_published_model_is_loaded_back(store, state):
    seen = PretrainingDataset(dataset_id="set", dataset_digest="1" * 64, volume_sha256=("2" * 64,), groups=("g1",))
    card = publish_micro(store, "first", state, pretraining=[seen], source="made here")
    assert card.checkpoint.sha256 == hashlib.sha256(to_safetensors(state)).hexdigest()
    assert card.checkpoint.key == f"models/first/{card.checkpoint.sha256}.safetensors"
    assert card.layers == MICRO.layers
    assert card.preprocessing == MICRO.preprocessing
    assert card.primary_layer == "stages.3"
    assert card.pretraining == (seen,)
    assert load_card(store, "first") == card
    encoder, loaded = load_encoder(store, "first")
    assert loaded == card
    assert not encoder.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items())
    assert "first" in list(list_model_ids(store))


def test_publishing_the_same_again_returns_the_first(store, state):
    card = publish_micro(store, "again", state)
    assert publish_micro(store, "again", dict(reversed(state.items()))) == card


def test_an_id_never_changes_its_meaning(store, state):
    card = publish_micro(store, "fixed", state)
    other = state | {"norm.bias": state["norm.bias"] + 1}
    with pytest.raises(Conflict, match="fixed: another model is published under this id"):
        publish_micro(store, "fixed", other)
    with pytest.raises(Conflict):
        publish_micro(store, "fixed", state, source="elsewhere")
    assert load_card(store, "fixed") == card
    encoder, _ = load_encoder(store, "fixed")
    assert torch.equal(encoder.norm.bias, state["norm.bias"])


def test_weights_that_do_not_fit_are_not_published(store, state):
    with pytest.raises(BadCheckpoint, match=r"headed: .* unexpected head\.weight"):
        publish_micro(store, "headed", state | {"head.weight": torch.zeros(3)})
    with pytest.raises(BadCheckpoint, match=r"NaN or infinity in norm\.bias"):
        publish_micro(store, "headed", state | {"norm.bias": state["norm.bias"] * float("nan")})
    assert not list(store.list("models/headed/"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_id": "Bad Id"}, r"'Bad Id' is not a model id; use lower-case"),
        ({"architecture": "resnet"}, "no architecture is called 'resnet'"),
        ({"primary_layer": "pooled"}, r"has no layer 'pooled'; choose one of stages\.0"),
    ],
)
def test_bad_options(store, state, options, message):
    arguments = {"model_id": "options", "architecture": MICRO.name, "objective": "random"} | options
    with pytest.raises(BadOption, match=message):
        publish(store, arguments.pop("model_id"), state, **arguments)


def test_own_preprocessing_and_primary_layer(store, state):
    own = Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=None, shape_dhw=(16, 32, 32))
    card = publish_micro(store, "own", state, preprocessing=own, primary_layer="stages.2", parent="first")
    assert (card.preprocessing, card.primary_layer, card.parent_model_id) == (own, "stages.2", "first")


def test_unknown_models(store):
    with pytest.raises(NotFound, match="absent: no model has this id"):
        load_encoder(store, "absent")
    with pytest.raises(BadOption, match="is not a model id"):
        load_encoder(store, "../secrets")


def test_weights_changed_underneath(store, state):
    card = publish_micro(store, "changed", state)
    store.put(card.checkpoint.key, to_safetensors(random_state(MICRO, 2)))
    for damage in (lambda: None, lambda: store.delete(card.checkpoint.key)):
        damage()
        with pytest.raises(DataLoss, match="vfmalign models import --id changed") as caught:
            load_encoder(store, "changed")
        assert (caught.value.kind, caught.value.owner) == ("model", "changed")
        assert caught.value.subject == store.uri(card.checkpoint.key)
    publish_micro(store, "changed", state)
    assert load_encoder(store, "changed")[1] == card, "the remedy does not restore the weights"


def test_a_card_of_a_newer_version(store, state):
    card = publish_micro(store, "whole", state)
    store.write(model_card_key("newer"), card.model_copy(update={"id": "newer", "architecture": "vit_9"}))
    with pytest.raises(PreconditionFailed, match="newer: this version cannot build the model's architecture 'vit_9'"):
        load_encoder(store, "newer")
