"""Discovery of the cases of an import: their files, their generated ids, and the cases that the user excludes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vfmalign.core.domain.datasets import Curation, Split
from vfmalign.core.domain.declarations import DatasetDeclaration, VolumeKind
from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.formats.documents import pluralise
from vfmalign.imaging.datasets.cut_organs import ImportingModel
from vfmalign.imaging.datasets.identities import keyed_id
from vfmalign.imaging.datasets.layouts.registry import read_source
from vfmalign.imaging.datasets.layouts.sources import (
    CaseSource,
    DicomOptions,
    ProgressCallback,
    SourceDataset,
    ignore_progress,
    list_some,
)

_NO_PATIENT = "the files state no patient (PatientID); name the patients of the cases with --patients"
MAX_IN_LINE = 10
"""Maximum number of cases that a sentence names."""


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import.

    Attributes:
        layout: a name in `layouts.LAYOUTS`; None detects the layout.
        declaration: modalities and label maps of the cases; None derives them from the data.
        shares: share of the patients in each split. If `shares` is None, the splits stated in the data are used. If the
            data state no splits, `splits.DEFAULT_SHARES` are used.
        splits: maps each case's name to its split, and replaces `shares`; see `assignments.read_splits`.
        patients: maps each case's name to its patient, if the layout does not state the patient; see
            `assignments.read_patients`.
        only_with: modalities and label maps that a case must have; other cases are left out.
        exclude: numbers of the cases to leave out; the first case has number 1.
        skips_unusable: leave out cases that have problems.
        show_names: also show the name of a case's folder, file or cell, although it may be a patient's name.
        dicom: options of the layout `dicom`.
        seed: seed of the split.
        model: the model for which the dataset is imported; None if no model is given.
    """

    layout: str | None = None
    declaration: DatasetDeclaration | None = None
    shares: Mapping[Split, float] | None = None
    splits: Mapping[str, Split] | None = None
    patients: Mapping[str, str] | None = None
    only_with: tuple[VolumeKind, ...] = ()
    exclude: frozenset[int] = frozenset()
    skips_unusable: bool = False
    show_names: bool = False
    dicom: DicomOptions = field(default_factory=DicomOptions)
    seed: int = 0
    model: ImportingModel | None = None


@dataclass(frozen=True)
class PseudonymousCase:
    """A case on disk with its pseudonymous ids.

    Attributes:
        id: generated id of the case.
        group: generated id of the patient.
        patient: the patient. Private, as is the source.
        source: the files.
        place: position of the case, without its name: `line 7` of a table, or `case 7 of 8` in the order of names.
    """

    id: str
    group: str
    patient: str
    source: CaseSource
    place: str

    @property
    def label(self) -> str:
        """Name of the case in problem messages."""
        return f"{self.place}, {self.id}"


@dataclass(frozen=True)
class DiscoveredDataset:
    """Cases with pseudonyms.

    Attributes:
        layout: name of the layout.
        source: cases found by the layout, with patients' names.
        cases: the included cases, in the order of the source.
        left_out: cases that the user excluded, or that lack a file that the user requires.
        curation: see `DatasetManifest`.
    """

    layout: str
    source: SourceDataset
    cases: tuple[PseudonymousCase, ...]
    left_out: tuple[PseudonymousCase, ...] = ()
    curation: Curation = field(default_factory=Curation)


def discover(
    path: Path, dataset_id: str, salt: bytes, options: ImportOptions, report: ProgressCallback = ignore_progress
) -> DiscoveredDataset:
    """Finds the cases and assigns ids to them. `report` is called after every DICOM file.

    Raises:
        BadDataset: no case was found, every case would be left out, or the patient table names unknown cases.
        BadOption: the layout is unknown, `only_with` names an undeclared modality or label map, or no case has a given
            number.
    """
    layout, source = read_source(path, options.layout, options.declaration, replace(options.dicom, progress=report))
    return name_cases(layout, source, dataset_id, salt, options)


