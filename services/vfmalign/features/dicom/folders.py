"""Private folders for patients' files. Each study has its own folder, which is removed after reading or after an error.

A killed process leaves its folders behind. The next process that starts on the machine removes these folders. Locks
show which processes are alive.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vfmalign.core.domain.errors import BadOption, Exhausted

_LOCK = "lock"
_SETTING = "VFMALIGN_FEATURES__DICOM_FOLDER"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def get_default_folder() -> Path:
    """Returns this account's folder in the system's temporary folder."""
    return Path(tempfile.gettempdir()) / f"vfmalign-dicom-{os.getuid()}"


class PrivateFolders:
    """The folders of this process.

    Args:
        root: folder that all processes of this account on the machine share. The folder is created with mode 0700.

    Raises:
        BadOption: the folder cannot be used, or other accounts have access to it.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            state = root.lstat()
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
                raise BadOption(
                    "the path is not a private folder of this account",
                    field=_SETTING,
                    remedy="choose a folder that does not exist yet or has mode 0700",
                )
            with (root / _LOCK).open("w") as guard:
                fcntl.flock(guard, fcntl.LOCK_EX)  # other processes do not see the folder before it is locked
                _remove_abandoned(root)
                self._own = Path(tempfile.mkdtemp(prefix="process-", dir=root))
                self._lock = _lock(self._own)
        except OSError as error:
            raise BadOption(
                f"the folder cannot be used ({error.strerror})",
                field=_SETTING,
                remedy="choose a folder that the service can write to",
            ) from None

    @contextmanager
    def open(self) -> Iterator[Path]:
        """Creates a folder for the block. At the end of the block, removes the folder and its content.

        Raises:
            Exhausted: the disk is full.
        """
        folder: Path | None = None
        try:
            folder = Path(tempfile.mkdtemp(dir=self._own))
            yield folder
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise Exhausted(
                "the service's disk has no space for the study",
                subject="study.dicom",
                remedy=f"repeat the call later; if this error persists, ask an operator for more space ({_SETTING})",
                reason="DISK_FULL",
            ) from None
        finally:
            if folder is not None:
                shutil.rmtree(folder)

    def close(self) -> None:
        """Removes all folders of this process."""
        shutil.rmtree(self._own, ignore_errors=True)
        self._lock.close()


def _lock(folder: Path) -> IO[str]:
    """Locks a folder as long as the file is open, at most until the process ends."""
    file = (folder / _LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _remove_abandoned(root: Path) -> None:
    """Removes the folders of processes that have ended."""
    for folder in root.glob("process-*"):
        try:
            with _lock(folder):
                shutil.rmtree(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # its process is running, or is ending and removes it
