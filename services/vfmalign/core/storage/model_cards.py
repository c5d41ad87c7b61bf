"""Reads model cards in object storage.

Does not need torch. `models.cards` publishes models and loads weights.
"""

from __future__ import annotations

from collections.abc import Iterator

from vfmalign.core.domain.errors import BadOption, DigestMismatch, NotFound, PreconditionFailed
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.record import is_id
from vfmalign.core.storage.keys import model_card_key
from vfmalign.core.storage.store.object_store import ObjectStore

_CARD_SUFFIX = "/model.json"


def load_card(store: ObjectStore, model_id: str, sha256: str | None = None) -> ModelCard:
    """Reads a model's card.

    Args:
        store: the object store.
        model_id: its id.
        sha256: expected digest of the weights. None or an empty text accepts any digest.

    Raises:
        BadOption: the id is malformed.
        NotFound: no model has this id.
        PreconditionFailed: the stored card is damaged.
        DigestMismatch: the digest of the weights on the card differs from `sha256`.
    """
    check_model_id(model_id)
    try:
        card = store.read(model_card_key(model_id), ModelCard)
    except NotFound as error:
        if error.subject != store.uri(model_card_key(model_id)):
            raise  # the bucket itself is missing
        raise NotFound(
            "no model has this id",
            subject=model_id,
            remedy="run `vfmalign models list` to see the available ids",
            reason="MODEL_NOT_FOUND",
        ) from error
    except PreconditionFailed as error:
        raise PreconditionFailed(
            error.message,
            subject=model_id,
            remedy="publish the model again under a new id, or restore its card from a backup",
        ) from error
    if card.id != model_id:
        raise PreconditionFailed(
            "the model's card names another model", subject=model_id, remedy="publish the model again under a new id"
        )
    if sha256 and sha256 != card.checkpoint.sha256:
        raise DigestMismatch(
            f"the stored weights have SHA-256 {card.checkpoint.sha256[:12]}…, requested {sha256[:12]}…",
            subject=model_id,
            remedy="request the digest on the model's card, leave it empty, or import the weights again",
        )
    return card


def list_model_ids(store: ObjectStore) -> Iterator[str]:
    """Iterates over the ids of all published models, in alphabetical order."""
    for key in store.list("models/"):
        if key.endswith(_CARD_SUFFIX):
            yield key.removeprefix("models/").removesuffix(_CARD_SUFFIX)


def check_model_id(model_id: str) -> None:
    """Checks the form of an id.

    Raises:
        BadOption: the text is not an id.
    """
    if not is_id(model_id):
        raise BadOption(
            f"{model_id[:64]!r} is not a model id",
            field="model_id",
            remedy="use lower-case letters, digits, `_`, `.` and `-`, at most 128 characters",
        )
