"""Private folders and files for patients' data. Only the owner can read these folders and files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


def make_private_folder(path: Path) -> None:
    """Creates a folder and its missing parents with mode 0700. `mkdir` would apply its mode only to the last folder."""
    for folder in (*reversed(path.parents), path):
        folder.mkdir(mode=0o700, exist_ok=True)


def open_private_file(path: Path) -> BinaryIO:
    """Opens an empty file for reading and writing. A new file has mode 0600."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w+b")
