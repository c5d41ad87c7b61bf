"""The rules that come along: on whole examinations of several scanners, and on the attributes of single series."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.dicom_files import write_prostate
from tests.unit.imaging.dicom.made_studies import (
    ADC,
    DWI,
    SAGITTAL,
    T2W,
    Attributes,
    choose_built_in,
    list_taken,
    make_series,
)

from vfmalign.core.domain.declarations import get_declaration
from vfmalign.imaging.dicom.rules import get_selections
from vfmalign.imaging.dicom.scanning import scan
from vfmalign.imaging.dicom.selection import choose
from vfmalign.imaging.dicom.sources import open_source
from vfmalign.imaging.phantoms.rendering import PhantomCase, generate_case


@pytest.fixture(scope="module")
def phantom() -> PhantomCase:
    return generate_case(0, 0)


@pytest.mark.parametrize(
    ("vendor", "enhanced"),
    [("siemens", False), ("siemens-csa", False), ("ge", False), ("philips", False), ("philips", True), ("ge", True)],
)
def test_the_rules_of_prostates_know_the_series_of_each_scanner(
    tmp_path: Path, phantom: PhantomCase, vendor: str, enhanced: bool
) -> None:
    write_prostate(tmp_path, phantom, vendor=vendor, enhanced=enhanced)
    source = open_source(tmp_path)
    (study,) = scan(source).studies
    declaration = get_declaration("prostate_mpmri")
    choice = choose(study, declaration, get_selections(declaration))
    source.close()
    assert not (*study.problems, *choice.problems)
    taken = {
        name: (stack.attributes["SeriesNumber"], stack.attributes.get("b_value"))
        for name, stack in choice.stacks.items()
    }
    assert taken == {"t2w": (4.0, None), "dwi": (6.0, 800.0), "adc": (7.0, None)}


LOCALISER: Attributes = T2W | {"EchoTime": 5.0, "ImageType": ("ORIGINAL", "PRIMARY", "LOCALIZER")}
PROSTATES: Mapping[str, tuple[Attributes, str]] = {
    "GE": (T2W | {"ScanningSequence": "SE", "ImageType": ("ORIGINAL", "PRIMARY", "OTHER")}, "t2w"),
    "Philips, enhanced": ({"Modality": "MR", "AcquisitionContrast": "T2", "orientation": "transverse"}, "t2w"),
    "enhanced of unknown contrast": (
        {name: value for name, value in T2W.items() if name != "ScanningSequence"} | {"AcquisitionContrast": "UNKNOWN"},
        "t2w",
    ),
    "3D": (T2W | {"MRAcquisitionType": "3D", "RepetitionTime": 1700.0, "EchoTime": 200.0}, "t2w"),
    "named in German": (T2W | {"SeriesDescription": "T2 TSE axial hochaufgelöst"}, "t2w"),
    "not named": ({name: value for name, value in T2W.items() if name != "SeriesDescription"}, "t2w"),
    "sagittal": (SAGITTAL, ""),
    "localiser": (LOCALISER, ""),
    "fast localiser": (T2W | {"SeriesDescription": "Lokalizer", "RepetitionTime": 1000.0}, ""),
    "T1w": (T2W | {"EchoTime": 11.0, "RepetitionTime": 600.0}, ""),
    "proton density": (T2W | {"EchoTime": 30.0}, ""),
    "dynamic": (T2W | {"ScanningSequence": "GR", "EchoTime": 1.5, "RepetitionTime": 4.0}, ""),
    "echo-planar without b-value": (T2W | {"ScanningSequence": ("EP", "SE")}, ""),
    "b = 0": (DWI | {"b_value": 0.0, "diffusion": "none"}, ""),
    "b = 400": (DWI | {"b_value": 400.0}, ""),
    "calculated": (DWI | {"b_value": 1400.0, "ImageType": ("DERIVED", "PRIMARY", "CALC_BVALUE")}, "dwi"),
    "GE, without directions": ({name: value for name, value in DWI.items() if name != "diffusion"}, "dwi"),
    "a single direction": (DWI | {"diffusion": "direction"}, ""),
    "CT": (T2W | {"Modality": "CT"}, ""),
    "ADC": (ADC, "adc"),
    "GE's ADC": (
        {name: value for name, value in DWI.items() if name != "diffusion"}
        | {"SeriesDescription": "Apparent Diffusion Coefficient (mm2/s)", "b_value": 1000.0},
        "adc",
    ),
    "ADC by its name": (
        {name: value for name, value in ADC.items() if name != "diffusion"} | {"SeriesDescription": "dADC Karte"},
        "adc",
    ),
    "exponential ADC": (DWI | {"SeriesDescription": "eADC", "diffusion": "none"}, ""),
}


@pytest.mark.parametrize(("attributes", "name"), PROSTATES.values(), ids=PROSTATES)
def test_the_rules_of_prostates_know_a_series(attributes: Attributes, name: str) -> None:
    choice = choose_built_in("prostate_mpmri", make_series(1, attributes))
    assert set(choice.stacks) == ({name} if name else set())


def test_the_dwi_of_prostates_has_the_largest_b_value_and_combines_directions() -> None:
    combined, plain = DWI | {"b_value": 1400.0}, DWI | {"b_value": 1400.0, "diffusion": "none"}
    direction = DWI | {"b_value": 2000.0, "diffusion": "direction"}
    choice = choose_built_in("prostate_mpmri", *map(make_series, range(1, 5), (DWI, plain, combined, direction)))
    assert list_taken(choice)["dwi"] == ["series 3"]


def test_two_transverse_t2w_are_a_problem_unless_one_is_derived() -> None:
    fine = T2W | {"SeriesDescription": "t2_tse_tra_320"}
    choice = choose_built_in("prostate_mpmri", make_series(4, T2W), make_series(5, fine))
    assert "2 volumes meet the selection of t2w equally well" in choice.problems[0]
    derived = fine | {"ImageType": ("DERIVED", "SECONDARY", "MPR")}
    choice = choose_built_in("prostate_mpmri", make_series(4, T2W), make_series(5, derived))
    assert list_taken(choice)["t2w"] == ["series 4"]


T1W: Attributes = {
    "Modality": "MR",
    "ImageType": ("ORIGINAL", "PRIMARY", "M"),
    "ScanningSequence": ("GR", "IR"),
    "MRAcquisitionType": "3D",
    "EchoTime": 2.98,
    "RepetitionTime": 2300.0,
    "InversionTime": 900.0,
    "FlipAngle": 9.0,
    "orientation": "sagittal",
    "slices": 176.0,
}
SPOILED: Attributes = {name: value for name, value in T1W.items() if name != "InversionTime"} | {
    "ScanningSequence": "GR",
    "RepetitionTime": 8.2,
    "FlipAngle": 12.0,
}
BRAINS: Mapping[str, tuple[Attributes, bool]] = {
    "MPRAGE": (T1W, True),
    "BRAVO": (T1W | {"ScanningSequence": "GR", "RepetitionTime": 8.2, "InversionTime": 450.0}, True),
    "spoiled": (SPOILED, True),
    "enhanced": ({"Modality": "MR", "MRAcquisitionType": "3D", "AcquisitionContrast": "T1"}, True),
    "with contrast": (T1W | {"ContrastBolusAgent": "Gadovist"}, True),
    "2D": (T1W | {"MRAcquisitionType": "2D"}, False),
    "FLAIR": (T1W | {"ScanningSequence": ("SE", "IR"), "EchoTime": 390.0, "InversionTime": 1800.0}, False),
    "T2w SPACE": (T1W | {"ScanningSequence": "SE", "EchoTime": 400.0}, False),
    "SWI": (SPOILED | {"EchoTime": 20.0, "RepetitionTime": 28.0}, False),
    "angiography": (SPOILED | {"SeriesDescription": "TOF_3D_multi-slab", "EchoTime": 3.4}, False),
    "proton density": (SPOILED | {"FlipAngle": 3.0}, False),
    "phase": (T1W | {"ImageType": ("ORIGINAL", "PRIMARY", "P")}, False),
    "localiser": (T1W | {"SeriesDescription": "AAHead_Scout"}, False),
}


@pytest.mark.parametrize(("attributes", "is_taken"), BRAINS.values(), ids=BRAINS)
def test_the_rules_of_brains_know_a_series(attributes: Attributes, is_taken: bool) -> None:
    assert bool(choose_built_in("brain_t1w", make_series(1, attributes)).stacks) is is_taken


def test_the_t1w_of_brains_has_no_contrast_agent_unless_it_is_alone() -> None:
    enhanced, derived = T1W | {"ContrastBolusAgent": "Gd"}, T1W | {"ImageType": ("DERIVED", "SECONDARY", "MPR")}
    choice = choose_built_in("brain_t1w", *map(make_series, range(1, 4), (enhanced, derived, T1W)))
    assert list_taken(choice)["t1w"] == ["series 3"]
    assert choice.reasons["t1w"]["series 1"] == "another is preferred: ContrastBolusAgent is …, but must be absent"
