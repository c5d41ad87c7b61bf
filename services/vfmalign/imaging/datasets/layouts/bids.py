"""BIDS-like layout: `sub-*/[ses-*/]anat/*_T1w.nii.gz`, with masks below `derivatives`.

Each session is a case, and each subject is a patient. The suffix of an image is its modality. A derived declaration
uses only suffixes that BIDS defines, because other words in a file name may be a patient's name. A mask is a file that
matches `derivatives/*/sub-*/[ses-*/]anat/*_dseg.nii.gz` or `*_mask.nii.gz`. The value of the entity `label-` or `desc-`
is the name of the label map. Without such an entity, the file name's suffix is used. Tables such as participants.tsv
are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from vfmalign.core.domain.declarations import DatasetDeclaration, VolumeKind
from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.formats.documents import pluralise
from vfmalign.imaging.datasets.layouts.derivation import DECLARE, declare, derive_label_maps, to_volume_id
from vfmalign.imaging.datasets.layouts.draft import describe, find_shared_words
from vfmalign.imaging.datasets.layouts.sources import (
    OUTSIDE,
    CaseSource,
    SourceDataset,
    VolumeFile,
    describe_unreadable,
    get_stem,
    is_below,
    list_folders,
    list_some,
    list_volumes,
)

_MASKS = ("dseg", "mask")
_SUFFIXES = (
    "t1w", "t2w", "flair", "pdw", "t2starw", "pdt2", "inplanet1", "inplanet2", "angio", "unit1", "t1map", "t2map",
    "t2starmap", "r1map", "r2map", "r2starmap", "pdmap", "mtrmap", "mtsat", "mtvmap", "m0map", "s0map", "chimap",
    "mp2rage", "megre", "mese", "flash", "pd", "t2star",
)  # fmt: skip
"""Lower-case suffixes of anatomical images in BIDS 1.10. A derived declaration lists its modalities in this order, and
the first one defines the grid.
"""

_Files: TypeAlias = dict[VolumeKind, list[Path]]
_FilesByCase: TypeAlias = dict[str, _Files]


def matches(path: Path) -> bool:
    """Returns whether a folder contains subjects with anatomical images."""
    sessions, unreadable = _read_sessions(path, lambda folder: {})
    return bool(sessions or unreadable)


def read(path: Path, declaration: DatasetDeclaration | None) -> SourceDataset:
    """Finds the cases. Without a declaration, the modalities are the image suffixes that occur in every case.

    Raises:
        UndescribedData: no image has a suffix that BIDS defines.
        BadDataset: there is no image, or no modality occurs in every case.
        OSError: `derivatives` cannot be read, or no folder of a subject can be read.
    """
    images, unreadable = _read_sessions(path, _list_images)
    if unreadable and not images:
        raise next(iter(unreadable.values()))
    if not any(images.values()):
        raise BadDataset(
            "there is no folder sub-*/anat or sub-*/ses-*/anat with images",
            field="directory",
            remedy="check the folder, or choose another layout with --layout",
        )
    masks: _FilesByCase = {name: {} for name in images}
    for pipeline in list_folders(path / "derivatives"):
        sessions, errors = _read_sessions(pipeline, _list_masks)
        unreadable |= errors
        for name in sessions.keys() & masks.keys():
            for kind, files in sessions[name].items():
                masks[name].setdefault(kind, []).extend(files)
    notes: tuple[str, ...] = ()
    modalities: Sequence[VolumeKind]
    if declaration is not None:
        modalities, labels = declaration.modalities, declaration.label_names
        if len(labels) == 1:  # under any name
            masks = {name: {labels[0]: [f for each in files.values() for f in each]} for name, files in masks.items()}
    else:
        labels, left_out = _choose_labels(masks)
        if not any(kind in _SUFFIXES for files in images.values() for kind in files):
            cases = [_to_case(path, name, images[name], masks[name], ((), labels)) for name in images]
            raise describe("no image has a suffix of BIDS", _hide_names(images), derive_label_maps(cases, labels))
        modalities, notes = _choose_modalities(images, _list_places(images, unreadable))
        notes += left_out
    cases = [_to_case(path, name, images[name], masks[name], (modalities, labels)) for name in sorted(images)]
    cases = _add_unreadable(cases, unreadable)
    if declaration is None:
        derived = derive_label_maps(cases, labels)
        declaration = declare("dataset", modalities, derived.maps)
        notes += derived.notes
    return SourceDataset(declaration, cases, notes)


def _read_sessions(root: Path, read: Callable[[Path], _Files]) -> tuple[_FilesByCase, dict[str, OSError]]:
    """Files in the `anat` folder of each session, and the error of each subject with an unreadable folder.

    Sessions are named `sub-01`, or `sub-01/ses-1` if the subject has several; unreadable subjects are named `sub-01`.
    """
    sessions: _FilesByCase = {}
    unreadable: dict[str, OSError] = {}
    for subject in list_folders(root, "sub-"):
        try:
            sessions |= {
                session.relative_to(root).as_posix(): read(session / "anat")
                for session in (subject, *list_folders(subject, "ses-"))
                if (session / "anat").is_dir()
            }
        except OSError as error:
            unreadable[subject.name] = error
    return sessions, unreadable


def _add_unreadable(cases: Sequence[CaseSource], unreadable: Mapping[str, OSError]) -> list[CaseSource]:
    """Adds a problem to the cases of unreadable subjects, and a case for each unreadable subject without cases."""
    patients = {_get_patient(name): f"a folder of the subject {describe_unreadable(error)}"
                for name, error in unreadable.items()}  # fmt: skip
    result = [
        replace(case, problems=(*case.problems, patients[case.patient])) if case.patient in patients else case
        for case in cases
    ]
    known = {case.patient for case in cases}
    result += [
        CaseSource(name, _get_patient(name), {}, problems=(patients[_get_patient(name)],))
        for name in unreadable
        if _get_patient(name) not in known
    ]
    return sorted(result, key=lambda case: case.name)


def _list_images(folder: Path) -> _Files:
    """Images by suffix, in lower case."""
    images: _Files = {}
    for stem, files in list_volumes(folder).items():
        kind = to_volume_id(stem.rpartition("_")[2], "")
        if kind and not kind.endswith(_MASKS):
            images.setdefault(kind, []).extend(files)
    return images


def _list_masks(folder: Path) -> _Files:
    """Label maps by the entity `label-` or `desc-`, else by suffix."""
    masks: _Files = {}
    for path in (path for files in list_volumes(folder).values() for path in files):
        *parts, suffix = get_stem(path.name).split("_")
        if suffix in _MASKS:
            entities = dict(part.partition("-")[::2] for part in parts)
            kind = to_volume_id(entities.get("label") or entities.get("desc") or suffix, suffix)
            masks.setdefault(kind, []).append(path)
    return masks


def _list_places(images: _FilesByCase, unreadable: Mapping[str, OSError]) -> dict[str, str]:
    """Returns the label of each session in problems: its number among the cases, in order of name."""
    readable = set(map(_get_patient, images))
    names = sorted([*images, *(name for name in unreadable if _get_patient(name) not in readable)])
    return {name: f"case {number} of {len(names)}" for number, name in enumerate(names, start=1)}


def _hide_names(images: _FilesByCase) -> _FilesByCase:
    """Returns the images without a suffix that may be a patient's name."""
    shared = find_shared_words(images)
    return {name: {kind: paths for kind, paths in files.items() if kind in shared} for name, files in images.items()}


