"""Modality maps: assign a dataset's modalities to a model's inputs if their names differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from vfmalign.core.domain.declarations import HU, MAX_MODALITIES, DatasetDeclaration, Modality
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.models import Preprocessing

FIELD = "modality_map"


def _check_unique(modality_map: dict[Modality, Modality]) -> dict[Modality, Modality]:
    if len(set(modality_map.values())) != len(modality_map):
        raise PydanticCustomError(
            "input_mapped_twice", "two modalities are mapped to one input", {"remedy": "map one modality to each input"}
        )
    return modality_map


ModalityMap = Annotated[
    dict[Modality, Modality],
    Field(max_length=MAX_MODALITIES, exclude_if=lambda modality_map: not modality_map),
    AfterValidator(_check_unique),
]
"""Model inputs by the modality of the dataset that feeds them; an input that is not listed has the modality's name.

Records leave out an empty map, so that records of earlier versions keep their digests.
"""


def map_modalities(preprocessing: Preprocessing, modality_map: Mapping[Modality, Modality]) -> Preprocessing:
    """Returns a model's preprocessing, with the model's inputs renamed to the dataset's modalities.

    All code that reads cases uses the result, for example to load volumes and to derive the id of a feature set.
    Without a map, the preprocessing is unchanged. If a map is given and the modality that defines the grid is not an
    input of the model, the model's first input defines the grid.

    Args:
        preprocessing: from the model's card.
        modality_map: maps modalities of the dataset to names of the model's inputs.
    """
    if not modality_map:
        return preprocessing
    names = {model_input: modality for modality, model_input in modality_map.items()}
    modalities = tuple(names.get(model_input, model_input) for model_input in preprocessing.modalities)
    seen = preprocessing.reference in preprocessing.modalities
    reference = modalities[preprocessing.modalities.index(preprocessing.reference)] if seen else modalities[0]
    return preprocessing.model_copy(update={"modalities": modalities, "reference": reference})


def resolve_input(
    model: str,
    preprocessing: Preprocessing,
    modality_map: Mapping[Modality, Modality],
    declaration: DatasetDeclaration,
    field: str = FIELD,
) -> Preprocessing:
    """Applies a map to a model's preprocessing. Checks that the dataset has every input, in a suitable unit.

    Args:
        model: id of the model, for error messages.
        preprocessing: from its card.
        modality_map: maps modalities of the dataset to names of the model's inputs.
        declaration: of the dataset.
        field: path of the map within a request.

    Raises:
        BadOption: the map contains an unknown modality or input, an input has no modality, or the unit of a modality is
            not suitable.
    """
    _check_names(model, preprocessing, modality_map, declaration, field)
    mapped = map_modalities(preprocessing, modality_map)
    if len(set(mapped.modalities)) != len(mapped.modalities):
        double = next(name for name in mapped.modalities if mapped.modalities.count(name) > 1)
        raise BadOption(
            f"{double} feeds two inputs of {model}: itself and {modality_map[double]}",
            field=field,
            remedy=f"map another modality to {double}",
        )
    missing = [
        model_input
        for model_input, modality in zip(preprocessing.modalities, mapped.modalities, strict=True)
        if modality not in declaration.modalities
    ]
    if missing:
        raise BadOption(
            f"{model} takes {', '.join(missing)}, which the dataset ({declaration.name}) does not have",
            field=field,
            remedy=_suggest_map(missing, mapped, declaration),
        )
    if mapped.reference not in declaration.modalities:
        first = mapped.modalities[0]
        raise BadOption(
            f"{model} takes the grid from {mapped.reference}, which the dataset ({declaration.name}) does not have",
            field=field,
            remedy=f"map its first input, which then defines the grid: --map {first}={first}",
        )
    check_units(mapped, declaration.units, field)
    return mapped


def check_units(preprocessing: Preprocessing, units: Mapping[Modality, str], field: str) -> None:
    """Checks that a model's normalisation supports the units of its modalities. Only `window` supports HU.

    Other normalisations treat 0 as "no signal", as in MRI and in PET (SUVbw). In HU, 0 is water and −1000 is air.

    Args:
        preprocessing: the model's preprocessing, with inputs renamed to the dataset's modalities.
        units: maps modalities to units. An empty or absent unit is arbitrary.
        field: path in the request, for error messages.

    Raises:
        BadOption: the unit of a modality is not suitable.
    """
    takes_hu = preprocessing.normalisation == "window"
    for modality in preprocessing.modalities:
        is_hu = units.get(modality) == HU
        if takes_hu and not is_hu:
            raise BadOption(
                f"the model normalises by a window in HU, but {modality} is not stated to be in HU",
                field=field,
                remedy=f"if {modality} is in HU, state it in `units` of the dataset's declaration or as `unit` of the "
                "volume; otherwise choose a model with another normalisation",
            )
        if is_hu and not takes_hu:
            raise BadOption(
                f"{modality} is in HU, but the model's {preprocessing.normalisation} treats 0 as no signal",
                field=field,
                remedy="choose a model with the normalisation `window`",
            )


def check_mapped_modalities(
    modality_map: Mapping[Modality, Modality], declaration: DatasetDeclaration, field: str = FIELD
) -> None:
    """Checks that the dataset has every modality that a map names.

    Raises:
        BadOption: the dataset does not have a modality. The error names the modality.
    """
    for modality in modality_map:
        if modality not in declaration.modalities:
            raise BadOption(
                f"the dataset ({declaration.name}) has no modality {modality}",
                field=field,
                remedy=f"choose one of {', '.join(declaration.modalities)}",
            )


def _check_names(
    model: str,
    preprocessing: Preprocessing,
    modality_map: Mapping[Modality, Modality],
    declaration: DatasetDeclaration,
    field: str,
) -> None:
    check_mapped_modalities(modality_map, declaration, field)
    for model_input in modality_map.values():
        if model_input not in preprocessing.modalities:
            raise BadOption(
                f"{model} has no input {model_input}",
                field=field,
                remedy=f"choose one of {', '.join(preprocessing.modalities)}",
            )


def _suggest_map(missing: list[Modality], mapped: Preprocessing, declaration: DatasetDeclaration) -> str:
    unused = [modality for modality in declaration.modalities if modality not in mapped.modalities]
    if len(unused) < len(missing):
        return f"choose a model that takes {', '.join(declaration.modalities)}, or a dataset with more modalities"
    pairs = " ".join(f"--map {modality}={name}" for modality, name in zip(unused, missing, strict=False))
    return f"name the modality that feeds it, such as {pairs}"
