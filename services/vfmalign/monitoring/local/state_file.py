"""State file: the exact state of a monitor and its observations. A later run can continue the stream from this file.

A state file begins with its version and a digest of its other content. A damaged file is therefore rejected before it
is parsed. The file contains standardised features of up to 20,000 rows, 64-bit digests of patients, digests of
observations, and the ids of the most extreme observations.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfmalign.core.domain.errors import BadOption, InvalidInput, VfmalignError
from vfmalign.core.formats.untrusted import describe_failure, read_regular_file
from vfmalign.monitoring.local.history import History
from vfmalign.monitoring.sequential import Monitor, OutdatedState, from_bytes, to_bytes

MAGIC = b"vfmalign drift state 1\n"
MAX_STATE_BYTES = 16 * 2**30
SUBJECT = "state"
_DIGEST_BYTES = 32
_UNREADABLE = (
    VfmalignError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)
"""Exceptions that parsing may raise if the content is not a state, although its digest is correct."""


@dataclass
class ObservedRows:
    """Recorded observations. Each entry contains the digest of the id, the digest of the features and the row number.

    Attributes:
        features: digest of the features.
        rows: number of each row in the epoch, starting at 1; 0 if the evidence does not include the observation.
    """

    features: dict[int, int] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)


@dataclass
class DriftState:
    """A monitor with its history.

    Attributes:
        monitor: the monitor.
        history: evidence of the monitor over time.
        observed: observations of the monitor.
        fixed: options and digest of the reference. A continued stream must have the same options and reference.
    """

    monitor: Monitor
    history: History
    observed: ObservedRows
    fixed: dict[str, Any]


def get_digest(data: bytes) -> int:
    """Returns the digest of some bytes, truncated to 64 bits."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def write_state(path: Path, state: DriftState) -> None:
    """Replaces the file atomically. Only the owner of the file may read it.

    Raises:
        BadOption: the file cannot be written.
    """
    observed = state.observed
    arrays: dict[str, NDArray[Any]] = {
        "monitor": np.frombuffer(to_bytes(state.monitor), np.uint8),
        "ids": np.array(list(observed.rows), np.uint64),
        "features": np.array(list(observed.features.values()), np.uint64),
        "rows": np.array(list(observed.rows.values()), np.int64),
        "header": np.frombuffer(json.dumps({"fixed": state.fixed, "stride": state.history.stride}).encode(), np.uint8),
        **state.history.to_arrays(),
    }
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    content = file.getvalue()
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(MAGIC + hashlib.sha256(content).digest() + content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise BadOption(
            f"it cannot be written ({error.strerror})", field=SUBJECT, remedy="choose a file in a folder that exists"
        ) from None


def read_state(path: Path) -> DriftState | None:
    """Returns the state in a file, or None if there is no file.

    Raises:
        InvalidInput: the file is damaged, or its format is not that of this version.
    """
    try:
        data = read_regular_file(path, MAX_STATE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadOption(describe_failure(error), field=SUBJECT, remedy="name the file of an earlier run") from None
    content = data[len(MAGIC) + _DIGEST_BYTES :]
    if not data.startswith(MAGIC):
        raise _to_damaged("it is not a state that this release of `vfmalign drift` wrote")
    if hashlib.sha256(content).digest() != data[len(MAGIC) : len(MAGIC) + _DIGEST_BYTES]:
        raise _to_damaged("it is damaged: the content does not match its digest")
    try:
        return _parse(content)
    except OutdatedState as error:
        raise InvalidInput(
            "another release of `vfmalign drift` wrote it, which ranked rows differently",
            subject=SUBJECT,
            remedy="name a new file, and give all files or feature sets of the stream so far, in the same order",
        ) from error
    except _UNREADABLE as error:
        raise _to_damaged("it does not contain a monitor") from error


def _parse(content: bytes) -> DriftState:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("an entry is compressed, so its real size is unknown")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    header = json.loads(arrays["header"].tobytes())
    ids = arrays["ids"].tolist()
    observed = ObservedRows(
        dict(zip(ids, arrays["features"].tolist(), strict=True)), dict(zip(ids, arrays["rows"].tolist(), strict=True))
    )
    return DriftState(
        from_bytes(arrays["monitor"].tobytes()),
        History.from_arrays(arrays, int(header["stride"])),
        observed,
        dict(header["fixed"]),
    )


def _to_damaged(problem: str) -> InvalidInput:
    return InvalidInput(
        problem, subject=SUBJECT, remedy="restore it from a backup, or name a new file and observe all rows again"
    )