def _choose_modalities(images: _FilesByCase, places: Mapping[str, str]) -> tuple[list[VolumeKind], tuple[str, ...]]:
    counts = Counter(kind for files in images.values() for kind in files)
    modalities = [kind for kind in _SUFFIXES if counts[kind] == len(images)]
    partial: dict[VolumeKind, str] = {}
    for kind in _SUFFIXES:
        lacking = [places[name] for name in sorted(images) if kind not in images[name]]
        if lacking and counts[kind]:
            partial[kind] = f"{counts[kind]} of {len(images)} cases have it, but not {list_some(lacking)}"
    if not modalities:
        listed = "; ".join(f"{kind}: {count}" for kind, count in partial.items())
        raise BadDataset(
            f"no modality is in every case ({listed})",
            field="directory",
            remedy=f"add the missing images or remove the cases without them, or {DECLARE}",
        )
    notes = [f"{kind} was left out: {count}" for kind, count in partial.items()]
    if unknown := sum(count for kind, count in counts.items() if kind not in _SUFFIXES):
        shown = sorted(find_shared_words(images) - set(_SUFFIXES))
        suffixes = f" ({', '.join(shown)})" if shown else ""
        notes.append(f"left out: {pluralise(unknown, 'image')} with a suffix that is not in BIDS{suffixes}; {DECLARE}")
    return modalities, tuple(notes)


def _choose_labels(masks: _FilesByCase) -> tuple[tuple[VolumeKind, ...], tuple[str, ...]]:
    """Label maps of more than one patient; a name that only one patient's files have may be the patient's name."""
    patients: dict[VolumeKind, set[str]] = {}
    for name, files in masks.items():
        for kind in files:
            patients.setdefault(kind, set()).add(_get_patient(name))
    needed = min(2, len({_get_patient(name) for name in masks}))
    labels = tuple(sorted(kind for kind, owners in patients.items() if len(owners) >= needed))
    left_out = len(patients) - len(labels)
    note = f"left out: {pluralise(left_out, 'label map')} that only one patient has; {DECLARE}"
    return labels, (note,) if left_out else ()


def _get_patient(name: str) -> str:
    return name.split("/", maxsplit=1)[0].removeprefix("sub-")


def _to_case(
    root: Path,
    name: str,
    images: _Files,
    masks: _Files,
    declared: tuple[Sequence[VolumeKind], Sequence[VolumeKind]],
) -> CaseSource:
    modalities, labels = declared
    candidates = {kind: images.get(kind, []) for kind in modalities} | {kind: masks.get(kind, []) for kind in labels}
    lacks = tuple(kind for kind in modalities if not candidates[kind])
    problems = [f"no file of {kind}" for kind in lacks]
    problems += [f"{len(files)} files are {kind}" for kind, files in candidates.items() if len(files) > 1]
    files = {kind: VolumeFile(paths[0]) for kind, paths in candidates.items() if paths}
    problems += [OUTSIDE for file in files.values() if not is_below(root, file.path)]
    return CaseSource(name, _get_patient(name), files, problems=tuple(problems), lacks=lacks)
