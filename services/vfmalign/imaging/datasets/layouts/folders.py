"""Layout of one folder per case, at any depth, or of a single folder with the files of one case.

The words of a file name determine the modality or label map. These words come from a declared id or, for prostate
mpMRI, from exporters (`t2`, `adc`, `dwi` or `hbv`, `gland` or `mask`, `lesion`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vfmalign.core.domain.declarations import DatasetDeclaration, VolumeKind, get_declaration
from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.formats.documents import pluralise
from vfmalign.imaging.datasets.layouts.draft import describe, name_files
from vfmalign.imaging.datasets.layouts.sources import (
    OUTSIDE,
    CaseSource,
    SourceDataset,
    VolumeFile,
    describe_unreadable,
    is_below,
    is_volume,
)

# The first match wins: `lesion_mask` is a lesion map, `t2_mask` is a gland mask, and `prostate_t2` is an image.
_PROSTATE_PATTERNS: tuple[tuple[VolumeKind, re.Pattern[str]], ...] = (
    ("lesions", re.compile(r"lesions?|tumou?rs?|cspca")),
    ("gland", re.compile(r"gland|mask|wholegland|wg")),
    ("adc", re.compile(r"adc(map)?")),
    ("dwi", re.compile(r"dwi.*|hbv|highb.*|b\d{3,4}")),
    ("t2w", re.compile(r"t2.*")),
    ("gland", re.compile(r"prostate")),
)
_PROSTATE = "prostate_mpmri"


def matches(path: Path) -> bool:
    """Returns whether there are NIfTI files in the folder or below it."""
    return any(is_volume(name) for _, _, names in os.walk(path) for name in names)


def read(path: Path, declaration: DatasetDeclaration | None) -> SourceDataset:
    """Finds the cases, ordered by name. Without a declaration, the cases are read as prostate mpMRI.

    Links to folders are not followed. A link to a file outside the folder is reported as a problem of its case.

    Raises:
        UndescribedData: no file matches a declared modality or label map, or a modality is missing in every case.
        BadDataset: the folder does not have this layout.
    """
    chosen = declaration or get_declaration(_PROSTATE)
    files_by_case, unreadable = _find_files(path)
    cases = _collect_cases(path, files_by_case, unreadable, chosen)
    missing = [kind for kind in chosen.modalities if not any(kind in case.files for case in cases)]
    assumed = "" if declaration else "without --declaration, folders are read as prostate MRI: "
    if not any(case.files for case in cases):
        message = f"{assumed}no file name contains the words of a modality or label map that {chosen.name} declares"
        raise describe(message, name_files(files_by_case))
    if missing and declaration is None and len(cases) > 1:
        message = f"{assumed}no file name contains the words of {' or '.join(missing)}, which {chosen.name} declares"
        raise describe(message, name_files(files_by_case))
    return SourceDataset(chosen, cases)


def _find_files(directory: Path) -> tuple[dict[str, list[Path]], list[OSError]]:
    """Files by folder of a case, and the errors of unreadable folders."""
    if not directory.is_dir():
        raise BadDataset(
            "it is neither a folder nor a CSV file",
            field="directory",
            remedy="give a folder of NIfTI or DICOM files, a zip of DICOM files, or a CSV file",
        )
    by_folder: dict[str, list[Path]] = {}
    unreadable: list[OSError] = []
    for parent, _, names in os.walk(directory, onerror=unreadable.append):
        volumes = sorted(Path(parent, name) for name in names if is_volume(name))
        if volumes:
            by_folder[Path(parent).relative_to(directory).as_posix()] = volumes
    if not by_folder:
        if unreadable:
            raise unreadable[0]
        raise BadDataset(
            "no .nii or .nii.gz file found", field="directory", remedy="import DICOM files with --layout dicom"
        )
    if "." in by_folder:
        if len(by_folder) > 1:
            raise BadDataset(
                f"{pluralise(len(by_folder['.']), 'NIfTI file')} in the folder itself, and others in folders below it",
                field="directory",
                remedy="move the files in the folder itself away, or into a folder per case",
            )
        by_folder = {directory.resolve().name: by_folder["."]}
    return by_folder, unreadable


def _collect_cases(
    directory: Path,
    by_folder: Mapping[str, list[Path]],
    unreadable: Sequence[OSError],
    declaration: DatasetDeclaration,
) -> list[CaseSource]:
    above = {parent for folder in by_folder for parent in _list_parents(folder)}
    cases = []
    for folder, files in by_folder.items():
        place = ""
        if folder in above:
            place = "; its files lie beside folders of cases: move them away unless they are a case"
        elif any(parent in by_folder for parent in _list_parents(folder)):
            place = "; its folder lies in the folder of another case: move its files away unless they are a case"
        cases.append(_collect_case(directory, folder, files, declaration, place))
    for error in unreadable:
        folder = Path(error.filename).relative_to(directory).as_posix()
        problem = f"the folder {describe_unreadable(error)}"
        cases.append(CaseSource(folder, _get_patient(folder), {}, problems=(problem,)))
    return sorted(cases, key=lambda case: case.name)


def classify(name: str, declaration: DatasetDeclaration | None = None) -> VolumeKind | None:
    """Infers the modality or label map from the words of a file name; None if there is no single best match."""
    tokens = re.split(r"[^a-z0-9]+", name.lower().split(".nii")[0])
    if declaration is None or declaration.name == _PROSTATE:
        for kind, pattern in _PROSTATE_PATTERNS:
            if any(pattern.fullmatch(token) for token in tokens):
                return kind
        return None
    text = f"_{'_'.join(tokens)}_"
    for kinds in (declaration.label_names, declaration.modalities):  # `t1w_hippocampus` is the label map
        if candidates := [kind for kind in kinds if f"_{kind}_" in text]:
            longest = max(candidates, key=len)  # `t1w_gd` rather than `t1w`
            return longest if all(kind in longest for kind in candidates) else None
    return None


def _collect_case(
    root: Path, folder: str, files: list[Path], declaration: DatasetDeclaration, place: str
) -> CaseSource:
    files_by_kind: dict[VolumeKind, VolumeFile] = {}
    problems: list[str] = []
    for file in files:
        kind = classify(file.name, declaration)
        if kind is None:
            continue
        if kind in files_by_kind:
            problems.append(f"two files look like {kind}")
        files_by_kind[kind] = VolumeFile(file)
    lacks = tuple(kind for kind in declaration.modalities if kind not in files_by_kind)
    problems += [f"no file looks like {kind}{place}" for kind in lacks]
    problems += [OUTSIDE for file in files_by_kind.values() if not is_below(root, file.path)]
    return CaseSource(folder, _get_patient(folder), files_by_kind, problems=tuple(problems), lacks=lacks)


def _list_parents(folder: str) -> list[str]:
    return [parent.as_posix() for parent in Path(folder).parents]


def _get_patient(folder: str) -> str:
    return folder.split("/", maxsplit=1)[0]
