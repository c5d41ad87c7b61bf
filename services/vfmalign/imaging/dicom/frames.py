"""Frames: the two-dimensional images of DICOM files, with their attributes.

A classic instance contains one frame. An enhanced multi-frame instance contains many frames. Functional groups contain
the attributes of these frames (PS3.3, C.7.6.16). Both kinds of frames are read into the same record, so that other
modules need not distinguish them.

Only the attributes of `KEYWORDS` are read. Free text in attributes may contain a patient's name; see `screening`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from vfmalign.core.domain.errors import BadVolume
from vfmalign.core.domain.models import MAX_SPACING_MM, MIN_SPACING_MM
from vfmalign.core.runtime.work_context import current_work
from vfmalign.imaging.dicom.diffusion import read_diffusion
from vfmalign.imaging.dicom.headers import MULTIPLE, cut_text, find, refuse_damage, to_first_text
from vfmalign.imaging.headers import MAX_POSITION_MM

AttributeValue = str | float | tuple[str, ...] | tuple[float, ...]
"""Text, a number, or several of one kind."""

TEXT_KEYWORDS = ("StudyDescription", "SeriesDescription", "ProtocolName", "SequenceName", "ContrastBolusAgent")
"""Attributes that people write. They describe the acquisition, and may hold a patient's name as well."""
CODE_KEYWORDS = (
    "Modality",
    "ImageType",
    "BodyPartExamined",
    "Laterality",
    "Manufacturer",
    "ManufacturerModelName",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "PulseSequenceName",
    "EchoPlanarPulseSequence",
    "AcquisitionContrast",
    "ComplexImageComponent",
    "ConvolutionKernel",
    "PatientPosition",
    "PhotometricInterpretation",
    "RescaleType",
    "BurnedInAnnotation",
)
NUMBER_KEYWORDS = (
    "SeriesNumber",
    "Rows",
    "Columns",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "MagneticFieldStrength",
    "KVP",
    "EchoNumbers",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "AcquisitionNumber",
)
KEYWORDS = (*CODE_KEYWORDS, *TEXT_KEYWORDS, *NUMBER_KEYWORDS)
"""Keywords of PS3.6 that rules may name, in addition to the derived attributes."""
DERIVED = ("orientation", "slices", "b_value", "diffusion")
"""Derived attributes: a word of `stacks.name_orientation`, a number, s/mm², and a word of `diffusion`."""
MAX_FRAMES = 100_000
"""Maximum number of frames of an instance."""
_MAX_SHARED = 256
"""Maximum number of shared functional groups, in which each attribute of each frame is looked up; a dozen is usual."""
_MAX_TEXT = 256
_MAX_VALUES = 32
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d)([0-5]\d)?", re.ASCII)

_IN_GROUPS = {
    "FrameType": "ImageType",
    "EffectiveEchoTime": "EchoTime",
    "InversionTimes": "InversionTime",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "FrameAcquisitionNumber": "AcquisitionNumber",
}
"""Attributes of functional groups, with their names in classic instances. They take precedence: an instance of several
frames states some of the classic attributes once, with the values of its first frame.
"""


@dataclass(frozen=True, eq=False, slots=True)
class FrameGeometry:
    """Position and orientation of a frame in DICOM's patient axes (LPS).

    Attributes:
        position_mm: (3,), position of the centre of the first voxel.
        orientation: (2, 3), unit vectors towards the next column and towards the next row.
        spacing_mm: distance between neighbouring rows and distance between neighbouring columns.
    """

    position_mm: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing_mm: tuple[float, float]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector perpendicular to rows and columns, (3,)."""
        normal = np.cross(self.orientation[0], self.orientation[1])  # below 1 if rounding has changed the right angle
        return cast(NDArray[np.float64], normal / np.linalg.norm(normal))


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One image.

    Attributes:
        file: name of the frame's file in the source. Private: the name may contain a patient's name.
        index: index of the frame in its instance, from 0.
        series_uid, instance_uid: identifiers; private.
        geometry: None if the frame states no geometry.
        attributes: values by keyword of `KEYWORDS` and by name of `DERIVED`. Attributes without a value are omitted.
        frame_of_reference_uid: identifier of the coordinate system of the positions; private.
    """

    file: str
    index: int
    series_uid: str
    instance_uid: str
    geometry: FrameGeometry | None
    attributes: Mapping[str, AttributeValue]
    frame_of_reference_uid: str = ""


