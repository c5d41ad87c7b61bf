"""RTSTRUCT: a structure set, whose header is read and whose contours are drawn on an image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydicom import Dataset, uid
from tests.dicom_contours import make_structure_set, to_contour
from tests.dicom_files import make_affine
from tests.fuzz.harness import Target
from tests.fuzz.targets.segmentations import make_datasets, read_all, to_file

_SQUARE = [(2, 2), (9, 2), (9, 9), (2, 9)]
_OTHER = [(4.5, 4.5), (7, 4), (12.25, 30)]


def run(data: bytes) -> None:
    """Reads the header, and all regions as one label map."""
    read_all(data)


def make_seeds() -> Mapping[str, bytes]:
    """Structure sets of several transfer syntaxes, with holes and regions that overlap, and one that is cut off."""
    whole = {"gland": [to_contour(_SQUARE, z) for z in (0, 1, 2)]}
    hole = {"gland": [to_contour(_SQUARE, 1), to_contour(_OTHER, 1)], "empty": []}
    seeds = {
        "whole": _make(whole),
        "hole": _make(hole, kind="CLOSEDPLANAR_XOR", syntax=uid.ImplicitVRLittleEndian),
        "overlapping": _make(whole | {"other": [to_contour(_OTHER, 1)]}, names_images=False),
        "points": _make({"marker": [to_contour(_SQUARE[:1], 1)]}, kind="POINT"),
    }
    return seeds | {"truncated": seeds["whole"][:-150]}


def _make(regions: Mapping[str, list[np.ndarray]], **options: object) -> bytes:
    return to_file(make_structure_set(make_datasets(), regions, make_affine(), change=_fix, **options))  # type: ignore[arg-type]


def _fix(dataset: Dataset) -> None:
    """Equal seeds at every call: identifiers are drawn."""
    dataset.SeriesInstanceUID = "1.2.7"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.8"


TARGET = Target(run, make_seeds, max_bytes=1 << 13)
