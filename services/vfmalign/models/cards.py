"""Models in object storage: publishing weights with their card, and loading them back verified.

Knows where a model lies and what its card must say; knows nothing of gRPC or of foreign checkpoint formats. The card is
written last and only if no other is there: that write is the commit, and a model id never changes its meaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from vfmalign.core.domain.artifacts import (
    LayerSpec,
    ModelCard,
    Objective,
    Preprocessing,
    Pretraining,
    VolumeRef,
    is_id,
    model_card_key,
    weights_key,
)
from vfmalign.core.domain.errors import BadOption, Conflict, DigestMismatch, InvalidInput, NotFound, PreconditionFailed
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.models.checkpoints import build_encoder, check_fits, load_state, parse_weights, to_safetensors
from vfmalign.models.encoder import Encoder
from vfmalign.models.formats import exported_program
from vfmalign.models.registry import get_architecture

_CARD_SUFFIX = "/model.json"


def publish(
    store: ObjectStore,
    model_id: str,
    state: Mapping[str, Tensor],
    *,
    architecture: str,
    objective: Objective,
    preprocessing: Preprocessing | None = None,
    primary_layer: str = "",
    pretraining: Sequence[Pretraining] = (),
    parent: str = "",
    source: str = "",
) -> ModelCard:
    """Stores an encoder's weights, then its card.

    Args:
        store: the deployment's object storage.
        model_id: the id to publish under.
        state: the encoder's weights alone, without any head; float32.
        architecture: a name in the registry.
        objective: what the weights were trained for.
        preprocessing: how the encoder wants its input; the architecture's default where None.
        primary_layer: the layer of a check's main number; the architecture's where empty.
        pretraining: the sets the weights have seen.
        parent: id of the model these weights were fine-tuned from.
        source: free text without patient data.

    Returns:
        The stored card; the first one where the same model is published again.

    Raises:
        BadCheckpoint: the weights do not fit the architecture.
        BadOption: the id, architecture or primary layer is wrong.
        Conflict: the id is taken by another model.
    """
    _check_id(model_id)
    built = get_architecture(architecture)
    check_fits(state, built, subject=model_id)
    _check_primary(primary_layer, built.layers, architecture)
    data = to_safetensors(state)
    sha256 = hashlib.sha256(data).hexdigest()
    card = ModelCard(
        id=model_id,
        architecture=architecture,
        objective=objective,
        checkpoint=VolumeRef(key=weights_key(model_id, sha256), sha256=sha256),
        preprocessing=preprocessing or built.preprocessing,
        layers=built.layers,
        primary_layer=primary_layer or built.primary_layer,
        pretraining=tuple(pretraining),
        parent=parent,
        source=source,
    )
    return _commit(store, card, data)


def publish_program(
    store: ObjectStore,
    model_id: str,
    state: Mapping[str, Tensor],
    *,
    preprocessing: Preprocessing,
    objective: Objective,
    primary_layer: str = "",
    source: str = "",
) -> ModelCard:
    """Stores an exported program (`programs.read_program`), then its card; see `publish` for the rest.

    Raises:
        BadOption: the id or primary layer is wrong, or the input is not the one that the program takes.
        Conflict: the id is taken by another model.
    """
    _check_id(model_id)
    encoder = exported_program.build_exported(dict(state))
    layers = exported_program.layers_of(encoder)
    wanted = (encoder.in_channels, *encoder.shape_DHW)
    if (len(preprocessing.modalities), *preprocessing.shape_DHW) != wanted:
        raise BadOption(
            f"the program takes an input of {list(wanted)}",
            field="input",
            remedy="give as many modalities, and no shape",
        )
    _check_primary(primary_layer, layers, "the program")
    data = to_safetensors(state)
    sha256 = hashlib.sha256(data).hexdigest()
    card = ModelCard(
        id=model_id,
        architecture=exported_program.ARCHITECTURE,
        objective=objective,
        checkpoint=VolumeRef(key=weights_key(model_id, sha256), sha256=sha256),
        preprocessing=preprocessing,
        layers=layers,
        primary_layer=primary_layer or layers[-1].name,
        source=source,
    )
    return _commit(store, card, data)


def load_card(store: ObjectStore, model_id: str) -> ModelCard:
    """Reads a model's card.

    Raises:
        BadOption: the id is malformed.
        NotFound: no such model.
        PreconditionFailed: the stored card is damaged.
    """
    _check_id(model_id)
    try:
        card = store.read(model_card_key(model_id), ModelCard)
    except NotFound as error:
        if error.subject != store.uri(model_card_key(model_id)):
            raise
        raise NotFound(
            "no model has this id", subject=model_id, remedy="list the models first", reason="MODEL_NOT_FOUND"
        ) from error
    if card.id != model_id:
        raise PreconditionFailed(
            "the model's card names another model", subject=model_id, remedy="publish the model again under a new id"
        )
    return card


def list_cards(store: ObjectStore) -> Iterator[str]:
    """Ids of all published models, in order."""
    for key in store.list("models/"):
        if key.endswith(_CARD_SUFFIX):
            yield key.removeprefix("models/").removesuffix(_CARD_SUFFIX)


def load_encoder(
    store: ObjectStore, model_id: str, sha256: str | None = None, device: torch.device | str = "cpu"
) -> tuple[Encoder, ModelCard]:
    """Loads a published encoder, verified against its card, in evaluation mode.

    Args:
        store: the deployment's object storage.
        model_id: a published model.
        sha256: the digest the caller expects of the weights; None accepts the card's.
        device: where the weights go.

    Raises:
        NotFound: no such model, or its weights are gone.
        DigestMismatch: the weights are not those the card or the caller names.
        PreconditionFailed: this version cannot build the card's architecture.
        BadCheckpoint: the stored weights do not fit the architecture.
    """
    card = load_card(store, model_id)
    expect_checkpoint(card, sha256)
    return encoder_of_card(store, card, device), card


def expect_checkpoint(card: ModelCard, sha256: str | None) -> None:
    """Raises DigestMismatch unless `sha256` is None, empty or the digest of the card's weights."""
    if sha256 and sha256 != card.checkpoint.sha256:
        raise DigestMismatch(
            f"the model's weights have digest {card.checkpoint.sha256}, not the expected {sha256[:64]}",
            subject=card.id,
            remedy="ask for the digest on the model's card, or leave it empty to accept the stored weights",
        )


