"""Publishes models to object storage as weights with a card, and loads and verifies them.

The card is written last. It is written only if the id has no card yet. This write publishes the model. A model id
therefore always refers to the same weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vfmalign.core.domain.errors import (
    BadCheckpoint,
    BadOption,
    Conflict,
    DigestMismatch,
    InvalidInput,
    NotFound,
    PreconditionFailed,
)
from vfmalign.core.domain.models import Layer, ModelCard, Objective, Preprocessing, PretrainingDataset, TensorCounts
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.core.storage.keys import model_card_key, model_prefix, weights_key
from vfmalign.core.storage.lost_objects import describe_publishing, lost_as
from vfmalign.core.storage.model_cards import check_model_id, load_card
from vfmalign.core.storage.provenance import Provenance, record_provenance
from vfmalign.core.storage.safetensors_header import MalformedHeader, read_header
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.models.encoder import Encoder, StateDict
from vfmalign.models.formats import exported_program
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import (
    MAX_WEIGHTS_BYTES,
    build_encoder,
    check_state,
    load_state,
    parse_weights,
    to_safetensors,
)


def publish(
    store: ObjectStore,
    model_id: str,
    state: Mapping[str, Tensor],
    *,
    architecture: str,
    objective: Objective,
    preprocessing: Preprocessing | None = None,
    primary_layer: str = "",
    pretraining: Sequence[PretrainingDataset] = (),
    parent: str = "",
    source: str = "",
    licence: str = "",
    declaration: str = "",
    tensors: TensorCounts | None = None,
    replace_damaged: bool = False,
    provenance: Provenance | None = None,
    context: WorkContext = UNLIMITED,
) -> ModelCard:
    """Stores the weights of an encoder and then its card.

    Args:
        store: the deployment's object storage.
        model_id: the id under which the model is published.
        state: the encoder's float32 weights, without heads.
        architecture: name of the architecture in the registry.
        objective: objective of the training.
        preprocessing: the encoder's input; if None, the architecture's default.
        primary_layer: the layer of a check's main result; if empty, the architecture's primary layer.
        pretraining: the datasets on which the weights were trained.
        parent: id of the model from which these weights were fine-tuned.
        source: free text without patient data.
        licence: SPDX id of the licence of the weights; empty if unknown.
        declaration: DICOM rules of the model (see `ModelCard`).
        tensors: tensors of the imported file (see `ModelCard`).
        replace_damaged: whether to publish the model again if the card or weights of the stored model are lost or
            damaged. The stored model must have the same source.
        provenance: who publishes the model. None records nothing.
        context: checked after every long step, until the first object is stored.

    Returns:
        The stored card. If the same model is published again, the first card is returned.

    Raises:
        BadCheckpoint: the weights do not fit the architecture.
        BadOption: the id, the architecture or the primary layer is invalid.
        Conflict: the id belongs to another model.
    """
    check_model_id(model_id)
    definition = get_architecture(architecture)
    context.checkpoint()
    check_state(state, definition, subject=model_id)
    context.checkpoint()
    _check_primary_layer(primary_layer, definition.layers, architecture)
    data = to_safetensors(state)
    card = ModelCard(
        id=model_id,
        architecture=definition.name,
        objective=objective,
        checkpoint=_to_ref(model_id, data),
        preprocessing=preprocessing or definition.preprocessing,
        layers=definition.layers,
        primary_layer=primary_layer or definition.primary_layer,
        pretraining=tuple(pretraining),
        parent_model_id=parent,
        source=source,
        licence=licence,
        declaration=declaration,
        tensors=tensors,
    )
    return _commit(store, card, data, context, provenance, replace_damaged=replace_damaged)


def publish_program(
    store: ObjectStore,
    model_id: str,
    state: Mapping[str, Tensor],
    *,
    preprocessing: Preprocessing,
    objective: Objective,
    primary_layer: str = "",
    source: str = "",
    licence: str = "",
    declaration: str = "",
    provenance: Provenance | None = None,
    context: WorkContext = UNLIMITED,
) -> ModelCard:
    """Stores an exported program (`program_archive.read_program`) and then its card, with arguments as in `publish`.

    Raises:
        BadOption: the id or the primary layer is invalid, or the program expects a different input.
        Conflict: the id belongs to another model.
    """
    check_model_id(model_id)
    encoder = exported_program.build_exported(dict(state), model_id)
    context.checkpoint()
    layers = exported_program.get_layer_specs(encoder)
    if not _takes_input(encoder, preprocessing):
        raise BadOption(
            f"the program takes an input of {[encoder.in_channels, *encoder.shape_DHW]}",
            field="preprocessing",
            remedy="set one modality per channel, and leave out the shape",
        )
    _check_primary_layer(primary_layer, layers, "the program")
    data = to_safetensors(state)
    card = ModelCard(
        id=model_id,
        architecture=exported_program.ARCHITECTURE,
        objective=objective,
        checkpoint=_to_ref(model_id, data),
        preprocessing=preprocessing,
        layers=layers,
        primary_layer=primary_layer or layers[-1].name,
        source=source,
        licence=licence,
        declaration=declaration,
    )
    return _commit(store, card, data, context, provenance)


def load_encoder(store: ObjectStore, model_id: str) -> tuple[Encoder, ModelCard]:
    """Loads a published encoder in evaluation mode and verifies it against its card.

    Args:
        store: the deployment's object storage.
        model_id: id of a published model.

    Raises:
        NotFound: no model has this id.
        DataLoss: the weights are missing, or differ from the weights that the card describes.
        PreconditionFailed: this version cannot build the architecture that the card names.
        BadCheckpoint: the stored weights do not fit the architecture.
    """
    card = load_card(store, model_id)
    return load_card_encoder(store, card), card


def load_card_encoder(
    store: ObjectStore, card: ModelCard, device: torch.device | str = "cpu", max_bytes: int = MAX_WEIGHTS_BYTES
) -> Encoder:
    """Loads the encoder of a card from a file of at most `max_bytes`. See `load_encoder` for the errors."""
    data = _read_weights(store, card, max_bytes)
    if card.architecture == exported_program.ARCHITECTURE:
        return _build_program(card, parse_weights(data, card.id), device)
    try:
        architecture = get_architecture(card.architecture)
    except InvalidInput as error:
        raise PreconditionFailed(
            f"this version cannot build the model's architecture {card.architecture[:96]!r}",
            subject=card.id,
            remedy="use the version that published the model",
        ) from error
    return build_encoder(architecture, load_state(data, architecture, subject=card.id), device)


def _read_weights(store: ObjectStore, card: ModelCard, max_bytes: int) -> bytes:
    """Reads weights. The size of the file must agree with its header."""
    ref = card.checkpoint
    with lost_as("model", card.id, describe_publishing(card)):
        try:
            header = read_header(store, ref.key)
        except MalformedHeader as error:
            raise PreconditionFailed(f"the weights are not safetensors: {error}", subject=store.uri(ref.key)) from None
        return store.get(ref.key, sha256=ref.sha256, max_bytes=min(max_bytes, header.total_bytes))


def _build_program(card: ModelCard, state: StateDict, device: torch.device | str) -> exported_program.ExportedEncoder:
    """Checks a stored program, including that it is the one that its card describes, and builds its encoder."""
    encoder = exported_program.build_exported(state, card.id, device)
    if not _takes_input(encoder, card.preprocessing) or card.layers != exported_program.get_layer_specs(encoder):
        raise BadCheckpoint(
            "the input or the layers of the program differ from its card",
            subject=card.id,
            remedy="import the program again under a new id",
        )
    return encoder


def _takes_input(encoder: exported_program.ExportedEncoder, preprocessing: Preprocessing) -> bool:
    expected = (encoder.in_channels, *encoder.shape_DHW)
    return (len(preprocessing.modalities), *preprocessing.network_shape_dhw) == expected


def _to_ref(model_id: str, data: bytes) -> StoredObject:
    sha256 = hashlib.sha256(data).hexdigest()
    return StoredObject(key=weights_key(model_id, sha256), sha256=sha256)


def _commit(
    store: ObjectStore,
    card: ModelCard,
    data: bytes,
    context: WorkContext,
    provenance: Provenance | None,
    *,
    replace_damaged: bool = False,
) -> ModelCard:
    """Stores the weights and then the card. Returns the first card if the same model was stored before."""
    context.checkpoint()
    # The weights' key contains their digest: writing them before a lost race overwrites nothing of the other model.
    store.put(card.checkpoint.key, data)
    if provenance is not None and not store.exists(model_card_key(card.id)):
        record_provenance(store, model_prefix(card.id), card.checkpoint.sha256, provenance)
    if store.put_if_absent(model_card_key(card.id), card.to_json()):
        return card
    if replace_damaged and _is_damaged(store, card):
        store.put(model_card_key(card.id), card.to_json())
    first = load_card(store, card.id)
    if first != card:
        raise Conflict(
            "another model is published under this id",
            subject=card.id,
            remedy="choose a new id; a published model cannot be replaced",
        )
    return first


def _is_damaged(store: ObjectStore, card: ModelCard) -> bool:
    """Returns whether a stored model of the same source is unusable. Repeated trainings differ only in weights."""
    try:
        first = load_card(store, card.id)
    except PreconditionFailed:
        return True
    if first.source != card.source:
        return False
    if first.model_copy(update={"checkpoint": card.checkpoint}) != card:
        return True
    try:
        store.get(first.checkpoint.key, sha256=first.checkpoint.sha256)
    except (NotFound, DigestMismatch):
        return True
    return False


def _check_primary_layer(primary_layer: str, layers: Sequence[Layer], owner: str) -> None:
    if primary_layer and primary_layer not in {layer.name for layer in layers}:
        raise BadOption(
            f"{owner[:96]} has no layer {primary_layer!r}",
            field="primary_layer",
            remedy="choose one of " + ", ".join(layer.name for layer in layers),
        )
