"""Layout of DICOM files in a folder at any depth, in a zip file, or in a DICOMDIR. A case is a study.

The selections in the declaration file assign series to modalities, and segmentations to label maps. The name of a case
is its StudyInstanceUID. The name of a patient consists of PatientID and issuer. Neither name leaves `CaseSource`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import Field

from vfmalign.core.domain.datasets import TakenSeries
from vfmalign.core.domain.declarations import (
    DEFAULT_DECLARATION,
    SUVBW,
    DatasetDeclaration,
    VolumeKind,
    get_declaration,
)
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import Record
from vfmalign.imaging.datasets.layouts.sources import CaseSource, DicomOptions, SourceDataset, VolumeSource
from vfmalign.imaging.dicom.examinations import Segmentation, Study
from vfmalign.imaging.dicom.labels.label_maps import read_label_map
from vfmalign.imaging.dicom.pet.suv import read_suv
from vfmalign.imaging.dicom.pixels import read_stack
from vfmalign.imaging.dicom.refusals import DEFECTIVE, check_allowed
from vfmalign.imaging.dicom.rules import Selection, check_selections, encode_selections, get_selections
from vfmalign.imaging.dicom.scanning import scan
from vfmalign.imaging.dicom.selection import Choice, choose
from vfmalign.imaging.dicom.sources import DicomSource, digest_file, open_source
from vfmalign.imaging.dicom.stacks import Stack
from vfmalign.imaging.dicom.strata import CaseAcquisition, classify, describe_series
from vfmalign.imaging.volumes import Volume


@dataclass(frozen=True, eq=False, slots=True)
class DicomImage:
    """A modality read from a stack, in its declared unit; see `VolumeSource`."""

    source: DicomSource
    stack: Stack
    label: str
    unit: str = ""

    def read(self, case: str, kinds: Sequence[VolumeKind], labels: Collection[VolumeKind]) -> dict[VolumeKind, Volume]:
        """Reads the modality as described in `VolumeSource`. Errors name the series."""
        read_image = read_suv if self.unit == SUVBW else read_stack
        return {kind: read_image(self.source, self.stack, f"{case}/{kind} ({self.label})", kind) for kind in kinds}

    def digest(self) -> bytes:
        """See `VolumeSource`."""
        files = dict.fromkeys(frame.file for frame in self.stack.frames)
        return hashlib.sha256(b"".join(digest_file(self.source, file) for file in files)).digest()


@dataclass(frozen=True, eq=False, slots=True)
class DicomLabelMap:
    """A label map read from a segmentation; see `VolumeSource` and `labels.label_maps.read_label_map`."""

    source: DicomSource
    segmentation: Segmentation
    values: Mapping[int, int]
    reference: Stack

    def read(self, case: str, kinds: Sequence[VolumeKind], labels: Collection[VolumeKind]) -> dict[VolumeKind, Volume]:
        """See `VolumeSource`."""
        drawn = self.segmentation
        return {
            kind: read_label_map(self.source, drawn, self.reference, self.values, f"{case}/{kind} ({drawn.label})")
            for kind in kinds
        }

    def digest(self) -> bytes:
        """See `VolumeSource`."""
        return digest_file(self.source, self.segmentation.file)


@dataclass(frozen=True)
class Rules:
    """Rules that select the volumes of a study.

    Attributes:
        declaration: modalities and label maps of a case.
        selections: rules that choose a series or segmentation for each modality or label map.
        allowed: names of the refusals that the user has overridden (`refusals.REFUSALS`, `refusals.DEFECTIVE`).
        is_default: whether the user gave no declaration.
        choices: see `DicomOptions`.
    """

    declaration: DatasetDeclaration
    selections: Sequence[Selection]
    allowed: tuple[str, ...]
    is_default: bool
    choices: Mapping[int, Mapping[VolumeKind, str]] = field(default_factory=dict)

    def choose(self, study: Study, number: int) -> Choice:
        """Chooses the volumes of study `number`, counted from 1. Raises the errors of `selection.choose`."""
        return choose(study, self.declaration, self.selections, self.allowed, self.choices.get(number, {}))


class StudyOutcome(Record):
    """Data that a dataset records about a study, except its volumes. Private.

    Attributes:
        study_uid: StudyInstanceUID.
        patient, problems, lacks: see `CaseSource`.
        kinds: modalities and label maps that were chosen.
        classes: see `strata.classify`.
        series: see `core.domain.datasets.Case`.
        notes: see `Choice`.
        chosen: see `CaseSource`.
        undrawn: label maps for which no segmentation was chosen; None if the study contains no segmentations.
    """

    study_uid: str
    patient: str
    problems: tuple[str, ...] = ()
    lacks: tuple[VolumeKind, ...] = ()
    kinds: tuple[VolumeKind, ...] = ()
    classes: dict[VolumeKind, str] = Field(default_factory=dict)
    series: tuple[TakenSeries, ...] = ()
    notes: tuple[str, ...] = ()
    chosen: dict[VolumeKind, str] = Field(default_factory=dict)
    undrawn: tuple[VolumeKind, ...] | None = None


def get_rules(declaration: DatasetDeclaration | None, options: DicomOptions) -> Rules:
    """Returns the rules of an import; by default, the rules for prostate mpMRI.

    Raises:
        BadOption: a modality has no selection, a refusal is unknown, or the user chose a series for an id without a
            rule.
    """
    chosen = declaration or get_declaration(DEFAULT_DECLARATION)
    selections = options.selections or get_selections(chosen)
    check_selections(chosen, selections)
    allowed = check_allowed(options.allowed) | ({DEFECTIVE} if options.accepts_defective else set())
    names = [selection.name for selection in selections]
    if unknown := {kind for kinds in options.choices.values() for kind in kinds}.difference(names):
        raise BadOption(
            f"{min(unknown)[:64]!r} has no rule", field="--choose", remedy=f"choose a series for {', '.join(names)}"
        )
    return Rules(chosen, selections, tuple(sorted(allowed)), declaration is None, options.choices)


def read(path: Path, declaration: DatasetDeclaration | None, options: DicomOptions) -> SourceDataset:
    """Finds the cases.

    Every header is read once, in this function. The pixels of chosen series are read during validation, and again
    during upload.

    Raises:
        BadOption: see `get_rules`.
        BadDataset: see `open_source`.
    """
    rules = get_rules(declaration, options)
    source = open_source(path)
    examinations = scan(source, rules.allowed, options.progress)
    outcomes: list[StudyOutcome] = []
    files: list[Mapping[VolumeKind, VolumeSource]] = []
    for number, study in enumerate(examinations.studies, start=1):
        choice = rules.choose(study, number)
        outcomes.append(describe_outcome(study, choice, rules, number))
        files.append(list_volumes(source, choice, rules.declaration.units))
    dataset = to_dataset(rules, outcomes, files, examinations.notes)
    unusable = [
        CaseSource(file.file, file.file, {}, problems=(file.problem,), place=file.place)
        for file in examinations.unusable
    ]
    return replace(dataset, cases=(*dataset.cases, *unusable))


def describe_outcome(study: Study, choice: Choice, rules: Rules, number: int = 1) -> StudyOutcome:
    """Returns the data to record in the dataset about a study."""
    attributes = {kind: stack.attributes for kind, stack in choice.stacks.items()}
    acquisition = CaseAcquisition(attributes, study.private_words, choice.allowed)
    taken = {name for name, reasons in choice.reasons.items() if "" in reasons.values()}
    undrawn = tuple(name for name in rules.declaration.label_names if name not in taken)
    return StudyOutcome(
        study_uid=study.uid,
        patient=study.patient,
        problems=(*study.problems, *choice.problems),
        lacks=choice.lacks,
        kinds=(*choice.stacks, *choice.label_maps),
        classes=classify(acquisition, rules.declaration.modalities),
        series=tuple(describe_series(kind, stack, study.private_words) for kind, stack in choice.stacks.items()),
        notes=choice.notes,
        chosen=dict(rules.choices.get(number, {})),
        undrawn=undrawn if choice.segmentations else None,
    )


def list_volumes(
    source: DicomSource, choice: Choice, units: Mapping[VolumeKind, str]
) -> dict[VolumeKind, VolumeSource]:
    """Returns the source of each chosen modality, in its declared unit, and of each chosen label map."""
    labels = {image.item: image.label for image in choice.images}
    files: dict[VolumeKind, VolumeSource] = {
        kind: DicomImage(source, stack, labels[stack], units.get(kind, "")) for kind, stack in choice.stacks.items()
    }
    for kind, drawn in choice.label_maps.items():
        files[kind] = DicomLabelMap(source, drawn.segmentation, drawn.values, drawn.reference)
    return files


def to_dataset(
    rules: Rules,
    outcomes: Sequence[StudyOutcome],
    files: Sequence[Mapping[VolumeKind, VolumeSource]],
    notes: Sequence[str],
) -> SourceDataset:
    """Builds a dataset from studies.

    Args:
        rules: rules that chose the volumes.
        outcomes: one outcome for each study, ordered by study identifier.
        files: sources of the volumes of each study.
        notes: notes on files that were left out.
    """
    cases = [
        CaseSource(
            outcome.study_uid,
            outcome.patient,
            volumes,
            problems=outcome.problems,
            lacks=outcome.lacks,
            place=f"case {number} of {len(outcomes)}",
            acquired=outcome.classes,
            series=outcome.series,
            chosen=outcome.chosen,
        )
        for number, (outcome, volumes) in enumerate(zip(outcomes, files, strict=True), start=1)
    ]
    listed = [*notes, *_list_undrawn(outcomes, rules)]
    listed += [f"{case.place}: {note}" for case, outcome in zip(cases, outcomes, strict=True) for note in outcome.notes]
    if rules.is_default and cases:
        listed.append(f"without --declaration, DICOM is read by the rules of {DEFAULT_DECLARATION}")
    return SourceDataset(rules.declaration, cases, tuple(listed), encode_selections(rules.selections))


def _list_undrawn(outcomes: Sequence[StudyOutcome], rules: Rules) -> list[str]:
    """Notes on label maps that studies with segmentations lack: the rule matches nothing, or there is none."""
    undrawn = [outcome.undrawn for outcome in outcomes if outcome.undrawn is not None]
    selected = {selection.name for selection in rules.selections}
    notes: list[str] = []
    for name in rules.declaration.label_names:
        without = sum(name in names for names in undrawn)
        if without and name in selected:
            count = f"{without} of {len(undrawn)} studies with segmentations"
            notes.append(f"{name}: its selection matches nothing in {count}; `vfmalign dicom show` lists the reasons")
        elif without:
            notes.append(f"{name}: it has no selection")
    return notes
