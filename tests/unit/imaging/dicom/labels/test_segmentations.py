"""DICOM SEG: headers, placing frames on the image's grid, and what is refused.

Legend: X, Y, Z are columns, rows and slices of the image.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import data_store
import numpy as np
import pytest
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, uid
from tests import dicom_files

from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.dicom.frames import list_frames
from vfmalign.imaging.dicom.labels.codes import has_code
from vfmalign.imaging.dicom.labels.label_maps import read_label_map, read_segmentation
from vfmalign.imaging.dicom.pixels import decode_frames
from vfmalign.imaging.dicom.stacks import Stack, divide
from vfmalign.imaging.volumes import Volume

SHAPE = (40, 34, 6)
NAME = "c-1/gland"


class MemorySource:
    """Files in memory."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self.contents = {name: _to_bytes(dataset) for name, dataset in datasets.items()}

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.contents[name])


def _to_bytes(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _to_stack(datasets: Sequence[Dataset]) -> Stack:
    frames = [frame for index, dataset in enumerate(datasets) for frame in list_frames(dataset, f"image-{index}")]
    (stack,) = divide(frames)
    assert stack.problem == ""
    return stack


def _read(
    segmentation: Dataset, image: Sequence[Dataset], values: Mapping[int, int], change: Any = lambda content: content
) -> Volume:
    source = MemorySource({"seg": segmentation} | {f"image-{index}": item for index, item in enumerate(image)})
    source.contents["seg"] = change(source.contents["seg"])
    header = dcmread(io.BytesIO(source.contents["seg"]), stop_before_pixels=True)
    return read_label_map(source, read_segmentation(header, "seg", "series 100"), _to_stack(image), values, NAME)


def _make_mask(*corners: tuple[slice, slice, slice], shape: tuple[int, int, int] = SHAPE) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    for corner in corners:
        mask[corner] = True
    return mask


GLAND = _make_mask(np.s_[5:30, 8:20, 1:5])
LESION = _make_mask(np.s_[7:11, 9:12, 2:4])
BESIDE = _make_mask(np.s_[31:35, 21:25, 0:2])


@pytest.fixture
def image() -> list[Dataset]:
    """A transverse series whose files are not in order of position."""
    datasets = dicom_files.make_series(dicom_files.make_array(SHAPE), description="t2_tse_tra")
    return [datasets[index] for index in (3, 0, 5, 1, 4, 2)]


def _in_order(image: Sequence[Dataset]) -> list[Dataset]:
    return [image[index] for index in (1, 3, 5, 0, 4, 2)]


def _segment(image: Sequence[Dataset], masks: Mapping[str, NDArray[np.bool_]], **options: Any) -> Dataset:
    return dicom_files.make_segmentation(_in_order(image), masks, **options)


def test_a_header_gives_labels_codes_and_the_series_that_it_was_drawn_on(image: list[Dataset]) -> None:
    prostate = CodedConcept("41216001", "SCT", "Prostate")
    segmentation = _segment(image, {"gland": GLAND, "lesion": LESION}, codes={"gland": prostate})
    record = read_segmentation(segmentation, "seg", "series 100")
    assert [(segment.number, segment.label) for segment in record.segments] == [(1, "gland"), (2, "lesion")]
    assert record.segments[0].codes == ("SCT:85756007", "SCT:41216001")
    assert record.references == (image[0].SeriesInstanceUID,)
    assert record.attributes["Modality"] == "SEG"
    assert (record.label, record.file) == ("series 100", "seg")


def test_a_code_equals_the_one_that_it_replaced(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND}, codes={"gland": CodedConcept("T-92000", "SRT", "Prostate")})
    (segment,) = read_segmentation(segmentation, "seg", "").segments
    assert has_code(segment, "SCT:41216001")
    assert has_code(segment, "SRT:T-92000")
    assert not has_code(segment, "SCT:64033007")


