"""Rules of a requested check."""

from __future__ import annotations

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.recipes import get_recipe
from vfmalign.core.domain.errors import BadOption, Unavailable
from vfmalign.core.domain.modality_map import resolve_input
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.recipes import check_patch
from vfmalign.core.domain.tasks import check_task, get_task_spec
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.jobs.request import (
    FINETUNING_SPLITS,
    NETWORKS,
    check_splits,
    load_card,
)


def check_spec(spec: CheckSpec) -> None:
    """Rejects what can never succeed, before anything is stored.

    Raises:
        BadOption: an unknown task or preset, a layer named twice, a seed out of range, or probes of a baseline or
            without validation.
    """
    check_task(spec.task.name, spec.task.parameters)
    for name, own in (("scratch", spec.scratch_recipe), ("specialised", spec.specialised_recipe)):
        if own is not None and own.probe_steps:
            raise BadOption(
                "only the pretrained network is probed",
                field=f"{name}_recipe.probe_steps",
                remedy="set them in `recipe`",
            )
    for network in NETWORKS:
        get_recipe(spec, network)
    if spec.seed + spec.seeds - 1 >= 2**63:
        raise BadOption(
            f"{spec.seeds} seeds from {spec.seed} exceed 2^63 − 1", field="seed", remedy="choose a smaller first seed"
        )
    if len(set(spec.layers)) != len(spec.layers):
        raise BadOption("a layer is named twice", field="layers", remedy="name each layer once")


def check_inputs(store: ObjectStore, spec: CheckSpec) -> None:
    """Checks the task against the dataset and the model, before anything is stored.

    While the store is unavailable, this is left to the stage `validate`, which waits for it.

    Raises:
        NotFound: the model or the dataset does not exist.
        DigestMismatch: one of them has another digest than requested.
        BadOption: the dataset does not declare what the task is about, the model's input lacks a channel, or the model
            lacks a layer.
        BadDataset: a split without a case, or a case without what the task needs.
    """
    try:
        dataset = load_dataset(store, spec.dataset_id, spec.dataset_digest or None)
        card = load_card(store, spec.model_id, spec.model_sha256)
    except Unavailable:
        return
    check_splits(dataset, FINETUNING_SPLITS)
    choose_layers(card, spec.layers)
    task = get_task_spec(str(spec.task), dataset.declaration)
    task.check_cases(dataset)
    model_input = resolve_input(
        card.id, card.preprocessing, spec.modality_map, dataset.declaration, "spec.modality_map"
    )
    task.check_input(card.id, model_input.modalities)
    for network in NETWORKS:
        check_patch(get_recipe(spec, network, card.preprocessing.shape_DHW), card.preprocessing.shape_DHW)


def choose_layers(card: ModelCard, requested: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the layers to compare, the primary one first; all of the model where none is requested.

    Raises:
        BadOption: the model does not have a layer.
    """
    known = [layer.name for layer in card.layers]
    for layer in requested:
        if layer not in known:
            raise BadOption(f"no layer {layer[:64]!r}", field="layers", remedy=f"choose among {', '.join(known)}")
    chosen = requested or tuple(known)
    # The card declares the primary layer before any result is known, so it is always compared.
    return (card.primary_layer, *(layer for layer in chosen if layer != card.primary_layer))
