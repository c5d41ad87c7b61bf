from __future__ import annotations

import itertools
import math
import struct
import zipfile
from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from tests.dicom_files import make_array, make_enhanced, make_series, save, write_enhanced

from vfmalign.core.domain.errors import BadVolume, Cancelled
from vfmalign.core.runtime.work_context import WorkContext, work_within
from vfmalign.imaging import headers
from vfmalign.imaging.dicom.instances import read_header
from vfmalign.imaging.dicom.pixels import decode_frames, read_stack
from vfmalign.imaging.dicom.scanning import scan
from vfmalign.imaging.dicom.sources import open_source

B_VALUES = (50.0, 800.0)


def set_all(datasets: list[Dataset], **attributes: object) -> list[Dataset]:
    """The datasets with attributes of each."""
    for dataset in datasets:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
    return datasets


def test_rescaling_of_each_slice_applies(scan_series, read_volume):
    array_XYZ = make_array()
    datasets = make_series(array_XYZ, vendor="philips", modality="CT")
    for index, dataset in enumerate(datasets):
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.25 * (index + 1), -10 * index

    (stack,) = scan_series(datasets).stacks

    expected = array_XYZ * 0.25 * np.arange(1, 6) - 10 * np.arange(5)
    np.testing.assert_allclose(read_volume(stack).array_XYZ, expected, rtol=1e-6)


def test_rescaling_of_each_volume_of_an_enhanced_instance_applies(scan_series, read_volume):
    array_XYZV = make_array((40, 34, 5, 2))

    low, high = scan_series(make_enhanced(array_XYZV, b_values=B_VALUES, rescales=[(2.0, 1.0), (0.5, -3.0)])).stacks

    np.testing.assert_array_equal(read_volume(low).array_XYZ, array_XYZV[..., 0] * 2.0 + 1.0)
    np.testing.assert_array_equal(read_volume(high).array_XYZ, array_XYZV[..., 1] * 0.5 - 3.0)


def test_a_vendors_private_scaling_and_a_real_world_value_map_do_not_apply(scan_series, read_volume):
    array_XYZ = make_array()
    datasets = make_series(array_XYZ, vendor="philips", rescale=(1.5, 0.0))
    for dataset in datasets:
        dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", 0.0123)
        value_map = Dataset()
        value_map.RealWorldValueFirstValueMapped, value_map.RealWorldValueLastValueMapped = 0, 4095
        value_map.RealWorldValueSlope, value_map.RealWorldValueIntercept = 7.0, 100.0
        dataset.RealWorldValueMappingSequence = [value_map]

    (stack,) = scan_series(datasets).stacks

    np.testing.assert_array_equal(read_volume(stack).array_XYZ, array_XYZ * 1.5)


def test_a_modality_lut_applies(scan_series, read_volume):
    array_XYZ = (make_array() % 16).astype(np.uint8)
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [16, 0, 16], "US"
    table.LUTData = np.arange(1000, 888, -7, dtype="<u2").tobytes()

    (stack,) = scan_series(set_all(make_series(array_XYZ), ModalityLUTSequence=[table])).stacks

    np.testing.assert_array_equal(read_volume(stack).array_XYZ, 1000.0 - 7.0 * array_XYZ)


def test_monochrome1_is_not_inverted(scan_series, read_volume):
    array_XYZ = make_array()

    (stack,) = scan_series(set_all(make_series(array_XYZ), PhotometricInterpretation="MONOCHROME1")).stacks

    np.testing.assert_array_equal(read_volume(stack).array_XYZ, array_XYZ)


def test_pixel_padding_stays_what_it_is(scan_series, read_volume):
    array_XYZ = make_array().astype(np.int16)
    array_XYZ[:5] = -2000

    (stack,) = scan_series(set_all(make_series(array_XYZ, modality="CT"), PixelPaddingValue=-2000)).stacks

    np.testing.assert_array_equal(read_volume(stack).array_XYZ[:5], -3024)


def test_overlays_in_unused_bits_do_not_enter_values(scan_series, read_volume):
    array_XYZ = make_array()
    datasets = make_series(array_XYZ)
    for dataset in datasets:
        stored = np.frombuffer(dataset.PixelData, "<u2") | 0x1000
        dataset.PixelData = stored.tobytes()

    (stack,) = scan_series(datasets).stacks

    np.testing.assert_array_equal(read_volume(stack).array_XYZ, array_XYZ)


@pytest.mark.parametrize("photometric", ["RGB", "PALETTE COLOR", "YBR_FULL", ""])
def test_colours_are_refused(photometric, scan_series, read_volume):
    datasets = set_all(make_series(), PhotometricInterpretation=photometric)

    (stack,) = scan_series(datasets).stacks

    with pytest.raises(BadVolume, match="in colour"):
        read_volume(stack)


