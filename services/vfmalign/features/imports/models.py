"""Publishes an uploaded model after the checks in `models.cards`, which every model must pass."""

from __future__ import annotations

import hashlib
from typing import Any

from vfmalign.client.messages.imports import PublishModelRequest
from vfmalign.core.domain.errors import BadCheckpoint, BadOption, NotFound
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.core.storage.deletion import check_not_deleted
from vfmalign.core.storage.keys import weights_key
from vfmalign.core.storage.provenance import Provenance
from vfmalign.core.storage.safetensors_header import MalformedHeader, parse_header
from vfmalign.core.storage.uploads import UploadArea
from vfmalign.features.dicom.rules import check_card_rules
from vfmalign.models.cards import publish, publish_program
from vfmalign.models.encoder import StateDict
from vfmalign.models.formats import exported_program
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import parse_weights, to_safetensors


def publish_model(
    uploads: UploadArea, request: PublishModelRequest, max_bytes: int, context: WorkContext, *, created_by: str = ""
) -> ModelCard:
    """Checks uploaded weights, stores them and their card, and deletes the upload.

    Args:
        uploads: uploads with the weights.
        request: description of the model.
        max_bytes: maximum size of the file.
        context: checked after every slow step, before anything is stored.
        created_by: `Identity.key` of the caller.

    Returns:
        The stored card. If an earlier call published the model and deleted its upload, the published weights are read
        instead.

    Raises:
        BadCheckpoint: the weights are not safetensors in the form that an import writes, do not fit the architecture,
            or contain a program that is not allowed.
        BadOption: the id, architecture, input, primary layer or declaration is invalid.
        Conflict: the id belongs to another model.
        PreconditionFailed: the weights were not uploaded, or their content differs from the digest.
        Unavailable: a model with this id is being deleted.
    """
    check_not_deleted(uploads.store, "models", request.model_id)
    state = _read_weights(uploads, request, max_bytes, context)
    options: dict[str, Any] = {
        "objective": request.objective,
        "primary_layer": request.primary_layer,
        "source": request.source,
        "licence": request.licence,
        "declaration": request.declaration,
        "preprocessing": request.preprocessing,
        "provenance": Provenance.of(created_by),
        "context": context,
    }
    is_program = request.architecture == exported_program.ARCHITECTURE
    if request.declaration and (request.preprocessing is not None or not is_program):
        preprocessing = request.preprocessing or get_architecture(request.architecture).preprocessing
        check_card_rules(request.declaration, preprocessing)
    if not is_program:
        card = publish(
            uploads.store,
            request.model_id,
            state,
            architecture=request.architecture,
            tensors=request.tensors,
            **options,
        )
    elif options["preprocessing"] is None:
        raise BadOption(
            "a program does not describe its own input", field="preprocessing", remedy="name its modalities and spacing"
        )
    else:
        card = publish_program(uploads.store, request.model_id, state, **options)
    uploads.clear(request.weights_sha256)
    return card


def _read_weights(uploads: UploadArea, request: PublishModelRequest, max_bytes: int, context: WorkContext) -> StateDict:
    sha256 = request.weights_sha256
    data = uploads.find(sha256, max_bytes)
    if data is None:
        try:
            data = uploads.store.get(weights_key(request.model_id, sha256), sha256=sha256, max_bytes=max_bytes)
        except NotFound:
            raise uploads.missing(sha256) from None
    context.checkpoint()
    try:
        parse_header(data, len(data))
    except MalformedHeader as error:
        raise BadCheckpoint(
            f"the file is not safetensors: {error}", subject=request.model_id, remedy="convert the checkpoint first"
        ) from None
    state = parse_weights(data, request.model_id)
    del data  # the setting of the maximum size states the memory that this function needs
    context.checkpoint()
    if hashlib.sha256(to_safetensors(state)).hexdigest() != sha256:
        raise BadCheckpoint(
            "the file has metadata or extra data, or its tensors are not in the order in which imports write them",
            subject=request.model_id,
            remedy="write it with `safetensors.torch.save` from a dict in order of names, without metadata",
        )
    context.checkpoint()
    return state
