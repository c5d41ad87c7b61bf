"""Segmentations and structure sets: reads descriptions of their structures, and converts them to label maps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import numpy as np
from pydicom.dataset import Dataset

from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.dicom.examinations import Segmentation
from vfmalign.imaging.dicom.frames import read_attributes
from vfmalign.imaging.dicom.headers import refuse_damage
from vfmalign.imaging.dicom.instances import read_header
from vfmalign.imaging.dicom.labels import segmentations, structure_sets
from vfmalign.imaging.dicom.labels.drawing import MAX_SEGMENTS
from vfmalign.imaging.dicom.sources import DicomSource
from vfmalign.imaging.dicom.stacks import Stack
from vfmalign.imaging.volumes import Volume

SOP_CLASSES = (*segmentations.SOP_CLASSES, structure_sets.SOP_CLASS)
"""Kinds of objects that become label maps."""


def has_pixels(header: Dataset) -> bool:
    """Returns whether an object of one of `SOP_CLASSES` stores voxels rather than contours."""
    return bool(header.get("SOPClassUID") != structure_sets.SOP_CLASS)


def read_segmentation(header: Dataset, file: str, label: str) -> Segmentation:
    """Reads the description of an object.

    Args:
        header: all elements before the pixels; for a structure set, all elements.
        file: name of the object's file in the source.
        label: the object's name in problem messages and tables.

    Raises:
        BadVolume: the object describes no segments, or cannot be read.
    """
    with refuse_damage("segmentation"):
        module = segmentations if has_pixels(header) else structure_sets
        segments = list(islice(module.list_segments(header), MAX_SEGMENTS + 1))
        if not 1 <= len(segments) <= MAX_SEGMENTS:
            raise BadVolume(
                f"no segments, or more than {MAX_SEGMENTS}", subject="segmentation", remedy="export it again"
            )
        return Segmentation(
            label=label,
            file=file,
            attributes=read_attributes([header]),
            references=tuple(dict.fromkeys(module.list_references(header))),
            segments=tuple(sorted(segments, key=lambda segment: segment.number)),
        )


def read_label_map(
    source: DicomSource, segmentation: Segmentation, reference: Stack, values: Mapping[int, int], name: str
) -> Volume:
    """Reads segments into one label map.

    The label map has the image's grid. If the voxels of the segments do not match this grid, the label map has the
    segments' grid.

    Args:
        source: source of the files.
        segmentation: the object.
        reference: the image on which the segments were drawn, or another image in the same frame of reference.
        values: maps segment number to voxel value, from 1 to 255. Segments without a value are omitted.
        name: the label map's name in error messages: a generated id and the kind of the map.

    Raises:
        BadVolume: the object cannot be read or placed, or segments with different values overlap.
    """
    # Implausible numbers may overflow; the resulting positions lie on no grid.
    with refuse_damage(name), np.errstate(all="ignore"), source.open(segmentation.file) as stream:
        header = read_header(stream).dataset
        if has_pixels(header):
            return segmentations.draw(stream, header, reference, values, name)
        return structure_sets.draw(header, reference, values, name)
