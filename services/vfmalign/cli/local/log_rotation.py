"""Rotates the logs of the local stack: copies a log that is too large to `<name>.1`, and empties the log."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

MAX_LOG_BYTES = 16 * 2**20


def rotate(folders: Iterable[Path], max_bytes: int = MAX_LOG_BYTES) -> None:
    """Copies every log in these folders that exceeds a size, then empties the log.

    This works like `copytruncate` of logrotate. Processes keep the log open and append to it, so they continue to write
    at the new end. Lines that are written between copying and emptying are lost.
    """
    for folder in folders:
        for log in folder.glob("*.log"):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if log.stat().st_size > max_bytes:
                    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
                    os.truncate(log, 0)
