"""Strata of DICOM cases: which attributes they say, how coarsely, and that none of them identifies."""

from __future__ import annotations

import pytest
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c
from pydantic import TypeAdapter
from pydicom.datadict import tag_for_keyword

from vfmalign.core.domain.datasets import MAX_STRATA, MAX_STRATUM_VALUES, StratumValue
from vfmalign.imaging.dicom import strata
from vfmalign.imaging.dicom.frames import AttributeValue
from vfmalign.imaging.dicom.refusals import REFUSALS
from vfmalign.imaging.dicom.strata import OF_CASE, OF_MODALITY, CaseAcquisition, classify


def make_strata(cases: list[CaseAcquisition], patients: list[str], modalities: list[str]) -> list[dict[str, str]]:
    return strata.make_strata([classify(case, modalities) for case in cases], patients, modalities)


def acquire(*words: str, allowed: tuple[str, ...] = (), **attributes: AttributeValue) -> CaseAcquisition:
    return CaseAcquisition({"t2w": attributes}, frozenset(words), allowed)


def make_one(**attributes: AttributeValue) -> dict[str, str]:
    return make_strata([acquire(**attributes)], ["p"], ["t2w"])[0]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"Manufacturer": "SIEMENS"}, {"manufacturer": "siemens"}),
        ({"Manufacturer": "GE MEDICAL SYSTEMS"}, {"manufacturer": "ge"}),
        ({"Manufacturer": "Zauberberg"}, {"manufacturer": "other"}),
        ({"ManufacturerModelName": "DISCOVERY MR750"}, {"scanner": "DISCOVERY MR750"}),
        ({"ManufacturerModelName": "Serial 20240229"}, {}),
        ({"ManufacturerModelName": "=cmd()"}, {}),
        ({"MagneticFieldStrength": 2.8936}, {"field_strength": "3 T"}),
        ({"MagneticFieldStrength": 1.494}, {"field_strength": "1.5 T"}),
        ({"MagneticFieldStrength": 15000.0}, {}),
        ({"KVP": 118.0}, {"tube_voltage": "120 kV"}),
        ({"EchoTime": 101.3}, {"t2w_echo_time": "100 ms"}),
        ({"EchoTime": 4.37}, {"t2w_echo_time": "0 ms"}),
        ({"RepetitionTime": 4183.0}, {"t2w_repetition_time": "4 s"}),
        ({"RepetitionTime": 12.4}, {"t2w_repetition_time": "10 ms"}),
        ({"SliceThickness": 3.0001}, {"t2w_slice_thickness": "3 mm"}),
        ({"SliceThickness": 0.625}, {"t2w_slice_thickness": "0.5 mm"}),
        ({"b_value": 805.0}, {"t2w_b_value": "800 s/mm²"}),
        ({"ConvolutionKernel": ("Br36f", "3")}, {"t2w_kernel": "Br36f"}),
        ({"EchoTime": "Zauberberg"}, {}),
        ({"EchoTime": 471108.0, "SliceThickness": 471108.0}, {}),
        ({"SeriesDescription": "Zauberberg", "PatientPosition": "HFS"}, {}),
    ],
)
def test_attributes_fall_into_classes(attributes: dict[str, AttributeValue], expected: dict[str, str]) -> None:
    assert make_one(**attributes) == expected


def test_text_that_names_somebody_or_one_patient_alone_is_left_out() -> None:
    cases = [
        acquire(ManufacturerModelName="Skyra"),
        acquire(ManufacturerModelName="Skyra"),
        acquire(ManufacturerModelName="Scanner of Castorp"),
        acquire("berghof", ManufacturerModelName="Berghof 3"),
        acquire(ManufacturerModelName="Unique"),
        acquire(ManufacturerModelName="Unique"),
    ]
    assert [case.get("scanner") for case in make_strata(cases, ["p1", "p2", "p3", "p4", "p4", "p4"], ["t2w"])] == [
        "Skyra", "Skyra", "other", None, "other", "other",
    ]  # fmt: skip


def test_a_number_that_one_patient_alone_has_tells_nobody_apart() -> None:
    cases = [acquire(RepetitionTime=time_ms) for time_ms in (4000.0, 4100.0, 7000.0, 7000.0)]
    strata = make_strata(cases, ["p1", "p2", "p3", "p3"], ["t2w"])
    assert [case["t2w_repetition_time"] for case in strata] == ["4 s", "4 s", "other", "other"]


def test_allowed_refusals_are_recorded() -> None:
    cases = [acquire(), acquire(allowed=("burned_in_annotation", "overlay"))]
    assert make_strata(cases, ["p1", "p2"], ["t2w"]) == [{}, {"allowed": "burned_in_annotation+overlay"}]
    (strata,) = make_strata([acquire(allowed=tuple(sorted(REFUSALS)))], ["p1"], ["t2w"])
    TypeAdapter(StratumValue).validate_python(strata["allowed"])
    assert strata["allowed"].startswith("burned_in_annotation+frames_of_reference+overlay+secondary_c")


def test_the_classes_of_several_volumes_are_joined() -> None:
    attributes = {kind: {"Manufacturer": name} for kind, name in (("a", "Siemens"), ("b", "Philips"))}
    assert make_strata([CaseAcquisition(attributes, frozenset())], ["p"], ["a", "b"]) == [
        {"manufacturer": "siemens + philips"}
    ]


def test_no_more_strata_and_values_than_a_dataset_may_have() -> None:
    modalities = [f"m{number}" for number in range(12)]
    attributes: dict[str, AttributeValue] = {"SliceThickness": 3.0, "EchoTime": 100.0}
    (strata,) = make_strata([CaseAcquisition(dict.fromkeys(modalities, attributes), frozenset())], ["p"], modalities)
    assert len(strata) == MAX_STRATA
    assert {f"{kind}_slice_thickness" for kind in modalities} < set(strata), "that of every modality comes first"

    cases = [acquire(EchoTime=10.0 * max(0, number - 20)) for number in range(120)]
    values = [case["t2w_echo_time"] for case in make_strata(cases, ["p"] * len(cases), ["t2w"])]
    assert len(set(values)) == MAX_STRATUM_VALUES
    assert values[:22] == ["0 ms"] * 21 + ["10 ms"]
    assert values.count("other") == 100 - (MAX_STRATUM_VALUES - 1)


def test_an_id_that_would_be_too_long_is_left_out() -> None:
    kind = "a" * 30
    assert make_strata([CaseAcquisition({kind: {"EchoTime": 1.0}}, frozenset())], ["p"], [kind]) == [{}]


def test_no_attribute_of_the_basic_profile_becomes_a_stratum() -> None:
    """The list of PS3.15, E.1-1, as dicom-anonymizer has it."""
    profile = {tag for tag in dicomfields_2026c.ALL_TAGS if len(tag) == 2}
    assert (0x0010, 0x0010) in profile
    keywords = [stratum.keyword for stratum in (*OF_CASE, *OF_MODALITY) if stratum.keyword != "b_value"]
    tags = [tag_for_keyword(keyword) for keyword in keywords]
    assert all(tag is not None and (tag >> 16, tag & 0xFFFF) not in profile for tag in tags)
