"""Cases on disk, as every layout describes them, and the paths of their files.

Names of files, folders and cases often contain patients' names or numbers. They stay inside `CaseSource`, and errors
never quote them.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Protocol

from pydantic import JsonValue

from vfmalign.core.domain.datasets import Split, TakenSeries
from vfmalign.core.domain.declarations import DatasetDeclaration, VolumeKind
from vfmalign.core.domain.errors import BadDataset, BadVolume
from vfmalign.core.formats.untrusted import read_json, read_regular_file
from vfmalign.imaging.volumes import MAX_ENCODED_BYTES, Volume, decode, decode_channels

if TYPE_CHECKING:
    from vfmalign.imaging.dicom.rules import Selection

MAX_JSON_BYTES = 64 * 2**20
"""Largest `dataset.json` that is read."""
SUFFIXES = (".nii", ".nii.gz")
MAX_NAMED = 5
"""Cases that one sentence names."""
OUTSIDE = "the path leaves the folder, is absolute, or contains `..`"


class VolumeSource(Protocol):
    """What one or several volumes of a case are read from."""

    def read(self, case: str, kinds: Sequence[VolumeKind], labels: Collection[VolumeKind]) -> dict[VolumeKind, Volume]:
        """Reads and checks the volumes.

        Args:
            case: generated id of the case, which errors name.
            kinds: what the case takes from this source.
            labels: ids of the dataset's label maps.

        Raises:
            BadVolume: something cannot be read or used; the subject is `case/kind`.
        """

    def digest(self) -> bytes:
        """Returns the SHA-256 of the content, whatever its names and place; raises as `read`, or an OSError."""


@dataclass(frozen=True)
class VolumeFile:
    """A NIfTI file of a case.

    Attributes:
        path: where it is.
        channels: what its fourth axis holds, in order; empty for a file of three axes.
    """

    path: Path
    channels: tuple[VolumeKind, ...] = ()

    def read(self, case: str, kinds: Sequence[VolumeKind], labels: Collection[VolumeKind]) -> dict[VolumeKind, Volume]:
        """See `VolumeSource`."""
        try:
            data = read_regular_file(self.path, MAX_ENCODED_BYTES)
        except OSError as error:
            is_large = error.errno == errno.EFBIG
            remedy = "crop the series" if is_large else "replace the file, or allow this account to read it"
            raise BadVolume(describe_unreadable(error), subject=f"{case}/{min(kinds)}", remedy=remedy) from None
        if self.channels:
            return decode_channels(data, f"{case}/{self.channels[0]}", self.channels)
        return {kind: decode(data, f"{case}/{kind}", kind, is_label=kind in labels) for kind in kinds}

    def digest(self) -> bytes:
        """See `VolumeSource`."""
        return hashlib.sha256(read_regular_file(self.path, MAX_ENCODED_BYTES)).digest()


@dataclass(frozen=True)
class CaseSource:
    """One case on disk. Private: every field may contain a patient's name.

    Attributes:
        name: what tells the case apart from others: a folder, the stem of a file, or the name in a table.
        patient: the patient, as far as the layout tells; else the name.
        files: what the modalities and label maps are read from.
        split: the split that the data state; None where they state none.
        classes, numbers, strata: see `core.domain.datasets.Case`.
        problems: reasons why the case cannot be imported, without names.
        lacks: modalities and label maps whose absence is one of the problems each.
        place: where a table describes the case, such as `line 7`; empty elsewhere.
        acquired: strata that DICOM states, see `imaging.dicom.strata.classify`; the dataset takes those of several
            patients. None without DICOM.
        series: see `core.domain.datasets.Case`.
        chosen: number of the series that the user named, by modality or label map.
    """

    name: str
    patient: str
    files: Mapping[VolumeKind, VolumeSource]
    split: Split | None = None
    classes: Mapping[VolumeKind, bool] = field(default_factory=dict)
    numbers: Mapping[VolumeKind, float] = field(default_factory=dict)
    strata: Mapping[VolumeKind, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    lacks: tuple[VolumeKind, ...] = ()
    place: str = ""
    acquired: Mapping[VolumeKind, str] | None = None
    series: tuple[TakenSeries, ...] = ()
    chosen: Mapping[VolumeKind, str] = field(default_factory=dict)

    def is_without(self, kinds: Collection[VolumeKind]) -> bool:
        """Whether the case has no file of one of these kinds, and no other problem than what it lacks."""
        return any(kind not in self.files for kind in kinds) and len(self.problems) == len(self.lacks)


@dataclass(frozen=True)
class SourceDataset:
    """What a layout found.

    Attributes:
        declaration: the user's, or the one that derives from the data.
        cases: in order of name.
        notes: what was left out, in sentences without names.
        selections: which DICOM series the volumes come from, as `DatasetManifest` keeps it; empty for other layouts.
    """

    declaration: DatasetDeclaration
    cases: Sequence[CaseSource]
    notes: tuple[str, ...] = ()
    selections: str = ""


ProgressCallback = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)`.

Stages are `scan` in files, `searching PACS NAME`, which begins without a total, `download` in studies, `receive` in
bytes, whose total is not known, and `validate` and `upload` in cases.
"""


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Ignores the progress."""


@dataclass(frozen=True)
class DicomOptions:
    """What the user chooses about DICOM.

    Attributes:
        selections: which series a modality and which segmentation a label map takes; none for those that come along
            with the declaration.
        allowed: names of `imaging.dicom.refusals.REFUSALS` that are lifted.
        choices: number of the series that the user names, by number of the study and by modality or label map.
        accepts_defective: whether a usable series takes the place of a defective one that is preferred.
        progress: called after every file that is scanned.
    """

    selections: tuple[Selection, ...] = ()
    allowed: tuple[str, ...] = ()
    choices: Mapping[int, Mapping[VolumeKind, str]] = field(default_factory=dict)
    accepts_defective: bool = False
    progress: ProgressCallback = ignore_progress


def is_volume(name: str) -> bool:
    """Whether a file name ends like NIfTI and is not hidden (such as macOS's `._t2.nii`)."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def get_stem(name: str) -> str:
    """The name of a file without folders, `.nii` or `.nii.gz`."""
    return re.sub(r"\.nii(\.gz)?$", "", PurePosixPath(name).name, flags=re.IGNORECASE)


def list_folders(folder: Path, prefix: str = "") -> list[Path]:
    """The folders directly in a folder whose names begin with a prefix, in order; none if there is no such folder.

    Raises:
        OSError: it cannot be read; `Path.glob` would leave it out.
    """
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.startswith(prefix) and path.is_dir())