def name_cases(
    layout: str, source: SourceDataset, dataset_id: str, salt: bytes, options: ImportOptions
) -> DiscoveredDataset:
    """Assigns ids to the cases of a source. Raises the errors of `discover`."""
    patients = options.patients or {}
    if unknown := find_unknown(patients, {case.name for case in source.cases}):
        raise BadDataset(
            f"the table of patients names cases that do not exist ({unknown})",
            field="patients",
            remedy="name cases as the layout does, by folder, file, cell or StudyInstanceUID",
        )
    cases = []
    for number, found in enumerate(source.cases, start=1):
        is_known = found.patient or found.name in patients
        case = found if is_known else replace(found, problems=(*found.problems, _NO_PATIENT))
        place = case.place or f"case {number} of {len(source.cases)}"
        # A case without a readable name is identified by its place.
        name, patient = case.name or f"\0{place}", patients.get(case.name, case.patient)
        # Case ids belong to one dataset; group ids do not, so that one patient is recognised in several datasets.
        case_id = "c-" + keyed_id(salt, "case", dataset_id, name)
        if options.show_names and case.name:
            place += f" ({case.name.encode(errors='replace').decode()})"
        cases.append(PseudonymousCase(case_id, "g-" + keyed_id(salt, "group", patient), patient, case, place))
    numbers = {n: case.id for n, case in enumerate(cases, start=1) if case.place.startswith(f"case {n} ")}
    for option, named in (("--exclude", options.exclude), ("--choose", options.dicom.choices)):
        known = numbers if layout == "dicom" or option == "--exclude" else {}
        if unlisted := [n for n in named if n not in known]:
            raise BadOption(
                f"there is no study {unlisted[0]}",
                field=option,
                remedy=f"use numbers from 1 to {len(numbers)}, as `vfmalign dicom show` and `--dry-run` print them"
                if known
                else "leave it out: it applies only to DICOM",
            )
    curation = Curation(
        excluded=tuple(numbers[n] for n in sorted(options.exclude)),
        chosen={case.id: dict(case.source.chosen) for case in cases if case.source.chosen},
    )
    discovered = DiscoveredDataset(layout, source, tuple(cases), curation=curation)
    discovered = leave_out(discovered, dict.fromkeys(curation.excluded, "excluded by --exclude"), "exclude")
    discovered = _leave_out_without(discovered, options.only_with)
    if not options.skips_unusable:
        return discovered
    unusable = {case.id: "; ".join(case.source.problems) for case in discovered.cases if case.source.problems}
    curation = curation.model_copy(update={"unusable": tuple(unusable)})
    return replace(leave_out(discovered, unusable, "skip_unusable"), curation=curation)


def leave_out(discovered: DiscoveredDataset, reasons: Mapping[str, str], option: str) -> DiscoveredDataset:
    """Excludes cases by id, and returns a note for each excluded case and its reason."""
    cases = tuple(case for case in discovered.cases if case.id not in reasons)
    left_out = [case for case in discovered.cases if case.id in reasons]
    if left_out and not cases:
        raise BadDataset("no case would be left", field=option, remedy="leave out fewer cases, or correct them")
    notes = (f"left out: {case.label}: {reasons[case.id]}" for case in left_out)
    source = discovered.source
    source = replace(source, cases=[case.source for case in cases], notes=(*source.notes, *notes))
    return replace(discovered, source=source, cases=cases, left_out=(*discovered.left_out, *left_out))


def _leave_out_without(discovered: DiscoveredDataset, kinds: Sequence[VolumeKind]) -> DiscoveredDataset:
    """Leaves out the cases that lack a file of one of these kinds, and notes which."""
    declaration = discovered.source.declaration
    declared = (*declaration.modalities, *declaration.label_names)
    if unknown := [kind for kind in kinds if kind not in declared]:
        raise BadOption(
            f"{unknown[0][:64]!r} is not declared", field="only_with", remedy=f"choose from {', '.join(declared)}"
        )
    cases: list[PseudonymousCase] = []
    left_out: list[PseudonymousCase] = []
    for case in discovered.cases:
        (left_out if case.source.is_without(kinds) else cases).append(case)
    if not left_out:
        return discovered
    if not cases:
        raise BadDataset(f"no case has {' and '.join(kinds)}", field="only_with", remedy="choose kinds that cases have")
    listed = list_some([case.label for case in left_out], MAX_IN_LINE)
    note = f"left out: {pluralise(len(left_out), 'case')} without {' or '.join(kinds)} ({listed})"
    source = replace(discovered.source, cases=[case.source for case in cases])
    source = replace(source, notes=(*source.notes, note))
    return replace(discovered, source=source, cases=tuple(cases), left_out=(*discovered.left_out, *left_out))


def find_unknown(table: Iterable[str], names: Collection[str]) -> str:
    """Returns the numbers of the table entries that match no case.

    The text of an entry may be a patient's name and is not shown.
    """
    unknown = [f"entry {number}" for number, name in enumerate(table, start=1) if name not in names]
    return list_some(unknown, MAX_IN_LINE)
