"""Contours as voxels: the even-odd rule, ties, and shapes whose voxels are known.

Legend: X and Y are columns and rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vfmalign.imaging.dicom.labels.contours import fill, find_edges

SHAPE = (14, 11)
Polygon = Sequence[tuple[float, float]]


def draw(*contours: Polygon | NDArray[np.float64], shape: tuple[int, int] = SHAPE) -> NDArray[np.bool_]:
    mask_XY = np.zeros(shape, bool)
    edges = find_edges([np.array(contour, float) for contour in contours], *shape)
    mask_XY[fill(edges)] = True
    return mask_XY


def is_inside(contours: Sequence[Polygon], x: int, y: int) -> bool:
    """Counts the edges left of a point, or on it, in exact arithmetic."""
    count = 0
    for contour in contours:
        ends = [(Fraction(a), Fraction(b)) for a, b in contour]
        for (x0, y0), (x1, y1) in zip(ends, ends[1:] + ends[:1], strict=True):
            if min(y0, y1) <= y < max(y0, y1):
                count += x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return count % 2 == 1


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


coordinates = st.integers(-24, 80).map(lambda eighths: eighths / 8)
polygons = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=12)


@given(st.lists(polygons, min_size=1, max_size=3))
@settings(max_examples=80, deadline=None)
def test_voxels_are_those_whose_centre_lies_inside(contours: list[Polygon]) -> None:
    expected = [[is_inside(contours, x, y) for y in range(SHAPE[1])] for x in range(SHAPE[0])]
    np.testing.assert_array_equal(draw(*contours), expected)


@given(polygons, st.integers(0, 11))
@settings(max_examples=100, deadline=None)
def test_neither_the_direction_nor_the_first_point_matters(contour: list[tuple[float, float]], first: int) -> None:
    turned = contour[first:] + contour[:first]
    np.testing.assert_array_equal(draw(turned), draw(contour))
    np.testing.assert_array_equal(draw(contour[::-1]), draw(contour))


@given(st.lists(st.tuples(st.floats(-5, 20), st.floats(-5, 20)), min_size=3, max_size=9))
@settings(max_examples=100, deadline=None)
def test_a_contour_and_its_copy_leave_nothing(contour: Polygon) -> None:
    assert not draw(contour, contour[::-1]).any()


def test_centres_have_whole_coordinates() -> None:
    mask = draw(box(1.5, 2.5, 4.5, 3.5))
    assert np.argwhere(mask).tolist() == [[2, 3], [3, 3], [4, 3]]


@pytest.mark.parametrize("noise", [0, 1e-9, -1e-9])
def test_of_centres_on_a_contour_those_with_the_area_behind_them_are_inside(noise: float) -> None:
    mask = draw(np.array(box(2, 3, 6, 5)) + noise)
    assert np.argwhere(mask).tolist() == [[x, y] for x in range(2, 6) for y in range(3, 5)]


@given(st.tuples(coordinates, coordinates), st.lists(st.floats(0, 2 * np.pi), min_size=3, max_size=8, unique=True))
@settings(max_examples=100, deadline=None)
def test_contours_that_share_edges_share_no_voxel_and_leave_none_out(
    centre: tuple[float, float], angles: list[float]
) -> None:
    """A polygon is divided into triangles from a point within it, in either direction."""
    rim = [(centre[0] + 6 * np.cos(angle), centre[1] + 6 * np.sin(angle)) for angle in sorted(angles)]
    parts = [[centre, first, second] for first, second in zip(rim, rim[1:] + rim[:1], strict=True)]
    triangles = [draw(part if index % 2 else part[::-1]) for index, part in enumerate(parts)]
    gaps = np.diff([*sorted(angles), min(angles) + 2 * np.pi])
    if gaps.max() < np.pi:
        assert np.sum(triangles, axis=0).max() <= 1
        np.testing.assert_array_equal(np.any(triangles, axis=0), draw(rim))


def test_a_contour_inside_another_is_a_hole_and_one_inside_that_is_not() -> None:
    mask = draw(box(-0.5, -0.5, 8.5, 8.5), box(1.5, 1.5, 6.5, 6.5), box(3.5, 3.5, 4.5, 4.5))
    assert mask.sum() == 81 - 25 + 1
    assert mask[4, 4]
    assert not mask[3, 3]


def test_a_keyhole_has_a_hole_and_a_channel_of_no_width() -> None:
    outer, inner = box(0, 0, 9, 9), box(3, 3, 6, 6)
    keyhole = [outer[0], *inner[::-1][-1:], *inner[:0:-1], inner[0], outer[0], *outer[1:]]
    np.testing.assert_array_equal(draw(keyhole), draw(outer, inner))
    assert draw(keyhole).sum() == 81 - 9


def test_a_contour_that_crosses_itself_follows_the_even_odd_rule() -> None:
    pentagram = [(6 + 5 * np.sin(4 * np.pi * k / 5), 5 - 5 * np.cos(4 * np.pi * k / 5)) for k in range(5)]
    mask = draw(pentagram)
    assert not mask[6, 5], "the middle is crossed twice"
    assert mask[6, 1]


@pytest.mark.parametrize(
    "contour",
    [[(3, 3)], [(3, 3), (3, 3), (3, 3)], [(2, 2), (9, 7)], [(0, 4), (13, 4), (5, 4)], [(4, 0), (4, 9), (4, 5)],
     [(-9, -9), (-5, -9), (-5, -2)], [(20, 1), (30, 1), (30, 9), (20, 9)], [(1, 40), (9, 40), (5, 80)]],
    ids=["point", "three times a point", "line", "along a row", "along a column", "before", "beside", "below"],
)  # fmt: skip
def test_contours_that_enclose_no_centre_draw_nothing(contour: Polygon) -> None:
    assert not draw(contour).any()


def test_what_lies_outside_the_image_is_clipped() -> None:
    assert draw(box(-1e4, -1e4, 1e4, 1e4)).all()
    mask = draw(box(9.5, 7.5, 1e6, 1e6))
    assert mask.sum() == 4 * 3
    assert mask[10:, 8:].all()
    assert draw(box(-50, 2.5, 0.5, 50)).sum() == 8


def test_the_work_is_known_before_it_is_done() -> None:
    edges = find_edges([np.array(box(0, -1e9, 1, 1e9))], *SHAPE)
    assert edges.crossings == 2 * SHAPE[1]


def test_a_circle_has_its_area() -> None:
    angles = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
    circle = np.column_stack([256.3 + 200 * np.cos(angles), 255.6 + 200 * np.sin(angles)])
    mask = draw(circle, shape=(512, 512))
    assert mask.sum() == pytest.approx(np.pi * 200**2, rel=1e-3)
    x, y = np.mgrid[:512, :512]
    distance = np.hypot(x - 256.3, y - 255.6)
    assert (mask == (distance < 200))[np.abs(distance - 200) > 1e-3].all()