def test_modifiers_and_long_codes_are_codes_of_the_segment(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"kidney": GLAND}, codes={"kidney": CodedConcept("64033007", "SCT", "Kidney")})
    kind = segmentation.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    del kind.CodeValue
    kind.LongCodeValue = "64033007" * 4
    left = Dataset()
    left.CodeValue, left.CodingSchemeDesignator, left.CodeMeaning = "7771000", "SCT", "Left"
    kind.SegmentedPropertyTypeModifierCodeSequence = [left]
    (segment,) = read_segmentation(segmentation, "seg", "").segments
    assert segment.codes[1:] == (f"SCT:{'64033007' * 4}", "SCT:7771000")


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("omit_empty_frames", [True, False])
def test_segments_lie_where_they_were_drawn(image: list[Dataset], kind: str, omit_empty_frames: bool) -> None:
    masks = {"gland": GLAND, "other": BESIDE}
    segmentation = _segment(image, masks, kind=kind, omit_empty_frames=omit_empty_frames)
    volume = _read(segmentation, image, {1: 3, 2: 7})
    np.testing.assert_array_equal(volume.array_XYZ, 3.0 * GLAND + 7.0 * BESIDE)
    np.testing.assert_allclose(volume.affine, _to_stack(image).affine)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_compressed_label_maps_are_read(image: list[Dataset], syntax: str) -> None:
    segmentation = _segment(image, {"gland": GLAND}, kind="LABELMAP", transfer_syntax_uid=syntax)
    np.testing.assert_array_equal(_read(segmentation, image, {1: 1}).array_XYZ, GLAND)


def test_only_the_named_segments_are_drawn(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND, "lesion": LESION})
    np.testing.assert_array_equal(_read(segmentation, image, {2: 1}).array_XYZ, LESION)


def test_a_rescaling_is_none_of_a_segmentation(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND})
    segmentation.RescaleSlope, segmentation.RescaleIntercept = 0, 1
    np.testing.assert_array_equal(_read(segmentation, image, {1: 1}).array_XYZ, GLAND)


def test_segments_of_one_value_may_overlap(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND, "lesion": LESION, "other": BESIDE})
    np.testing.assert_array_equal(_read(segmentation, image, {1: 1, 2: 1, 3: 1}).array_XYZ, GLAND | BESIDE)


@pytest.mark.parametrize("values", [{1: 1, 2: 2}, {2: 2, 1: 1}])
def test_overlapping_segments_of_different_values_are_refused(image: list[Dataset], values: dict[int, int]) -> None:
    segmentation = _segment(image, {"gland": GLAND, "lesion": LESION})
    with pytest.raises(BadVolume, match=f"overlap in {LESION.sum()} voxels") as caught:
        _read(segmentation, image, values)
    assert caught.value.subject == NAME
    assert "a label map for each" in caught.value.remedy


def test_a_segment_without_voxels_is_empty(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND, "lesion": np.zeros(SHAPE, bool)})
    volume = _read(segmentation, image, {2: 1})
    assert volume.array_XYZ.shape == SHAPE
    assert not volume.array_XYZ.any()


def test_an_object_without_any_voxel_is_empty(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"lesion": np.zeros(SHAPE, bool)}, omit_empty_frames=False)
    assert not _read(segmentation, image, {1: 1}).array_XYZ.any()


def test_one_slice_is_placed_without_a_stated_spacing(image: list[Dataset]) -> None:
    mask = _make_mask(np.s_[7:11, 9:12, 2:3])
    segmentation = _segment(image, {"lesion": mask})
    assert segmentation.NumberOfFrames == 1
    del segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    np.testing.assert_array_equal(_read(segmentation, image, {1: 1}).array_XYZ, mask)


def test_frames_of_an_enhanced_image_are_placed() -> None:
    enhanced = dicom_files.make_enhanced(dicom_files.make_array(SHAPE))
    segmentation = dicom_files.make_segmentation(enhanced, {"gland": GLAND})
    np.testing.assert_array_equal(_read(segmentation, [enhanced], {1: 1}).array_XYZ, GLAND)


def _draw_elsewhere(
    steps: NDArray[Any] | Sequence[Sequence[float]], first: Sequence[float], shape: tuple[int, int, int], **options: Any
) -> tuple[list[Dataset], Dataset, NDArray[np.bool_]]:
    """An image, a segmentation drawn on another grid in the same frame of reference, and its mask in that grid.

    Args:
        steps: (3, 3), change of the image's index for each step along an axis of the other grid.
        first: index in the image of the other grid's first voxel.
        shape: of the other grid.
        options: of the segmentation.
    """
    examination, affine = dicom_files.Examination(), dicom_files.make_affine()
    to_image = np.eye(4)
    to_image[:3, :3], to_image[:3, 3] = steps, first
    image = dicom_files.make_series(dicom_files.make_array(SHAPE), affine, examination=examination)
    other = dicom_files.make_series(dicom_files.make_array(shape), affine @ to_image, examination=examination)
    mask = np.random.default_rng(0).random(shape) < 0.2
    return image, dicom_files.make_segmentation(other, {"gland": mask}, **options), mask