def list_frames(header: Dataset, file: str) -> list[Frame]:
    """Returns the frames of an instance.

    Args:
        header: everything before the pixels.
        file: name of the file in its source.

    Raises:
        BadVolume: the header is damaged, or a geometry or the number of frames cannot be used.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    with refuse_damage("instance"):
        series_uid, instance_uid, frame_of_reference_uid = [
            str(header.get(f"{level}UID") or "") for level in ("SeriesInstance", "SOPInstance", "FrameOfReference")
        ]
        frames: list[Frame] = []
        for index, datasets in enumerate(list_descriptions(header)):
            current_work.get().checkpoint()
            frames.append(
                Frame(
                    file=file,
                    index=index,
                    series_uid=series_uid,
                    instance_uid=instance_uid,
                    geometry=read_geometry(datasets),
                    attributes=_check_size(read_attributes(datasets)) | read_diffusion(datasets),
                    frame_of_reference_uid=frame_of_reference_uid,
                )
            )
        return frames


def read_time_of_day(header: Dataset) -> float | None:
    """Returns the acquisition time in seconds since midnight; None if the instance does not state it."""
    texts = to_first_text(find([header], "AcquisitionTime")), to_first_text(find([header], "AcquisitionDateTime"))[8:]
    stated = next(filter(None, map(_TIME.match, texts)), None)
    return None if stated is None else 3600.0 * int(stated[1]) + 60 * int(stated[2]) + int(stated[3] or 0)


def _check_size(attributes: dict[str, AttributeValue]) -> dict[str, AttributeValue]:
    if any(isinstance(attributes.get(name), tuple) for name in ("Rows", "Columns")):
        raise BadVolume("it states several sizes", subject="instance", remedy="export the series again")
    return attributes


def list_descriptions(header: Dataset) -> list[list[Dataset]]:
    """Returns, for each frame, the datasets that describe it, most specific first.

    Raises:
        BadVolume: several frames have no functional groups, or the number of groups is too high or does not match the
            frames.
    """
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    count = int(header.get("NumberOfFrames") or 1)
    if per_frame is None and count == 1:
        return [[header]]
    if per_frame is None:
        raise BadVolume(
            "several frames without functional groups, so that their positions are unknown",
            subject="instance",
            remedy="export the series as classic or enhanced images",
        )
    if not 1 <= len(per_frame) <= MAX_FRAMES or len(per_frame) != count:
        raise BadVolume(
            f"it does not have one functional group for each frame, or it has more than {MAX_FRAMES:,} frames",
            subject="instance",
            remedy="export the series again",
        )
    shared = [item for groups in header.get("SharedFunctionalGroupsSequence", []) for item in _list_items(groups)]
    if len(shared) > _MAX_SHARED:
        raise BadVolume(
            f"it has more than {_MAX_SHARED} shared functional groups",
            subject="instance",
            remedy="export the series again",
        )
    return [[*_list_items(groups), *shared, header] for groups in per_frame]


def _list_items(groups: Dataset) -> list[Dataset]:
    """Items of functional groups, which hold the attributes; the items of private groups repeat classic attributes."""
    return [groups, *(element.value[0] for element in groups if element.VR == "SQ" and len(element.value))]


def read_attributes(datasets: Sequence[Dataset]) -> dict[str, AttributeValue]:
    """Returns the attributes of `KEYWORDS` in these datasets.

    If several datasets contain an attribute, the first of these datasets takes precedence.
    """
    attributes: dict[str, AttributeValue] = {}
    for keyword in (*_IN_GROUPS, *KEYWORDS) if len(datasets) > 1 else KEYWORDS:
        name = _IN_GROUPS.get(keyword, keyword)
        if name not in attributes:
            value = find(datasets, keyword)
            converted = _to_numbers(value) if name in NUMBER_KEYWORDS else _to_texts(value)
            if converted is not None:
                attributes[name] = converted
    return attributes


def _to_texts(value: Any) -> AttributeValue | None:
    if value is None or isinstance(value, bytes):
        return None
    if isinstance(value, MULTIPLE):
        return tuple([cut_text(str(item), _MAX_TEXT) for item in value[:_MAX_VALUES]])
    return cut_text(str(value), _MAX_TEXT) or None


def _to_numbers(value: Any) -> AttributeValue | None:
    try:
        if isinstance(value, MULTIPLE):
            numbers = tuple(float(item) for item in value[:_MAX_VALUES])
            return numbers if np.isfinite(numbers).all() else None
        return None if value is None or not np.isfinite(float(value)) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def read_geometry(datasets: Sequence[Dataset]) -> FrameGeometry | None:
    """Returns the geometry of a frame; None if position, orientation or spacing is missing.

    Raises:
        BadVolume: the direction cosines or the spacing are implausible.
    """
    position = _to_vector(find(datasets, "ImagePositionPatient"), 3)
    orientation = _to_vector(find(datasets, "ImageOrientationPatient"), 6)
    spacing = _to_vector(find(datasets, "PixelSpacing"), 2)
    if position is None or orientation is None or spacing is None:
        return None
    axes = orientation.reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    # Exporters round direction cosines to a few decimals; axes that are not perpendicular indicate a damaged header.
    if np.abs(lengths - 1).max() > 1e-2 or abs(axes[0] @ axes[1]) > 1e-2:
        raise BadVolume(
            "its direction cosines are not two perpendicular unit vectors",
            subject="instance",
            remedy="export the series again with its geometry",
        )
    if (
        not MIN_SPACING_MM <= spacing.min() <= spacing.max() <= MAX_SPACING_MM
        or np.abs(position).max() > MAX_POSITION_MM
    ):
        raise BadVolume(
            f"its pixel spacing is not between {MIN_SPACING_MM} and {MAX_SPACING_MM} mm, or it lies more than "
            f"{MAX_POSITION_MM:.0f} mm from the origin",
            subject="instance",
            remedy="export the series again with its geometry",
        )
    return FrameGeometry(position, axes / lengths[:, None], (float(spacing[0]), float(spacing[1])))


def _to_vector(value: Any, size: int) -> NDArray[np.float64] | None:
    try:
        vector = np.array([float(item) for item in value], dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return vector if vector.shape == (size,) and np.isfinite(vector).all() else None
