"""Rules for choosing a series of a study for each modality and label map.

The JSON files in this folder define the built-in declarations.

A declaration file may contain `selections`, with one entry for each modality and label map. Datasets and model cards
can store selections as text (`encode_selections`). A service can then read a study by the rules of the import.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from vfmalign.client.messages.base import to_bad_option
from vfmalign.core.domain.declarations import (
    MAX_LABEL_MAPS,
    MAX_MODALITIES,
    MAX_RULES_LENGTH,
    MAX_STRUCTURES,
    DatasetDeclaration,
    VolumeKind,
    get_declaration,
    list_declarations,
)
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import Record, canonical_json
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.imaging.dicom.examinations import Segment
from vfmalign.imaging.dicom.labels.codes import has_code
from vfmalign.imaging.dicom.rules.conditions import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_VALUES,
    Conditions,
    Expanded,
    NumberKeyword,
    find_difference,
)

MAX_PREFERENCES = 16
_EXAMPLE = '{"name": "%s", "conditions": {"Modality": "MR", "orientation": "transverse"}}'


Code = Annotated[str, StringConstraints(pattern=r"^[^:]{1,16}:.{1,64}$")]


def _to_tuple(content: object) -> object:
    return (content,) if isinstance(content, str) else content


class Preference(Record):
    """A preference among several volumes that meet the conditions of a selection. Exactly one field is set.

    Attributes:
        largest, smallest: a numeric attribute. The volume with the largest or smallest value of this attribute is
            preferred. Volumes without the attribute come last.
        conditions: volumes that meet these conditions are preferred.
    """

    largest: NumberKeyword | None = None
    smallest: NumberKeyword | None = None
    conditions: Conditions | None = None

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        _check_single(self)
        return self


class SegmentRule(Record):
    """Rule that assigns segments of a segmentation to one value of a label map. Exactly one field is set.

    Attributes:
        number: the number of the segment.
        label: condition on the segment's label.
        code: one or several concepts, such as `SCT:41216001`. One of these concepts must be the segment's category or
            type.
    """

    number: int | None = Field(default=None, ge=1, le=65_535)
    label: Expanded | None = None
    code: Annotated[tuple[Code, ...], BeforeValidator(_to_tuple)] | None = Field(
        default=None, min_length=1, max_length=MAX_VALUES
    )

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        _check_single(self)
        if self.label is not None and (self.label.is_numeric or self.label.absent is not None):
            raise PydanticCustomError("rule", "a label is text", {"remedy": "use a text, contains, regex or in"})
        return self

    def matches(self, segment: Segment) -> bool:
        """Returns whether a segment meets this rule."""
        if self.label is not None:
            return not find_difference(self.label, segment.label, str)
        return segment.number == self.number or any(has_code(segment, code) for code in self.code or ())


class Selection(Record):
    """Rule for choosing the volume or segmentation of a study for a modality or label map.

    Attributes:
        name: id of the modality or label map to choose for.
        conditions: conditions on the volume or segmentation.
        prefer: preferences among the volumes that meet the conditions, in order of precedence.
        segments: for a label map, the segments of each value. Several segments of one value are united.
    """

    name: VolumeKind
    conditions: Conditions
    prefer: tuple[Preference, ...] = Field(default=(), max_length=MAX_PREFERENCES)
    segments: dict[Annotated[int, Field(ge=1, le=255)], SegmentRule] | None = Field(
        default=None, min_length=1, max_length=MAX_STRUCTURES
    )

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        groups = [self.conditions, *(entry.conditions for entry in self.prefer if entry.conditions is not None)]
        sizes = [group.measure() for group in groups]
        if max(depth for depth, _ in sizes) > MAX_DEPTH or sum(count for _, count in sizes) > MAX_CONDITIONS:
            raise PydanticCustomError(
                "rule",
                "too many conditions",
                {"remedy": f"use at most {MAX_CONDITIONS} conditions, nested at most {MAX_DEPTH} levels deep"},
            )
        return self


class Selections(Record):
    """The member `selections` of a declaration's file."""

    selections: tuple[Selection, ...] = Field(default=(), max_length=MAX_MODALITIES + MAX_LABEL_MAPS)


