"""DICOM: a file of an export, scanned, divided into volumes and decoded."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import BinaryIO

from pydicom import Dataset, uid
from tests.dicom_files import Examination, make_array, make_enhanced, make_series
from tests.fuzz.harness import Target

from vfmalign.core.domain.errors import VfmalignError
from vfmalign.imaging.dicom.pixels import decode_frames, read_stack
from vfmalign.imaging.dicom.refusals import REFUSALS
from vfmalign.imaging.dicom.scanning import scan

_EXAMINATION = Examination(study_uid="1.2.3", frame_of_reference_uid="1.2.4")
_FILE = "Zauberberg.dcm"
_SYNTAXES = (
    "ImplicitVRLittleEndian",
    "ExplicitVRLittleEndian",
    "ExplicitVRBigEndian",
    "DeflatedExplicitVRLittleEndian",
    "RLELossless",
    "JPEGLosslessSV1",
    "JPEGLSLossless",
    "JPEG2000Lossless",
)


class _OneFile:
    """A source of one file."""

    files = (_FILE,)
    notes = ()

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self, name: str) -> BinaryIO:
        """The file."""
        return io.BytesIO(self._data)

    def close(self) -> None:
        """Nothing to close."""


def run(data: bytes) -> None:
    """Scans the file and reads its volumes; frames that form none are decoded as they are."""
    source = _OneFile(data)
    examinations = scan(source, allowed=tuple(REFUSALS))
    assert not [file.problem for file in examinations.unusable if "Zauberberg" in file.problem]
    for stack in (stack for study in examinations.studies for series in study.series for stack in series.stacks):
        try:
            if stack.affine is not None:
                read_stack(source, stack, "case c1", "t2w")
            else:
                list(decode_frames(source.open(_FILE), sorted({frame.index for frame in stack.frames}), "case c1"))
        except VfmalignError as error:
            if "Zauberberg" in str(error):
                raise AssertionError("an error quotes a header") from error


def make_seeds() -> Mapping[str, bytes]:
    """Classic images in several transfer syntaxes, enhanced ones, and damaged ones."""
    array_XYZ = make_array((32, 32, 2)) % 16
    seeds = {
        syntax: _to_file(make_series(array_XYZ[..., :1], examination=_EXAMINATION, syntax=getattr(uid, syntax))[0])
        for syntax in _SYNTAXES
    }
    for vendor in ("siemens-csa", "ge", "philips"):
        seeds[vendor] = _to_file(
            make_series(array_XYZ[..., :1], examination=_EXAMINATION, vendor=vendor, b_values=(800,))[0]
        )
    enhanced = make_enhanced(array_XYZ, examination=_EXAMINATION, syntax=uid.RLELossless)
    plain = seeds["ExplicitVRLittleEndian"]
    return seeds | {
        "enhanced": _to_file(enhanced),
        "truncated": plain[:-100],
        "no_number": plain.replace(b"-60.000000000000", b"Zauberberg______"),
        "empty": b"",
    }


def _to_file(dataset: Dataset) -> bytes:
    dataset.SeriesInstanceUID = "1.2.5"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.6"
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


TARGET = Target(run, make_seeds, max_bytes=1 << 13)