def list_volumes(folder: Path) -> dict[str, list[Path]]:
    """The NIfTI files directly in a folder by stem, in order; two files of one stem differ by their ending.

    Raises:
        OSError: the folder cannot be read.
    """
    files: dict[str, list[Path]] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if is_volume(path.name):
                files.setdefault(get_stem(path.name), []).append(path)
    return files


def list_some(items: Sequence[str], limit: int = MAX_NAMED) -> str:
    """Lists the first items of many, such as `case 1 of 9; case 4 of 9; and 2 more`."""
    more = [f"and {len(items) - limit} more"] if len(items) > limit else []
    return "; ".join([*items[:limit], *more])


def describe_unreadable(error: OSError) -> str:
    """Explains why a file or folder cannot be read, without its name, which the error's own text would show."""
    return f"cannot be read ({error.strerror or 'unknown reason'})"


def resolve_below(root: Path, text: str) -> Path | None:
    """The file that a path in the user's data names; None if it is not below the folder, links followed.

    Args:
        root: the folder.
        text: a relative path with `/` between folders.
    """
    relative = PurePosixPath(text)
    foreign = "\\" in text or "\0" in text or PureWindowsPath(text).drive
    if not text or foreign or relative.is_absolute() or ".." in relative.parts:
        return None
    return root / relative if is_below(root, root / relative) else None


def is_below(root: Path, path: Path) -> bool:
    """Whether a file lies below a folder after all links are followed."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False


def read_dataset_json(root: Path) -> dict[str, JsonValue] | None:
    """Reads `dataset.json`; None where there is none.

    Raises:
        BadDataset: it cannot be read, is too large, or is not a JSON object.
    """
    path = root / "dataset.json"
    if not path.is_file():
        return None
    try:
        content = read_json(path, MAX_JSON_BYTES)
    except OSError as error:
        raise BadDataset(
            f"it {describe_unreadable(error)}",
            subject="dataset.json",
            remedy="replace the file, or allow this account to read it",
        ) from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise BadDataset(
            "it is not a JSON object", subject="dataset.json", remedy="correct the file, or choose another layout"
        )
    return content
