"""Hostile DICOM files, one row each: refused with a remedy, in little memory, and without a word of their headers."""

from __future__ import annotations

import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, uid
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate, generate_frames
from tests.dicom_contours import make_structure_set, to_contour
from tests.dicom_files import Examination, make_affine, make_array, make_enhanced, make_segmentation, make_series, save

from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.dicom import instances
from vfmalign.imaging.dicom.decoding.client import Decoders
from vfmalign.imaging.dicom.labels.label_maps import read_label_map
from vfmalign.imaging.dicom.pixels import read_stack
from vfmalign.imaging.dicom.refusals import REFUSALS
from vfmalign.imaging.dicom.scanning import scan
from vfmalign.imaging.dicom.sources import open_source

EXAMINATION = Examination()
MAX_GROWTH_MIB = 400


def change_series(**attributes: object) -> Callable[[], list[Dataset]]:
    """A classic series with other attributes."""
    return lambda: make_series(examination=EXAMINATION, attributes=attributes)


def make_nested() -> list[Dataset]:
    """Sequences in sequences, deeper than an interpreter's stack."""
    (dataset,) = make_series(make_array((40, 34, 1)), examination=EXAMINATION)
    # Items and sequences of undefined length, so that each costs 20 bytes.
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
    dataset.add_new(0x00111111, "UN", nested)
    return [dataset]


def make_many_groups() -> Dataset:
    """One frame, and functional groups of more frames than are read."""
    dataset = make_enhanced(make_array((40, 34, 1)), examination=EXAMINATION)
    dataset.PerFrameFunctionalGroupsSequence = [Dataset()] * 100_001
    dataset.NumberOfFrames = 100_001
    return dataset


def make_large_frames() -> list[Dataset]:
    """Images whose size no volume has, and that hold next to nothing."""
    return change_series(Rows=65_535, Columns=65_535)()


def make_other_codestream() -> list[Dataset]:
    """A JPEG of another size than the header's."""
    large = make_series(make_array((200, 150, 5)), syntax=uid.JPEGLosslessSV1)
    small = make_series(examination=EXAMINATION, syntax=uid.JPEGLosslessSV1)
    for dataset, other in zip(small, large, strict=True):
        dataset.PixelData = other.PixelData
    return small