def test_frames_of_other_volumes_are_not_decoded(scan_series, read_volume):
    array_XYZV = make_array((40, 34, 5, 2))
    dataset = make_enhanced(array_XYZV, b_values=B_VALUES, syntax=uid.RLELossless)
    frames = [frame if index % 2 else b"\xff" * 64 for index, frame in enumerate(generate_frames(dataset.PixelData))]
    dataset.PixelData = encapsulate(frames)

    low, high = scan_series(dataset).stacks

    np.testing.assert_array_equal(read_volume(high).array_XYZ, array_XYZV[..., 1])
    with pytest.raises(BadVolume, match=r"case c1: file \d of \d: damaged or truncated DICOM"):
        read_volume(low)


def test_too_many_voxels_are_refused_before_any_is_read(monkeypatch, scan_series, read_volume):
    (stack,) = scan_series(make_series()).stacks
    monkeypatch.setattr(headers, "MAX_VOXELS", 40 * 34 * 5 - 1)
    monkeypatch.setattr("vfmalign.imaging.dicom.pixels.decode_frames", lambda *_: pytest.fail("a frame was decoded"))

    with pytest.raises(BadVolume, match="case c1: declares 6800 voxels"):
        read_volume(stack)


def test_a_volume_without_contrast_is_refused(scan_series, read_volume):
    (stack,) = scan_series(make_series(np.full((40, 34, 5), 7, np.uint16))).stacks

    with pytest.raises(BadVolume, match="t2w has the same value everywhere"):
        read_volume(stack)


@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_truncated_pixels_are_refused(share, scan_series, read_volume, tmp_path):
    (stack,) = scan_series(make_series()).stacks
    path = tmp_path / stack.frames[2].file
    content = path.read_bytes()
    pixels_bytes = 40 * 34 * 2
    path.write_bytes(content[: len(content) - round(pixels_bytes * (1 - share)) - 1])

    with pytest.raises(BadVolume, match=r"case c1: file \d of \d: damaged or truncated DICOM"):
        read_volume(stack)


def test_a_file_that_is_no_longer_there_is_a_problem_of_its_volume(scan_series, read_volume, tmp_path):
    (stack,) = scan_series(make_series()).stacks
    (tmp_path / stack.frames[1].file).unlink()

    with pytest.raises(BadVolume, match="case c1: a file can no longer be read") as refused:
        read_volume(stack)
    assert stack.frames[1].file not in str(refused.value)


def test_an_image_of_another_size_than_when_it_was_listed_is_refused(scan_series, read_volume, tmp_path):
    (stack,) = scan_series(make_series()).stacks
    (other,) = make_series(make_array((20, 68, 1)))
    other.save_as(tmp_path / stack.frames[3].file, enforce_file_format=True)

    with pytest.raises(BadVolume, match="changed its size"):
        read_volume(stack)


@pytest.mark.parametrize(
    ("syntax", "marker", "size"),
    [
        (uid.JPEG2000Lossless, b"\xff\x51", struct.pack(">6I", 30_000, 30_000, 0, 0, 30_000, 30_000)),
        (uid.JPEGLSLossless, b"\xff\xf7", struct.pack(">2H", 30_000, 30_000)),
    ],
)
def test_an_encoded_size_that_the_header_does_not_state_is_refused(syntax, marker, size, scan_series, read_volume):
    datasets = make_series(syntax=syntax)
    (frame,) = generate_frames(datasets[1].PixelData, number_of_frames=1)
    start = frame.index(marker) + (6 if syntax == uid.JPEG2000Lossless else 5)
    datasets[1].PixelData = encapsulate([frame[:start] + size + frame[start + len(size) :]])

    (stack,) = scan_series(datasets).stacks

    with pytest.raises(BadVolume, match=r"case c1: .*its size differs from its header"):
        read_volume(stack)


def test_single_frames_are_decoded_from_a_file(tmp_path):
    array_XYZV = make_array((40, 34, 5, 2))
    (path,) = write_enhanced(tmp_path, array_XYZV, b_values=B_VALUES)

    with path.open("rb") as stream:
        third, first = decode_frames(stream, [6, 0], "frame")

    np.testing.assert_array_equal(third, array_XYZV[:, :, 3, 0].T)
    np.testing.assert_array_equal(first, array_XYZV[:, :, 0, 0].T)


def test_compressed_frames_are_found_by_an_extended_offset_table(scan_series, read_volume):
    array_XYZ = make_array()
    dataset = make_enhanced(array_XYZ, syntax=uid.JPEG2000Lossless)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=5))
    dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    dataset["PixelData"].is_undefined_length = True

    (stack,) = scan_series(dataset).stacks

    np.testing.assert_array_equal(read_volume(stack).array_XYZ, array_XYZ)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless])
def test_no_frame_is_decoded_for_nobody(syntax, tmp_path):
    (path,) = write_enhanced(tmp_path / "files", make_array((40, 34, 20)), syntax=syntax)
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "image")

    for folder in (tmp_path / "files", tmp_path / "export.zip"):
        source, decoded = open_source(folder), []
        with (
            source.open(source.files[0]) as stream,
            pytest.raises(Cancelled),
            work_within(WorkContext(is_cancelled=lambda: len(decoded) == 3)),  # noqa: B023 - called in this round
        ):
            decoded.extend(decode_frames(stream, range(20), "case c1"))
        assert len(decoded) == 3


