"""Preparation of an import: splits and validation of the discovered cases. It writes nothing.

Every volume is decoded, checked and hashed in this step. If the preparation finds no problem, only the transfer can
still fail.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from vfmalign.client.messages.base import to_bad_option
from vfmalign.core.domain.datasets import Case, DatasetManifest, Split
from vfmalign.core.domain.declarations import DatasetDeclaration, VolumeKind
from vfmalign.core.domain.errors import BadDataset, VfmalignError
from vfmalign.core.domain.field_of_view import CaseInside
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.storage.datasets import check_splits
from vfmalign.core.storage.keys import volume_key
from vfmalign.imaging.datasets.cut_organs import CutOrgansCheck
from vfmalign.imaging.datasets.discovery import (
    MAX_IN_LINE,
    DiscoveredDataset,
    ImportOptions,
    PseudonymousCase,
    find_unknown,
    leave_out,
)
from vfmalign.imaging.datasets.label_maps import check_label_map
from vfmalign.imaging.datasets.layouts.sources import (
    ProgressCallback,
    VolumeSource,
    list_some,
)
from vfmalign.imaging.datasets.problems import Problem
from vfmalign.imaging.datasets.splits import DEFAULT_SHARES, split_groups
from vfmalign.imaging.grid import check_study
from vfmalign.imaging.volumes import Volume, check_study_size, encode

_UNLIKE = "their contrast differs, so that features may tell cases apart by it; prefer one kind in the selection"
_CHECK_SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class PreparedDataset:
    """The result of a preparation.

    Attributes:
        dataset: the prepared dataset; cases with problems are omitted.
        problems: reasons why the dataset cannot be imported; empty if there are none.
        notes: notes on omitted cases, missing label maps and cut organs, without patients' names.
        inside: shares of the structures that lie in the model's field of view; empty without a model.
    """

    dataset: DatasetManifest
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    inside: tuple[CaseInside, ...] = ()


def prepare(
    discovered: DiscoveredDataset, dataset_id: str, options: ImportOptions, report: ProgressCallback
) -> PreparedDataset:
    """Assigns splits, and reads and checks every volume.

    Raises:
        BadDataset: the splits cannot be made.
        BadOption: the dataset lacks an input of the model.
    """
    declaration = discovered.source.declaration
    cut_organs = None if options.model is None else CutOrgansCheck(options.model, declaration)
    unassigned: tuple[str, ...] = ()
    try:
        assigned = _assign_splits(discovered, options)
    except BadDataset as error:
        if not any(case.source.problems for case in discovered.cases):
            raise
        unassigned = (f"no case is in a split: {error.message}; {error.remedy}",)
        assigned = {}  # report the problems of cases first: they affect the splits
    records: dict[str, Case] = {}
    problems: list[Problem] = []
    unread: dict[str, str] = {}
    for done, case in enumerate(discovered.cases, start=1):
        problems += [Problem(text, case.label) for text in case.source.problems]
        if not case.source.problems:
            try:
                volumes = read_volumes(case, declaration)
                records[case.id] = _check_case(case, volumes, dataset_id, declaration)
                if cut_organs is not None:
                    cut_organs.measure(case.id, volumes)
            except VfmalignError as error:
                problem = _to_problem(error, case)
                unread[case.id] = problem.text
                problems += [] if options.skips_unusable else [problem]
        report("validate", done, len(discovered.cases))
    if options.skips_unusable:
        discovered = leave_out(discovered, unread, "skip_unusable")
        unusable = (*discovered.curation.unusable, *unread)
        discovered = replace(discovered, curation=discovered.curation.model_copy(update={"unusable": unusable}))
    for case_id, strata in _make_strata(discovered).items():
        if case_id in records:
            records[case_id] = records[case_id].model_copy(update={"strata": {**records[case_id].strata, **strata}})
    lists = {name: [records[case.id] for case in members if case.id in records] for name, members in assigned.items()}
    # Only a single patient's cases are in several splits; a case with a problem may be in none.
    held_out = sum(map(len, assigned.values())) <= len(discovered.cases)
    labels = {case.id: case.label for case in discovered.cases}
    content: dict[str, object] = {"id": dataset_id, "held_out": held_out, "declaration": declaration}
    content |= {"selections": discovered.source.selections, "curation": discovered.curation}
    try:
        dataset = DatasetManifest.model_validate(content | lists)
        check_splits(dataset, labels)
    except ValidationError as error:
        raise BadDataset(to_bad_option(error).message, subject=f"dataset {dataset_id}") from None
    except BadDataset as error:
        problems.append(Problem(f"{error.message}; {error.remedy}"))
    notes = (*discovered.source.notes, *unassigned, *_describe_gaps(records.values(), declaration, assigned, labels))
    notes += tuple(f"{mixed}: {_UNLIKE}" for mixed in dataset.list_mixed_series())
    if cut_organs is None:
        return PreparedDataset(dataset, tuple(problems), notes)
    notes = (*notes, *cut_organs.list_notes(dataset, labels))
    problems += map(Problem, cut_organs.list_problems(dataset, labels))
    return PreparedDataset(dataset, tuple(problems), notes, cut_organs.list_shares(dataset))


def _make_strata(discovered: DiscoveredDataset) -> dict[str, dict[VolumeKind, str]]:
    """Strata of each usable case, derived from DICOM headers."""
    usable = [case for case in discovered.cases if not case.source.problems]
    acquired = {case.id: case.source.acquired for case in usable if case.source.acquired is not None}
    if not acquired:
        return {}
    from vfmalign.imaging.dicom.strata import make_strata

    groups = [case.group for case in usable if case.id in acquired]
    strata = make_strata(list(acquired.values()), groups, discovered.source.declaration.modalities)
    return dict(zip(acquired, strata, strict=True))


def _to_problem(error: VfmalignError, case: PseudonymousCase) -> Problem:
    """Converts an error about a case; its subject is the case's id or `id/kind`."""
    kind = error.subject.removeprefix(case.id).removeprefix("/")
    text = f"{error.message}; {error.remedy}" if error.remedy else error.message
    return Problem(f"{kind}: {text}" if kind else text, case.label)


