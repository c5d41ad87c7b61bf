"""Private folders for patients' files: one for each study that is read, removed with it, whatever happens.

A process that was killed leaves its folders behind. The next process that starts on the machine removes them: a lock
tells which processes are alive.
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
    """Returns the folder of this account among the temporary files."""
    return Path(tempfile.gettempdir()) / f"vfmalign-dicom-{os.getuid()}"


class PrivateFolders:
    """The folders of this process.

    Args:
        root: folder of all processes of this account on the machine; it is created with mode 0700.

    Raises:
        BadOption: it cannot be used, or other accounts may reach it.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            state = root.lstat()
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
                raise BadOption(
                    "it is not a folder of this account alone",
                    field=_SETTING,
                    remedy="name a folder that does not exist, or one with mode 0700",
                )
            with (root / _LOCK).open("w") as guard:
                fcntl.flock(guard, fcntl.LOCK_EX)  # no process sees the folder of another one before its lock
                _remove_abandoned(root)
                self._own = Path(tempfile.mkdtemp(prefix="process-", dir=root))
                self._lock = _lock(self._own)
        except OSError as error:
            raise BadOption(
                f"the folder cannot be used ({error.strerror})",
                field=_SETTING,
                remedy="name a folder that the service may write to",
            ) from None

    @contextmanager
    def open(self) -> Iterator[Path]:
        """Creates a folder, and removes it with everything in it at the end of the block.

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
                "the service's disk has no room for the study",
                subject="study.dicom",
                remedy=f"repeat the call later; if it persists, ask an operator for more room ({_SETTING})",
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
    """Locks a folder for as long as the file is open, which ends with the process at the latest."""
    file = (folder / _LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _remove_abandoned(root: Path) -> None:
    """Removes the folders of processes that do not run any more."""
    for folder in root.glob("process-*"):
        try:
            with _lock(folder):
                shutil.rmtree(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # its process runs, or ends and removes it
