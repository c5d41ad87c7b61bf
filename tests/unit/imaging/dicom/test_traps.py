"""Series that readers get wrong, each with its outcome: the volumes that it gives, or why it gives none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, uid
from tests.dicom_files import make_affine, make_array, make_enhanced, make_series

from vfmalign.core.domain.errors import BadVolume

B_VALUES = (50.0, 800.0)


@dataclass(frozen=True)
class Trap:
    """A series.

    Attributes:
        make: makes its datasets.
        stacks: attributes of each volume that it is divided into.
        problem: what every volume's problem contains; empty where they can be read.
    """

    make: Callable[[], Sequence[Dataset] | Dataset]
    stacks: Sequence[dict[str, Any]] = ({},)
    problem: str = ""


def make_three_planes(slices: int) -> list[Dataset]:
    """One series with transverse, coronal and sagittal images."""
    planes = [
        make_series(make_array((40, 34, slices)), make_affine(name), series_uid="1.2.3")
        for name in ("transverse", "coronal", "sagittal")
    ]
    first = planes[0][0]
    datasets = [dataset for plane in planes for dataset in plane]
    for dataset in datasets:
        dataset.StudyInstanceUID, dataset.PatientID = first.StudyInstanceUID, first.PatientID
    return datasets


def make_gap(share: float) -> Callable[[], Sequence[Dataset]]:
    """One gap between slices is larger than the others by a share of them."""
    return lambda: make_series(heights=[0, 1, 2 + share, 3 + share, 4 + share])


def make_tilt(degrees: float) -> Callable[[], Sequence[Dataset]]:
    """Slices that are shifted against each other."""
    return lambda: make_series(modality="CT", affine=make_affine(tilt_degrees=degrees))


def make_weighted(vendor: str, directionality: str = "ISOTROPIC") -> Callable[[], Sequence[Dataset]]:
    """b-values in the vendor's private attributes alone."""
    return lambda: make_series(vendor=vendor, b_values=B_VALUES, directionality=directionality)


def make_sequence(vendor: str, sequence: str | list[str], b_values: Sequence[float]) -> Callable[[], Sequence[Dataset]]:
    """A series of one sequence with private b-values."""
    return lambda: make_series(vendor=vendor, b_values=b_values, attributes={"ScanningSequence": sequence})