@pytest.mark.parametrize("keyword", ["RescaleSlope", "NumberOfFrames"])
def test_errors_quote_no_value_of_a_header(keyword, tmp_path, caplog, capfd, recwarn):
    attributes = {"RescaleSlope": "1", "RescaleIntercept": "0"} | {keyword: "1111111111"}
    (path,) = save(make_series(make_array((40, 34, 1)), attributes=attributes), tmp_path)
    path.write_bytes(path.read_bytes().replace(b"1111111111", b"Zauberberg"))

    with path.open("rb") as stream, pytest.raises(BadVolume, match="damaged") as refused:
        list(decode_frames(stream, [0], "case c1"))

    printed = capfd.readouterr()
    assert "Zauberberg" not in f"{refused.value} {caplog.text} {printed.out} {printed.err}"
    assert refused.value.__suppress_context__
    assert not recwarn.list


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_half_of_a_rescaling_is_refused(keyword, scan_series, read_volume):
    (stack,) = scan_series(set_all(make_series(), **{keyword: "2"})).stacks

    with pytest.raises(BadVolume, match="a rescale slope without an intercept, or an intercept without a slope"):
        read_volume(stack)


def test_values_in_the_upper_bits_are_refused(scan_series, read_volume):
    (stack,) = scan_series(set_all(make_series(), HighBit=15)).stacks

    with pytest.raises(BadVolume, match="do not begin at the lowest bit"):
        read_volume(stack)


LENGTHS = {
    "Rows": (34, 17, 33, 35, 68),
    "Columns": (40, 20, 39, 41, 80),
    "BitsAllocated": (16, 1, 8, 15, 17, 32),
    "NumberOfFrames": (1, 2),
}


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_uncompressed_pixels_of_another_length_than_the_header_states_are_refused(syntax):
    (dataset,) = make_series(make_array((40, 34, 1)), syntax=syntax)
    dataset.PerFrameFunctionalGroupsSequence = [Dataset()]
    accepted, refused = [], 0
    for values in itertools.product(*LENGTHS.values()):
        dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.NumberOfFrames = values
        dataset.BitsStored = min(dataset.BitsAllocated, 12)
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PerFrameFunctionalGroupsSequence = [Dataset()] * dataset.NumberOfFrames
        file = BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        try:
            list(decode_frames(file, [0], "case c1"))
            accepted.append(values)
        except BadVolume as error:
            refused += "the length of its pixels does not match its rows, columns, bits and frames" in str(error)
    assert {math.prod(values) for values in accepted} == {34 * 40 * 16}
    assert (34, 40, 16, 1) in accepted
    assert refused > 250


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_pixels_of_an_odd_length_may_have_one_byte_more(padding):
    (dataset,) = make_series(make_array((35, 33, 1)).astype(np.uint8))
    dataset.PixelData = dataset.PixelData[: 35 * 33] + bytes(padding)
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)  # which pads an odd length
    if padding == 2:
        with pytest.raises(BadVolume, match="length of its pixels does not match"):
            list(decode_frames(file, [0], "case c1"))
    else:
        assert [frame.shape for frame in decode_frames(file, [0], "case c1")] == [(33, 35)]


@pytest.mark.parametrize("runs", [2**20 - 100, 2**20])
def test_more_runs_than_an_image_has_are_refused(runs, scan_series, read_volume):
    # 128 MiB in 2 MiB: more than its decoder may take, or else than is read for an image of 40 × 34.
    datasets = make_series(syntax=uid.RLELossless)
    offsets = struct.pack("<3L", 2, 64, 64 + 2 * runs) + bytes(52)
    datasets[2].PixelData = encapsulate([offsets + b"\x81\x00" * runs + bytes(5000)])
    (stack,) = scan_series(datasets).stacks

    with pytest.raises(BadVolume, match=r"case c1: file \d of \d: damaged or truncated DICOM"):
        read_volume(stack)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless])
def test_many_frames_are_read_from_a_zip_without_beginning_anew(syntax, tmp_path, monkeypatch):
    (path,) = write_enhanced(tmp_path / "files", make_array((40, 34, 20)), syntax=syntax)
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "image")
    source = open_source(tmp_path / "export.zip")
    ((series,),) = (study.series for study in scan(source).studies)
    rewinds: list[int] = []
    seek = zipfile.ZipExtFile.seek
    monkeypatch.setattr(zipfile.ZipExtFile, "seek", lambda *args: rewinds.append(1) or seek(*args))

    assert read_stack(source, series.stacks[0], "case c1", "t2w").array_XYZ.shape == (40, 34, 20)
    assert len(rewinds) < 20


def test_a_member_of_a_zip_is_read_from_its_beginning(tmp_path):
    (path,) = write_enhanced(tmp_path / "files", make_array((40, 34, 3)))
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "image")
    with path.open("rb") as file:
        expected = [frame.copy() for frame in decode_frames(file, [0, 1, 2], "case c1")]

    with open_source(tmp_path / "export.zip").open("image") as member:
        read_header(member)
        decoded = [frame.copy() for frame in decode_frames(member, [0, 1, 2], "case c1")]

    assert np.array_equal(decoded, expected)
