"""Tables supplied by the user: the patient of each case, the split of each case, and the studies to import.

The layout determines a case's name: its folder, the stem of its file, its name in a CSV, or its StudyInstanceUID.
Errors never quote these tables, because they contain patients' names.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any, get_args

from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.formats.untrusted import read_json, read_regular_file
from vfmalign.imaging.datasets.layouts.sources import describe_unreadable

MAX_TABLE_BYTES = 64 * 2**20
_UID = re.compile(r"[0-9][0-9.]{0,63}")


def read_patients(path: Path) -> dict[str, str]:
    """Reads the user's table of patients: CSV with the columns `folder,patient` (or `case` or `study` for `folder`).

    Raises:
        BadDataset: the table cannot be read or a row is incomplete.
    """
    return _read_table(path, "patient", "patients")


def read_splits(path: Path) -> dict[str, Split]:
    """Reads the user's own splits.

    The file is CSV with the columns `folder,split` (or `case` or `study` for `folder`), or JSON `{"train": [folder]}`.

    Raises:
        BadDataset: the table cannot be read, names an unknown split, or names a folder twice.
    """
    if path.suffix.lower() != ".json":
        table = _read_table(path, "split", "splits")
    else:
        try:
            content: Any = read_json(path, MAX_TABLE_BYTES)
            pairs = [(str(folder), str(split)) for split, folders in content.items() for folder in folders]
        except OSError as error:
            raise _to_unreadable(error, "splits") from None
        except (ValueError, AttributeError, TypeError):
            raise BadDataset(
                "the splits file is not JSON of the form {split: [folder]}",
                field="splits",
                remedy='write for example {"train": ["a", "b"], "test": ["c"]}',
            ) from None
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


def read_studies(path: Path) -> tuple[str, ...]:
    """Reads the user's list of studies: CSV with StudyInstanceUIDs in the column `study`.

    Raises:
        BadDataset: the table cannot be read, repeats a study, or contains something other than a StudyInstanceUID.
    """
    remedy = "name each study once in the column study, by its StudyInstanceUID"
    uids: dict[str, None] = {}
    rows = _read_rows(path, "studies", "study")
    if rows and "study" not in rows[0]:
        raise BadDataset("there is no column study", field="studies", remedy=remedy)
    for number, row in enumerate(rows, start=2):
        uid = _get_name(row)
        if not _UID.fullmatch(uid):
            raise BadDataset(f"line {number}: not a StudyInstanceUID", field="studies", remedy=remedy)
        if uid in uids:
            raise BadDataset(f"line {number}: the study is listed twice", field="studies", remedy=remedy)
        uids[uid] = None
    if not uids:
        raise BadDataset("the studies file lists no study", field="studies", remedy=remedy)
    return tuple(uids)


def _read_rows(path: Path, field: str, columns: str) -> list[dict[str, str]]:
    try:
        text = read_regular_file(path, MAX_TABLE_BYTES).decode("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text, newline="")))
    except OSError as error:
        raise _to_unreadable(error, field) from None
    except (ValueError, csv.Error):
        raise BadDataset(
            f"the {field} file is not CSV in UTF-8", field=field, remedy=f"export it with the columns {columns}"
        ) from None


def _get_name(row: dict[str, str]) -> str:
    """Name of the case in a row."""
    return (row.get("folder") or row.get("case") or row.get("study") or "").strip().rstrip("/")


def _read_table(path: Path, column: str, field: str) -> dict[str, str]:
    table: dict[str, str] = {}
    for number, row in enumerate(_read_rows(path, field, f"folder,{column}"), start=2):
        folder, value = _get_name(row), (row.get(column) or "").strip()
        if not folder or not value:
            raise BadDataset(
                f"line {number}: empty folder or {column}", field=field, remedy=f"fill the columns folder,{column}"
            )
        if folder in table:
            raise BadDataset(f"line {number}: the folder is listed twice", field=field, remedy="name each folder once")
        table[folder] = value
    return table


def _to_unreadable(error: OSError, field: str) -> BadDataset:
    return BadDataset(
        f"the {field} file {describe_unreadable(error)}",
        field=field,
        remedy="check the path, and allow this account to read the file",
    )
