"""DICOM SEG: a segmentation, whose header is read and whose frames are placed on an image."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from typing import BinaryIO

import numpy as np
from pydicom import Dataset, uid
from tests.dicom_files import Examination, make_array, make_segmentation, make_series
from tests.fuzz.harness import Target

from vfmalign.imaging.dicom.frames import list_frames
from vfmalign.imaging.dicom.instances import read_header
from vfmalign.imaging.dicom.labels.label_maps import read_label_map, read_segmentation
from vfmalign.imaging.dicom.stacks import Stack, divide

_SHAPE = (16, 12, 3)
_SEGMENTATION = "SEG.dcm"


class _Source:
    """A source of an image and one segmentation."""

    notes = ()

    def __init__(self, segmentation: bytes) -> None:
        self._contents = _make_image() | {_SEGMENTATION: segmentation}
        self.files = tuple(self._contents)

    def open(self, name: str) -> BinaryIO:
        """A file."""
        return io.BytesIO(self._contents[name])

    def close(self) -> None:
        """Nothing to close."""


@cache
def make_datasets() -> list[Dataset]:
    """The instances of the image."""
    examination = Examination(study_uid="1.2.3", frame_of_reference_uid="1.2.4")
    datasets = make_series(make_array(_SHAPE), examination=examination, series_uid="1.2.5")
    for index, dataset in enumerate(datasets):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.6.{index}"
    return datasets


@cache
def _make_image() -> dict[str, bytes]:
    return {f"{index}.dcm": to_file(dataset) for index, dataset in enumerate(make_datasets())}


@cache
def _make_stack() -> Stack:
    (stack,) = divide([frame for name, item in zip(_make_image(), make_datasets(), strict=True)
                       for frame in list_frames(item, name)])  # fmt: skip
    return stack


def run(data: bytes) -> None:
    """Reads the header, and all segments as one label map."""
    read_all(data)


def read_all(data: bytes) -> None:
    """Reads an object that was drawn on the image."""
    source = _Source(data)
    header = read_header(source.open(_SEGMENTATION)).dataset
    segmentation = read_segmentation(header, _SEGMENTATION, "series 100")
    numbers = {segment.number: 1 + index % 255 for index, segment in enumerate(segmentation.segments)}
    volume = read_label_map(source, segmentation, _make_stack(), numbers, "case c1/gland")
    assert np.isin(volume.array_XYZ, [0, *numbers.values()]).all()


def make_seeds() -> Mapping[str, bytes]:
    """Segmentations of every kind, with segments that overlap, and one that is cut off."""
    gland, lesion = np.zeros(_SHAPE, bool), np.zeros(_SHAPE, bool)
    gland[2:9, 3:10, 1:], lesion[10:14, 1:3, :1] = True, True
    masks = {"gland": gland, "lesion": lesion}
    made = {
        "binary": make_segmentation(make_datasets(), masks),
        "fractional": make_segmentation(make_datasets(), masks, kind="FRACTIONAL"),
        "label_map": make_segmentation(make_datasets(), masks, kind="LABELMAP", transfer_syntax_uid=uid.RLELossless),
        "overlapping": make_segmentation(make_datasets(), {"gland": gland, "all": gland | lesion}),
    }
    seeds = {name: to_file(_fix(dataset)) for name, dataset in made.items()}
    return seeds | {"truncated": seeds["binary"][:-20]}


def _fix(dataset: Dataset) -> Dataset:
    """Equal seeds at every call: highdicom draws identifiers and writes the time."""
    dataset.SeriesInstanceUID = "1.2.7"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.8"
    for keyword in ("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime", "SeriesDate"):
        if keyword in dataset:
            setattr(dataset, keyword, "")
    for item in dataset.DimensionOrganizationSequence:
        item.DimensionOrganizationUID = "1.2.9"
    del dataset.ContributingEquipmentSequence
    for item in dataset.DimensionIndexSequence:
        item.DimensionOrganizationUID = "1.2.9"
    return dataset


def to_file(dataset: Dataset) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


TARGET = Target(run, make_seeds, max_bytes=1 << 13)
