"""Structure sets (RTSTRUCT): headers, contours on the slices of an image, and what is refused.

Legend: X, Y, Z are columns, rows and slices of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.dataelem import RawDataElement
from tests import dicom_files
from tests.dicom_contours import (
    Contour,
    draw_circle,
    make_structure_set,
    read_drawn,
    read_file,
    to_bytes,
    to_contour,
    to_stack,
)

from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.dicom.labels import structure_sets
from vfmalign.imaging.dicom.labels.codes import has_code
from vfmalign.imaging.dicom.labels.label_maps import read_segmentation
from vfmalign.imaging.volumes import Volume

SHAPE = (64, 48, 24)
SPACING_MM = (1.0, 1.25, 1.5)
NAME = "c-1/gland"
AFFINE = dicom_files.make_affine(spacing_mm=SPACING_MM)
SQUARE = [(5, 5), (15, 5), (15, 12), (5, 12)]
OTHER = [(12, 9), (20, 9), (20, 20), (12, 20)]


def make_image(affine: NDArray[np.float64] = AFFINE, shape: tuple[int, int, int] = SHAPE) -> list[Dataset]:
    return dicom_files.make_series(dicom_files.make_array(shape), affine, modality="CT")


@pytest.fixture
def image() -> list[Dataset]:
    return make_image()


def draw(
    image: Sequence[Dataset], contours: Sequence[Contour], affine: NDArray[Any] = AFFINE, **options: Any
) -> Volume:
    return read_drawn(make_structure_set(image, {"gland": contours}, affine, **options), image)


def stretch(vertices: Sequence[tuple[float, float]], slices: range) -> list[Contour]:
    return [to_contour(vertices, z) for z in slices]


def make_square(*slices: int, vertices: Sequence[tuple[float, float]] = SQUARE) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    (left, top), (right, bottom) = vertices[0], vertices[2]
    mask[left:right, top:bottom, list(slices)] = True  # type: ignore[misc]
    return mask


def make_grid_mm() -> NDArray[np.float64]:
    return np.moveaxis(np.indices(SHAPE), 0, -1) * np.array(SPACING_MM)


CENTRE_MM = (31.3, 29.7, 17.2)


def make_sphere(radius_mm: float, affine: NDArray[Any]) -> list[Contour]:
    heights = [SPACING_MM[2] * z - CENTRE_MM[2] for z in range(SHAPE[2])]
    return [
        draw_circle(CENTRE_MM, np.sqrt(radius_mm**2 - height**2), affine, z)
        for z, height in enumerate(heights)
        if abs(height) < radius_mm
    ]


def make_torus(ring_mm: float, tube_mm: float, affine: NDArray[Any]) -> list[Contour]:
    contours: list[Contour] = []
    for z in range(SHAPE[2]):
        height = SPACING_MM[2] * z - CENTRE_MM[2]
        if abs(height) < tube_mm:
            half = np.sqrt(tube_mm**2 - height**2)
            contours += [draw_circle(CENTRE_MM, radius, affine, z) for radius in (ring_mm + half, ring_mm - half)]
    return contours


def make_oblique() -> NDArray[np.float64]:
    """Slices at an angle to every axis of the patient."""
    axes, _ = np.linalg.qr(np.array([[1.0, 0.3, 0.2], [-0.2, 1.0, 0.4], [0.1, -0.5, 1.0]]))
    axes *= np.sign(np.diag(axes))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * SPACING_MM, (-20.0, 11.0, -300.0)
    if np.linalg.det(np.diag([-1.0, -1, 1]) @ axes) < 0:
        affine[:3, 2] *= -1
    return affine


AFFINES: dict[str, NDArray[np.float64]] = {
    "transverse": AFFINE,
    "sagittal": dicom_files.make_affine("sagittal", SPACING_MM),
    "oblique": make_oblique(),
}
BODIES = {
    "sphere": (
        partial(make_sphere, 14.0),
        np.linalg.norm(make_grid_mm() - CENTRE_MM, axis=-1) - 14.0,
        4 / 3 * np.pi * 14.0**3,
    ),
    "torus": (
        partial(make_torus, 15.0, 8.0),
        np.hypot(
            np.linalg.norm(make_grid_mm()[..., :2] - CENTRE_MM[:2], axis=-1) - 15.0,
            make_grid_mm()[..., 2] - CENTRE_MM[2],
        )
        - 8.0,
        2 * np.pi**2 * 15.0 * 8.0**2,
    ),
}
"""Contours, distance of each voxel from the surface in mm (negative inside), and volume in mm³."""


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize(("make", "distance_mm", "volume_mm3"), BODIES.values(), ids=BODIES)
def test_an_analytic_body_has_its_voxels_and_its_volume(
    make: Callable[..., list[Contour]], distance_mm: NDArray[np.float64], volume_mm3: float, affine: NDArray[Any]
) -> None:
    volume = draw(make_image(affine), make(affine), affine)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-9)
    drawn = volume.array_XYZ == 1
    # A polygon of 720 points lies up to 0.0003 mm within its circle.
    clear = np.abs(distance_mm) > 1e-3
    np.testing.assert_array_equal(drawn[clear], distance_mm[clear] < 0)
    assert drawn.sum() * np.prod(SPACING_MM) == pytest.approx(volume_mm3, rel=0.015)


def test_contours_in_slices_that_are_stored_backwards_are_placed() -> None:
    """The instances lie in order of falling position, and the image's files in any order."""
    image = make_image()
    contours = make_sphere(14.0, AFFINE)
    structures = make_structure_set(image, {"gland": contours[::-1]}, AFFINE)
    np.testing.assert_array_equal(read_drawn(structures, image[::-1]).array_XYZ, draw(image, contours).array_XYZ)