def make_bomb(syntax: str, marker: bytes, place: int, size: bytes) -> Callable[[], list[Dataset]]:
    """Small images whose encoded frames state 30,000 rows and columns, after a marker."""

    def make() -> list[Dataset]:
        array_XYZ = make_array() % 256
        if syntax == uid.JPEGBaseline8Bit:
            array_XYZ = array_XYZ.astype(np.uint8)
        datasets = make_series(array_XYZ, examination=EXAMINATION, syntax=syntax)
        for dataset in datasets:
            (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
            start = frame.index(marker) + place
            dataset.PixelData = encapsulate([frame[:start] + size + frame[start + len(size) :]])
        return datasets

    return make


def make_runs() -> list[Dataset]:
    """Small images whose frames are runs that make 128 MiB of 2 MiB."""
    datasets = make_series(examination=EXAMINATION, syntax=uid.RLELossless)
    runs = b"\x81\x00" * (2**20 - 100)
    for dataset in datasets:
        dataset.PixelData = encapsulate([struct.pack("<3L", 2, 64, 64 + len(runs)) + bytes(52) + runs])
    return datasets


def make_long_fragment() -> list[Dataset]:
    """Images whose frames say that they have 4 GiB."""
    datasets = make_series(examination=EXAMINATION, syntax=uid.JPEGLSLossless)
    for dataset in datasets:
        dataset.PixelData = bytes.fromhex("feff00e000000000feff00e0f0ffffff") + bytes(64)
    return datasets


_SIZE = struct.pack(">2H", 30_000, 30_000)
_LARGE_SIZE = struct.pack(">6I", 30_000, 30_000, 0, 0, 30_000, 30_000)
ROWS: dict[str, Callable[[], list[Dataset] | Dataset]] = {
    "sequences nested 20,000 deep": make_nested,
    "functional groups of 100,001 frames": make_many_groups,
    "images of 65,535 x 65,535": make_large_frames,
    "JPEG of another size": make_other_codestream,
    "baseline JPEG of 30,000 x 30,000": make_bomb(uid.JPEGBaseline8Bit, b"\xff\xc0", 5, _SIZE),
    "lossless JPEG of 30,000 x 30,000": make_bomb(uid.JPEGLosslessSV1, b"\xff\xc3", 5, _SIZE),
    "JPEG-LS of 30,000 x 30,000": make_bomb(uid.JPEGLSLossless, b"\xff\xf7", 5, _SIZE),
    "JPEG 2000 of 30,000 x 30,000": make_bomb(uid.JPEG2000Lossless, b"\xff\x51", 6, _LARGE_SIZE),
    "runs of 128 MiB in 2 MiB": make_runs,
    "fragments of 4 GiB": make_long_fragment,
    "2³¹ - 1 frames": change_series(NumberOfFrames=2**31 - 1),
    "minus one frame": change_series(NumberOfFrames=-1),
    "no rows": change_series(Rows=0),
    "three samples of one": change_series(SamplesPerPixel=3),
    "no bits": change_series(BitsAllocated=0, BitsStored=0),
    "64 bits": change_series(BitsAllocated=64, BitsStored=64, HighBit=63),
    "more bits stored than allocated": change_series(BitsStored=60_000),
    "infinite slope": change_series(RescaleSlope=np.inf, RescaleIntercept=0),
    "slope of zero": change_series(RescaleSlope=0, RescaleIntercept=0),
    "slope beyond float32": change_series(RescaleSlope=1e300, RescaleIntercept=0),
    "spacing of 1e-300 mm": change_series(PixelSpacing=[1e-300, 1e-300]),
    "position of 1e300 mm": change_series(ImagePositionPatient=[0, 0, 1e300]),
    "NaN for a direction": change_series(ImageOrientationPatient=["nan", 0, 0, 0, 1, 0]),
}


def _list_reasons(folder: Path) -> list[str]:
    """Why nothing of the folder is used."""
    source = open_source(folder)
    found = scan(source, allowed=tuple(REFUSALS))
    reasons = [file.problem for file in found.unusable] + list(found.notes)
    for series in (series for study in found.studies for series in study.series):
        reasons += filter(None, [series.problem, *(stack.problem for stack in series.stacks)])
        for stack in series.stacks:
            if not stack.problem and not series.problem:
                with pytest.raises(BadVolume) as refused:
                    read_stack(source, stack, "case c1", "t2w")
                assert refused.value.remedy
                reasons.append(str(refused.value))
    return reasons


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning", "ignore:A value of:UserWarning")
@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS)
def test_a_hostile_file_is_refused(make, tmp_path, caplog, capfd):
    save(make(), tmp_path)
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    reasons = _list_reasons(tmp_path)

    printed = capfd.readouterr()
    shown = " ".join([*reasons, caplog.text, printed.out, printed.err])
    assert reasons
    assert not [mark for mark in EXAMINATION.marks if mark in shown]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before_mib < MAX_GROWTH_MIB


DECODERS = {
    "crashes": ("os.abort()", "crashes its decoder"),
    "never ends": ("signal.pause()", "takes more than 1 s to decode"),
    "allocates 4 GiB": ("bytearray(2**32)", "cannot be decoded"),
}


@pytest.mark.parametrize(("action", "cause"), DECODERS.values(), ids=DECODERS)
def test_a_decoder_that_fails_ends_one_volume(action, cause, tmp_path, monkeypatch):
    save(make_series(examination=EXAMINATION, syntax=uid.JPEGLSLossless), tmp_path)
    program = (
        "import os, signal; from vfmalign.imaging.dicom.decoding import process; "
        f"process.decode = lambda *_: {action}; process.main()"
    )
    decoders = Decoders(timeout_s=1 if "takes more" in cause else 60, command=(sys.executable, "-P", "-c", program))
    monkeypatch.setattr("vfmalign.imaging.dicom.pixels.get_decoders", lambda: decoders)

    (reason,) = _list_reasons(tmp_path)

    assert cause in reason
    monkeypatch.undo()
    (study,) = scan(open_source(tmp_path)).studies
    assert read_stack(open_source(tmp_path), study.series[0].stacks[0], "case c2", "t2w").array_XYZ.any()