def read_volumes(case: PseudonymousCase, declaration: DatasetDeclaration) -> dict[VolumeKind, Volume]:
    """Reads all volumes of a case. A file with several channels is read only once.

    Raises:
        BadVolume: a file cannot be read or used, or the volumes together are too large. The error identifies a file by
            generated case id and kind.
    """
    kinds_by_source: dict[VolumeSource, list[VolumeKind]] = {}
    for kind, source in sorted(case.source.files.items()):
        kinds_by_source.setdefault(source, []).append(kind)
    volumes: dict[VolumeKind, Volume] = {}
    for source, kinds in kinds_by_source.items():
        volumes |= source.read(case.id, kinds, declaration.label_names)
        check_study_size((volume.size_bytes for volume in volumes.values()), case.id)
    return volumes


def _assign_splits(discovered: DiscoveredDataset, options: ImportOptions) -> dict[Split, list[PseudonymousCase]]:
    """Cases of each split, ordered by id."""
    cases = discovered.cases
    ordered = sorted(cases, key=lambda case: case.id)
    groups = {case.group for case in cases}
    if options.splits is not None:
        split_by_case = _look_up_splits(discovered, options.splits)
    elif options.shares is None and any(case.source.split is not None for case in cases):
        split_by_case = {case.id: case.source.split for case in cases if case.source.split is not None}
    elif len(groups) == 1:
        return {"train": ordered, "val": ordered, "test": ordered}
    else:
        by_group = split_groups(groups, options.shares or DEFAULT_SHARES, options.seed)
        split_by_case = {case.id: by_group[case.group] for case in cases}
    _check_groups(cases, split_by_case)
    assigned: dict[Split, list[PseudonymousCase]] = {}
    for case in ordered:
        if case.id in split_by_case:  # one without a split has a problem
            assigned.setdefault(split_by_case[case.id], []).append(case)
    return assigned


def _look_up_splits(discovered: DiscoveredDataset, splits: Mapping[str, Split]) -> dict[str, Split]:
    problems, cases = [], discovered.cases
    if unknown := find_unknown(splits, {case.source.name for case in (*cases, *discovered.left_out)}):
        problems.append(f"name cases that do not exist ({unknown})")
    if missing := [case.label for case in cases if case.source.name not in splits]:
        problems.append(f"leave out cases ({list_some(missing, MAX_IN_LINE)})")
    if problems:
        raise BadDataset(
            f"the splits {' and '.join(problems)}",
            field="splits",
            remedy="name every case once, as the layout does, by folder, file, cell or StudyInstanceUID",
        )
    return {case.id: splits[case.source.name] for case in cases}


def _check_groups(cases: Sequence[PseudonymousCase], split_by_case: Mapping[str, Split]) -> None:
    splits_by_group: dict[str, set[Split]] = {}
    for case in cases:
        if case.id in split_by_case:
            splits_by_group.setdefault(case.group, set()).add(split_by_case[case.id])
    if divided := [case.label for case in cases if len(splits_by_group.get(case.group, ())) > 1]:
        raise BadDataset(
            f"the cases of one patient are in different splits ({'; '.join(divided)})",
            field="splits",
            remedy="put all cases of a patient into one split",
        )


def _describe_gaps(
    cases: Collection[Case],
    declaration: DatasetDeclaration,
    assigned: Mapping[Split, Sequence[PseudonymousCase]],
    labels: Mapping[str, str],
) -> list[str]:
    """Notes on label maps that some cases lack, and on empty splits that a check needs."""
    notes = []
    for kind in declaration.label_names:
        lacking = [labels[case.id] for case in cases if kind not in case.volumes]
        if lacking and len(lacking) == len(cases):
            notes.append(f"{kind}: no case has it; a task on {kind} refuses this dataset")
        elif lacking:
            having = f"{len(cases) - len(lacking)} of {len(cases)} cases have it"
            notes.append(
                f"{kind}: {having}, but not {list_some(lacking)}; a task on {kind} refuses this dataset: "
                f"`--only-with {kind}` leaves these cases out"
            )
    if empty := [name for name in _CHECK_SPLITS if not assigned.get(name)]:
        notes.append(f"no case is in {' or '.join(empty)}: a check needs cases in {', '.join(_CHECK_SPLITS)}")
    return notes


def _check_case(
    case: PseudonymousCase,
    volumes: Mapping[VolumeKind, Volume],
    dataset_id: str,
    declaration: DatasetDeclaration,
) -> Case:
    check_study(volumes, declaration.modalities[0], case.id)
    for label in declaration.labels:
        if label.name in volumes:
            check_label_map(volumes[label.name], label, f"{case.id}/{label.name}")
    refs = {
        kind: StoredObject.of(volume_key(dataset_id, case.id, kind), encode(volume))
        for kind, volume in sorted(volumes.items())
    }
    source = case.source
    return Case(
        id=case.id,
        group=case.group,
        volumes=refs,
        classes=dict(source.classes),
        grades=dict(source.grades),
        numbers=dict(source.numbers),
        strata=dict(source.strata),
        series=source.series,
    )
