"""Registry of the layouts that can be imported. To add a layout, write a module and add an entry to `LAYOUTS`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vfmalign.core.domain.datasets import MAX_CASES
from vfmalign.core.domain.declarations import DatasetDeclaration
from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.formats.untrusted import open_regular_file
from vfmalign.imaging.datasets.layouts import bids, decathlon, folders, nnunet, table
from vfmalign.imaging.datasets.layouts.sources import DicomOptions, SourceDataset, describe_unreadable

_MAX_PROBED = 100


@dataclass(frozen=True)
class DatasetLayout:
    """A layout of datasets on disk.

    Attributes:
        matches: returns whether a folder or file has this layout, judged by names and the first bytes of files.
        read: finds the cases. The function takes the user's declaration (None to derive one) and the DICOM options.
    """

    matches: Callable[[Path], bool]
    read: Callable[[Path, DatasetDeclaration | None, DicomOptions], SourceDataset]


def _matches_dicom(path: Path) -> bool:
    """Whether a path is a zip, a DICOMDIR, or a folder without NIfTI files in which one of the first files is DICOM."""
    if path.is_file():
        return path.suffix.lower() == ".zip" or path.name.upper() == "DICOMDIR"
    if folders.matches(path):
        return False
    files = (Path(parent, name) for parent, _, names in os.walk(path) for name in sorted(names))
    return any(map(_begins_like_dicom, islice(files, _MAX_PROBED)))


def _begins_like_dicom(path: Path) -> bool:
    try:
        with open_regular_file(path, sys.maxsize) as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _read_dicom(path: Path, declaration: DatasetDeclaration | None, options: DicomOptions) -> SourceDataset:
    from vfmalign.imaging.datasets.layouts import dicom  # takes long to import

    return dicom.read(path, declaration, options)


def _read_nifti(
    read: Callable[[Path, DatasetDeclaration | None], SourceDataset],
) -> Callable[[Path, DatasetDeclaration | None, DicomOptions], SourceDataset]:
    return lambda path, declaration, options: read(path, declaration)


FOLDERS = "folders"
LAYOUTS: dict[str, DatasetLayout] = {
    "csv": DatasetLayout(table.matches, _read_nifti(table.read)),
    "nnunet": DatasetLayout(nnunet.matches, _read_nifti(nnunet.read)),
    "decathlon": DatasetLayout(decathlon.matches, _read_nifti(decathlon.read)),
    "bids": DatasetLayout(bids.matches, _read_nifti(bids.read)),
    "dicom": DatasetLayout(_matches_dicom, _read_dicom),
    FOLDERS: DatasetLayout(folders.matches, _read_nifti(folders.read)),
}
"""Layouts by name; `folders` is used for a folder that matches no other layout."""


def detect_layout(path: Path) -> str:
    """Detects the layout of a folder or file.

    Raises:
        BadDataset: several layouts match.
        OSError: a folder cannot be read.
    """
    matching = [name for name, layout in LAYOUTS.items() if name != FOLDERS and layout.matches(path)]
    if len(matching) > 1:
        raise BadDataset(
            f"several layouts match: {', '.join(matching)}",
            field="directory",
            remedy="choose one with --layout, or remove the files of the others",
        )
    return matching[0] if matching else FOLDERS


def read_source(
    path: Path,
    layout: str | None = None,
    declaration: DatasetDeclaration | None = None,
    dicom: DicomOptions = DicomOptions(),  # noqa: B008 - it is frozen
) -> tuple[str, SourceDataset]:
    """Finds the cases of a folder or file.

    Args:
        path: what to import.
        layout: a name in `LAYOUTS`; None detects the layout.
        declaration: modalities and label maps of the cases; None derives them from the data.
        dicom: options of the layout `dicom`.

    Returns:
        The name of the layout, and the cases.

    Raises:
        BadOption: the layout is unknown.
        BadDataset: there is nothing to import, the layout cannot be detected, or the data do not match the layout.
    """
    if layout is not None and layout not in LAYOUTS:
        raise BadOption("unknown layout", field="--layout", remedy=f"choose one of {', '.join(LAYOUTS)}")
    try:
        if not path.exists():
            raise BadDataset(  # without the path, which may contain a patient's name
                "the folder to import does not exist",
                field="directory",
                remedy="give a folder of NIfTI or DICOM files, a zip of DICOM files, or a CSV file",
            )
        name = detect_layout(path) if layout is None else layout
        if dicom.allowed and name != "dicom":
            raise BadOption(
                f"the layout {name} has no series to allow",
                field="--allow",
                remedy="remove --allow, or add --layout dicom",
            )
        source = LAYOUTS[name].read(path, declaration, dicom)
    except OSError as error:
        raise BadDataset(
            f"the path, or something below it, {describe_unreadable(error)}",
            field="directory",
            remedy="allow this account to read it; `find DIR ! -readable` lists what it may not read",
        ) from None
    if not source.cases:
        message = "; ".join(("no case found", *source.notes))
        raise BadDataset(message, field="directory", remedy="check the folder and its layout (--layout)")
    if len(source.cases) > MAX_CASES:
        raise BadDataset(f"more than {MAX_CASES} cases", field="directory", remedy="import them as several datasets")
    return name, source
