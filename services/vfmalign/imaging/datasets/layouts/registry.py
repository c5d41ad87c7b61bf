"""The layouts that can be imported. To add one, write a module and add an entry to `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vfmalign.core.domain.datasets import MAX_CASES
from vfmalign.core.domain.declarations import DatasetDeclaration
from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.imaging.datasets.layouts import bids, decathlon, folders, nnunet, table
from vfmalign.imaging.datasets.layouts.sources import SourceDataset, describe_unreadable


@dataclass(frozen=True)
class DatasetLayout:
    """A way to lay out a dataset on disk.

    Attributes:
        matches: whether a folder or file is laid out in this way, by names alone.
        read: finds the cases, with the user's declaration or a derived one.
    """

    matches: Callable[[Path], bool]
    read: Callable[[Path, DatasetDeclaration | None], SourceDataset]


FOLDERS = "folders"
LAYOUTS: dict[str, DatasetLayout] = {
    "csv": DatasetLayout(table.matches, table.read),
    "nnunet": DatasetLayout(nnunet.matches, nnunet.read),
    "decathlon": DatasetLayout(decathlon.matches, decathlon.read),
    "bids": DatasetLayout(bids.matches, bids.read),
    FOLDERS: DatasetLayout(folders.matches, folders.read),
}
"""By name; `folders` is what a folder is that matches no other."""


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
            remedy="choose one with --layout, or remove what belongs to the others",
        )
    return matching[0] if matching else FOLDERS


def read_source(
    path: Path, layout: str | None = None, declaration: DatasetDeclaration | None = None
) -> tuple[str, SourceDataset]:
    """Finds the cases of a folder or file.

    Args:
        path: what to import.
        layout: a name in `LAYOUTS`; None detects it.
        declaration: what the cases hold; None derives it.

    Returns:
        The name of the layout, and the cases.

    Raises:
        BadOption: the layout is unknown.
        BadDataset: nothing is there, the layout cannot be detected, or the data cannot be read as it.
    """
    if layout is not None and layout not in LAYOUTS:
        raise BadOption("is not a layout", field="--layout", remedy=f"choose one of {', '.join(LAYOUTS)}")
    try:
        if not path.exists():
            raise BadDataset(  # without the path, which may hold the name of a patient
                "the folder to import does not exist",
                field="directory",
                remedy="give a folder of NIfTI files, or a CSV file",
            )
        name = detect_layout(path) if layout is None else layout
        source = LAYOUTS[name].read(path, declaration)
    except OSError as error:
        raise BadDataset(
            f"it, or something in it, {describe_unreadable(error)}",
            field="directory",
            remedy="allow this account to read it; `find DIR ! -readable` lists what it may not read",
        ) from None
    if not source.cases:
        raise BadDataset("there is no case", field="directory", remedy="check the folder and its layout (--layout)")
    if len(source.cases) > MAX_CASES:
        raise BadDataset(f"more than {MAX_CASES} cases", field="directory", remedy="import them as several datasets")
    return name, source