@pytest.mark.parametrize(
    ("steps", "first", "shape"),
    [
        (np.eye(3), (4, 7, 2), (12, 9, 3)),
        (np.diag([1, 1, -1]), (0, 0, 5), SHAPE),
        (np.diag([-1, -1, 1]), (39, 33, 0), SHAPE),
        ([[0, 1, 0], [1, 0, 0], [0, 0, 1]], (3, 0, 1), (30, 20, 4)),
        ([[0, 0, 1], [1, 0, 0], [0, -1, 0]], (0, 0, 5), (34, 6, 40)),
    ],
    ids=["part", "slices reversed", "rotated by 180 degrees", "transposed", "sagittal"],
)
def test_frames_on_voxels_of_the_image_are_placed(
    steps: Sequence[Sequence[float]], first: Sequence[float], shape: tuple[int, int, int]
) -> None:
    image, segmentation, mask = _draw_elsewhere(steps, first, shape)
    volume = _read(segmentation, image, {1: 1})
    expected = np.zeros(SHAPE, bool)
    expected[tuple((np.argwhere(mask) @ np.array(steps, int).T + np.array(first, int)).T)] = True
    np.testing.assert_array_equal(volume.array_XYZ, expected)
    np.testing.assert_allclose(volume.affine, _to_stack(image).affine)


@pytest.mark.parametrize(("offset", "is_on_the_image"), [(0.04, True), (0.06, False)])
def test_frames_beside_the_voxels_keep_a_grid_of_their_own(offset: float, is_on_the_image: bool) -> None:
    image, segmentation, mask = _draw_elsewhere(np.eye(3), (offset, 0, 0), SHAPE)
    volume = _read(segmentation, image, {1: 1})
    np.testing.assert_array_equal(volume.array_XYZ, mask)
    on_image = _to_stack(image).affine
    assert on_image is not None
    assert np.allclose(volume.affine, on_image) == is_on_the_image
    assert volume.affine[0, 3] - on_image[0, 3] == pytest.approx(0 if is_on_the_image else -0.5 * offset)


def test_thicker_slices_keep_a_grid_of_their_own() -> None:
    image, segmentation, mask = _draw_elsewhere(np.diag([1, 1, 2]), (0, 0, 0), (40, 34, 3))
    volume = _read(segmentation, image, {1: 1})
    np.testing.assert_array_equal(volume.array_XYZ, mask)
    assert volume.spacing_mm == pytest.approx((0.5, 0.75, 6.0))


@pytest.mark.parametrize("spacing_mm", ["6", "0.0001", "-3"])
def test_a_wrong_spacing_that_neighbouring_planes_contradict_does_not_count(
    image: list[Dataset], spacing_mm: str
) -> None:
    segmentation = _segment(image, {"gland": GLAND})
    segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = spacing_mm
    np.testing.assert_array_equal(_read(segmentation, image, {1: 1}).array_XYZ, GLAND)


def test_an_own_grid_keeps_planes_without_a_frame(image: list[Dataset]) -> None:
    image, segmentation, _ = _draw_elsewhere(np.eye(3), (0.5, 0, 0), SHAPE)
    mask = _make_mask(np.s_[5:9, 5:9, 0:1], np.s_[5:9, 5:9, 4:5])
    moved = dicom_files.make_series(
        dicom_files.make_array(SHAPE), dicom_files.make_affine(origin_mm=(-60.2, -80.0, 40.0)),
        examination=dicom_files.Examination(frame_of_reference_uid=image[0].FrameOfReferenceUID),
    )  # fmt: skip
    segmentation = dicom_files.make_segmentation(moved, {"gland": mask})
    assert segmentation.NumberOfFrames == 2
    np.testing.assert_array_equal(_read(segmentation, image, {1: 1}).array_XYZ, mask[..., :5])


def test_frames_beside_the_voxels_without_a_stated_spacing_are_refused() -> None:
    image, segmentation, _ = _draw_elsewhere(np.eye(3), (0.5, 0, 0), SHAPE)
    del segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    with pytest.raises(BadVolume, match="match neither the image's voxels nor"):
        _read(segmentation, image, {1: 1})


def test_frames_of_no_regular_grid_are_refused(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND})
    position = segmentation.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    position.ImagePositionPatient = [*position.ImagePositionPatient[:2], position.ImagePositionPatient[2] + 1]
    with pytest.raises(BadVolume, match="match neither the image's voxels nor"):
        _read(segmentation, image, {1: 1})


def test_frames_beyond_the_image_are_refused_where_they_have_no_grid_of_their_own() -> None:
    image, segmentation, _ = _draw_elsewhere(np.eye(3), (0, 0, 4), SHAPE)
    del segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    with pytest.raises(BadVolume, match="match neither the image's voxels nor"):
        _read(segmentation, image, {1: 1})


