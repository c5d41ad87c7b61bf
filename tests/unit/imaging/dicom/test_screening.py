"""Screening of text: what people write is hidden, and so are numbers that identify."""

from __future__ import annotations

import pytest

from vfmalign.imaging.dicom.screening import (
    list_private_words,
    names_somebody,
    screen_attributes,
    screen_code,
    screen_text,
)

WORDS = list_private_words(["Li^Mei=李^美", "PID-4711-0815", "1", "Klinik Davos-Platz"])


def test_words_of_identities_are_in_lower_case_and_short_numbers_are_none() -> None:
    assert {"li", "mei", "pid", "4711", "815", "klinik", "davos", "platz"} == WORDS


@pytest.mark.parametrize("text", ["t2_tse_tra_320", "Müller", "", "2024-02-29", "t2\u202e\x1b[31m"])
def test_text_is_hidden_unless_the_user_says_so(text: str) -> None:
    assert screen_text(text, WORDS) == screen_text(text, frozenset()) == "…"
    assert screen_text(text, None) == text


def test_every_kind_of_attribute_is_screened() -> None:
    attributes = {"SeriesDescription": "t2 Müller", "ImageType": ("ORIGINAL", "Behrens"), "EchoTime": 101.0}
    expected = {"SeriesDescription": "…", "ImageType": ("ORIGINAL", "…"), "EchoTime": 101.0}
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


def test_defined_terms_are_shown() -> None:
    terms = {"Modality": "MR", "ScanningSequence": ("SE", "IR"), "AcquisitionContrast": "T2", "diffusion": "trace"}
    assert screen_attributes(terms, WORDS) == terms
    others = {"Modality": "Zentrum", "SeriesDescription": "MR", "ImageType": ("PRIMARY", "Se", "ZENTRUM")}
    hidden = {"Modality": "…", "SeriesDescription": "…", "ImageType": ("PRIMARY", "…", "…")}
    assert screen_attributes(others, WORDS) == hidden


@pytest.mark.parametrize("code", ["SCT:41216001", "SRT:T-D0050", "FMA:9600", "RADLEX:RID343"])
def test_codes_of_public_terminologies_are_shown(code: str) -> None:
    assert screen_code(code, WORDS) == code


@pytest.mark.parametrize("code", ["99local:4711", "SCT:Zauberberg", "Klinik:12", "SCT:1\n", "SCT:"])
def test_other_codes_are_hidden(code: str) -> None:
    assert screen_code(code, WORDS) == "…"
    assert screen_code(code, None) == code


def test_a_text_names_somebody_by_a_whole_word() -> None:
    assert names_somebody("Scanner of LI", WORDS)
    assert names_somebody("Davos 3", WORDS)
    assert names_somebody("Serial 0815", WORDS)
    assert not names_somebody("Vida line", WORDS)
    assert not names_somebody("Davos", None)


def test_nothing_is_hidden_where_the_user_says_so() -> None:
    attributes = {"SeriesDescription": "t2 Müller 20240229", "SeriesNumber": 20240229.0, "EchoNumbers": (1.0, 4711.0)}
    assert screen_attributes(attributes, None) == attributes
