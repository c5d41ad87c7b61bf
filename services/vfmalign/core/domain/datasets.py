"""Records of datasets: volumes, cases and splits."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from vfmalign.core.domain.declarations import (
    MAX_CLASSES,
    MAX_GRADE,
    MAX_LABEL_MAPS,
    MAX_MODALITIES,
    MAX_NUMBERS,
    MAX_RULES_LENGTH,
    DatasetDeclaration,
    Modality,
    VolumeKind,
    get_declaration,
)
from vfmalign.core.domain.errors import Conflict
from vfmalign.core.domain.record import Id, Record, canonical_json
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.formats.documents import pluralise

Split = Literal["pretrain", "train", "val", "test"]
SPLITS: tuple[Split, ...] = ("pretrain", "train", "val", "test")
MAX_CASES = 100_000
"""Maximum number of cases in a split, and in one import."""
_B_VALUE_STEP = 50
"""b-values in s/mm² that round to the same multiple of this count as one protocol."""
_MAX_LISTED = 8
MAX_STRATA = 16
MAX_STRATUM_VALUES = 64
"""Maximum number of different values of one stratum. A column with more values, such as accession numbers, could
identify patients, which a stratum must not.
"""


def _check_printable(text: str) -> str:
    # Values appear in tables and CSV files: a first letter or digit keeps spreadsheets from reading a formula.
    if not text.isprintable() or not text[:1].isalnum() or text != text.strip():
        raise ValueError("begin with a letter or digit, and use printable characters without surrounding spaces")
    return text


StratumValue = Annotated[
    str, StringConstraints(min_length=1, max_length=64, strict=True), AfterValidator(_check_printable)
]
"""Value of an acquisition stratum: free text of the user."""
Grade = Annotated[int, Field(ge=0, le=MAX_GRADE)]
"""Ordered grade of a case."""
Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]
"""Number of a case. The bound leaves whole numbers exact and squares finite."""


class TakenSeries(Record):
    """DICOM series from which a modality of a case was imported.

    Attributes:
        modality: id of the modality.
        number: SeriesNumber; None if the series has no number, or if the number could identify a patient.
        b_value: b-value in s/mm²; None if the images state no b-value.
        calculated: whether the headers mark the images as calculated from other diffusion-weighted images.
        echo_time_ms: EchoTime in ms; None if the images state no echo time.
        orientation: `transverse`, `coronal`, `sagittal` or `oblique`.
        spacing_mm: distances between columns, between rows and between slices, in mm.
    """

    modality: VolumeKind
    number: int | None = Field(default=None, ge=0, le=99_999)
    b_value: float | None = Field(default=None, ge=0, le=1e6)
    calculated: bool = False
    echo_time_ms: float | None = Field(default=None, ge=0, le=1e6)
    orientation: str = Field(max_length=16)
    spacing_mm: tuple[Number, Number, Number]


class Case(Record):
    """One examination of one patient.

    Attributes:
        id: id that the import generates. Ids are never file or folder names, which could identify the patient.
        group: generated id of the patient, which is the sampling unit.
        volumes: maps the id of each modality or label map to the stored volume.
        classes: maps each class to True if the case belongs to the class. Classes that derive from a label map or are
            unknown for the case are omitted.
        grades: maps each declared grade to the case's grade; unknown grades are omitted.
        numbers: maps ids to numbers that describe the case, such as an age in years.
        strata: maps each stratum, such as `scanner`, `field_strength` or `site`, to the case's value.
        series: DICOM series of the modalities; empty if the case was not imported from DICOM.
    """

    id: Id
    group: Id
    volumes: dict[VolumeKind, StoredObject] = Field(max_length=MAX_MODALITIES + MAX_LABEL_MAPS)
    classes: dict[VolumeKind, bool] = Field(default_factory=dict, max_length=MAX_CLASSES)
    grades: dict[VolumeKind, Grade] = Field(default_factory=dict, max_length=MAX_CLASSES)
    numbers: dict[VolumeKind, Number] = Field(default_factory=dict, max_length=MAX_NUMBERS)
    strata: dict[VolumeKind, StratumValue] = Field(default_factory=dict, max_length=MAX_STRATA)
    series: tuple[TakenSeries, ...] = Field(default=(), max_length=MAX_MODALITIES, exclude_if=lambda taken: not taken)


class Curation(Record):
    """Decisions about individual studies by the user of an import.

    Attributes:
        excluded: cases that the user left out by stating their numbers (`--exclude`).
        unusable: cases that were left out because they have problems (`--skip-unusable`).
        chosen: numbers of the series that the user chose (`--choose`), by case and then by modality or label map.
    """

    excluded: tuple[Id, ...] = Field(default=(), max_length=MAX_CASES)
    unusable: tuple[Id, ...] = Field(default=(), max_length=MAX_CASES)
    chosen: dict[Id, dict[VolumeKind, Annotated[str, Field(max_length=32)]]] = Field(
        default_factory=dict, max_length=MAX_CASES
    )


class DatasetManifest(Record):
    """Cases by split.

    Attributes:
        declaration: modalities, label maps, classes, grades and numbers of the cases; prostate mpMRI by default.
        held_out: False if splits intentionally share cases, such as in a run with a single case.
        phantom: True if the cases are synthetic. Results on synthetic cases are a rehearsal, not evidence.
        selections: rules that chose the DICOM series of the volumes: the JSON text of `selections` in a declaration
            file. `imaging.dicom.rules` reads and writes it. The text is empty if the volumes came from other files.
        curation: studies that the import omitted, and series that its user chose.
    """

    id: Id
    held_out: bool = True
    # Set by the phantom generator, never by an import: reports and gates rely on it to tell rehearsals from evidence.
    phantom: bool = False
    declaration: DatasetDeclaration = Field(default_factory=lambda: get_declaration("prostate_mpmri"))
    selections: str = Field(default="", max_length=MAX_RULES_LENGTH, exclude_if=lambda text: not text)
    curation: Curation = Field(default_factory=Curation, exclude_if=lambda curation: curation == Curation())
    pretrain: tuple[Case, ...] = Field(default=(), max_length=MAX_CASES)
    train: tuple[Case, ...] = Field(default=(), max_length=MAX_CASES)
    val: tuple[Case, ...] = Field(default=(), max_length=MAX_CASES)
    test: tuple[Case, ...] = Field(default=(), max_length=MAX_CASES)

    @model_validator(mode="after")
    def _check_cases(self) -> Self:
        volumes = {*self.declaration.modalities, *self.declaration.label_names}
        classes = {entry.name for entry in self.declaration.classes if not entry.label}
        grades = {entry.name for entry in self.declaration.grades}
        numbers: set[str] = set()
        values: defaultdict[str, set[str]] = defaultdict(set)
        for case in (case for split in SPLITS for case in self.split(split)):
            undeclared = (set(case.volumes) - volumes) | (set(case.classes) - classes) | (set(case.grades) - grades)
            if undeclared:
                raise ValueError(f"case {case.id} has {min(undeclared)}, which the dataset does not declare")
            numbers.update(case.numbers)
            for name, value in case.strata.items():
                values[name].add(value)
        if len(numbers) > MAX_NUMBERS or len(values) > MAX_STRATA:
            raise ValueError(f"more than {MAX_NUMBERS} numbers or {MAX_STRATA} strata")
        if many := [name for name, different in values.items() if len(different) > MAX_STRATUM_VALUES]:
            raise ValueError(f"the stratum {min(many)} has more than {MAX_STRATUM_VALUES} different values")
        return self

    def split(self, name: Split) -> tuple[Case, ...]:
        """Returns the cases of one split. The rows of feature sets have the order of these cases."""
        cases: tuple[Case, ...] = getattr(self, name)
        return cases

    def images(self, case: Case) -> dict[Modality, StoredObject]:
        """Returns a case's images in the declared order, without its label maps."""
        return {kind: case.volumes[kind] for kind in self.declaration.modalities if kind in case.volumes}

    def label_maps(self, case: Case) -> dict[VolumeKind, StoredObject]:
        """Returns a case's label maps in the declared order."""
        return {kind: case.volumes[kind] for kind in self.declaration.label_names if kind in case.volumes}

    def list_mixed_series(self) -> tuple[str, ...]:
        """Returns one text per modality whose series differ in their b-values, or of which only some are calculated."""
        cases = {case.id: case for split in SPLITS for case in self.split(split)}
        counts: defaultdict[Modality, Counter[str]] = defaultdict(Counter)
        for taken in (taken for case in cases.values() for taken in case.series if taken.b_value is not None):
            b_value = f"{round((taken.b_value or 0.0) / _B_VALUE_STEP) * _B_VALUE_STEP:g} s/mm²"
            counts[taken.modality][f"{b_value}, {'calculated' if taken.calculated else 'acquired'}"] += 1
        mixed: list[str] = []
        for kind, found in counts.items():
            texts = [f"{text} in {pluralise(count, 'case')}" for text, count in found.most_common(_MAX_LISTED)]
            texts += [f"and {len(found) - _MAX_LISTED} more kinds"] if len(found) > _MAX_LISTED else []
            mixed += [f"{kind} has {'; '.join(texts)}"] if len(found) > 1 else []
        return tuple(mixed)

    def digest(self) -> str:
        """Returns the SHA-256 of the canonical JSON, in hex.

        The JSON omits a false `phantom`, the declaration of prostate mpMRI, empty selections, and empty classes,
        grades, numbers and strata of cases. Datasets that are older than these fields therefore keep their digests.
        """
        content = self.model_dump(mode="json", exclude=set() if self.phantom else {"phantom"})
        if self.declaration == get_declaration("prostate_mpmri"):
            del content["declaration"]
        for case in (case for split in SPLITS for case in content[split]):
            for name in ("classes", "grades", "numbers", "strata"):
                if not case[name]:
                    del case[name]
        return hashlib.sha256(canonical_json(content)).hexdigest()

    def check_is_stored(self, digest: str, show_command: str = "") -> None:
        """Checks that the dataset stored under this id has the same content as this dataset.

        Args:
            digest: digest of the stored dataset.
            show_command: command that shows the stored dataset; `vfmalign dataset show` by default.

        Raises:
            Conflict: the content differs.
        """
        if digest != self.digest():
            raise Conflict(
                "the dataset exists with different content",
                subject=f"dataset {self.id}",
                remedy=f"choose another dataset id, or see the stored one with "
                f"{show_command or f'`vfmalign dataset show {self.id}`'}; the same id is accepted for equal cases, "
                "splits and declaration",
            )