def test_contours_follow_slices_that_point_the_other_way() -> None:
    """The rows of these images run backwards, so that their slices are counted from the other end."""
    flipped = AFFINE @ np.diag([1.0, -1, -1, 1])
    image = make_image(flipped)
    volume = draw(image, stretch(SQUARE, range(3, 7)), flipped)
    np.testing.assert_array_equal(volume.array_XYZ, make_square(3, 4, 5, 6))
    np.testing.assert_allclose(volume.affine, flipped)


def test_contours_of_an_enhanced_image_are_placed() -> None:
    """They may name its frames, or the instance as a whole."""
    enhanced = dicom_files.make_enhanced(dicom_files.make_array(SHAPE), AFFINE)
    made = make_structure_set(enhanced, {"gland": stretch(SQUARE, range(3, 7))}, AFFINE)
    images = [contour.ContourImageSequence[0] for contour in made.ROIContourSequence[0].ContourSequence]
    images[0].ReferencedFrameNumber = [1, 4]
    np.testing.assert_array_equal(read_drawn(made, [enhanced]).array_XYZ, make_square(3, 4, 5, 6))
    for image in images:
        del image.ReferencedFrameNumber
    np.testing.assert_array_equal(read_drawn(made, [enhanced]).array_XYZ, make_square(3, 4, 5, 6))
    images[2].ReferencedFrameNumber = 5
    with pytest.raises(BadVolume, match="names a different image"):
        read_drawn(made, [enhanced])


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
def test_other_transfer_syntaxes_are_read(image: list[Dataset], syntax: str) -> None:
    volume = draw(image, stretch(SQUARE, range(3)), syntax=syntax)
    np.testing.assert_array_equal(volume.array_XYZ, make_square(0, 1, 2))


