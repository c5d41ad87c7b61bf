"""Staging folder of an import from a PACS. A repeated import continues from this folder.

The folder is private and lies on the user's machine. During the download of a study, the folder contains its instances.
After the download, the folder contains the volumes in the form of the dataset, and a file with the study's other data.
This data file is written last, and marks the study as done.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, ValidationError

from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.errors import BadOption, Conflict
from vfmalign.core.domain.record import Record
from vfmalign.imaging.datasets.layouts.dicom import StudyOutcome
from vfmalign.imaging.datasets.layouts.sources import VolumeFile
from vfmalign.imaging.private_files import make_private_folder, open_private_file

_DONE = "study.json"


class StagedStudy(Record):
    """A study that was read. Private.

    Attributes:
        listing: digest of the server's list of instances.
        outcome: data about the study to record in the dataset; None for a study without an image.
        series: maps each series identifier of the study to a label.
        notes: notes on omitted files.
    """

    listing: str
    outcome: StudyOutcome | None
    series: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class StagingFolder:
    """The folder of one import.

    Args:
        path: path of the folder. The folder is created with mode 0700 when it is opened. Its files have mode 0600.
        max_bytes: maximum total size of the volumes in the folder.
        is_temporary: delete the folder at the end of the import, unless it contained data of an earlier import.

    Attributes:
        is_kept: whether the folder is kept for a repeated import.
    """

    def __init__(self, path: Path, max_bytes: int, *, is_temporary: bool = False) -> None:
        self.path = path
        self.is_kept = not is_temporary
        self._max_bytes = max_bytes
        self._size_bytes = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Locks the folder for one import.

        Raises:
            Conflict: another import uses it.
        """
        self.is_kept = self.is_kept or self.path.exists()
        make_private_folder(self.path)
        with open_private_file(self.path / "lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    "another import from the same server by the same rules is running",
                    subject="--dicomweb",
                    remedy="wait until it has ended",
                ) from None
            self._size_bytes = sum(file.stat().st_size for file in self.path.glob("*/*.nii.gz"))
            try:
                yield
            finally:
                if not self.is_kept:
                    self.remove()

    def get_download_folder(self, study_uid: str) -> Path:
        """Returns the folder for a study's instances."""
        return self._get_folder(study_uid) / "instances"

    def read(self, study_uid: str, listing: str) -> StagedStudy | None:
        """Returns a staged study; None if it was not read, or if the server's list of its instances has changed."""
        try:
            staged = StagedStudy.model_validate_json((self._get_folder(study_uid) / _DONE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return staged if staged.listing == listing else None

    def list_files(self, outcome: StudyOutcome) -> dict[VolumeKind, VolumeFile]:
        """Returns the paths of a study's volumes. The files do not exist if the study has problems."""
        folder = self._get_folder(outcome.study_uid)
        return {kind: VolumeFile(folder / f"{kind}.nii.gz") for kind in outcome.kinds}

    def write_volume(self, study_uid: str, kind: VolumeKind, data: bytes) -> None:
        """Writes a volume.

        Raises:
            BadOption: the folder would exceed its maximum size.
        """
        path = self._get_folder(study_uid) / f"{kind}.nii.gz"
        self._size_bytes += len(data) - (path.stat().st_size if path.exists() else 0)
        if self._size_bytes > self._max_bytes:
            raise BadOption(
                f"the volumes of the studies take more than {self._max_bytes / 2**30:g} GiB on this machine",
                field="--max-staging",
                remedy="raise --max-staging and repeat the import, which continues, or import fewer studies at a time",
            )
        _write_durably(path, data)

    def write(self, study_uid: str, staged: StagedStudy) -> None:
        """Marks a study as done and deletes its instances."""
        _write_durably(self._get_folder(study_uid) / _DONE, staged.to_json())
        self.discard_instances(study_uid)

    def discard_instances(self, study_uid: str) -> None:
        """Deletes the instances of a study."""
        shutil.rmtree(self.get_download_folder(study_uid), ignore_errors=True)

    def forget(self, study_uids: Collection[str]) -> None:
        """Deletes the data of some studies, so that a repeated import reads them again."""
        for folder in map(self._get_folder, study_uids):
            if (folder / _DONE).exists():  # else its instances are still being downloaded
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _get_folder(self, study_uid: str) -> Path:
        return self.path / hashlib.sha256(study_uid.encode()).hexdigest()[:32]


def _write_durably(path: Path, data: bytes) -> None:
    """Replaces a file so that it is complete or absent, even after a power failure."""
    partial = path.with_name(f"{path.name}.part")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with open_private_file(partial) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
