"""Stacks: the frames of a series that form one volume, in order of position.

A series may contain several volumes: b-values, echoes, time points, orientations. The series is divided by the
attributes in which the volumes differ. Each part must be a regular grid: nothing is interpolated, omitted or guessed. A
missing first or last slice cannot be detected, because no attribute states the number of slices.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfmalign.core.domain.errors import BadVolume
from vfmalign.core.formats.documents import pluralise
from vfmalign.imaging.dicom.frames import AttributeValue, Frame, FrameGeometry

GRID_TOLERANCE = 1e-3
"""Maximum distance of a slice from its position in a regular grid, as a share of the distance between slices."""
ROUNDING_MM = 2e-3
"""Distance that is always accepted, because exporters round positions to a few decimals."""
MAX_TILT_DEGREES = 0.1
"""Maximum angle between the line through the slices and their normal."""
MAX_PLANES = 1_000
"""Maximum number of orientations, sizes and pixel spacings of a series. A rotating acquisition has a few hundred."""
_PLANE_TOLERANCE = 1e-4
"""Maximum difference between numbers of the same plane: direction cosines, spacing in mm."""
_DIVIDING = ("b_value", "diffusion", "EchoTime", "EchoNumbers", "TemporalPositionIdentifier", "FlipAngle",
             "InversionTime", "ImageType", "ComplexImageComponent")  # fmt: skip
_DIVIDING_REPEATED = ("AcquisitionNumber", "TriggerTime")
"""Attributes that divide a series only if positions repeat, because some vendors count them up from slice to slice."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames that form one volume, or that were intended to form one volume.

    Attributes:
        frames: in order of position along the normal; in order of file if there is a `problem`.
        attributes: attributes equal in all frames, plus `orientation` and `slices`.
        affine: 4×4, maps column, row and slice to patient position in mm (NIfTI's RAS+ axes); None if there is a
            problem.
        divided_by: names of the attributes that distinguish the series' stacks.
        problem: reason why the frames do not form a volume; empty if they do.
    """

    frames: tuple[Frame, ...]
    attributes: Mapping[str, AttributeValue]
    affine: NDArray[np.float64] | None
    divided_by: tuple[str, ...] = ()
    problem: str = ""

    @property
    def frame_of_reference_uid(self) -> str:
        """Frame of reference of all frames of the volume; empty if the frames state none. Private."""
        return self.frames[0].frame_of_reference_uid


def divide(frames: Sequence[Frame]) -> list[Stack]:
    """Divides the frames of a series into stacks. The stacks are ordered by the attributes that distinguish them.

    Raises:
        BadVolume: the planes differ in more than `MAX_PLANES` combinations of orientation, size and pixel spacing.
    """
    planes = _group_by_plane(frames)
    parts = [
        part
        for plane in planes
        for group in _group_by(plane, _DIVIDING)
        for part in (_divide_repeated(group) if _count_repeated(group) else [group])
    ]
    names = (*_DIVIDING, *_DIVIDING_REPEATED)
    divided_by = tuple(name for name in names if len({part[0].attributes.get(name) for part in parts}) > 1)
    if len(planes) > 1:
        divided_by = ("orientation", *divided_by)
    is_weighted = any(frame.attributes.get("b_value") for frame in frames)
    stacks = [_build(part, divided_by, is_weighted=is_weighted) for part in parts]
    return sorted(stacks, key=lambda stack: [_to_sort_key(stack.attributes.get(name)) for name in stack.divided_by])


def _group_by_plane(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Groups frames by size, orientation and pixel spacing, up to rounding. Frames without geometry form one group."""
    planes = np.empty((0, 10))
    groups: list[list[Frame]] = []
    for frame in frames:
        numbers = [frame.attributes.get("Rows", 0.0), frame.attributes.get("Columns", 0.0)]
        if frame.geometry is not None:
            numbers += [*frame.geometry.spacing_mm, *frame.geometry.orientation.ravel()]
        plane = np.pad(np.array(numbers, dtype=np.float64), (0, 10 - len(numbers)))
        near = np.flatnonzero((np.abs(planes - plane) <= _PLANE_TOLERANCE).all(axis=1))
        if near.size:
            groups[int(near[0])].append(frame)
        elif len(groups) == MAX_PLANES:
            raise BadVolume(f"more than {MAX_PLANES:,} orientations, sizes and pixel spacings", subject="series")
        else:
            planes = np.vstack([planes, plane])
            groups.append([frame])
    return groups


def _group_by(frames: Sequence[Frame], names: Sequence[str]) -> list[list[Frame]]:
    groups: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(tuple([frame.attributes.get(name) for name in names]), []).append(frame)
    return list(groups.values())


def _divide_repeated(frames: list[Frame]) -> list[list[Frame]]:
    """Divides frames with repeated positions, if there is an attribute that gives every part each position once."""
    for name in _DIVIDING_REPEATED:
        parts = _group_by(frames, (name,))
        if len({len(part) for part in parts}) == 1 and not any(map(_count_repeated, parts)):
            return parts
    return [frames]


def _count_repeated(frames: Sequence[Frame]) -> int:
    """Number of frames at the position of another frame."""
    placed = [frame.geometry for frame in frames if frame.geometry is not None]
    return int((np.diff(np.sort(_get_heights(placed))) <= ROUNDING_MM).sum()) if placed else 0


def _get_heights(placed: Sequence[FrameGeometry]) -> NDArray[np.float64]:
    """Position of each frame along the normal of the first, in mm."""
    return np.array([geometry.position_mm for geometry in placed]) @ placed[0].normal


def _to_sort_key(value: AttributeValue | None) -> tuple[float, str]:
    return (value, "") if isinstance(value, float) else (-1.0, "" if value is None else str(value))


def _build(frames: Sequence[Frame], divided_by: tuple[str, ...], *, is_weighted: bool) -> Stack:
    """Builds a stack of frames; `is_weighted` states whether the series has images with diffusion weighting."""
    placed = [frame.geometry for frame in frames if frame.geometry is not None]
    common = set.intersection(*[set(frame.attributes.items()) for frame in frames])
    attributes = {name: value for name, value in frames[0].attributes.items() if (name, value) in common}
    if attributes.get("diffusion") == "none" and not is_weighted and not _is_echo_planar(attributes):
        # GE and Philips write a b-value of zero to images of every sequence.
        del attributes["b_value"], attributes["diffusion"]
    attributes["slices"] = float(len(frames))
    if len(placed) < len(frames):
        problem = "an image states no position, orientation or pixel spacing"
        return Stack(tuple(frames), attributes, None, divided_by, problem)
    attributes["orientation"] = name_orientation(placed[0])
    order = np.argsort(_get_heights(placed), kind="stable")
    ordered = tuple(frames[index] for index in order)
    placed = [placed[index] for index in order]
    problem = _find_mosaic(attributes) or _find_repetition(ordered) or _find_irregularity(placed)
    if not problem and len({frame.frame_of_reference_uid for frame in frames}) > 1:
        problem = "images of several frames of reference, so that their relative positions are unknown"
    return Stack(ordered, attributes, None if problem else _to_affine(placed), divided_by, problem)


def _is_echo_planar(attributes: Mapping[str, AttributeValue]) -> bool:
    sequence = attributes.get("ScanningSequence", ())
    return "EP" in (sequence if isinstance(sequence, tuple) else (sequence,)) or (
        attributes.get("EchoPlanarPulseSequence") == "YES"
    )


def _find_mosaic(attributes: Mapping[str, AttributeValue]) -> str:
    """Returns a problem if each image shows all slices of a volume side by side, else an empty text."""
    kinds = attributes.get("ImageType")
    if isinstance(kinds, tuple) and "MOSAIC" in kinds:
        return "Siemens mosaic: not supported (export it as enhanced MR, or convert it to NIfTI with dcm2niix)"
    return ""


def _find_repetition(frames: Sequence[Frame]) -> str:
    """Returns a problem if frames are repeated, else an empty text."""
    if copies := len(frames) - len({(frame.instance_uid or frame.file, frame.index) for frame in frames}):
        return f"{pluralise(copies, 'image')} present more than once, with the same SOPInstanceUID"
    if repeated := _count_repeated(frames):
        return (
            f"{pluralise(repeated, 'position')} repeated, and no attribute tells the images of one volume from others"
        )
    return ""


def _find_irregularity(placed: Sequence[FrameGeometry]) -> str:
    """Returns a problem if slices, in order of position, are not a regular grid, else an empty text."""
    if len(placed) == 1:
        return "a single slice, so that the distance between slices is unknown"
    positions = np.array([geometry.position_mm for geometry in placed])
    heights = positions @ placed[0].normal
    gaps = np.diff(heights)
    typical = float(np.median(gaps))
    tolerance = max(ROUNDING_MM, GRID_TOLERANCE * typical)
    multiples = np.rint(gaps / typical)
    missing = int((multiples - 1).sum())
    if missing > 0 and np.abs(gaps - multiples * typical).max() <= tolerance * multiples.max():
        return f"{pluralise(missing, 'slice')} missing between others that lie {typical:.4g} mm apart"
    if np.abs(heights - np.linspace(heights[0], heights[-1], len(placed))).max() > tolerance:
        return f"slices lie {gaps.min():.4g} to {gaps.max():.4g} mm apart, which is not a regular grid"
    step = (positions[-1] - positions[0]) / (len(placed) - 1)
    tilt = np.degrees(np.arccos(min(1.0, step @ placed[0].normal / np.linalg.norm(step))))
    if tilt > MAX_TILT_DEGREES:
        return f"slices are shifted against each other by {tilt:.2g}°, as with a tilted gantry"
    if np.abs(positions - np.linspace(positions[0], positions[-1], len(placed))).max() > tolerance:
        return "slices are shifted within their plane, each by a different distance"
    return ""


def _to_affine(placed: Sequence[FrameGeometry]) -> NDArray[np.float64]:
    """The affine of columns, rows and slices: from DICOM's LPS axes to NIfTI's RAS axes."""
    first, last = placed[0], placed[-1]
    rows_mm, columns_mm = first.spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[0] * columns_mm
    affine[:3, 1] = first.orientation[1] * rows_mm
    affine[:3, 2] = (last.position_mm - first.position_mm) / (len(placed) - 1)
    affine[:3, 3] = first.position_mm
    affine[:2] *= -1
    return affine


def name_orientation(geometry: FrameGeometry) -> str:
    """Returns `transverse`, `coronal` or `sagittal` by the patient axis closest to the normal, or `oblique`.

    The result is `oblique` if the largest component of the normal is below 0.7 (about 45° from the axis).
    """
    components = np.abs(geometry.normal)
    if components.max() < 0.7:
        return "oblique"
    return ("sagittal", "coronal", "transverse")[int(components.argmax())]
