"""The files in the wheels of pydicom and pydicom-data: each is refused for a reason, or gives pydicom's own pixels."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import data_store
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_modality_lut

from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.dicom.pixels import decode_frames
from vfmalign.imaging.dicom.refusals import REFUSALS
from vfmalign.imaging.dicom.scanning import scan
from vfmalign.imaging.dicom.sources import FolderSource

ROOTS = (Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent / "data")
REFUSED = {
    "not DICOM": ["*.txt", "*.json", "*.md", "*.dump", "*.icc", "*.gz", "*README", "*BigEndNoMeta*", "*/no_meta.dcm"],
    "not an image": ["palettes/*.dcm", "*/rt[pd]*.dcm", "*/waveform_ecg.dcm", "*/reportsi*", "*/test-SR.dcm",
                     "*/badVR.dcm", "*/ExplVR_LitEndNoMeta.dcm"],
    "truncated or damaged": ["*DICOMDIR*", "*SQEncoding*", "*UN_sequence.dcm", "*/nested_priv_SQ.dcm", "*/priv_SQ.dcm",
                             "*/empty_charset_LEI.dcm", "*/meta_missing_tsyntax.dcm", "*/no_meta_group_length.dcm"],
    "states no identifier": ["*/JPEGLSNearLossless_*", "*/SC_rgb_jls_*"],
    "a segmentation": ["*liver*.dcm", "*/rtstruct.dcm"],
    "cut off before its pixels": ["*/chrJap*", "*/chrKorean*", "*/TINY_ALPHA/PT*"],
    "several frames without functional groups": ["*_2frame.dcm", "emri_small*", "color3d*", "*/examples_ybr*"],
    "in colour": ["*SC_*", "US1_*", "OBXXXX1A*", "OT-PAL*", "color-p*", "gdcm-US*", "*/ExplVR_BigEnd.dcm",
                  "*/GDCMJ2K*", "*/examples_jpeg2k.dcm", "*/examples_palette.dcm", "*/examples_rgb*"],
    "transfer syntax is not supported: JPEG Extended": ["*/JPEG-lossy.dcm", "*/JPGExtended.dcm"],
    "length of its pixels": ["*/MR_small_padded.dcm"],
    "damaged or truncated": ["*/MR_truncated.dcm", "*/JPEG2000-embedded-sequence-delimiter.dcm"],
}  # fmt: skip
"""Patterns of paths by what their refusal says; the first that matches counts."""


TRANSFORMATION = "PixelValueTransformationSequence"


def _list_files() -> dict[str, Path]:
    paths = [(root, path) for root in ROOTS for path in sorted(root.rglob("*"))]
    files = [(root, path) for root, path in paths if path.is_file() and not path.suffix.startswith(".py")]
    return {path.relative_to(root).as_posix(): path for root, path in files}


FILES = _list_files()


def _get_reason(name: str) -> str:
    """Why a file is refused; empty if it is read."""
    return next((reason for reason, patterns in REFUSED.items() if any(fnmatch(name, p) for p in patterns)), "")


def _read(path: Path) -> list[NDArray[np.generic]] | str:
    """The values of all frames, or why there are none."""
    found = scan(FolderSource(path.parent, [path.name]), allowed=tuple(REFUSALS))
    if found.unusable or not found.studies:
        return "; ".join([*(file.problem for file in found.unusable), *found.notes])
    (study,) = found.studies
    if not study.series:
        return "a segmentation"
    if study.series[0].problem:
        return study.series[0].problem
    frames = [frame for stack in study.series[0].stacks for frame in stack.frames]
    try:
        with path.open("rb") as stream:
            return list(decode_frames(stream, sorted(frame.index for frame in frames), "volume"))
    except BadVolume as refused:
        return refused.message


def _read_with_pydicom(path: Path) -> list[NDArray[np.generic]]:
    dataset = dcmread(path)
    frames = np.atleast_3d(dataset.pixel_array.T).T
    return [apply_modality_lut(frame, _get_transformation(dataset, index)) for index, frame in enumerate(frames)]


def _get_transformation(dataset: Dataset, index: int) -> Dataset:
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        return dataset
    groups = (dataset.PerFrameFunctionalGroupsSequence[index], dataset.SharedFunctionalGroupsSequence[0])
    return next(group.PixelValueTransformationSequence[0] for group in groups if hasattr(group, TRANSFORMATION))


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", FILES)
def test_a_public_file_is_refused_for_its_reason_or_gives_pydicoms_pixels(name):
    reason = _get_reason(name)

    read = _read(FILES[name])

    if isinstance(read, str):
        assert reason
        assert reason in read
    else:
        assert reason == ""
        for frame, expected in zip(read, _read_with_pydicom(FILES[name]), strict=True):
            np.testing.assert_array_equal(frame, expected)


def test_the_table_holds_for_many_files_of_both_kinds():
    refused = [name for name in FILES if _get_reason(name)]

    assert len(refused) > 150
    assert len(FILES) - len(refused) > 75
    for patterns in REFUSED.values():
        assert all(any(fnmatch(name, pattern) for name in FILES) for pattern in patterns)
