"""Layout of DICOM files: a folder at any depth, a zip, or what a DICOMDIR lists. A case is a study.

Which series is which modality, and which segmentation which label map, follows from the selections of the declaration's
file. A case is named by its StudyInstanceUID, and its patient by PatientID with its issuer; both stay in `CaseSource`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfmalign.core.domain.declarations import (
    DEFAULT_DECLARATION,
    SUVBW,
    DatasetDeclaration,
    VolumeKind,
    get_declaration,
)
from vfmalign.imaging.datasets.layouts.sources import CaseSource, DicomOptions, SourceDataset, VolumeSource
from vfmalign.imaging.dicom.examinations import Segmentation, Study
from vfmalign.imaging.dicom.labels.label_maps import read_label_map
from vfmalign.imaging.dicom.pet.suv import read_suv
from vfmalign.imaging.dicom.pixels import read_stack
from vfmalign.imaging.dicom.refusals import check_allowed
from vfmalign.imaging.dicom.rules import check_selections, get_selections
from vfmalign.imaging.dicom.scanning import scan
from vfmalign.imaging.dicom.selection import Choice, choose
from vfmalign.imaging.dicom.sources import DicomSource, digest_file, open_source
from vfmalign.imaging.dicom.stacks import Stack
from vfmalign.imaging.dicom.strata import CaseAcquisition
from vfmalign.imaging.volumes import Volume


@dataclass(frozen=True, eq=False)
class DicomImage:
    """A modality, which is read from a stack in its declared unit; see `VolumeSource`."""

    source: DicomSource
    stack: Stack
    unit: str = ""

    def read(self, case: str, kinds: Sequence[VolumeKind], labels: Collection[VolumeKind]) -> dict[VolumeKind, Volume]:
        """See `VolumeSource`."""
        read_image = read_suv if self.unit == SUVBW else read_stack
        return {kind: read_image(self.source, self.stack, f"{case}/{kind}", kind) for kind in kinds}

    def digest(self) -> bytes:
        """See `VolumeSource`."""
        files = dict.fromkeys(frame.file for frame in self.stack.frames)
        return hashlib.sha256(b"".join(digest_file(self.source, file) for file in files)).digest()


@dataclass(frozen=True, eq=False)
class DicomLabelMap:
    """A label map, which is read from a segmentation; see `VolumeSource` and `labels.label_maps.read_label_map`."""

    source: DicomSource
    segmentation: Segmentation
    values: Mapping[int, int]
    reference: Stack

    def read(self, case: str, kinds: Sequence[VolumeKind], labels: Collection[VolumeKind]) -> dict[VolumeKind, Volume]:
        """See `VolumeSource`."""
        return {
            kind: read_label_map(self.source, self.segmentation, self.reference, self.values, f"{case}/{kind}")
            for kind in kinds
        }

    def digest(self) -> bytes:
        """See `VolumeSource`."""
        return digest_file(self.source, self.segmentation.file)


def read(path: Path, declaration: DatasetDeclaration | None, options: DicomOptions) -> SourceDataset:
    """Finds the cases; without a declaration they are prostate mpMRI.

    Every header is read once here. The pixels of a chosen series are read when it is validated and when it is uploaded.

    Raises:
        BadOption: the declaration does not say which series a modality takes, or a refusal is unknown.
        BadDataset: see `open_source`.
    """
    chosen = declaration or get_declaration(DEFAULT_DECLARATION)
    selections = options.selections or get_selections(chosen)
    check_selections(chosen, selections)
    allowed = check_allowed(options.allowed)
    source = open_source(path)
    examinations = scan(source, allowed, options.progress)
    choices = [choose(study, chosen, selections, allowed) for study in examinations.studies]
    cases = [
        _to_case(source, study, choice, chosen.units, f"case {number} of {len(choices)}")
        for number, (study, choice) in enumerate(zip(examinations.studies, choices, strict=True), start=1)
    ]
    cases += [
        CaseSource(file.file, file.file, {}, problems=(file.problem,), place=file.place)
        for file in examinations.unusable
    ]
    notes = [*examinations.notes, *_list_undrawn(choices, chosen)]
    if declaration is None and cases:
        notes.append(f"without --declaration, DICOM is read by the rules of {DEFAULT_DECLARATION}")
    return SourceDataset(chosen, cases, tuple(notes))


def _list_undrawn(choices: Sequence[Choice], declaration: DatasetDeclaration) -> list[str]:
    """Label maps that studies with segmentations lack: their rule may match nothing, or be missing."""
    drawn = [choice for choice in choices if choice.segmentations]
    notes: list[str] = []
    for name in declaration.label_names:
        without = [choice for choice in drawn if "" not in choice.reasons.get(name, {}).values()]
        if without and name in without[0].reasons:
            count = f"{len(without)} of {len(drawn)} studies with segmentations"
            notes.append(f"{name}: its selection takes nothing in {count}; `vfmalign dicom show` says why")
        elif without:
            notes.append(f"{name}: no selection says which segments it takes")
    return notes


def _to_case(
    source: DicomSource, study: Study, choice: Choice, units: Mapping[VolumeKind, str], place: str
) -> CaseSource:
    files: dict[VolumeKind, VolumeSource] = {
        kind: DicomImage(source, stack, units.get(kind, "")) for kind, stack in choice.stacks.items()
    }
    for kind, drawn in choice.label_maps.items():
        files[kind] = DicomLabelMap(source, drawn.segmentation, drawn.values, drawn.reference)
    problems = (*study.problems, *choice.problems)
    attributes = {kind: stack.attributes for kind, stack in choice.stacks.items()}
    return CaseSource(
        name=study.uid,
        patient=study.patient,
        files=files,
        problems=problems,
        lacks=choice.lacks,
        place=place,
        acquisition=CaseAcquisition(attributes, study.private_words, choice.allowed),
    )
