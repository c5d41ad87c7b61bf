"""Segmentation objects (DICOM SEG): reads descriptions of their segments, and converts their frames to label maps.

A frame of a segmentation shows one segment in one plane. In a LABELMAP, a frame shows all segments. A file may omit the
planes in which a segment has no voxel. The frames then do not cover the extent of the image. Frames are therefore
placed on the grid of the image on which they were drawn. Planes without a frame are empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.dicom.examinations import Segment
from vfmalign.imaging.dicom.frames import FrameGeometry, list_descriptions, read_geometry
from vfmalign.imaging.dicom.headers import cut_text, find
from vfmalign.imaging.dicom.labels.codes import read_codes
from vfmalign.imaging.dicom.labels.drawing import (
    GRID_TOLERANCE,
    MAX_LABEL,
    Drawing,
    Grid,
    check_frame_of_reference,
    to_grid,
)
from vfmalign.imaging.dicom.pixels import decode_frames
from vfmalign.imaging.dicom.stacks import Stack
from vfmalign.imaging.headers import check_affine, check_shape
from vfmalign.imaging.volumes import Volume

SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage."""
_CODES = ("SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence")
_PHOTOMETRIC = ("MONOCHROME2", "PALETTE COLOR")
"""Supported PhotometricInterpretations; a palette only defines the colours in which segment numbers are displayed."""
_TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")
_EXPORT_AGAIN = "export the segmentation again"


@dataclass(frozen=True, eq=False)
class _Plane:
    """One frame.

    Attributes:
        index: number of the frame in the file, from 0.
        segment: number of the segment that it shows; None in a LABELMAP, in which a frame shows all segments.
        geometry: geometry of the frame.
        spacing_mm: stated distance to the next plane; 0 if none is stated.
    """

    index: int
    segment: int | None
    geometry: FrameGeometry
    spacing_mm: float


_Placement = NDArray[np.intp]
"""(3, 3), from (row, column, 1) of a frame to an index of a grid."""
_Placed = list[tuple[_Plane, _Placement]]


def list_segments(header: Dataset) -> Iterator[Segment]:
    """Yields the segments of a segmentation."""
    for item in header.get("SegmentSequence") or ():
        label = cut_text(str(item.get("SegmentLabel", "")), MAX_LABEL)
        yield Segment(int(item.SegmentNumber), label, read_codes([item], _CODES))


def list_references(header: Dataset) -> Iterator[str]:
    """Yields the identifiers of the series on which a segmentation was drawn."""
    for item in [header, *(header.get("StudiesContainingOtherReferencedInstancesSequence") or ())]:
        for series in item.get("ReferencedSeriesSequence") or ():
            yield str(series.get("SeriesInstanceUID", ""))


def draw(stream: BinaryIO, header: Dataset, reference: Stack, values: Mapping[int, int], name: str) -> Volume:
    """Draws segments on the grid of an image.

    If the segments do not match the image's voxels, draws them on their own grid.

    Args:
        stream: the file.
        header: header of the segmentation.
        reference: the image.
        values: maps segment number to voxel value.
        name: the label map's name in error messages.

    Raises:
        BadVolume: see `label_maps.read_label_map`.
    """
    if header.get("SegmentationType") not in _TYPES:
        raise BadVolume(f"its SegmentationType is not one of {', '.join(_TYPES)}", subject=name, remedy=_EXPORT_AGAIN)
    check_frame_of_reference(header.get("FrameOfReferenceUID"), reference, name)
    grid, placed = _place(_list_planes(header, name), header, reference, name)
    drawn = [(plane, placement) for plane, placement in placed if plane.segment is None or plane.segment in values]
    drawing = Drawing(grid)
    if indices := [plane.index for plane, _ in drawn]:  # an empty list would decode all frames
        with closing(decode_frames(stream, indices, name, _PHOTOMETRIC, is_rescaled=False)) as frames:
            for (plane, placement), pixels in zip(drawn, frames, strict=True):
                for value, mask in _list_masks(plane, pixels, header, values, name):
                    drawing.add(tuple((np.argwhere(mask) @ placement[:, :2].T + placement[:, 2]).T), value)
    return drawing.finish(name)


def _list_planes(header: Dataset, name: str) -> list[_Plane]:
    planes: list[_Plane] = []
    for index, datasets in enumerate(list_descriptions(header)):
        geometry = read_geometry(datasets)
        if geometry is None:
            raise BadVolume(
                "a frame of the segmentation states no position, orientation or pixel spacing",
                subject=name,
                remedy=_EXPORT_AGAIN,
            )
        segment = None if header.SegmentationType == "LABELMAP" else int(find(datasets, "ReferencedSegmentNumber"))
        spacing_mm = abs(float(find(datasets, "SpacingBetweenSlices") or 0))
        planes.append(_Plane(index, segment, geometry, spacing_mm if math.isfinite(spacing_mm) else 0.0))
    return planes