@pytest.mark.filterwarnings("ignore:The value for the data element:UserWarning")
def test_a_contour_longer_than_its_type_may_be_is_read(image: list[Dataset]) -> None:
    """Decimal strings hold 64 KiB in explicit transfer syntaxes, so that longer ones are written as unknown."""
    circle = draw_circle(CENTRE_MM, 14.0, AFFINE, 3, points=10_000)
    assert draw(image, [circle]).array_XYZ.sum() * SPACING_MM[0] * SPACING_MM[1] == pytest.approx(
        np.pi * 14**2, rel=0.01
    )


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_a_contour_inside_another_is_a_hole(image: list[Dataset], kind: str) -> None:
    hole = [(8, 7), (11, 7), (11, 10), (8, 10)]
    volume = draw(image, [*stretch(SQUARE, range(2)), *stretch(hole, range(2))], kind=kind)
    np.testing.assert_array_equal(volume.array_XYZ, make_square(0, 1) & ~make_square(0, 1, vertices=hole))


@pytest.mark.parametrize("again", [SQUARE, SQUARE[2:] + SQUARE[:2], SQUARE[::-1], [*SQUARE, SQUARE[0]]])
def test_a_contour_that_is_there_twice_is_refused(image: list[Dataset], again: list[tuple[float, float]]) -> None:
    with pytest.raises(BadVolume, match="a slice has the same contour twice"):
        draw(image, [*stretch(SQUARE, range(3)), to_contour(again, 1)])


def test_a_header_gives_names_codes_and_the_series_that_it_was_drawn_on(image: list[Dataset]) -> None:
    codes = {"gland": CodedConcept("T-92000", "SRT", "Prostate")}
    made = make_structure_set(image, {"gland": [], "lesion": []}, AFFINE, codes=codes)
    record = read_segmentation(made, "rs", "series 101")
    assert [(segment.number, segment.label) for segment in record.segments] == [(1, "gland"), (2, "lesion")]
    assert has_code(record.segments[0], "SCT:41216001")
    assert record.segments[1].codes == ()
    assert record.references == (image[0].SeriesInstanceUID,)
    assert record.attributes["Modality"] == "RTSTRUCT"


def test_each_region_gets_its_value(image: list[Dataset]) -> None:
    regions = {"gland": stretch(SQUARE, range(3)), "ignored": [], "lesion": stretch(OTHER, range(4, 6))}
    volume = read_drawn(make_structure_set(image, regions, AFFINE), image, {1: 3, 3: 7})
    np.testing.assert_array_equal(volume.array_XYZ, 3 * make_square(0, 1, 2) + 7 * make_square(4, 5, vertices=OTHER))


def test_regions_that_overlap_are_refused_unless_they_have_one_value(image: list[Dataset]) -> None:
    made = make_structure_set(image, {"a": stretch(SQUARE, range(3)), "b": stretch(OTHER, range(3))}, AFFINE)
    with pytest.raises(BadVolume, match=f"overlap in {3 * 3 * 3} voxels") as caught:
        read_drawn(made, image, {1: 1, 2: 2})
    assert "a label map for each" in caught.value.remedy
    united = make_square(0, 1, 2) | make_square(0, 1, 2, vertices=OTHER)
    np.testing.assert_array_equal(read_drawn(made, image, {1: 1, 2: 1}).array_XYZ, united)


@pytest.mark.parametrize("has_item", [True, False])
def test_a_region_without_contours_is_empty(image: list[Dataset], has_item: bool) -> None:
    made = make_structure_set(image, {"gland": []}, AFFINE)
    if not has_item:
        made.ROIContourSequence = []
    assert not read_drawn(made, image).array_XYZ.any()


def test_contours_need_not_name_images(image: list[Dataset]) -> None:
    volume = draw(image, stretch(SQUARE, range(2)), names_images=False)
    np.testing.assert_array_equal(volume.array_XYZ, make_square(0, 1))


def test_contours_may_name_images_of_another_series(image: list[Dataset]) -> None:
    other = make_image()
    for first, second in zip(image, other, strict=True):
        second.FrameOfReferenceUID = first.FrameOfReferenceUID
    made = make_structure_set(other, {"gland": stretch(SQUARE, range(2))}, AFFINE)
    np.testing.assert_array_equal(read_drawn(made, image).array_XYZ, make_square(0, 1))


