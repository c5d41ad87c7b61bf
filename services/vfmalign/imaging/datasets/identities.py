"""Pseudonymous ids. Ids are derived with a local secret. A local file maps ids to patients.

Only the ids leave the user's machine. They are keyed hashes. A patient has the same group id in every import, so that
leakage between datasets can be detected. Without the secret, nobody can derive ids from names or names from ids.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from vfmalign.core.domain.errors import BadOption
from vfmalign.imaging.private_files import make_private_folder

SALT_BYTES = 32
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_EMPTY = ("", "", "", "", "")
MAPPING_COLUMNS = ("dataset", "case", "group", "folder", "patient")


def load_salt(path: Path) -> bytes:
    """Loads this machine's secret for ids. On first use, creates the secret in a file that only the owner can read.

    Raises:
        BadOption: the file cannot be created or does not contain a secret.
    """
    try:
        make_private_folder(path.parent)
        with contextlib.suppress(FileExistsError):
            # O_EXCL: of two imports that start together, one creates the secret and both read it below.
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(SALT_BYTES))
        salt = path.read_bytes()
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise BadOption(f"the import secret cannot be read or created ({reason})", field="salt") from None
    if len(salt) != SALT_BYTES:
        raise BadOption(
            "the import secret is damaged",
            field="salt",
            remedy="restore it from a backup; a new secret would change all ids",
        )
    return salt


def keyed_id(salt: bytes, *parts: str) -> str:
    """Derives an id of 16 hex digits from the parts. Both directions need the salt."""
    # Each part is preceded by its length, so that ("ab", "c") and ("a", "bc") give different ids.
    # File names that are not valid UTF-8 contain surrogates (PEP 383).
    encoded = [part.encode(errors="surrogateescape") for part in parts]
    message = b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
    return hmac.new(salt, message, hashlib.sha256).hexdigest()[:16]


def add_to_mapping(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    """Adds rows to the local mapping file. Only an erasure removes rows.

    A name that a spreadsheet would read as a formula is written with an apostrophe in front.

    Existing rows are not replaced. An import with the id of a published dataset is refused, and must not change the
    rows of that dataset.

    Args:
        path: the file; it is created with mode 0600.
        rows: cells in the order of `MAPPING_COLUMNS`. Rows that are already in the file are skipped.

    Raises:
        BadOption: the file cannot be written, or is not a mapping file.
    """
    try:
        _write_mapping(path, [*_read_mapping(path), *(tuple(map(_to_cell, row)) for row in rows)])
    except (OSError, KeyError, ValueError, csv.Error):
        raise BadOption(
            "the mapping file cannot be written, or is not a mapping file", field="mapping", remedy="name another file"
        ) from None


def find_group(path: Path, *, case: str = "", row: int = 0) -> str:
    """Returns the group of a case, or of a row of the mapping file. Row 1 is the row below the header.

    Raises:
        BadOption: the file has no such case or row, cannot be read, or names several groups for the case.
    """
    field = "--case" if case else "--from-mapping"
    try:
        rows = _read_mapping(path)
    except (OSError, KeyError, ValueError, csv.Error):
        raise BadOption("the mapping file cannot be read", field=field, remedy="name the patient by GROUP") from None
    found = {
        cells[2]
        for number, cells in enumerate(rows, start=1)
        if cells[2] and (cells[1] == case if case else number == row)
    }
    if len(found) != 1:
        problem = "belongs to several patients" if found else "is not in the mapping file"
        raise BadOption(f"the {'case' if case else 'row'} {problem}", field=field, remedy="name the patient by GROUP")
    return found.pop()


def remove_from_mapping(path: Path, is_erased: Callable[[str], bool]) -> bool:
    """Empties the rows of erased patients in the mapping file. Returns whether there were such rows.

    The empty rows stay, so that the numbers of the other rows do not change.

    Args:
        path: the file.
        is_erased: returns whether a group belongs to an erased patient.

    Raises:
        BadOption: the file cannot be written, or is not a mapping file.
    """
    try:
        rows = _read_mapping(path)
        erased = {group for group in {cells[2] for cells in rows} if group and is_erased(group)}
        if erased:
            _write_mapping(path, [_EMPTY if cells[2] in erased else cells for cells in rows])
        return bool(erased)
    except (OSError, KeyError, ValueError, csv.Error):
        raise BadOption(
            "the patient's rows cannot be removed", field=str(path), remedy="delete the rows of this group yourself"
        ) from None


def _read_mapping(path: Path) -> list[tuple[str, ...]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as old:
        return [tuple(row[column] for column in MAPPING_COLUMNS) for row in csv.DictReader(old)]


def _write_mapping(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    # mkstemp creates files of mode 0600.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".mapping-")
    with os.fdopen(descriptor, "w", newline="", encoding="utf-8", errors="surrogateescape") as new:
        known = dict.fromkeys(rows)
        csv.writer(new).writerow(MAPPING_COLUMNS)
        csv.writer(new).writerows(one for one in rows if one == _EMPTY or known.pop(one, 0) is None)
    os.replace(temporary, path)


def _to_cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