def _place(planes: Sequence[_Plane], header: Dataset, reference: Stack, name: str) -> tuple[Grid, _Placed]:
    """Places the frames on the grid of the image or, if they do not fit, on a grid with their stated spacing."""
    grid = to_grid(reference)
    placed = _fit(planes, header, grid)
    if not placed or _skips_slices(placed, grid):
        grid = _to_own_grid(planes, header, name)
        placed = _fit(planes, header, grid)
    if not placed:
        raise _refuse_place(name)
    if len({(plane.segment, placement.tobytes()) for plane, placement in placed}) < len(placed):
        raise BadVolume("several frames show one segment in one plane", subject=name, remedy=_EXPORT_AGAIN)
    return grid, placed


def _refuse_place(name: str) -> BadVolume:
    return BadVolume(
        "the frames of the segmentation match neither the image's voxels nor a regular grid with a stated spacing",
        subject=name,
        remedy="export it on the grid of the image that it was drawn on",
    )


def _to_own_grid(planes: Sequence[_Plane], header: Dataset, name: str) -> Grid:
    """The grid from the lowest to the highest frame; refused without a stated spacing, which is not guessed."""
    normal, spacing_mm = planes[0].geometry.normal, planes[0].spacing_mm
    if not spacing_mm:
        raise _refuse_place(name)
    heights = [float(plane.geometry.position_mm @ normal) for plane in planes]
    sizes = (header.Columns, header.Rows, round((max(heights) - min(heights)) / spacing_mm) + 1)
    row, column, position = _to_axes(planes[int(np.argmin(heights))].geometry).T
    affine = np.eye(4)
    affine[:3] = np.stack([column, row, normal * (-1, -1, 1) * spacing_mm, position], axis=1)
    check_shape(sizes, name)
    check_affine(affine, sizes, name)
    return Grid(sizes, affine)


def _to_axes(geometry: FrameGeometry) -> NDArray[np.float64]:
    """(3, 3), from (row, column, 1) of a frame to mm in RAS+ axes."""
    rows_mm, columns_mm = geometry.spacing_mm
    axes = np.stack(
        [geometry.orientation[1] * rows_mm, geometry.orientation[0] * columns_mm, geometry.position_mm], axis=1
    )
    axes[:2] *= -1
    return axes


def _fit(planes: Sequence[_Plane], header: Dataset, grid: Grid) -> _Placed:
    """Finds the voxels of each frame in a grid; returns nothing if a frame does not coincide with voxels of it."""
    to_index = np.linalg.inv(grid.affine)
    rows, columns = header.Rows - 1, header.Columns - 1
    corners = np.array([[0, 0, 1], [rows, 0, 1], [0, columns, 1], [rows, columns, 1]]).T
    placed: _Placed = []
    for plane in planes:
        exact = to_index[:3, :3] @ _to_axes(plane.geometry)
        exact[:, 2] += to_index[:3, 3]
        placement = np.rint(exact)
        indices = placement @ corners
        has_equal_steps = (np.abs(placement[:, :2]).sum(axis=0) == 1).all()
        is_inside = (indices >= 0).all() and (indices.max(axis=1) < grid.sizes).all()
        if not (has_equal_steps and is_inside and np.abs(exact @ corners - indices).max() <= GRID_TOLERANCE):
            return []
        placed.append((plane, placement.astype(np.intp)))
    return placed


def _skips_slices(placed: _Placed, grid: Grid) -> bool:
    """Whether planes state a larger spacing than the grid's, so that the slices between them would count as empty."""
    spacing_mm = placed[0][0].spacing_mm
    through = int(np.argmin(np.abs(placed[0][1][:, :2]).sum(axis=1)))
    grid_mm = float(np.linalg.norm(grid.affine[:3, through]))
    heights = sorted({int(placement[through, 2]) for _, placement in placed})
    closest_mm = min((upper - lower for lower, upper in pairwise(heights)), default=math.inf) * grid_mm
    return spacing_mm > 1.5 * grid_mm and closest_mm > 0.99 * spacing_mm


def _list_masks(
    plane: _Plane, pixels: NDArray[np.generic], header: Dataset, values: Mapping[int, int], name: str
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yields the value of each segment in a frame, with its mask."""
    if plane.segment is None:
        numbers = [0, *(int(item.SegmentNumber) for item in header.SegmentSequence)]
        if not np.isin(pixels, numbers).all():
            raise BadVolume("a voxel shows a segment that is not described", subject=name, remedy=_EXPORT_AGAIN)
        for number, value in values.items():
            yield value, pixels == number
        return
    whole = header.MaximumFractionalValue if header.SegmentationType == "FRACTIONAL" else 1
    if not np.isin(pixels, [0, whole]).all():
        raise BadVolume(
            "the segmentation holds fractional values, which a label map cannot represent",
            subject=name,
            remedy="export it as binary, with a threshold of your choice",
        )
    yield values[plane.segment], pixels != 0
