"""Radiotherapy structure sets (RTSTRUCT): reads descriptions of their regions, and converts contours to label maps.

A region is drawn as contours in slices of an image. A contour belongs to the slice in whose plane it lies. Nothing is
drawn between slices. A contour between two slices is refused.

Legend: P points of a contour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.dicom.examinations import Segment
from vfmalign.imaging.dicom.headers import cut_text, is_cut_off, list_texts
from vfmalign.imaging.dicom.labels.codes import read_codes
from vfmalign.imaging.dicom.labels.contours import fill, find_edges
from vfmalign.imaging.dicom.labels.drawing import (
    GRID_TOLERANCE,
    MAX_LABEL,
    Drawing,
    Grid,
    check_frame_of_reference,
    to_grid,
)
from vfmalign.imaging.dicom.stacks import Stack
from vfmalign.imaging.headers import MAX_POSITION_MM
from vfmalign.imaging.volumes import Volume

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
"""RT Structure Set Storage."""
MAX_POINTS = 100_000
"""Maximum number of points of a contour; a contour that follows every voxel of an organ has a few thousand."""
MAX_CROSSINGS = 2**26
"""Maximum number of crossings of contours with voxel rows in one label map, about 10 s of work. Twenty organs of a CT
of 300 slices have a tenth of it.
"""
MAX_CROSSINGS_OF_SLICE = 2**21
"""Maximum number of crossings in one slice of a region; they take 250 MiB."""
_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Kinds of contours (ContourGeometricType) that enclose voxels."""
_CODES = (
    "RTROIIdentificationCodeSequence",
    "SegmentedPropertyCategoryCodeSequence",
    "SegmentedPropertyTypeCodeSequence",
)
_EXPORT_AGAIN = "export the structure set again"


class _Contour(NamedTuple):
    """A contour on a slice: its vertices, (vertices, 2), as columns and rows."""

    slice: int
    vertices: NDArray[np.float64]


def list_segments(header: Dataset) -> Iterator[Segment]:
    """Yields the regions of a structure set.

    Raises:
        BadVolume: the object is truncated, or two regions have the same number.
    """
    _check_end(header)
    observations: dict[int, list[Dataset]] = {}
    for item in header.get("RTROIObservationsSequence") or ():
        observations.setdefault(int(item.ReferencedROINumber), []).append(item)
    numbers: set[int] = set()
    for item in header.get("StructureSetROISequence") or ():
        number = int(item.ROINumber)
        if number in numbers:
            raise BadVolume("several regions have one number (ROINumber)", subject="segmentation", remedy=_EXPORT_AGAIN)
        numbers.add(number)
        label = cut_text(str(item.get("ROIName", "")), MAX_LABEL)
        yield Segment(number, label, read_codes([item, *observations.get(number, ())], _CODES))


def _check_end(header: Dataset) -> None:
    """Refuses a file that ends within its last element."""
    last = header.get_item(max(header.keys()))
    if last is not None and is_cut_off(last):
        raise BadVolume("the structure set is cut off", subject="segmentation", remedy=_EXPORT_AGAIN)


def list_references(header: Dataset) -> Iterator[str]:
    """Yields the identifiers of the series on which a structure set was drawn."""
    for frame in header.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                yield str(series.get("SeriesInstanceUID", ""))


def draw(header: Dataset, reference: Stack, values: Mapping[int, int], name: str) -> Volume:
    """Draws regions on the grid of an image.

    Args:
        header: header of the structure set.
        reference: the image.
        values: maps region number to voxel value.
        name: the label map's name in error messages.

    Raises:
        BadVolume: see `label_maps.read_label_map`.
    """
    grid = to_grid(reference)
    drawing = Drawing(grid)
    frames_of_reference = {
        int(item.ROINumber): item.get("ReferencedFrameOfReferenceUID") for item in header.StructureSetROISequence
    }
    left = MAX_CROSSINGS
    for number, value in values.items():
        check_frame_of_reference(frames_of_reference.get(number), reference, name)
        contours: dict[int, list[NDArray[np.float64]]] = {}
        for contour in _list_contours(header, number, reference, grid, name):
            contours.setdefault(contour.slice, []).append(contour.vertices)
        filled: dict[int, tuple[NDArray[np.intp], NDArray[np.intp]]] = {}
        for z in sorted(contours):
            _check_repeated(contours[z], name)
            edges = find_edges(contours[z], *grid.sizes[:2])
            left -= edges.crossings
            if left < 0 or edges.crossings > MAX_CROSSINGS_OF_SLICE:
                raise _refuse("its contours cross more voxel rows than contours of organs do", name)
            filled[z] = fill(edges)
        _check_gaps(filled, grid, name)
        for z, (columns, rows) in filled.items():
            drawing.add((columns, rows, z), value)
    return drawing.finish(name)


