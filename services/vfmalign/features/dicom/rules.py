"""Loads the rules for reading the DICOM study of a request, from a dataset or from the model's card."""

from __future__ import annotations

from collections.abc import Sequence

from vfmalign.core.domain.declarations import DatasetDeclaration, VolumeKind
from vfmalign.core.domain.errors import BadOption, InvalidInput, PreconditionFailed
from vfmalign.core.domain.modality_map import check_units
from vfmalign.core.domain.models import ModelCard, Preprocessing
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.datasets.layouts.derivation import DeclarationFile, parse_declaration
from vfmalign.imaging.dicom.rules import parse_selections
from vfmalign.imaging.preprocessing import needed_kinds

_FIELD = "study.dicom.rules_dataset_id"
_BOTH_WAYS = (
    "name a dataset that was imported from DICOM as `rules_dataset_id`, or import the model with "
    "`vfmalign models import --declaration`"
)


def load_rules(store: ObjectStore, dataset_id: str, card: ModelCard) -> DeclarationFile:
    """Returns the rules of a dataset, or of the model's card if no dataset is named.

    Args:
        store: object store of the tenant.
        dataset_id: id of the dataset; empty for the rules of the card.
        card: card of the model that needs the volumes.

    Raises:
        NotFound: the dataset does not exist.
        BadOption: the card has no rules, or the unit of a modality does not fit the model's normalisation.
        PreconditionFailed: the dataset has no rules, its rules are damaged, or they do not cover an input of the model.
    """
    if not dataset_id and not card.declaration:
        raise BadOption(
            f"neither the request nor the card of {card.id} defines which series each modality uses",
            field=_FIELD,
            remedy=_BOTH_WAYS,
            reason="NO_DICOM_RULES",
        )
    subject = f"dataset {dataset_id}" if dataset_id else card.id
    try:
        rules = _read_dataset(store, dataset_id) if dataset_id else parse_declaration(card.declaration.encode())
    except InvalidInput as error:  # the rules were checked when they were stored
        raise PreconditionFailed(
            f"the stored rules cannot be used: {error.field}: {error.message}",
            subject=subject,
            remedy="import the dataset or model again under a new id",
        ) from None
    if missing := _find_missing(rules.declaration, needed_kinds(card.preprocessing)):
        raise PreconditionFailed(
            f"its rules do not cover {', '.join(missing)}, which {card.id} needs",
            subject=subject,
            remedy=_BOTH_WAYS,
            reason="NO_DICOM_RULES",
        )
    check_units(card.preprocessing, rules.declaration.units, _FIELD)  # before anything is downloaded
    return rules


def check_card_rules(text: str, preprocessing: Preprocessing) -> None:
    """Checks rules that will be stored in a model's card.

    Raises:
        BadOption: the rules are invalid, or do not produce an input of the model in the right unit.
    """
    rules = parse_declaration(text.encode())
    if not rules.selections:
        raise BadOption(
            "the file has no selections to choose the series of each modality",
            field="declaration.selections",
            remedy="add selections to the file (docs/datasets.md)",
        )
    if missing := _find_missing(rules.declaration, needed_kinds(preprocessing)):
        raise BadOption(
            f"the file does not declare {', '.join(missing)}, which the model needs",
            field="declaration",
            remedy="declare every input under the name that the model uses",
        )
    check_units(preprocessing, rules.declaration.units, "declaration.units")


def _read_dataset(store: ObjectStore, dataset_id: str) -> DeclarationFile:
    dataset = load_dataset(store, dataset_id)
    if not dataset.selections:
        raise PreconditionFailed(
            "the dataset has no DICOM rules, because it was not imported from DICOM by this version",
            subject=f"dataset {dataset_id}",
            remedy=_BOTH_WAYS,
            reason="NO_DICOM_RULES",
        )
    return DeclarationFile(dataset.declaration, parse_selections(dataset.selections, dataset.declaration))


def _find_missing(declaration: DatasetDeclaration, kinds: Sequence[VolumeKind]) -> list[VolumeKind]:
    return [kind for kind in kinds if kind not in (*declaration.modalities, *declaration.label_names)]