def test_what_lies_outside_the_slices_is_clipped(image: list[Dataset]) -> None:
    assert draw(image, [to_contour([(-500, -500), (500, -500), (500, 500), (-500, 500)], 4)]).array_XYZ[..., 4].all()


@pytest.mark.parametrize(("offset", "is_placed"), [(0.04, True), (-0.04, True), (0.06, False), (0.5, False)])
def test_a_contour_lies_in_a_slice_or_is_refused(image: list[Dataset], offset: float, is_placed: bool) -> None:
    contour = to_contour(SQUARE, 3 + offset)
    if is_placed:
        np.testing.assert_array_equal(draw(image, [contour]).array_XYZ, make_square(3))
        return
    with pytest.raises(BadVolume, match="does not lie in a slice of the image"):
        draw(image, [contour])


def test_a_contour_at_an_angle_to_the_slices_is_refused(image: list[Dataset]) -> None:
    contour = to_contour(SQUARE, 3)
    contour[1:3, 2] += 1
    with pytest.raises(BadVolume, match="or at an angle to them"):
        draw(image, [contour])


@pytest.mark.parametrize("z", [-1, SHAPE[2]])
def test_a_contour_beyond_the_slices_is_refused(image: list[Dataset], z: int) -> None:
    with pytest.raises(BadVolume, match="beyond the first or the last slice") as caught:
        draw(image, [to_contour(SQUARE, z)])
    assert "export all slices" in caught.value.remedy


def test_a_contour_that_names_another_image_is_refused(image: list[Dataset]) -> None:
    def exchange(made: Dataset) -> None:
        first, second = made.ROIContourSequence[0].ContourSequence
        first.ContourImageSequence, second.ContourImageSequence = (
            second.ContourImageSequence, first.ContourImageSequence
        )  # fmt: skip

    with pytest.raises(BadVolume, match="names a different image"):
        draw(image, stretch(SQUARE, range(2)), change=exchange)


@pytest.mark.parametrize("slices", [(0, 2, 4), (0, 1, 2, 4), (0, 3)])
def test_slices_without_a_contour_between_others_are_refused(image: list[Dataset], slices: tuple[int, ...]) -> None:
    with pytest.raises(BadVolume, match="of the slices between contours of a region have no contour") as caught:
        draw(image, [to_contour(SQUARE, z) for z in slices])
    assert "interpolate them" in caught.value.remedy


def test_parts_that_do_not_lie_above_each_other_may_be_apart(image: list[Dataset]) -> None:
    apart = [(30, 5), (35, 5), (35, 12), (30, 12)]
    volume = draw(image, [*stretch(SQUARE, range(2)), *stretch(apart, range(6, 8))])
    np.testing.assert_array_equal(volume.array_XYZ, make_square(0, 1) | make_square(6, 7, vertices=apart))


def test_regions_of_one_value_may_lie_above_each_other(image: list[Dataset]) -> None:
    regions = {"upper": stretch(SQUARE, range(2)), "lower": stretch(SQUARE, range(6, 8))}
    volume = read_drawn(make_structure_set(image, regions, AFFINE), image, {1: 1, 2: 1})
    np.testing.assert_array_equal(volume.array_XYZ, make_square(0, 1, 6, 7))


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR", ""])
def test_a_region_of_points_or_lines_is_refused_where_it_is_named(image: list[Dataset], kind: str) -> None:
    made = make_structure_set(image, {"gland": stretch(SQUARE, range(2)), "marker": stretch(OTHER, range(1))}, AFFINE)
    made.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = kind
    np.testing.assert_array_equal(read_drawn(made, image, {1: 1}).array_XYZ, make_square(0, 1))
    with pytest.raises(BadVolume, match="a point or an open line"):
        read_drawn(made, image, {2: 1})


