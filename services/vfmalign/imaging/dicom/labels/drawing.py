"""Grid on which a label map is drawn. Each voxel has one value.

Legend: X columns, Y rows, Z slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vfmalign.core.domain.errors import BadVolume
from vfmalign.core.formats.documents import pluralise
from vfmalign.imaging.dicom.stacks import Stack
from vfmalign.imaging.volumes import Volume

GRID_TOLERANCE = 0.05
"""Maximum distance between a drawn position and the voxels or slice on which it is placed, in voxels along an axis.
Exporters round positions and direction cosines.
"""
MAX_SEGMENTS = 1024
"""Maximum number of segments or regions of an object."""
MAX_LABEL = 64
"""Maximum number of characters that are read of a label, as in the standard."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A voxel grid: its sizes along columns, rows and slices, and the affine from voxel indices to RAS+ positions."""

    sizes: tuple[int, int, int]
    affine: NDArray[np.float64]


def to_grid(reference: Stack) -> Grid:
    """Returns the grid of an image. The image must be a stack without a problem."""
    columns, rows = (int(cast(float, reference.attributes[name])) for name in ("Columns", "Rows"))
    return Grid((columns, rows, len(reference.frames)), cast(NDArray[np.float64], reference.affine))


def check_frame_of_reference(own: object, reference: Stack, name: str) -> None:
    """Checks that an object and its image are known to have the same frame of reference.

    Args:
        own: identifier of the object's frame of reference; None if the object states none.
        reference: the image.
        name: the label map's name in error messages.

    Raises:
        BadVolume: the two frames of reference differ, or one of them is unknown.
    """
    if not own or own != reference.frames[0].frame_of_reference_uid:
        raise BadVolume(
            "the segmentation and the image have different frames of reference, so that its place is unknown",
            subject=name,
            remedy="draw it on a series with the image's frame of reference, or register the two and export both again",
        )


class Drawing:
    """A label map while it is drawn.

    Args:
        grid: grid to draw on.
    """

    def __init__(self, grid: Grid) -> None:
        self._affine = grid.affine
        self._array_XYZ = np.zeros(grid.sizes, np.uint8)
        self._overlapping = 0

    def add(self, index: tuple[Any, ...], value: int) -> None:
        """Sets voxels to a value from 1 to 255.

        Args:
            index: columns, rows and slices of the voxels, as arrays or numbers.
            value: value in the label map.
        """
        before = self._array_XYZ[index]
        self._overlapping += int(((before != 0) & (before != value)).sum())
        self._array_XYZ[index] = value

    def finish(self, name: str) -> Volume:
        """Returns the label map.

        Raises:
            BadVolume: a voxel already has another value.
        """
        if self._overlapping:
            raise BadVolume(
                f"segments of different values overlap in {pluralise(self._overlapping, 'voxel')}",
                subject=name,
                remedy="declare a label map for each of them",
            )
        return Volume(self._array_XYZ, self._affine)
