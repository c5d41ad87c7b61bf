"""A folder of NIfTI files as cases: which folder is a case, and which file shows what.

Knows file names and the two small tables a user may add. Knows nothing of volumes, ids or storage. File and folder
names are often patients' names or numbers: they stay inside `FoundCase`, and no error here quotes one.

Folder layouts: one folder that holds a case's files itself; or one folder per case, at any depth. Files are told apart
by the words of their names (`t2`, `adc`, `dwi` or `hbv`, `gland` or `mask`, `lesion`).
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from vfmalign.core.domain.artifacts import MODALITIES, Split, VolumeKind
from vfmalign.core.domain.errors import BadDataset

# In this order: `lesion_mask` is a lesion map, `t2_mask` a mask, and `prostate_t2` an image.
_WORDS: tuple[tuple[VolumeKind, re.Pattern[str]], ...] = (
    ("lesions", re.compile(r"lesions?|tumou?rs?|cspca")),
    ("gland", re.compile(r"gland|mask|wholegland|wg")),
    ("adc", re.compile(r"adc(map)?")),
    ("dwi", re.compile(r"dwi.*|hbv|highb.*|b\d{3,4}")),
    ("t2w", re.compile(r"t2.*")),
    ("gland", re.compile(r"prostate")),
)
_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class FoundCase:
    """One case on disk. Private: every field may hold a patient's name.

    Attributes:
        folder: path of the case's folder below the scanned one, or the scanned folder's own name.
        patient: who it is: from the user's table, else the topmost folder below the scanned one.
        files: by kind.
        problems: why the case cannot be imported, in words without names.
    """

    folder: str
    patient: str
    files: dict[VolumeKind, Path]
    problems: tuple[str, ...] = ()


def scan_folder(directory: Path, patients: Mapping[str, str] | None = None) -> list[FoundCase]:
    """Finds the cases in a folder, in the order of their names.

    Args:
        directory: the folder; symbolic links to folders are not followed.
        patients: folder to patient, where several folders are one patient's (see `read_patients`).

    Raises:
        BadDataset: no folder, no NIfTI file, files beside case folders, or a table that names unknown folders.
    """
    if not directory.is_dir():
        raise BadDataset(
            "the folder to import does not exist", field="directory", remedy="give a folder of NIfTI files"
        )
    by_folder: dict[str, list[Path]] = {}
    for parent, _, names in os.walk(directory):
        volumes = sorted(Path(parent, name) for name in names if _is_volume(name))
        if volumes:
            by_folder[Path(parent).relative_to(directory).as_posix()] = volumes
    if not by_folder:
        raise BadDataset("no .nii or .nii.gz file found", field="directory", remedy="convert the DICOM series first")
    if "." in by_folder:
        if len(by_folder) > 1:
            raise BadDataset(
                "NIfTI files lie both in the folder and in folders below it",
                field="directory",
                remedy="use one folder per case, or a folder that is one case",
            )
        by_folder = {directory.resolve().name: by_folder["."]}
    if unknown := len(set(patients or {}) - set(by_folder)):
        raise BadDataset(f"{unknown} folders of the patient table do not exist", field="patients", remedy="correct it")
    return [_found_case(folder, files, patients or {}) for folder, files in sorted(by_folder.items())]


def read_patients(path: Path) -> dict[str, str]:
    """The user's table of patients: CSV with the columns `folder,patient`, one row per folder.

    Raises:
        BadDataset: the table cannot be read or a row is incomplete.
    """
    return _read_table(path, "patient", "patients")


def read_splits(path: Path) -> dict[str, Split]:
    """The user's own splits: CSV with the columns `folder,split`, or JSON `{"train": [folder, …], …}`.

    Raises:
        BadDataset: the table cannot be read, or names an unknown split or one folder twice.
    """
    if path.suffix.lower() != ".json":
        table = _read_table(path, "split", "splits")
    else:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            pairs = [(str(folder), str(split)) for split, folders in content.items() for folder in folders]
        except (OSError, ValueError, AttributeError, TypeError):
            raise BadDataset("the splits file is not JSON of the form {split: [folder]}", field="splits") from None
        table = dict(pairs)
        if len(table) != len(pairs):
            raise BadDataset("the splits file names one folder twice", field="splits", remedy="name each folder once")
    splits: dict[str, Split] = {}
    known = {str(name): name for name in get_args(Split)}
    for folder, split in table.items():
        if split not in known:
            raise BadDataset("unknown split", field="splits", remedy=f"choose one of: {', '.join(known)}")
        splits[folder] = known[split]
    return splits


def classify(name: str) -> VolumeKind | None:
    """What a file shows, by the words of its name; None where no word says."""
    words = re.split(r"[^a-z0-9]+", name.lower().split(".nii")[0])
    for kind, pattern in _WORDS:
        if any(pattern.fullmatch(word) for word in words):
            return kind
    return None


def _is_volume(name: str) -> bool:
    """Whether a file's name says NIfTI; hidden files (such as macOS's `._t2.nii`) are not."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _found_case(folder: str, files: list[Path], patients: Mapping[str, str]) -> FoundCase:
    found: dict[VolumeKind, Path] = {}
    problems: list[str] = []
    for file in files:
        kind = classify(file.name)
        if kind is None:
            continue
        if kind in found:
            problems.append(f"two files look like {kind}")
        found[kind] = file
    problems += [f"no file looks like {kind}" for kind in MODALITIES if kind not in found]
    patient = patients.get(folder, folder.split("/", maxsplit=1)[0])
    return FoundCase(folder, patient, found, tuple(problems))


def _read_table(path: Path, column: str, field: str) -> dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        raise BadDataset(f"the {field} file cannot be read as CSV", field=field) from None
    table: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        folder, value = (row.get("folder") or "").strip().rstrip("/"), (row.get(column) or "").strip()
        if not folder or not value:
            raise BadDataset(
                f"line {number}: empty folder or {column}", field=field, remedy=f"columns: folder,{column}"
            )
        if folder in table:
            raise BadDataset(
                f"line {number}: a folder for the second time", field=field, remedy="name each folder once"
            )
        table[folder] = value
    return table
