"""Cards of models, read without torch from a real S3 server."""

import pytest

from vfmalign.core.domain.errors import BadOption, DigestMismatch, NotFound, PreconditionFailed
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.storage.keys import model_card_key
from vfmalign.core.storage.model_cards import load_card


@pytest.fixture
def write_card(store):
    def write(model_id, **changes):
        card = ModelCard.model_validate(
            {
                "id": model_id, "architecture": "profound_conv_micro", "objective": "contrastive",
                "checkpoint": {"key": f"models/{model_id}/w", "sha256": "c" * 64},
                "preprocessing": {"modalities": ("t2w",), "spacing_mm": None, "shape_dhw": (16, 64, 64)},
                "layers": [{"name": "stages.0", "channels": 4}], "primary_layer": "stages.0",
            } | changes
        )  # fmt: skip
        store.write(model_card_key(model_id), card)
        return card

    return write


def test_a_card_is_read_with_the_digest_of_its_weights(store, write_card):
    card = write_card("digest")
    assert load_card(store, "digest") == load_card(store, "digest", "") == load_card(store, "digest", "c" * 64) == card
    with pytest.raises(DigestMismatch, match="requested 000000000000…; request the digest") as caught:
        load_card(store, "digest", "0" * 64)
    assert (caught.value.subject, caught.value.reason) == ("digest", "DIGEST_MISMATCH")


def test_an_unknown_model_is_named_with_the_remedy(store):
    with pytest.raises(NotFound, match="absent: no model has this id; run `vfmalign models list`") as caught:
        load_card(store, "absent")
    assert caught.value.reason == "MODEL_NOT_FOUND"
    with pytest.raises(BadOption, match="is not a model id"):
        load_card(store, "../secrets")


def test_damaged_and_foreign_cards_are_refused(store, write_card):
    store.put(model_card_key("damaged"), b'{"id": "damaged"}')
    with pytest.raises(PreconditionFailed, match=r"damaged: .*is not a ModelCard.*; publish the model again"):
        load_card(store, "damaged")
    store.write(model_card_key("renamed"), write_card("whole"))
    with pytest.raises(PreconditionFailed, match="renamed: the model's card names another model"):
        load_card(store, "renamed")