def _check_single(record: Record) -> None:
    if len(record.model_dump(exclude_none=True)) != 1:
        names = ", ".join(type(record).model_fields)
        raise PydanticCustomError("rule", "it must set exactly one field", {"remedy": f"set one of {names}"})


def get_selections(declaration: DatasetDeclaration) -> tuple[Selection, ...]:
    """Returns the selections of a built-in declaration.

    Returns none for other declarations, even if their name is that of a built-in declaration.
    """
    name = declaration.name
    return _read_selections(name) if name in list_declarations() and declaration == get_declaration(name) else ()


@cache
def _read_selections(name: str) -> tuple[Selection, ...]:
    file = resources.files(__name__).joinpath(f"{name}.json")
    return Selections.model_validate_json(file.read_bytes()).selections if file.is_file() else ()


def encode_selections(selections: Sequence[Selection]) -> str:
    """Returns selections in the text form that datasets store: JSON that is identical for equal selections.

    Raises:
        BadOption: the text is longer than `MAX_RULES_LENGTH`.
    """
    dumped = [selection.model_dump(mode="json", by_alias=True, exclude_none=True) for selection in selections]
    return check_length(canonical_json(dumped).decode())


def check_length(text: str) -> str:
    """Checks the length of rules before they are stored. Returns the rules.

    Raises:
        BadOption: the text is longer than `MAX_RULES_LENGTH`.
    """
    if len(text) > MAX_RULES_LENGTH:
        raise BadOption(
            f"as JSON, the selections have {len(text):,} characters, but at most {MAX_RULES_LENGTH:,} are stored",
            field="declaration.selections",
            remedy="use fewer conditions, or shorter expressions",
        )
    return text


def parse_selections(text: str, declaration: DatasetDeclaration) -> tuple[Selection, ...]:
    """Parses selections and checks them against their declaration.

    Raises:
        BadOption: the text is not a list of selections, or they do not match the declaration. The error names the
            field.
    """
    try:
        content = parse_json(text, MAX_RULES_LENGTH, unique_names=True)
        selections = Selections.model_validate({"selections": content}).selections
    except ValidationError as error:
        raise to_bad_option(error) from None
    except ValueError as error:
        raise BadOption(
            f"the text is not JSON: {error}", field="selections", remedy="write the selections as in a declaration file"
        ) from None
    check_selections(declaration, selections)
    return selections


def check_selections(declaration: DatasetDeclaration, selections: Sequence[Selection]) -> None:
    """Checks that selections match their declaration.

    Raises:
        BadOption: a modality has no selection, or a selection names something undeclared or lacks its segments.
    """
    values = {label.name: set(label.values) for label in declaration.labels}
    names = [selection.name for selection in selections]
    for index, selection in enumerate(selections):
        field = f"declaration.selections[{index}]"
        if selection.name not in (*declaration.modalities, *values) or names.index(selection.name) != index:
            raise BadOption(
                "not the name of a declared modality or label map, or a repeated name",
                field=f"{field}.name",
                remedy=f"give one selection to each of {', '.join((*declaration.modalities, *values))}",
            )
        declared = values.get(selection.name)
        if (declared is None) != (selection.segments is None) or set(selection.segments or ()) - (declared or set()):
            raise BadOption(
                "`segments` are required by value for a label map, and not allowed for a modality",
                field=f"{field}.segments",
                remedy='name them by value, such as {"1": {"label": "prostate"}}, or remove `segments` from a modality',
            )
    if missing := [name for name in declaration.modalities if name not in names]:
        raise BadOption(
            f"{declaration.name} has no selection for {', '.join(missing)}",
            field="declaration.selections",
            remedy=f'add to its file, for example, "selections": [{_EXAMPLE % missing[0]}]; '
            "`vfmalign dicom show` lists the attributes that distinguish series",
        )