def _list_contours(header: Dataset, number: int, reference: Stack, grid: Grid, name: str) -> Iterator[_Contour]:
    """Yields the contours of a region; none if it is empty.

    Raises:
        BadVolume: a contour is damaged, is of a kind that encloses nothing, or does not lie on a slice.
    """
    to_index = np.linalg.inv(grid.affine) @ np.diag([-1.0, -1.0, 1.0, 1.0])
    slices = _list_slices(reference)
    for region in header.ROIContourSequence:
        if int(region.ReferencedROINumber) != number:
            continue
        for item in region.get("ContourSequence") or ():
            if item.get("ContourGeometricType") not in _TYPES:
                raise BadVolume(
                    f"a contour is not {' or '.join(_TYPES)}: a point or an open line encloses nothing",
                    subject=name,
                    remedy="name other regions in the selection, or draw this one with closed contours",
                )
            yield _place(_read_points(item, name) @ to_index[:3, :3].T + to_index[:3, 3], item, slices, grid, name)


def _read_points(item: Dataset, name: str) -> NDArray[np.float64]:
    """(P, 3), in mm of DICOM's patient axes."""
    # Parse the stored text: pydicom would make an object of each number, which takes ten times as long.
    text = item.get_item("ContourData").value
    if text.count(b"\\") >= 3 * MAX_POINTS:
        raise _refuse(f"a contour has more than {MAX_POINTS:,} points", name)
    points_mm = np.array([float(number) for number in text.rstrip(b"\0 ").split(b"\\")])
    if points_mm.size != 3 * int(item.NumberOfContourPoints):
        raise _refuse("the number of points of a contour differs from the stated number", name)
    if not np.abs(points_mm).max() <= MAX_POSITION_MM:  # also where it is NaN
        raise _refuse(f"a contour has a point that is NaN, or over {MAX_POSITION_MM:.0f} mm from the origin", name)
    return points_mm.reshape(-1, 3)


def _list_slices(reference: Stack) -> dict[str, dict[int, int]]:
    """Slices of an image by identifier of the instance and number of the frame."""
    slices: dict[str, dict[int, int]] = {}
    for z, frame in enumerate(reference.frames):
        slices.setdefault(frame.instance_uid, {})[frame.index + 1] = z
    return slices


def _list_named(item: Dataset, slices: Mapping[str, Mapping[int, int]]) -> Iterator[int]:
    """Yields the slices that a contour names: all slices of an instance unless it names frames."""
    for image in item.get("ContourImageSequence") or ():
        numbers = set(map(int, filter(None, list_texts([image], "ReferencedFrameNumber"))))
        for number, z in slices.get(str(image.get("ReferencedSOPInstanceUID", "")), {}).items():
            if not numbers or number in numbers:
                yield z


def _place(
    index_P3: NDArray[np.float64], item: Dataset, slices: Mapping[str, Mapping[int, int]], grid: Grid, name: str
) -> _Contour:
    """Places a contour, given as indices of the grid, on a slice."""
    z = round(float(index_P3[:, 2].mean()))
    if np.abs(index_P3[:, 2] - z).max() > GRID_TOLERANCE:
        raise BadVolume(
            "a contour does not lie in a slice of the image, but between slices or at an angle to them",
            subject=name,
            remedy="export the series that it was drawn on with it, or resample the structure set to the image",
        )
    if not 0 <= z < grid.sizes[2]:
        raise BadVolume(
            "a contour lies beyond the first or the last slice of the image",
            subject=name,
            remedy="export all slices of the series that it was drawn on",
        )
    if (named := set(_list_named(item, slices))) and z not in named:
        raise _refuse("a contour names a different image from the image that it lies on", name)
    return _Contour(z, index_P3[:, :2])


def _check_repeated(contours: Sequence[NDArray[np.float64]], name: str) -> None:
    """Refuses a repeated contour, regardless of its first point, because the two would cancel each other."""
    if len({np.unique(vertices, axis=0).tobytes() for vertices in contours}) < len(contours):
        raise _refuse("a slice has the same contour twice, so it is unclear whether it encloses anything", name)


def _check_gaps(filled: Mapping[int, tuple[NDArray[np.intp], NDArray[np.intp]]], grid: Grid, name: str) -> None:
    """Refuses slices without a contour between two parts of a region that overlap when seen along the slices.

    Otherwise, contours on every second slice would become stripes. Parts that do not overlap, such as several lesions,
    may be apart.
    """
    for below, above in pairwise(sorted(filled)):
        if above > below + 1:
            is_inside = np.zeros((2, *grid.sizes[:2]), bool)
            for part, z in zip(is_inside, (below, above), strict=True):
                part[filled[z]] = True
            if is_inside.all(axis=0).any():
                raise BadVolume(
                    f"{above - below - 1} of the slices between contours of a region have no contour",
                    subject=name,
                    remedy="draw or interpolate them in the program that drew the region; parts that are meant to be "
                    "separate need a region each, and a selection can unite them",
                )


def _refuse(cause: str, name: str) -> BadVolume:
    return BadVolume(cause, subject=name, remedy=_EXPORT_AGAIN)
