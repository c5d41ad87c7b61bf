"""Screening of text: what a study's identifying attributes say is hidden wherever it occurs."""

from __future__ import annotations

import re

import pytest
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag

from vfmalign.imaging.dicom.headers import silence_libraries
from vfmalign.imaging.dicom.screening import (
    IDENTIFYING_KEYWORDS,
    MAX_PRIVATE_WORDS,
    list_private_words,
    screen_attributes,
    screen_text,
)


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
        ("t2 SMITH19240712 Castorp12-34-5678X", "t2 … …"),
        ("t2_20240229Kim_tra 7.8.1924Wu", "t2_…_tra …"),
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
        "InversionTime": -19240712.0,
        "FlipAngle": -4711.0,
        "SeriesNumber": 815.0,
        "AcquisitionNumber": 1.0,
    }
    hidden = dict.fromkeys(attributes, "…") | {"TriggerTime": 99999.0, "AcquisitionNumber": 1.0}
    assert screen_attributes(attributes, WORDS) == hidden


def test_only_the_beginning_of_an_endless_value_is_read() -> None:
    silence_libraries()
    assert len(list_private_words(make_header(PatientAddress=" ".join(f"w{n}" for n in range(100_000))))) < 1024


def test_a_word_that_is_longer_than_a_name_is_known_by_its_beginning() -> None:
    words = list_private_words(make_header(PatientComments="Zauberberg" * 50))
    assert max(map(len, words)) == 64
    assert screen_text(f"t2 {'Zauberberg' * 50}", words) == "t2 …"


def test_texts_of_many_studies_do_not_stay_in_memory() -> None:
    for number in range(2 * screen_text.cache_info().maxsize):
        screen_text("t2", frozenset({f"name{number}"}))
    assert screen_text.cache_info().currsize <= 256


def test_all_text_and_numbers_are_hidden_where_private_words_are_too_many_to_know() -> None:
    words = list_private_words(make_header(OtherPatientIDs=[f"id{n:04}x" for n in range(2_000)]))
    assert len(words) > MAX_PRIVATE_WORDS
    assert screen_text("Zauberberg t2", words) == "… …"
    assert screen_attributes({"EchoTime": 80.0, "Modality": "MR"}, words) == {"EchoTime": "…", "Modality": "MR"}


def test_names_in_private_attributes_of_their_type_count_as_well() -> None:
    header = make_header()
    header.private_block(0x0011, "ACME", create=True).add_new(0x01, "PN", "Zauberberg^Walpurga")
    assert list_private_words(header) == {"zauberberg", "walpurga"}


def test_names_in_every_sequence_count_at_any_depth() -> None:
    code = make_header(CodeValue="AE-77", CodeMeaning="Doktor Krokowski")
    person = make_header(PersonIdentificationCodeSequence=[code], InstitutionName="Haus Mylendonk")
    step = make_header(ScheduledStationName="Leitzordner", RequestedProcedureDescription="MR prostate")
    header = make_header(
        ReferringPhysicianIdentificationSequence=[person],
        ProcedureCodeSequence=[make_header(CodeMeaning="Prostate")],
        PatientComments="Frau Stöhr",
        RequestAttributesSequence=[step],
    )
    expected = {"ae", "77", "doktor", "krokowski", "haus", "mylendonk", "leitzordner", "frau", "stohr", "stoehr"}
    assert list_private_words(header) == expected - {"77"}


def test_sequences_without_end_are_read_up_to_a_limit() -> None:
    nested = make_header(PatientID="deep")
    for _ in range(400):
        nested = make_header(PatientID="shallow", RequestAttributesSequence=[nested])
    assert list_private_words(nested) == {"shallow"}
    names = [make_header(PatientID=f"many{number}") for number in range(100)]
    assert len(list_private_words(make_header(OtherPatientIDsSequence=names))) == 16


