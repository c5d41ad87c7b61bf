"""Screening of text: what a study's identifying attributes say is hidden wherever it occurs."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from vfmalign.imaging.dicom.screening import list_private_words, screen_attributes, screen_text


def make_header(**attributes: object) -> Dataset:
    header = Dataset()
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    return header


HEADER = make_header(
    SpecificCharacterSet="ISO_IR 192",
    PatientName="Li^Mei=李^美",
    OtherPatientNames=["Müller^Änne", "Wu", "Goerlitz^Łukasz", "ﾔﾏﾀﾞ"],
    PatientID="PID-4711-0815",
    OtherPatientIDsSequence=[make_header(PatientID="KIM-HX7")],
    PatientBirthDate="19240712",
    InstitutionName="Klinik Davos-Platz",
    ReferringPhysicianName="Behrens^Hofrat",
    StudyID="1",
    SeriesDescription="t2_tse_tra",
)
WORDS = list_private_words(HEADER)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t2_tse_tra_320", "t2_tse_tra_320"),
        ("t2 Müller", "t2 …"),
        ("t2MÜLLERtra", "…"),
        ("mei_t2_Li", "…_t2_…"),
        ("line scan, mild", "line scan, mild"),
        ("李 t2", "… t2"),
        ("T2美李", "…"),
        ("Hofrat Behrens, Davos", "… …, …"),
        ("pid 4711 t2", "… … t2"),
        ("1 t2 12.07.1924", "1 t2 …"),
        ("t2 20240229 0815", "t2 … …"),
        ("t2 2024-02-29", "t2 …"),
        ("t2_2024_02_29 12 07 1924", "t2_… …"),
        ("ep2d_b50_400_800 3 4 5", "ep2d_b50_400_800 3 4 5"),
        ("t2 Mu\u0308ller MUELLER muller", "t2 … … …"),
        ("GÖRLITZ Gorlitz lukasz", "… Gorlitz …"),
        ("ヤマダ t2", "… t2"),
        ("KimT2tra T2KIM hx7", "… … …"),
        ("t2\u202e\n\x1b[31m", "t2………[31m"),
    ],
)
def test_private_words_dates_and_long_numbers_are_hidden(text: str, expected: str) -> None:
    assert screen_text(text, WORDS) == expected


def test_every_kind_of_attribute_is_screened() -> None:
    attributes = {"SeriesDescription": "t2 Müller", "ImageType": ("ORIGINAL", "Behrens"), "EchoTime": 101.0}
    expected = {"SeriesDescription": "t2 …", "ImageType": ("ORIGINAL", "…"), "EchoTime": 101.0}
    assert screen_attributes(attributes, WORDS) == expected
    assert screen_attributes({"EchoNumbers": (1.0, 2.0)}, WORDS) == {"EchoNumbers": (1.0, 2.0)}


def test_numbers_that_identify_are_hidden() -> None:
    attributes = {
        "EchoTime": 19240712.0,
        "RepetitionTime": 4711.0,
        "EchoNumbers": (1.0, 4711.0),
        "TriggerTime": 99999.0,
    }
    hidden = {"EchoTime": "…", "RepetitionTime": "…", "EchoNumbers": "…", "TriggerTime": 99999.0}
    assert screen_attributes(attributes, WORDS) == hidden


def test_only_the_beginning_of_an_endless_value_is_read() -> None:
    assert len(list_private_words(make_header(PatientAddress=" ".join(f"w{n}" for n in range(100_000))))) < 1024


def test_names_in_private_attributes_of_their_type_count_as_well() -> None:
    header = make_header()
    header.private_block(0x0011, "ACME", create=True).add_new(0x01, "PN", "Zauberberg^Walpurga")
    assert list_private_words(header) == {"zauberberg", "walpurga"}