def test_another_frame_of_reference_is_refused(image: list[Dataset]) -> None:
    def move(made: Dataset) -> None:
        made.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = uid.generate_uid()

    with pytest.raises(BadVolume, match="different frames of reference"):
        draw(image, stretch(SQUARE, range(2)), change=move)


def test_a_frame_of_reference_that_nothing_states_is_refused(image: list[Dataset]) -> None:
    made = make_structure_set(image, {"gland": stretch(SQUARE, range(2))}, AFFINE)
    del made.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    with pytest.raises(BadVolume, match="different frames of reference"):
        read_drawn(made, image)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"1\\2\\3\\4", "differs from the stated number"),
        (b"1\\2\\3", "differs from the stated number"),
        (b"", "damaged"),
        (b"Zauberberg\\2\\3", "damaged"),
        (b"nan\\2\\3" + b"\\1\\2\\3" * 3, "is NaN"),
        (b"1e300\\2\\3" + b"\\1\\2\\3" * 3, "from the origin"),
        (b"inf\\2\\3" + b"\\1\\2\\3" * 3, "from the origin"),
        (b"1\\" * 300_000 + b"1", "more than 100,000 points"),
    ],
    ids=["four numbers", "one point", "nothing", "a name", "NaN", "1e300", "infinity", "100,000 points"],
)
def test_damaged_points_are_refused(image: list[Dataset], data: bytes, cause: str) -> None:
    made = make_structure_set(image, {"gland": stretch(SQUARE, range(1))}, AFFINE)
    contour = made.ROIContourSequence[0].ContourSequence[0]
    contour["ContourData"] = RawDataElement(contour["ContourData"].tag, "UN", len(data), data, 0, False, True)
    with pytest.raises(BadVolume, match=cause) as caught:
        read_drawn(made, image)
    assert "Zauberberg" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_contours_that_cross_more_rows_than_organs_do_are_refused(
    image: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    contours = stretch(SQUARE, range(3))
    crossings = 2 * (SQUARE[2][1] - SQUARE[0][1])
    for limit, count in (("MAX_CROSSINGS", 3 * crossings), ("MAX_CROSSINGS_OF_SLICE", crossings)):
        with monkeypatch.context() as patched:
            patched.setattr(structure_sets, limit, count)
            draw(image, contours)
            patched.setattr(structure_sets, limit, count - 1)
            with pytest.raises(BadVolume, match="more voxel rows than contours of organs"):
                draw(image, contours)


def test_regions_of_one_number_are_refused(image: list[Dataset]) -> None:
    made = make_structure_set(image, {"gland": [], "lesion": []}, AFFINE)
    made.StructureSetROISequence[1].ROINumber = 1
    with pytest.raises(BadVolume, match="several regions have one number"):
        read_segmentation(made, "rs", "series 101")


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
@pytest.mark.parametrize("has_lengths", [True, False])
def test_a_truncated_structure_set_is_refused(image: list[Dataset], syntax: str, has_lengths: bool) -> None:
    """Wherever it ends, no part of its contours counts as the whole."""
    regions = {"gland": stretch(SQUARE, range(3)), "lesion": stretch(OTHER, range(2))}
    made = make_structure_set(image, regions, AFFINE, syntax=syntax)
    if not has_lengths:
        made["ROIContourSequence"].is_undefined_length = True
        for region in made.ROIContourSequence:
            region.is_undefined_length_sequence_item = True
            region["ContourSequence"].is_undefined_length = True
    content, stack = to_bytes(made), to_stack(image)
    observations = content.rindex(b"\x06\x30\x80\x00")
    for end in range(400, len(content), 3):
        # The contours are complete before this sequence, whose concepts a region may lack.
        if not observations <= end <= observations + 8:
            with pytest.raises(BadVolume):
                read_file(content[:end], stack, {1: 1})
