from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from tests.dicom_files import AXES, make_affine, make_array, make_enhanced, make_series

from vfmalign.imaging.dicom.frames import FrameGeometry, list_frames
from vfmalign.imaging.dicom.stacks import Stack, divide, name_orientation


def divide_datasets(datasets: Sequence[Dataset]) -> list[Stack]:
    """The stacks of one series."""
    return divide([frame for place, dataset in enumerate(datasets) for frame in list_frames(dataset, f"IM{place}")])


@pytest.mark.parametrize("orientation", AXES)
def test_the_affine_is_that_of_the_series(orientation):
    affine = make_affine(orientation, (0.4, 0.6, 2.5), (12.5, -30.25, 7.0))

    (stack,) = divide_datasets(make_series(affine=affine))

    assert stack.attributes["orientation"] == orientation
    np.testing.assert_allclose(stack.affine, affine, atol=1e-9)


def test_slices_are_in_order_of_position_and_not_of_file():
    (stack,) = divide_datasets(make_series(heights=[3, 0, 4, 1, 2]))

    assert [frame.file for frame in stack.frames] == ["IM1", "IM3", "IM4", "IM0", "IM2"]


def test_axes_that_rounding_leaves_without_a_right_angle_are_no_tilt():
    (stack,) = divide_datasets(make_series(attributes={"ImageOrientationPatient": [1, 0, 0, 0.005, 1, 0]}))

    assert not stack.problem


def test_volumes_are_in_order_of_what_divides_them():
    stacks = divide_datasets(make_series(b_values=(1500, 50, 800, 0)))

    assert [stack.attributes["b_value"] for stack in stacks] == [0.0, 50.0, 800.0, 1500.0]


def test_interleaved_frames_of_an_enhanced_instance_are_divided():
    low, high = divide_datasets([make_enhanced(b_values=(50, 800))])

    assert [frame.index for frame in low.frames] == [0, 2, 4, 6, 8]
    assert [frame.index for frame in high.frames] == [1, 3, 5, 7, 9]


def test_attributes_that_differ_between_slices_are_left_out():
    (stack,) = divide_datasets(make_series(attributes={"RepetitionTime": lambda place: str(4000 + place)}))

    assert "RepetitionTime" not in stack.attributes
    assert stack.attributes["EchoTime"] == 101.0


def test_direction_cosines_that_differ_by_rounding_form_one_volume():
    def get_orientation(place: int) -> list[str]:
        # Near 0.0005, where rounding to three decimals would part them.
        return [
            "0.99999988",
            f"{0.0005 + (-1) ** place * 1e-6:.7f}",
            "0",
            f"{-0.0005 - (-1) ** place * 1e-6:.7f}",
            "1",
            "0",
        ]

    (stack,) = divide_datasets(make_series(attributes={"ImageOrientationPatient": get_orientation}))

    assert stack.problem == ""


def test_the_same_instance_twice_is_named_as_such():
    datasets = make_series()

    (stack,) = divide_datasets([*datasets, datasets[2]])

    assert stack.problem == "1 image present more than once, with the same SOPInstanceUID"


def test_a_repeated_series_in_one_series_is_divided_by_its_acquisition():
    datasets = [
        dataset
        for number in (1, 2)
        for dataset in make_series(
            make_array(seed=number), series_uid="1.2.3", attributes={"AcquisitionNumber": number}
        )
    ]

    stacks = divide_datasets(datasets)

    assert [(stack.attributes["AcquisitionNumber"], stack.problem) for stack in stacks] == [(1.0, ""), (2.0, "")]


def test_an_acquisition_that_was_broken_off_is_refused():
    complete = make_series(series_uid="1.2.3", attributes={"AcquisitionNumber": 1})
    broken_off = make_series(series_uid="1.2.3", attributes={"AcquisitionNumber": 2})[:3]

    (stack,) = divide_datasets([*complete, *broken_off])

    assert stack.problem.startswith("3 positions repeated")


def test_images_of_several_sizes_are_several_volumes():
    datasets = [dataset for rows in (34, 36) for dataset in make_series(make_array((40, rows, 5)), series_uid="1.2.3")]

    small, large = divide_datasets(datasets)

    assert (small.attributes["Rows"], large.attributes["Rows"]) == (34.0, 36.0)


def test_slices_that_wander_within_their_plane_are_refused():
    def get_position(place: int) -> list[Any]:
        return [0.01 * (-1) ** place, 0, 3 * place]

    (stack,) = divide_datasets(make_series(attributes={"ImagePositionPatient": get_position}))

    assert stack.problem == "slices are shifted within their plane, each by a different distance"


@pytest.mark.parametrize(
    ("normal", "name"),
    [
        ((0, 0, 1), "transverse"),
        ((0, 0.6, 0.8), "transverse"),
        ((-0.9, 0.4, 0), "sagittal"),
        ((0.6, 0.6, 0.53), "oblique"),
    ],
)
def test_an_orientation_is_named_by_the_axis_that_is_closest_to_its_normal(normal, name):
    normal = np.array(normal) / np.linalg.norm(normal)
    rows = np.cross(normal, [0.3, 0.5, 0.7])
    rows /= np.linalg.norm(rows)
    geometry = FrameGeometry(np.zeros(3), np.stack([rows, np.cross(normal, rows)]), (1.0, 1.0))

    assert name_orientation(geometry) == name
