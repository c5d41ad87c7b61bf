"""Discovery of cases in a folder of NIfTI files: which folder is a case, and what each file shows.

File and folder names often contain patients' names or numbers. They stay inside `CaseFolder`, and errors never quote
them.

Two layouts are supported: one folder that holds a single case's files, or one folder per case at any depth. The kind of
a file follows from the words of its name (`t2`, `adc`, `dwi` or `hbv`, `gland` or `mask`, `lesion`).
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

from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.declarations import VolumeKind, get_declaration
from vfmalign.core.domain.errors import BadDataset

# The first match wins: `lesion_mask` is a lesion map, `t2_mask` is a gland mask, and `prostate_t2` is an image.
_KIND_PATTERNS: tuple[tuple[VolumeKind, re.Pattern[str]], ...] = (
    ("lesions", re.compile(r"lesions?|tumou?rs?|cspca")),
    ("gland", re.compile(r"gland|mask|wholegland|wg")),
    ("adc", re.compile(r"adc(map)?")),
    ("dwi", re.compile(r"dwi.*|hbv|highb.*|b\d{3,4}")),
    ("t2w", re.compile(r"t2.*")),
    ("gland", re.compile(r"prostate")),
)
_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class CaseFolder:
    """One case on disk. Private: every field may contain a patient's name.

    Attributes:
        folder: path of the case's folder below the scanned one, or the scanned folder's own name.
        patient: the patient according to the user's table, else the topmost folder below the scanned one.
        files: files by kind.
        problems: reasons why the case cannot be imported, without names.
    """

    folder: str
    patient: str
    files: dict[VolumeKind, Path]
    problems: tuple[str, ...] = ()


def scan_folder(directory: Path, patients: Mapping[str, str] | None = None) -> list[CaseFolder]:
    """Find the cases in a folder, ordered by name.

    Args:
        directory: the folder; symbolic links to folders are not followed.
        patients: folder to patient, where several folders belong to one patient (see `read_patients`).

    Raises:
        BadDataset: the folder does not exist or holds no NIfTI file, files lie beside case folders, or the table names
            unknown folders.
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
        raise BadDataset(
            f"{unknown} folders of the patient table do not exist", field="patients", remedy="correct the table"
        )
    return [_collect_case(folder, files, patients or {}) for folder, files in sorted(by_folder.items())]


def read_patients(path: Path) -> dict[str, str]:
    """Read the user's table of patients: CSV with the columns `folder,patient`, one row per folder.

    Raises:
        BadDataset: the table cannot be read or a row is incomplete.
    """
    return _read_table(path, "patient", "patients")


def read_splits(path: Path) -> dict[str, Split]:
    """Read the user's own splits: CSV with the columns `folder,split`, or JSON `{"train": [folder, …], …}`.

    Raises:
        BadDataset: the table cannot be read, names an unknown split, or names a folder twice.
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
    """Infer what a file shows from the words of its name; None where no word matches."""
    tokens = re.split(r"[^a-z0-9]+", name.lower().split(".nii")[0])
    for kind, pattern in _KIND_PATTERNS:
        if any(pattern.fullmatch(token) for token in tokens):
            return kind
    return None


def _is_volume(name: str) -> bool:
    """Whether a file name ends like NIfTI and is not hidden (such as macOS's `._t2.nii`)."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _collect_case(folder: str, files: list[Path], patients: Mapping[str, str]) -> CaseFolder:
    files_by_kind: dict[VolumeKind, Path] = {}
    problems: list[str] = []
    for file in files:
        kind = classify(file.name)
        if kind is None:
            continue
        if kind in files_by_kind:
            problems.append(f"two files look like {kind}")
        files_by_kind[kind] = file
    modalities = get_declaration("prostate_mpmri").modalities
    problems += [f"no file looks like {kind}" for kind in modalities if kind not in files_by_kind]
    patient = patients.get(folder, folder.split("/", maxsplit=1)[0])
    return CaseFolder(folder, patient, files_by_kind, tuple(problems))


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
                f"line {number}: empty folder or {column}", field=field, remedy=f"fill the columns folder,{column}"
            )
        if folder in table:
            raise BadDataset(f"line {number}: the folder is listed twice", field=field, remedy="name each folder once")
        table[folder] = value
    return table