def encoder_of_card(store: ObjectStore, card: ModelCard, device: torch.device | str = "cpu") -> Encoder:
    """Loads the weights a card names; see `load_encoder` for the errors."""
    data = store.get(card.checkpoint.key, sha256=card.checkpoint.sha256)
    if card.architecture == exported_program.ARCHITECTURE:
        return exported_program.build_exported(parse_weights(data, card.id), device)
    try:
        architecture = get_architecture(card.architecture)
    except InvalidInput as error:
        raise PreconditionFailed(
            f"this version cannot build the model's architecture {card.architecture[:96]!r}",
            subject=card.id,
            remedy="use the version that published the model",
        ) from error
    return build_encoder(architecture, load_state(data, architecture, subject=card.id), device)


def _commit(store: ObjectStore, card: ModelCard, data: bytes) -> ModelCard:
    """Stores weights and then the card; the first card where the same model is stored again."""
    store.put(card.checkpoint.key, data)
    if store.put_if_absent(model_card_key(card.id), card.to_json()):
        return card
    first = load_card(store, card.id)
    if first != card:
        raise Conflict(
            "another model is published under this id",
            subject=card.id,
            remedy="publish under a new id; ids never change",
        )
    return first


def _check_primary(primary_layer: str, layers: Sequence[LayerSpec], owner: str) -> None:
    if primary_layer and primary_layer not in {layer.name for layer in layers}:
        raise BadOption(
            f"{owner[:96]} has no layer {primary_layer!r}",
            field="primary_layer",
            remedy="choose one of " + ", ".join(layer.name for layer in layers),
        )


def _check_id(model_id: str) -> None:
    if not is_id(model_id):
        raise BadOption(
            f"{model_id[:64]!r} is no model id",
            field="model_id",
            remedy="use lower-case letters, digits, `_`, `.` and `-`, at most 128 characters",
        )