SEGMENTATIONS: dict[str, dict[str, object]] = {
    "frames of 65,535 x 65,535": {"Rows": 65_535, "Columns": 65_535},
    "2³¹ - 1 frames": {"NumberOfFrames": 2**31 - 1},
    "minus one frame": {"NumberOfFrames": -1},
    "no segment": {"SegmentSequence": []},
    "2,000 segments": {"SegmentSequence": [Dataset()] * 2_000},
    "no functional groups": {"PerFrameFunctionalGroupsSequence": []},
    "another frame of reference": {"FrameOfReferenceUID": "1.2.3"},
    "a name for a type": {"SegmentationType": "ZAUBERBERG"},
    "fractions of nothing": {"SegmentationType": "FRACTIONAL", "MaximumFractionalValue": 0},
    "no pixels": {"PixelData": b""},
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning", "ignore:A value of:UserWarning")
@pytest.mark.parametrize("changes", SEGMENTATIONS.values(), ids=SEGMENTATIONS)
def test_a_hostile_segmentation_is_refused(changes, tmp_path, caplog, capfd):
    image = make_series(examination=EXAMINATION)
    segmentation = make_segmentation(image, {"gland": np.ones((40, 34, 5), bool)})
    for keyword, value in changes.items():
        setattr(segmentation, keyword, value)
    save([*image, segmentation], tmp_path)
    _check_label_maps_are_refused(tmp_path, caplog, capfd)


def _check_label_maps_are_refused(folder, caplog, capfd):
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    source = open_source(folder)

    found = scan(source)
    (study,) = found.studies
    reasons = [*found.notes, *(file.problem for file in found.unusable)]
    for item in study.segmentations:
        with pytest.raises(BadVolume) as refused:
            read_label_map(source, item, study.series[0].stacks[0], {1: 1}, "case c1/gland")
        assert refused.value.remedy
        reasons.append(str(refused.value))

    printed = capfd.readouterr()
    shown = " ".join([*reasons, caplog.text, printed.out, printed.err]).lower()
    assert reasons
    assert not [mark for mark in EXAMINATION.marks if mark.lower() in shown]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before_mib < MAX_GROWTH_MIB


SQUARE = [(5, 5), (15, 5), (15, 12), (5, 12)]


def _change_contour(**attributes: object) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(dataset.ROIContourSequence[0].ContourSequence[0], keyword, value)

    return change


def _write_points(data: bytes, count: int) -> Callable[[Dataset], None]:
    """Points as they stand in a file, and how many the contour says that it has."""

    def change(dataset: Dataset) -> None:
        contour = dataset.ROIContourSequence[0].ContourSequence[0]
        contour.NumberOfContourPoints = count
        tag = contour["ContourData"].tag
        contour["ContourData"] = RawDataElement(tag, "UN", len(data), data, 0, False, True)

    return change


def _draw_many(dataset: Dataset) -> None:
    """A million edges in one slice, each across all of its rows: 8 MiB that ask for 34 million crossings."""
    points = b"\\".join([b"9\\9\\40\\9\\-99\\40"] * 45_000)
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    _write_points(points, 90_000)(dataset)
    dataset.ROIContourSequence[0].ContourSequence = [contour] * 12


STRUCTURE_SETS: dict[str, Callable[[Dataset], object]] = {
    "2³¹ - 1 points": _change_contour(NumberOfContourPoints=2**31 - 1),
    "minus four points": _change_contour(NumberOfContourPoints=-4),
    "5,000,000 points": _write_points(b"1\\" * 14_999_999 + b"1", 5_000_000),
    "half a point": _write_points(b"1\\2\\3\\4", 1),
    "NaN for a position": _write_points(b"nan\\2\\40" + b"\\1\\2\\40" * 2, 3),
    "a position of 1e300 mm": _write_points(b"1e300\\2\\40" + b"\\1\\2\\40" * 2, 3),
    "a name for a position": _write_points(b"Zauberberg\\2\\40" + b"\\1\\2\\40" * 2, 3),
    "a name for a kind": _change_contour(ContourGeometricType="ZAUBERBERG"),
    "more crossings than organs have": _draw_many,
    "2,000 regions": lambda dataset: setattr(dataset, "StructureSetROISequence", [Dataset()] * 2_000),
    "no regions": lambda dataset: setattr(dataset, "StructureSetROISequence", []),
    "no contours": lambda dataset: delattr(dataset, "ROIContourSequence"),
    "a name for a number": lambda dataset: dataset.StructureSetROISequence[0].add_new("ROINumber", "LO", "Zauberberg"),
    "another frame of reference": lambda dataset: setattr(
        dataset.StructureSetROISequence[0], "ReferencedFrameOfReferenceUID", "1.2.3"
    ),
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning", "ignore:A value of:UserWarning")
@pytest.mark.filterwarnings("ignore:The value for the data element:UserWarning")
@pytest.mark.parametrize("change", STRUCTURE_SETS.values(), ids=STRUCTURE_SETS)
def test_a_hostile_structure_set_is_refused(change, tmp_path, caplog, capfd):
    image = make_series(examination=EXAMINATION)
    structures = make_structure_set(image, {"gland": [to_contour(SQUARE, 0)]}, make_affine(), change=change)
    save([*image, structures], tmp_path)
    _check_label_maps_are_refused(tmp_path, caplog, capfd)


BYTES = {
    "header of 4 GiB": (b"\x08\x00\x60\x00CS\x02\0MR", b"\x08\x00\x60\x00UN\0\0\xff\xff\xff\xfe"),
    "name of a patient for a transfer syntax": (b"1.2.840.10008.1.2.1\0", b"Zauberberg.Walpurga\0"),
    "name of a patient for a position": (b"-60.000000000000", b"Zauberberg      "),
    "name of a patient for a slope": (b"1234567890", b"Zauberberg"),
}


@pytest.mark.parametrize(("old", "new"), BYTES.values(), ids=BYTES)
def test_a_damaged_file_is_refused(old, new, tmp_path, caplog, capfd):
    options = {"examination": EXAMINATION, "rescale": ("1234567890", "0")}
    for path in save(make_series(make_array((40, 34, 2)), **options), tmp_path):
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    reasons = _list_reasons(tmp_path)

    printed = capfd.readouterr()
    assert reasons
    shown = " ".join([*reasons, caplog.text, printed.out, printed.err])
    assert not [mark for mark in EXAMINATION.marks if mark in shown]


def test_a_file_that_is_compressed_as_a_whole_is_inflated_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(instances, "MAX_INFLATED_BYTES", 2**20)
    datasets = make_series(make_array((40, 34, 2)), syntax=uid.DeflatedExplicitVRLittleEndian)
    for dataset in datasets:
        dataset.private_block(0x0011, "VFMALIGN", create=True).add_new(0x01, "OB", bytes(2**22))
    paths = save(datasets, tmp_path)
    assert sum(path.stat().st_size for path in paths) < 2**16

    reasons = _list_reasons(tmp_path)

    assert [reason for reason in reasons if "holds more than 1 MiB" in reason] == reasons


def test_a_header_of_more_items_than_a_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(instances, "MAX_ITEMS", 1000)
    (dataset,) = make_series(make_array((40, 34, 1)))
    dataset.ReferencedStudySequence = [Dataset()] * 1001
    save(dataset, tmp_path)

    (reason,) = _list_reasons(tmp_path)
    assert "has more than 1,000 items" in reason


def test_an_element_of_a_gibibyte_before_the_header_is_not_allocated(tmp_path):
    path = tmp_path / "IM00000.dcm"
    with path.open("wb") as file:
        file.write(bytes(128) + b"DICM" + b"\x02\x00\x02\x01OB\0\0" + (2**30).to_bytes(4, "little"))
        file.truncate(2**30 + 2**20)  # a sparse file
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    assert _list_reasons(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before_mib < MAX_GROWTH_MIB


def test_a_small_file_that_is_compressed_as_a_whole_holds_no_more_than_images_do(tmp_path, monkeypatch):
    monkeypatch.setattr(instances, "_SMALL_BYTES", 2**20)
    (dataset,) = make_series(make_array((40, 34, 1)), syntax=uid.DeflatedExplicitVRLittleEndian)
    dataset.private_block(0x0011, "VFMALIGN", create=True).add_new(0x01, "OB", bytes(2**23))
    save(dataset, tmp_path)
    (reason,) = _list_reasons(tmp_path)
    assert "holds more than 1 MiB when inflated" in reason
