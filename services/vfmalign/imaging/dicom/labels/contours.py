"""Rasterises contours. A contour is a closed polygon in a plane.

A voxel is enclosed if its centre is enclosed. Centres have integer coordinates, and (0, 0) is the centre of the voxel
in the first column and row. A voxel extends 0.5 from its centre in each direction.

The even-odd rule is applied to all contours of a plane together. A centre is inside if a ray from the centre crosses an
odd number of edges. A contour within another contour therefore cuts a hole. The channel of a keyhole contour has no
width and excludes no voxel. The direction of a contour does not matter.

Edges are half-open: a centre on a contour is inside if the enclosed area is on the side of larger columns and rows.
Contours with a common edge therefore share no voxel and leave no gap.

Legend: N edges; X columns and Y rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TIE = 2.0**-20
"""Vertices are rounded to multiples of this, in voxels, so that rounding errors cannot move a vertex away from a
centre.
"""


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges that cross rows of the plane, from all contours of the plane.

    Attributes:
        start_N2, end_N2: column and row of the two ends of each edge. The end with the smaller row comes first.
        first_N: first row that each edge crosses.
        rows_N: number of rows that each edge crosses, at least 1.
        columns: number of columns of the plane.
    """

    start_N2: NDArray[np.float64]
    end_N2: NDArray[np.float64]
    first_N: NDArray[np.intp]
    rows_N: NDArray[np.intp]
    columns: int

    @property
    def crossings(self) -> int:
        """Number of crossings between edges and rows. This number determines the time and memory that `fill` needs."""
        return int(self.rows_N.sum())


def find_edges(contours: Sequence[NDArray[np.float64]], columns: int, rows: int) -> Edges:
    """Finds the edges that cross rows.

    Args:
        contours: (vertices, 2), finite column and row of each vertex. The last vertex is joined to the first.
        columns: number of columns of the plane. Contours may extend beyond it.
        rows: number of rows of the plane.
    """
    contours = [np.rint(contour / _TIE) * _TIE for contour in contours]
    start_N2 = np.concatenate(contours)
    end_N2 = np.concatenate([np.roll(contour, -1, axis=0) for contour in contours])
    # Always start from the same end, so that the crossings do not depend on the direction in which an edge was drawn.
    is_upward_N = start_N2[:, 1] > end_N2[:, 1]
    start_N2[is_upward_N], end_N2[is_upward_N] = end_N2[is_upward_N], start_N2[is_upward_N]
    first_N, end_N = (np.clip(np.ceil(ends_N2[:, 1]), 0, rows).astype(np.intp) for ends_N2 in (start_N2, end_N2))
    crosses_N = end_N > first_N
    rows_N = end_N[crosses_N] - first_N[crosses_N]
    return Edges(start_N2[crosses_N], end_N2[crosses_N], first_N[crosses_N], rows_N, columns)


def fill(edges: Edges) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns the columns and rows of the voxels that the contours enclose."""
    if not edges.crossings:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    edge_C = np.repeat(np.arange(len(edges.rows_N)), edges.rows_N)
    before_N = np.cumsum(edges.rows_N) - edges.rows_N
    row_C = edges.first_N[edge_C] + np.arange(len(edge_C)) - before_N[edge_C]
    (x_C, y_C), (dx_C, dy_C) = edges.start_N2[edge_C].T, (edges.end_N2 - edges.start_N2)[edge_C].T
    # Multiply before dividing: the result is exact for an edge through a centre.
    column_C = np.clip(np.ceil(x_C + (row_C - y_C) * dx_C / dy_C), 0, edges.columns).astype(np.intp)
    left, top = column_C.min(), row_C.min()
    width, height = column_C.max() - left + 1, row_C.max() - top + 1
    crossings = np.bincount((row_C - top) * width + column_C - left, minlength=width * height)
    is_inside_YX = np.logical_xor.accumulate(crossings.reshape(height, width) % 2 == 1, axis=1)
    row, column = np.nonzero(is_inside_YX)
    return column + left, row + top