WEIGHTED = [{"b_value": b_value, "diffusion": "trace", "slices": 5.0} for b_value in B_VALUES]
UNWEIGHTED = {"b_value": None, "diffusion": None, "slices": 5.0}
WITH_ZERO = [{"b_value": 0.0, "diffusion": "none"}, {"b_value": 800.0, "diffusion": "trace"}]
SINGLE = [{"b_value": b_value, "diffusion": "direction"} for b_value in B_VALUES]
PLANES = [{"orientation": name} for name in ("coronal", "sagittal", "transverse")]
TRAPS = {
    "no b-value": Trap(make_series, [{"orientation": "transverse", "slices": 5.0, "b_value": None, "diffusion": None}]),
    "private b-values of Siemens": Trap(make_weighted("siemens"), WEIGHTED),
    "b-values in a CSA header": Trap(make_weighted("siemens-csa"), WEIGHTED),
    "private b-values of GE": Trap(make_weighted("ge"), WEIGHTED),
    "private b-values of Philips": Trap(make_weighted("philips"), WEIGHTED),
    "zero for a b-value in a T2w series of GE": Trap(make_sequence("ge", "SE", (0,)), [UNWEIGHTED]),
    "zero for a b-value in a T2w series of Philips": Trap(make_sequence("philips", ["SE"], (0,)), [UNWEIGHTED]),
    "echo-planar series with b = 0 alone": Trap(make_sequence("ge", ["EP", "SE"], (0,)), [WITH_ZERO[0]]),
    "b = 0 beside others, not called echo-planar": Trap(make_sequence("philips", "SE", (0, 800)), WITH_ZERO),
    "single directions of Siemens": Trap(make_weighted("siemens", "DIRECTIONAL"), SINGLE),
    "single directions of GE": Trap(make_weighted("ge", "DIRECTIONAL"), SINGLE),
    "single directions of Philips": Trap(make_weighted("philips", "DIRECTIONAL"), SINGLE),
    "several directions of one b-value": Trap(
        lambda: make_series(b_values=(800, 800, 800), directionality="DIRECTIONAL"),
        [{"b_value": 800.0, "diffusion": "direction", "slices": 15.0}],
        "10 positions repeated, and no attribute tells the images of one volume from others",
    ),
    "missing slice": Trap(
        lambda: make_series(heights=[0, 1, 3, 4, 5]), problem="1 slice missing between others that lie 3 mm apart"
    ),
    "two missing slices": Trap(lambda: make_series(heights=[0, 3, 4, 5, 6]), problem="2 slices missing"),
    "duplicate slice": Trap(lambda: make_series(heights=[0, 1, 2, 2, 3]), problem="1 position repeated"),
    "slices 0.5 % from equal": Trap(make_gap(0.005), problem="slices lie 3 to 3.015 mm apart"),
    "slices 1 % from equal": Trap(make_gap(0.01), problem="slices lie 3 to 3.03 mm apart"),
    "slices 5 % from equal": Trap(make_gap(0.05), problem="slices lie 3 to 3.15 mm apart"),
    "small differences that add up": Trap(
        lambda: make_series(make_array((40, 34, 40)), heights=[k + 4e-6 * k * k for k in range(40)]),
        problem="which is not a regular grid",
    ),
    "slices in any order of instances": Trap(lambda: make_series(heights=[4, 0, 3, 1, 2])),
    "gantry tilt of 0.5°": Trap(make_tilt(0.5), problem="shifted against each other by 0.5°"),
    "gantry tilt of 2.5°": Trap(make_tilt(2.5), problem="shifted against each other by 2.5°"),
    "gantry tilt of 15°": Trap(make_tilt(15), problem="shifted against each other by 15°"),
    "mixed orientations": Trap(lambda: make_three_planes(slices=5), PLANES),
    "localiser with three planes": Trap(lambda: make_three_planes(slices=1), PLANES, "a single slice"),
    "enhanced multi-frame with two b-values": Trap(lambda: make_enhanced(b_values=B_VALUES), WEIGHTED),
    "one slice": Trap(lambda: make_series(make_array((40, 34, 1))), problem="a single slice"),
    "several echoes": Trap(
        lambda: make_series(b_values=(None, None), attributes={"EchoTime": lambda place: "10" if place < 5 else "80"}),
        [{"EchoTime": 10.0}, {"EchoTime": 80.0}],
    ),
    "several time points, counted as acquisitions": Trap(
        lambda: make_series(b_values=(None, None), attributes={"AcquisitionNumber": lambda place: 1 + place // 5}),
        [{"AcquisitionNumber": 1.0}, {"AcquisitionNumber": 2.0}],
    ),
    "acquisitions counted from slice to slice": Trap(
        lambda: make_series(attributes={"AcquisitionNumber": lambda place: 1 + place}), [{"AcquisitionNumber": None}]
    ),
    "no geometry": Trap(
        lambda: make_series(attributes={"ImagePositionPatient": None}), problem="an image states no position"
    ),
    "images of two frames of reference": Trap(
        lambda: make_series(attributes={"FrameOfReferenceUID": lambda place: f"1.2.{place // 3}"}),
        problem="images of several frames of reference",
    ),
    "geometry in a scanner's rounding": Trap(
        lambda: make_series(heights=[0, 1.0003, 1.9998, 3.0002, 4]), [{"slices": 5.0}]
    ),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_has_its_outcome(name, scan_series, read_volume):
    trap = TRAPS[name]

    series = scan_series(trap.make())

    assert len(series.stacks) == len(trap.stacks)
    for stack, expected in zip(series.stacks, trap.stacks, strict=True):
        assert {attribute: stack.attributes.get(attribute) for attribute in expected} == expected
        if trap.problem:
            assert trap.problem in stack.problem
            assert stack.affine is None
            with pytest.raises(BadVolume, match="case c1: "):
                read_volume(stack)
        else:
            assert stack.problem == ""
            assert read_volume(stack).array_XYZ.shape == (40, 34, len(stack.frames))


LOSSLESS = {
    "ImplicitVRLittleEndian": uid.ImplicitVRLittleEndian,
    "ExplicitVRLittleEndian": uid.ExplicitVRLittleEndian,
    "ExplicitVRBigEndian": uid.ExplicitVRBigEndian,
    "DeflatedExplicitVRLittleEndian": uid.DeflatedExplicitVRLittleEndian,
    "RLELossless": uid.RLELossless,
    "JPEGLossless": uid.JPEGLossless,
    "JPEGLosslessSV1": uid.JPEGLosslessSV1,
    "JPEGLSLossless": uid.JPEGLSLossless,
    "JPEG2000Lossless": uid.JPEG2000Lossless,
}


@pytest.mark.parametrize("make", [make_series, make_enhanced])
@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_a_lossless_transfer_syntax_keeps_every_value_in_its_place(syntax, make, dtype, scan_series, read_volume):
    array_XYZV = (make_array((40, 34, 5, 2)).astype(np.int32) // 16 - 100 * (dtype == np.int16)).astype(dtype)

    series = scan_series(make(array_XYZV, b_values=B_VALUES, syntax=LOSSLESS[syntax]))

    assert len(series.stacks) == 2
    for volume, stack in enumerate(series.stacks):
        read = read_volume(stack)
        np.testing.assert_array_equal(read.array_XYZ, array_XYZV[..., volume])
        np.testing.assert_allclose(read.affine, make_affine(), atol=1e-9)


@pytest.mark.parametrize(
    ("syntax", "dtype", "largest"),
    [(uid.JPEGLSNearLossless, np.uint16, 2), (uid.JPEG2000, np.uint16, 300), (uid.JPEGBaseline8Bit, np.uint8, 1)],
)
def test_a_lossy_transfer_syntax_is_read_as_it_was_written(syntax, dtype, largest, scan_series, read_volume):
    array_XYZ = (make_array() // (16 if dtype == np.uint8 else 1)).astype(dtype)

    (stack,) = scan_series(make_series(array_XYZ, syntax=syntax)).stacks

    difference_XYZ = np.abs(read_volume(stack).array_XYZ - array_XYZ)
    assert 0 < difference_XYZ.max() <= largest


def test_a_transfer_syntax_that_no_decoder_reads_is_refused_by_name(scan_series, read_volume):
    (stack,) = scan_series(make_series(syntax=uid.JPEGExtended12Bit)).stacks

    with pytest.raises(BadVolume, match="transfer syntax is not supported: JPEG Extended") as refused:
        read_volume(stack)
    assert "JPEG-LS" in refused.value.remedy