def test_an_own_grid_of_too_many_voxels_is_refused() -> None:
    image, segmentation, _ = _draw_elsewhere(np.eye(3), (0.5, 0, 0), SHAPE)
    segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = "0.0001"
    with pytest.raises(BadVolume, match="declares 150001 slices or voxels along an axis"):
        _read(segmentation, image, {1: 1})


def test_a_voxel_of_a_segment_that_is_not_described_is_refused(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND, "other": BESIDE}, kind="LABELMAP")
    segmentation.SegmentSequence = [item for item in segmentation.SegmentSequence if item.SegmentNumber != 2]
    with pytest.raises(BadVolume, match="a segment that is not described"):
        _read(segmentation, image, {1: 1})


@pytest.mark.parametrize("position_mm", ["1e300", "1e30", "-12345678"])
def test_positions_that_no_scanner_writes_are_refused(image: list[Dataset], position_mm: str) -> None:
    segmentation = _segment(image, {"gland": GLAND})
    position = segmentation.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    position.ImagePositionPatient = ["0", "0", position_mm]
    with pytest.raises(BadVolume):
        _read(segmentation, image, {1: 1})


def test_another_frame_of_reference_is_refused(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND})
    segmentation.FrameOfReferenceUID = uid.generate_uid()
    with pytest.raises(BadVolume, match="different frames of reference") as caught:
        _read(segmentation, image, {1: 1})
    assert segmentation.FrameOfReferenceUID not in str(caught.value)


def test_an_image_without_frame_of_reference_is_refused(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND})
    for dataset in image:
        del dataset.FrameOfReferenceUID
    with pytest.raises(BadVolume, match="different frames of reference"):
        _read(segmentation, image, {1: 1})


def test_two_frames_of_one_segment_in_one_plane_are_refused(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND})
    frames = segmentation.PerFrameFunctionalGroupsSequence
    frames[1].PlanePositionSequence = frames[0].PlanePositionSequence
    with pytest.raises(BadVolume, match="several frames show one segment in one plane"):
        _read(segmentation, image, {1: 1})


def test_a_frame_without_position_is_refused(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND})
    del segmentation.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    with pytest.raises(BadVolume, match="states no position"):
        _read(segmentation, image, {1: 1})


def test_fractions_are_refused(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND}, kind="FRACTIONAL", max_fractional_value=200)
    np.testing.assert_array_equal(_read(segmentation, image, {1: 1}).array_XYZ, GLAND)
    segmentation.MaximumFractionalValue = 201
    with pytest.raises(BadVolume, match="holds fractional values") as caught:
        _read(segmentation, image, {1: 1})
    assert "threshold" in caught.value.remedy


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_truncated_object_is_refused(image: list[Dataset], kind: str, share: float) -> None:
    segmentation = _segment(image, {"gland": GLAND}, kind=kind)
    complete = _to_bytes(segmentation)
    start = complete.rindex(segmentation.PixelData)
    end = start + int(share * len(segmentation.PixelData))
    with pytest.raises(BadVolume, match="damaged or truncated") as caught:
        _read(segmentation, image, {1: 1}, lambda content: content[:end])
    assert caught.value.__cause__ is None


def test_planes_larger_than_the_image_are_not_decoded(image: list[Dataset]) -> None:
    segmentation = _segment(image, {"gland": GLAND})
    segmentation.Columns = 65_535
    with pytest.raises(BadVolume, match="more than 4096"):
        _read(segmentation, image, {1: 1})


@pytest.mark.parametrize("keyword", ["SegmentSequence", "SegmentNumber"])
def test_a_header_without_segments_is_refused(image: list[Dataset], keyword: str) -> None:
    segmentation = _segment(image, {"gland": GLAND})
    holder = segmentation if keyword in segmentation else segmentation.SegmentSequence[0]
    delattr(holder, keyword)
    with pytest.raises(BadVolume, match=r"no segments, or more|damaged"):
        read_segmentation(segmentation, "seg", "series 100")


@pytest.mark.parametrize("name", ["liver.dcm", "liver_expb.dcm"])
def test_a_public_segmentation_gives_pydicoms_pixels(name: str) -> None:
    path = Path(data_store.__file__).parent / "data" / name
    dataset = dcmread(path)
    with path.open("rb") as stream, closing(decode_frames(stream, range(3), NAME)) as frames:
        np.testing.assert_array_equal(list(frames), dataset.pixel_array)
    (segment,) = read_segmentation(dataset, "seg", "series 1").segments
    assert has_code(segment, "SCT:10200004")
