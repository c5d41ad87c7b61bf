from __future__ import annotations

from typing import Any

import pytest
from pydicom import Dataset
from tests.dicom_files import make_enhanced, make_series

from vfmalign.imaging.dicom.diffusion import read_diffusion
from vfmalign.imaging.dicom.frames import list_descriptions


def make_dataset(*private: tuple[int, str, int, str, Any], **attributes: Any) -> Dataset:
    """A dataset with attributes, and private ones as group, creator, element, type and value."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    for group, creator, element, representation, value in private:
        dataset.private_block(group, creator, create=True).add_new(element, representation, value)
    return dataset


def ge(value: Any, kind: int = 15) -> Dataset:
    """What GE says of diffusion."""
    block = (0x0043, "GEMS_PARM_01")
    return make_dataset((*block, 0x39, "IS", value), (*block, 0x30, "SS", kind))


def philips(value: Any, direction: str = "I", representation: str = "FL") -> Dataset:
    """What Philips says of diffusion."""
    block = (0x2001, "Philips Imaging DD 001")
    return make_dataset((*block, 0x03, representation, value), (*block, 0x04, "CS", direction))


def siemens(value: Any, directionality: str) -> Dataset:
    """What Siemens says of diffusion."""
    block = (0x0019, "SIEMENS MR HEADER")
    return make_dataset((*block, 0x0C, "IS", value), (*block, 0x0D, "CS", directionality))


TRACE, SINGLE, NONE = "trace", "direction", "none"
ADC_TYPE = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]
STATED = {
    "nothing": (make_dataset(), {}),
    "standard": (make_dataset(DiffusionBValue=800.0, DiffusionDirectionality="ISOTROPIC"), (800, TRACE)),
    "standard, a direction": (
        make_dataset(DiffusionBValue=800.0, DiffusionDirectionality="DIRECTIONAL"),
        (800, SINGLE),
    ),
    "standard, no weighting": (make_dataset(DiffusionBValue=0.0, DiffusionDirectionality="NONE"), (0, NONE)),
    "standard, in no words": (make_dataset(DiffusionBValue=800.0), {"b_value": 800.0}),
    "trace image by its type": (
        make_dataset(DiffusionBValue=800.0, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]),
        (800, TRACE),
    ),
    "Siemens, trace": (siemens("800", "ISOTROPIC"), (800, TRACE)),
    "Siemens": (siemens("1000", "DIRECTIONAL"), (1000, SINGLE)),
    "Siemens, b = 0": (siemens("0", "NONE"), (0, NONE)),
    "Siemens, name of the sequence": (make_dataset(SequenceName="*ep_b800t"), (800, TRACE)),
    "Siemens, name of another sequence": (make_dataset(SequenceName="*re_b1400t"), (1400, TRACE)),
    "Siemens, name of a direction": (make_dataset(SequenceName="ep_b1000#12"), (1000, SINGLE)),
    "Siemens, sequence of an ADC map": (make_dataset(SequenceName="*ep_b50_800"), {}),
    "Siemens, sequence without diffusion": (make_dataset(SequenceName="*tse2d1_25"), {}),
    "GE with flags": (ge(["1000000800", "8", "0", "0"]), (800, TRACE)),
    "GE without flags": (ge(["1000", "8", "0", "0"], kind=16), (1000, SINGLE)),
    "GE, of a kind that is not known": (ge(["800", "8", "0", "0"], kind=99), {"b_value": 800.0}),
    "GE, b = 0": (ge(["0", "8", "0", "0"], kind=14), (0, NONE)),
    "Philips": (philips(1500.0), (1500, TRACE)),
    "Philips, a direction": (philips(1500.0, "O"), (1500, SINGLE)),
    "Philips, the direction of slices": (philips(800.0, "S"), (800, SINGLE)),
    "Philips, without the type": (philips(b"\x00\x00\x48\x44", "I", "UN"), (800, TRACE)),
    "Philips, b = 0": (philips(0.0, "N"), (0, NONE)),
    "Philips, a value for none": (philips(1.7e38), {}),
    "ADC map": (make_dataset(ImageType=ADC_TYPE, DiffusionBValue=800.0), {"diffusion": "adc"}),
    "ADC map of Philips": (make_dataset(ImageType=["DERIVED", "PRIMARY", "ADC_MAP"]), {"diffusion": "adc"}),
    "no number": (make_dataset(DiffusionBValue=float("nan")), {}),
    "negative": (make_dataset(DiffusionBValue=-1.0), {}),
    "damaged CSA header": (make_dataset((0x0029, "SIEMENS CSA HEADER", 0x10, "OB", b"SV10\4\3\2\1\xff\xff")), {}),
}


@pytest.mark.parametrize("name", STATED)
def test_diffusion_is_what_the_attributes_state(name):
    dataset, expected = STATED[name]
    if isinstance(expected, tuple):
        expected = {"b_value": float(expected[0]), "diffusion": expected[1]}

    assert read_diffusion([dataset]) == expected


def test_the_standards_attribute_comes_before_private_ones():
    dataset = ge(["1000000800", "8", "0", "0"])
    dataset.DiffusionBValue = 700.0

    assert read_diffusion([dataset])["b_value"] == 700.0


@pytest.mark.parametrize("vendor", ["siemens", "siemens-csa", "ge", "philips"])
def test_each_vendors_files_state_what_they_were_made_with(vendor):
    for directionality, word in {"ISOTROPIC": "trace", "DIRECTIONAL": "direction"}.items():
        datasets = make_series(vendor=vendor, b_values=(0, 50, 1400), directionality=directionality)

        assert [read_diffusion([dataset]) for dataset in datasets[::5]] == [
            {"b_value": 0.0, "diffusion": "none"},
            {"b_value": 50.0, "diffusion": word},
            {"b_value": 1400.0, "diffusion": word},
        ]


def test_functional_groups_state_it_for_each_frame():
    first, second, *_ = list_descriptions(make_enhanced(b_values=(0, 900)))

    assert read_diffusion(first) == {"b_value": 0.0, "diffusion": "none"}
    assert read_diffusion(second) == {"b_value": 900.0, "diffusion": "trace"}
