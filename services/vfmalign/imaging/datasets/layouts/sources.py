"""Cases on disk in a form common to all layouts, and helpers for the paths of their files.

Names of files, folders and cases often contain patients' names or numbers. Such names stay inside `CaseSource` and
never appear in errors.
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
"""Maximum size of `dataset.json`."""
SUFFIXES = (".nii", ".nii.gz")
MAX_NAMED = 5
"""Maximum number of cases named in one sentence."""
OUTSIDE = "the path leaves the folder, is absolute, or contains `..`"


class VolumeSource(Protocol):
    """Source of one or more volumes of a case."""

    def read(self, case: str, kinds: Sequence[VolumeKind], labels: Collection[VolumeKind]) -> dict[VolumeKind, Volume]:
        """Reads and checks the volumes.

        Args:
            case: generated id of the case, for errors.
            kinds: modalities and label maps to read.
            labels: ids of the dataset's label maps.

        Raises:
            BadVolume: a volume cannot be read or used. The error's subject is `case/kind`.
        """

    def digest(self) -> bytes:
        """Returns the SHA-256 of the content, independent of names and paths.

        Raises the errors of `read`, or an OSError.
        """


@dataclass(frozen=True)
class VolumeFile:
    """A NIfTI file of a case.

    Attributes:
        path: path of the file.
        channels: modalities or label maps along the fourth axis, in order; empty for a file with three axes.
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
        name: unique name of the case: a folder, the stem of a file, or the name in a table.
        patient: the patient; the name of the case if the layout states no patient.
        files: source of each modality and label map.
        split: the split stated in the data; None if the data state no split.
        classes, grades, numbers, strata: see `core.domain.datasets.Case`.
        problems: reasons why the case cannot be imported, without patients' names.
        lacks: missing modalities and label maps. Each missing item is also listed in `problems`.
        place: position in a table, such as `line 7`; empty for other layouts.
        acquired: strata that DICOM states; see `imaging.dicom.strata.classify`. The dataset records only values that
            several patients share. None without DICOM.
        series: see `core.domain.datasets.Case`.
        chosen: for each modality or label map, the number of the series that the user chose.
    """

    name: str
    patient: str
    files: Mapping[VolumeKind, VolumeSource]
    split: Split | None = None
    classes: Mapping[VolumeKind, bool] = field(default_factory=dict)
    grades: Mapping[VolumeKind, int] = field(default_factory=dict)
    numbers: Mapping[VolumeKind, float] = field(default_factory=dict)
    strata: Mapping[VolumeKind, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    lacks: tuple[VolumeKind, ...] = ()
    place: str = ""
    acquired: Mapping[VolumeKind, str] | None = None
    series: tuple[TakenSeries, ...] = ()
    chosen: Mapping[VolumeKind, str] = field(default_factory=dict)

    def is_without(self, kinds: Collection[VolumeKind]) -> bool:
        """Returns whether the case lacks one of these kinds and has only missing files as problems."""
        return any(kind not in self.files for kind in kinds) and len(self.problems) == len(self.lacks)


@dataclass(frozen=True)
class SourceDataset:
    """Cases found by a layout.

    Attributes:
        declaration: declaration supplied by the user or derived from the data.
        cases: in order of name.
        notes: notes on omitted data, without patients' names.
        selections: rules that chose the DICOM series, in the form of `DatasetManifest`; empty for other layouts.
    """

    declaration: DatasetDeclaration
    cases: Sequence[CaseSource]
    notes: tuple[str, ...] = ()
    selections: str = ""


ProgressCallback = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)`.

The stages are `scan` (counts files), `searching PACS NAME` (begins without a total), `download` (counts studies),
`receive` (counts bytes; the total is unknown), and `validate` and `upload` (count cases).
"""


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Ignores the progress."""


@dataclass(frozen=True)
class DicomOptions:
    """Options for importing DICOM.

    Attributes:
        selections: rules that choose a series or segmentation for each modality or label map. If `selections` is empty,
            the rules of a built-in declaration apply.
        allowed: names of the refusals that the user overrode; see `imaging.dicom.refusals.REFUSALS`.
        choices: maps study number and modality or label map to the number of the series that the user chose.
        accepts_defective: if the preferred series is defective, use another usable series.
        progress: called after every scanned file.
    """

    selections: tuple[Selection, ...] = ()
    allowed: tuple[str, ...] = ()
    choices: Mapping[int, Mapping[VolumeKind, str]] = field(default_factory=dict)
    accepts_defective: bool = False
    progress: ProgressCallback = ignore_progress


def is_volume(name: str) -> bool:
    """Returns whether a file name has a NIfTI ending and is not hidden. macOS hides, for example, `._t2.nii`."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def get_stem(name: str) -> str:
    """Returns the name of a file without its folders and without `.nii` or `.nii.gz`."""
    return re.sub(r"\.nii(\.gz)?$", "", PurePosixPath(name).name, flags=re.IGNORECASE)


def list_folders(folder: Path, prefix: str = "") -> list[Path]:
    """Returns the subfolders whose names begin with a prefix, sorted by path.

    Returns none if the folder does not exist.

    Raises:
        OSError: the folder cannot be read. (`Path.glob` would ignore this error.)
    """
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.startswith(prefix) and path.is_dir())


def list_volumes(folder: Path) -> dict[str, list[Path]]:
    """Maps each stem to its NIfTI files directly in a folder, sorted by stem.

    Files with the same stem have different endings.

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
    """Explains why a file or folder cannot be read.

    The error's own text would contain the name of the file or folder.
    """
    return f"cannot be read ({error.strerror or 'unknown reason'})"


def resolve_below(root: Path, text: str) -> Path | None:
    """Resolves a path in the user's data, including links. Returns None if the file does not lie below the folder.

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
    """Returns whether a file lies below a folder after all links are followed."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False


def read_dataset_json(root: Path) -> dict[str, JsonValue] | None:
    """Reads `dataset.json`; None if it does not exist.

    Raises:
        BadDataset: the file cannot be read, is too large, or is not a JSON object.
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