def test_defined_terms_are_shown_whatever_a_hospital_is_called() -> None:
    words = list_private_words(make_header(InstitutionName="MR Zentrum T2 Trace", PatientName="Se^Primary"))
    terms = {"Modality": "MR", "ScanningSequence": ("SE", "IR"), "AcquisitionContrast": "T2", "diffusion": "trace"}
    assert screen_attributes(terms, words) == terms
    others = {"Modality": "Zentrum", "SeriesDescription": "MR T2", "ImageType": ("PRIMARY", "Se", "ZENTRUM")}
    hidden = {"Modality": "…", "SeriesDescription": "… …", "ImageType": ("PRIMARY", "…", "…")}
    assert screen_attributes(others, words) == hidden


def test_nothing_is_hidden_where_the_user_says_so() -> None:
    attributes = {"SeriesDescription": "t2 Müller 20240229", "SeriesNumber": 20240229.0, "EchoNumbers": (1.0, 4711.0)}
    assert screen_attributes(attributes, None) == attributes


NAMING = re.compile(
    r"(Names?|ID|IDs|Identifier|Number|Numbers|Issuer|Address|Location|Residence|AETitle|Organization|Service|Rank|"
    r"Locator|Identification|Occupation|Preference|TelecomInformation|Author|Originator|PatientComments)$"
    r"|^(Institution|Issuer|PatientAddress)"
)
"""Attributes that name or number somebody or something. The others of the profile describe a procedure or a finding, in
words that descriptions of series repeat, or are dates and times, which are hidden by how they are written.
"""
EXCEPTIONS = {
    "names of a protocol, which rules test": r"ProtocolName|ClinicalTrialProtocol\w+|IssuerOfClinicalTrial\w+",
    "number a series or a time point, as a description may": r"ClinicalTrialSeriesID|ClinicalTrialTimePointID",
    "of specimens, which no scanner of patients images": r"\w*(Specimen|Container|Slide)\w*",
    "of devices that no MR or CT has": r"(Plate|Generator|Cassette|XRay|SecondaryCapture|HardcopyCreation)\w*ID",
    "of cameras and lenses": r"(Camera|Lens)\w+",
    "of radiotherapy and its plans": r"(RT|ROI|Treatment|StructureSet|Source|Entity)\w+",
    "of hanging protocols, reports and networks": r"Selector\w+|Topic\w+|(Results|Interpretation)ID\w*|"
    r"NetworkID|Originator|PositionAcquisitionTemplateName|ModifyingDeviceID|TelephoneNumberTrial",
    "codes of devices, as long as no description holds them": r"UniqueDeviceIdentifier|DeviceAlternateIdentifier|"
    r"ManufacturerDeviceIdentifier|FlowIdentifier|SourceIdentifier",
}


def test_what_identifies_in_the_basic_profile_is_hidden() -> None:
    """The list of PS3.15, E.1-1, as dicom-anonymizer has it."""
    tags = [tag[0] << 16 | tag[1] for tag in dicomfields_2026c.ALL_TAGS if len(tag) == 2]
    known = {keyword: dictionary_VR(tag) for tag in tags if (keyword := keyword_for_tag(tag))}
    texts = {name for name, kind in known.items() if kind in ("SH", "LO", "ST", "LT", "UT", "UC", "AE", "CS")}
    naming = {name for name in texts if NAMING.search(name)}
    excepted = {name for name in naming if any(re.fullmatch(pattern, name) for pattern in EXCEPTIONS.values())}
    assert sorted(naming - excepted - set(IDENTIFYING_KEYWORDS)) == []
    assert not excepted & set(IDENTIFYING_KEYWORDS)
    for reason, pattern in EXCEPTIONS.items():
        assert any(re.fullmatch(pattern, name) for name in naming), reason
    for name in {name for name, kind in known.items() if kind == "PN"}:
        assert list_private_words(make_header(**{name: "Zauberberg"})) == {"zauberberg"}, name
