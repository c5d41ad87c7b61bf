from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydicom import Dataset
from tests.dicom_files import Examination, make_affine, make_enhanced, make_series
from tests.dicom_headers import make_header

from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.dicom.frames import KEYWORDS, list_frames, read_attributes
from vfmalign.imaging.dicom.headers import cut_text, silence_libraries


def test_a_classic_instance_is_one_frame_with_what_it_states():
    examination = Examination()
    dataset = make_series(examination=examination, number=4, description="t2_tse_tra")[2]

    (frame,) = list_frames(dataset, "IM2")

    assert (frame.file, frame.index) == ("IM2", 0)
    assert frame.attributes["SeriesDescription"] == "t2_tse_tra"
    assert frame.attributes["ImageType"] == ("ORIGINAL", "PRIMARY", "M", "ND")
    assert frame.attributes["SeriesNumber"] == 4.0
    assert frame.geometry is not None
    np.testing.assert_allclose(frame.geometry.position_mm, (make_affine() @ [0, 0, 2, 1])[:3] * (-1, -1, 1))
    assert frame.geometry.spacing_mm == (0.75, 0.5)


def test_only_known_keywords_are_kept_and_no_mark_of_the_patient_is():
    examination = Examination()
    (frame, *_) = list_frames(make_series(examination=examination)[0], "IM0")

    assert set(frame.attributes) <= {*KEYWORDS, "b_value", "diffusion"}
    shown = str(frame.attributes)
    assert not [mark for mark in examination.marks if mark in shown]


def test_several_binary_numbers_are_all_kept():
    dataset = make_series()[0]
    dataset.add_new("InversionTimes", "FD", [400.0, 900.0])
    dataset.NumberOfFrames = 1
    dataset.PerFrameFunctionalGroupsSequence = [Dataset()]
    (frame,) = list_frames(dataset, "IM0")
    assert frame.attributes["InversionTime"] == (400.0, 900.0)


def test_the_normal_of_rounded_axes_has_length_one():
    dataset = make_series()[0]
    dataset.ImageOrientationPatient = [1, 0, 0, 0.005, 1, 0]
    (frame,) = list_frames(dataset, "IM0")
    assert frame.geometry is not None
    assert np.linalg.norm(frame.geometry.normal) == pytest.approx(1, abs=1e-12)


def test_frames_of_an_enhanced_instance_state_what_classic_ones_do():
    affine = make_affine("coronal")
    classic = [list_frames(dataset, "IM")[0] for dataset in make_series(affine=affine, b_values=(800,))]
    enhanced = list_frames(make_enhanced(affine=affine, b_values=(800,), vendor="siemens"), "IM")

    assert [frame.index for frame in enhanced] == [0, 1, 2, 3, 4]
    for one, other in zip(classic, enhanced, strict=True):
        np.testing.assert_array_equal(one.geometry.position_mm, other.geometry.position_mm)
        np.testing.assert_array_equal(one.geometry.orientation, other.geometry.orientation)
        assert one.geometry.spacing_mm == other.geometry.spacing_mm
        for name in ("b_value", "diffusion", "Rows", "Columns", "Manufacturer", "SeriesDescription"):
            assert one.attributes[name] == other.attributes[name]


@pytest.mark.parametrize(
    ("sequence", "keyword", "name", "value"),
    [
        ("MREchoSequence", "EffectiveEchoTime", "EchoTime", 80.0),
        ("MRTimingAndRelatedParametersSequence", "RepetitionTime", "RepetitionTime", 3000.0),
        ("CTXRayDetailsSequence", "KVP", "KVP", 100.0),
        ("CTReconstructionSequence", "ConvolutionKernel", "ConvolutionKernel", "B70f"),
    ],
)
def test_functional_groups_come_before_the_instance(sequence, keyword, name, value):
    dataset, item = make_enhanced(), Dataset()
    setattr(item, keyword, value)
    setattr(dataset.PerFrameFunctionalGroupsSequence[3], sequence, [item])

    frames = list_frames(dataset, "IM")

    assert frames[3].attributes[name] == value
    assert frames[2].attributes.get(name) != value


def test_the_type_of_a_frame_comes_before_that_of_the_instance():
    dataset, item = make_enhanced(), Dataset()
    item.FrameType = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]
    dataset.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence = [item]

    frame = list_frames(dataset, "IM")[0]

    assert frame.attributes["ImageType"] == ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")
    assert frame.attributes["diffusion"] == "adc"


def test_several_frames_without_functional_groups_are_refused():
    dataset = make_enhanced()
    del dataset.PerFrameFunctionalGroupsSequence

    with pytest.raises(BadVolume, match="several frames without functional groups"):
        list_frames(dataset, "IM")


def test_functional_groups_that_are_not_one_for_each_frame_are_refused():
    dataset = make_enhanced()
    del dataset.PerFrameFunctionalGroupsSequence[0]

    with pytest.raises(BadVolume, match="not have one functional group for each frame"):
        list_frames(dataset, "IM")


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "perpendicular unit vectors"),
        ("ImageOrientationPatient", [2, 0, 0, 0, 2, 0], "perpendicular unit vectors"),
        ("PixelSpacing", [0, 1], "pixel spacing"),
        ("PixelSpacing", [1, 1e9], "pixel spacing"),
        ("ImagePositionPatient", [0, 0, 1e300], "from the origin"),
    ],
)
def test_geometry_of_no_scanner_is_refused(keyword, value, reason):
    with pytest.raises(BadVolume, match=reason):
        list_frames(make_series(attributes={keyword: value})[0], "IM")


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_a_frame_without_all_of_its_geometry_has_none(keyword):
    (frame,) = list_frames(make_series(attributes={keyword: None})[0], "IM")

    assert frame.geometry is None


def test_importing_the_reader_prints_no_warning():
    code = "import warnings; warnings.simplefilter('error'); import vfmalign.imaging.dicom.pixels"

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_name_is_not_cut_in_two() -> None:
    silence_libraries()
    header = make_header(Examination(), "siemens", "MR", 1, "", "1.2", enhanced=False)
    header.StudyDescription = "t2 " * 84 + "Walpurga is more than 256 characters"
    header.ImageType = ["ORIGINAL", "x" * 257, "t2 " * 85 + " a"]
    attributes = read_attributes([header])
    assert attributes["StudyDescription"] == "t2 " * 83 + "t2"
    assert attributes["ImageType"] == ("ORIGINAL", "", "t2 " * 84 + "t2")
    assert cut_text(" Walpurga t2 ", 8) == "Walpurga"
    assert cut_text("Walpurga t2", 7) == ""
