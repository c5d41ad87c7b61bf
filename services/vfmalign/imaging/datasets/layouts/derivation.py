"""Declarations of imported datasets. A declaration is supplied by the user or derived from the data."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from vfmalign.client.messages.base import to_bad_option
from vfmalign.core.domain.declarations import (
    DatasetDeclaration,
    LabelMap,
    VolumeKind,
    get_declaration,
    list_declarations,
)
from vfmalign.core.domain.errors import BadDataset, BadOption, BadVolume
from vfmalign.core.domain.record import VOLUME_KIND, canonical_json
from vfmalign.core.formats.documents import pluralise
from vfmalign.core.formats.untrusted import parse_json, read_regular_file
from vfmalign.imaging.datasets.layouts.sources import CaseSource, VolumeSource, describe_unreadable
from vfmalign.imaging.dicom.rules import Selection, Selections, check_length, check_selections, get_selections

MAX_DECLARATION_BYTES = 2**20
MAX_DERIVED_VALUES = 64
"""Maximum number of values of an undeclared label map. A file with more values is taken for an image."""
RARE_SHARE = 0.1
"""A label value that occurs in at most this share of the files is reported as a possible mistake."""
DECLARE = "describe the data with --declaration"


class DeclarationFile(NamedTuple):
    """Content of a declaration file.

    Attributes:
        declaration: modalities, label maps and classes of the cases.
        selections: rules that choose DICOM series; empty if the file has none.
    """

    declaration: DatasetDeclaration
    selections: tuple[Selection, ...] = ()

    def to_text(self) -> str:
        """Returns the declaration in the text form that model cards store.

        Raises:
            BadOption: it is too long.
        """
        selections = Selections(selections=self.selections).model_dump(mode="json", by_alias=True, exclude_none=True)
        return check_length(canonical_json(self.declaration.model_dump(mode="json") | selections).decode())


def read_declaration(text: str) -> DeclarationFile:
    """Reads a declaration from a JSON file, or a built-in declaration by name.

    Raises:
        BadOption: no file or built-in declaration has this name, or the file is not a declaration. The error then names
            the invalid field.
    """
    if text in list_declarations():
        declaration = get_declaration(text)
        return DeclarationFile(declaration, get_selections(declaration))
    try:
        content = read_regular_file(Path(text), MAX_DECLARATION_BYTES)
    except (FileNotFoundError, ValueError):
        raise BadOption(
            "no file and no built-in declaration has this name",
            field="declaration",
            remedy=f"give a JSON file, or one of: {', '.join(list_declarations())}",
        ) from None
    except OSError as error:
        raise BadOption(
            f"the file {describe_unreadable(error)}",
            field="declaration",
            remedy="give a JSON file that this account may read",
        ) from None
    return parse_declaration(content)


def parse_declaration(content: bytes) -> DeclarationFile:
    """Parses a declaration in JSON. The JSON object may contain a member `selections`.

    Raises:
        BadOption: the text is not JSON, or a field is invalid. The error names the field.
    """
    try:
        document = parse_json(content, MAX_DECLARATION_BYTES, unique_names=True)
    except ValueError as error:
        raise BadOption(
            f"the file is not JSON: {error}",
            field="declaration",
            remedy="give a JSON file, such as the declaration that `--dry-run --json` prints",
        ) from None
    selections = document.pop("selections", []) if isinstance(document, dict) else []
    try:
        declaration = DatasetDeclaration.model_validate(document)
        rules = Selections.model_validate({"selections": selections}).selections
    except ValidationError as error:
        raise to_bad_option(error, "declaration") from None
    if rules:
        check_selections(declaration, rules)
    return DeclarationFile(declaration, rules or get_selections(declaration))


def to_volume_id(text: object, default: str) -> VolumeKind:
    """Converts a name such as `T1w (MPRAGE)` to an id such as `t1w_mprage`.

    Returns `default` if the id would not begin with a letter.
    """
    ascii_text = unicodedata.normalize("NFKD", str(text)).encode("ascii", "ignore").decode()
    candidate = re.sub(r"[^a-z0-9]+", "_", ascii_text.lower()).strip("_")[:32].rstrip("_")
    return candidate if VOLUME_KIND.matches(candidate) else default


def declare(
    name: VolumeKind,
    modalities: Sequence[VolumeKind],
    labels: Sequence[LabelMap] = (),
    classes: Sequence[str] = (),
    grades: Sequence[str] = (),
) -> DatasetDeclaration:
    """Builds a derived declaration.

    Raises:
        BadDataset: a name occurs twice, or there are too many names.
    """
    try:
        return DatasetDeclaration.model_validate(
            {
                "name": name,
                "modalities": tuple(modalities),
                "labels": [label.model_dump() for label in labels],
                "classes": [{"name": entry} for entry in classes],
                "grades": [{"name": entry} for entry in grades],
            }
        )
    except ValidationError as error:
        problem = to_bad_option(error, "declaration")
        raise BadDataset(f"cannot derive a declaration from the data: {problem.message}", remedy=DECLARE) from None


def declare_from_json(content: Mapping[str, Any]) -> DatasetDeclaration:
    """Derives the declaration from the `dataset.json` of the Decathlon or nnU-Net: its name, channels and labels.

    Raises:
        BadDataset: the channels or labels are missing or malformed.
    """
    channels = content.get("channel_names", content.get("modality"))
    if isinstance(channels, list):
        channels = dict(enumerate(channels))
    if not isinstance(channels, dict) or not channels:
        raise BadDataset(
            "it names no channels in `modality` or `channel_names`", subject="dataset.json", remedy=DECLARE
        )
    try:
        indices = {int(index): name for index, name in channels.items()}
    except (TypeError, ValueError):
        indices = {}
    if sorted(indices) != list(range(len(channels))):
        raise BadDataset("the channels are not numbered 0, 1, …", subject="dataset.json", remedy=DECLARE)
    modalities = [to_volume_id(name, f"channel_{index}") for index, name in sorted(indices.items())]
    values = _read_label_names(content.get("labels", {}))
    name = to_volume_id(content.get("name", ""), "dataset")
    label = "label" if name in modalities or name == "dataset" else name
    return declare(name, modalities, [LabelMap(name=label, values=values)] if values else ())


def _read_label_names(labels: object) -> dict[int, VolumeKind]:
    """Names of the values other than 0, from `{"1": "anterior"}` or from `{"anterior": 1}`."""
    if not isinstance(labels, dict | list):
        raise BadDataset("`labels` is not an object", subject="dataset.json", remedy=DECLARE)
    pairs = list(enumerate(labels)) if isinstance(labels, list) else list(labels.items())
    values: dict[int, VolumeKind] = {}
    for key, item in pairs:
        value, name = (key, item) if re.fullmatch(r"\d+", str(key), re.ASCII) else (item, key)
        if isinstance(value, bool) or not re.fullmatch(r"\d{1,3}", str(value), re.ASCII) or int(value) > 255:
            raise BadDataset(
                "a label is not a whole number from 0 to 255; regions of nnU-Net are not supported",
                subject="dataset.json",
                remedy=DECLARE,
            )
        if int(value):
            values[int(value)] = to_volume_id(name, f"value_{int(value)}")
    return values


class DerivedLabelMaps(NamedTuple):
    """Derived label maps, and notes on values that occur in only a few files."""

    maps: list[LabelMap]
    notes: tuple[str, ...] = ()


def derive_label_maps(cases: Iterable[CaseSource], names: Iterable[VolumeKind]) -> DerivedLabelMaps:
    """Derives the structures of label maps from the values in the files: value v becomes the structure `value_v`.

    Args:
        cases: the cases. Files of cases with problems are not read, because their paths may lead outside the folder.
        names: ids of the label maps. A label map that occurs in no usable case is omitted.

    Raises:
        BadDataset: a label map is 0 everywhere in all cases, or has too many different values.
    """
    usable = [case for case in cases if not case.problems]
    maps: list[LabelMap] = []
    notes: list[str] = []
    for name in names:
        if files := [case.files[name] for case in usable if name in case.files]:
            label, rare = _derive_label_map(name, files)
            maps.append(label)
            notes += rare
    return DerivedLabelMaps(maps, tuple(notes))


def _derive_label_map(name: VolumeKind, files: Sequence[VolumeSource]) -> tuple[LabelMap, list[str]]:
    values_by_file = [read_values(file) for file in files]
    readable = [values for values in values_by_file if values is not None]
    # If no file can be read, the value does not matter, because the validation lists the files.
    values = sorted(set().union(*readable)) if readable else [1]
    if not values:
        raise BadDataset(f"the label map {name} is empty in every case", remedy="remove it, or correct the files")
    if len(values) > MAX_DERIVED_VALUES:
        raise BadDataset(f"the label map {name} has {len(values)} different values, like an image", remedy=DECLARE)
    counts = Counter(chain.from_iterable(readable))
    rare = [
        f"{name}: value {value} occurs in {counts[value]} of {pluralise(len(readable), 'file')}: a mistake?"
        for value in values
        if counts[value] <= RARE_SHARE * len(readable)
    ]
    return LabelMap(name=name, values={v: f"value_{v}" for v in values}, may_be_empty=not all(readable)), rare


def read_values(file: VolumeSource) -> set[int] | None:
    """Returns a label map's nonzero values; None if validation will reject the file."""
    try:
        volume = file.read("label map", ("label",), ("label",))["label"]
    except BadVolume:
        return None
    return volume.list_values()
