"""Who is who: the secret under which ids are made, and the local file that says which id is whose.

Knows names and ids. Knows nothing of volumes or storage: nothing here ever leaves the user's machine but the ids.
Ids are keyed hashes: the same patient gets the same group id in every import (so that leakage between datasets is
noticed), and nobody without the secret can get from a name to an id or back.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vfmalign.core.domain.errors import BadOption

SALT_BYTES = 32
MAPPING_COLUMNS = ("dataset", "case", "group", "folder", "patient")


def load_salt(path: Path) -> bytes:
    """The machine's secret for ids; made on first use, readable by its owner alone.

    Raises:
        BadOption: the file cannot be made or is not such a secret.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(SALT_BYTES))
        salt = path.read_bytes()
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise BadOption(f"the import secret cannot be read or made ({reason})", field="salt") from None
    if len(salt) != SALT_BYTES:
        raise BadOption("the import secret is damaged", field="salt", remedy="restore it: without it ids change")
    return salt


def keyed_id(salt: bytes, *parts: str) -> str:
    """16 hex digits that stand for the parts; without the salt neither can be had from the other."""
    message = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return hmac.new(salt, message, hashlib.sha256).hexdigest()[:16]


def write_mapping(path: Path, dataset_id: str, rows: Sequence[Sequence[str]]) -> None:
    """Puts a dataset's rows into the local mapping file, in place of those it had; other datasets' rows stay.

    Raises:
        BadOption: the file cannot be written, or is not such a table.
    """
    kept: list[Sequence[str]] = []
    try:
        if path.exists():
            with path.open(newline="", encoding="utf-8") as old:
                kept = [[r[c] for c in MAPPING_COLUMNS] for r in csv.DictReader(old) if r["dataset"] != dataset_id]
        # mkstemp makes files of mode 0600.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".mapping-")
        with os.fdopen(descriptor, "w", newline="", encoding="utf-8") as new:
            csv.writer(new).writerows([MAPPING_COLUMNS, *kept, *rows])
        os.replace(temporary, path)
    except (OSError, KeyError, ValueError, csv.Error):
        raise BadOption(
            "the mapping file cannot be written, or is not one of ours", field="mapping", remedy="name another file"
        ) from None
