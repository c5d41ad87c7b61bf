"""Screening of text that people write: what names a patient, a place or a date is hidden before text is printed.

Descriptions of series and protocols help to choose a series, and now and then hold a name. What the identifying
attributes of the same study say is known, so its words are hidden wherever they occur, in whichever spelling, and so
are long numbers and dates. A name that no identifying attribute holds cannot be recognised: text is printed on the
user's own terminal alone, and never enters a dataset.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from vfmalign.imaging.dicom.frames import AttributeValue

HIDDEN = "…"
"""Stands in place of what is hidden."""
IDENTIFYING_KEYWORDS = (
    "PatientID",
    "IssuerOfPatientID",
    "OtherPatientIDs",
    "PatientBirthDate",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientInstitutionResidence",
    "CurrentPatientLocation",
    "CountryOfResidence",
    "RegionOfResidence",
    "MedicalRecordLocator",
    "InsurancePlanIdentification",
    "Occupation",
    "AccessionNumber",
    "AdmissionID",
    "ServiceEpisodeID",
    "StudyID",
    "RequestedProcedureID",
    "ScheduledProcedureStepID",
    "PerformedProcedureStepID",
    "FillerOrderNumberImagingServiceRequest",
    "PlacerOrderNumberImagingServiceRequest",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "ReferringPhysicianAddress",
    "ResponsibleOrganization",
    "StationName",
    "PerformedStationName",
    "DeviceSerialNumber",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSiteName",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
)
"""Attributes that identify, beside every person's name; those of the basic profile of PS3.15 that scanners write."""
_SEQUENCES = ("OtherPatientIDsSequence", "RequestAttributesSequence", "RTROIObservationsSequence")
"""Sequences whose items hold such attributes."""
_TAGS = frozenset(tag for keyword in IDENTIFYING_KEYWORDS if (tag := tag_for_keyword(keyword)) is not None)
_MIN_WORD = 2
"""Fewest letters of a private word in ASCII; family names of two are common in romanised Chinese and Korean."""
_MIN_PART = 4
"""Fewest letters of a private word in ASCII that is hidden inside a longer one, such as in `MuellerT2`. Other scripts
have names of one character, and may not separate words.
"""
_MIN_NUMBER = 4
"""Fewest digits of a number that identifies: a study or step is often called 1."""
_MIN_CAPITALISED = 3
"""Fewest letters of one that is hidden where capitals or digits set it off, such as in `KimT2`."""
_MAX_TEXT = 1024
"""Most characters of a value that identifies; no type that they have holds more."""
_MAX_NUMBER = 99_999
"""Largest number of an attribute that is shown; longer ones are made of dates or identifiers."""
_LONG_NUMBER = re.compile(
    r"\d{5,}|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}|(?<!\d)(?:\d{4}([ _])\d\d?\1\d\d?|\d\d?([ _])\d\d?\2\d{4})(?!\d)"
)
"""Numbers as identifiers have them, and dates."""
_WORD = re.compile(r"[^\W_]+")
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^A-Za-z\d]+")
_PLAIN = str.maketrans({"ł": "l", "đ": "d", "ø": "o", "ı": "i", "æ": "ae"})
_TRANSCRIBED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae"})
"""The two ways of writing a letter in ASCII: `Müller` is `Muller` and `Mueller`."""


def list_private_words(header: Dataset) -> frozenset[str]:
    """Returns the words of names, identifiers, places and dates in a header, in lower case and without diacritics."""
    words: set[str] = set()
    for keyword in _SEQUENCES:
        if keyword in header and header[keyword].VR == "SQ":
            words.update(*map(list_private_words, header[keyword].value))
    for element in header.elements():
        if element.tag in _TAGS or _is_name(element.VR, element.tag):
            try:
                value = header[element.tag].value
            except Exception:  # noqa: S112 - pydicom raises many types for a value that cannot be read
                continue
            words |= _split(value)
    return frozenset(words)


def _is_name(representation: str | None, tag: int) -> bool:
    if representation is not None or tag >> 16 & 1:
        return representation == "PN"
    try:
        return dictionary_VR(tag) == "PN"
    except KeyError:
        return False


def _split(value: Any) -> set[str]:
    texts = value if isinstance(value, MultiValue) else [value]
    words = {spelt for text in texts for word in _find_words(str(text)[:_MAX_TEXT]) for spelt in _spell(word)}
    return {word for word in words if not word.isascii() or len(word) >= (_MIN_NUMBER if word.isdigit() else _MIN_WORD)}


def _find_words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text))


def _spell(word: str) -> set[str]:
    """The spellings under which a word is looked for, in lower case and without diacritics."""
    lower = unicodedata.normalize("NFKC", word.casefold())
    decomposed = (unicodedata.normalize("NFKD", lower.translate(table)) for table in (_PLAIN, _TRANSCRIBED))
    bare = ("".join(filter(lambda character: not unicodedata.combining(character), text)) for text in decomposed)
    return {unicodedata.normalize("NFC", text) for text in bare}


def names_somebody(text: str, private_words: frozenset[str]) -> bool:
    """Returns whether a word of a text is private, or contains a private one."""
    parts = [word for word in private_words if len(word) >= _MIN_PART or not word.isascii()]
    for word in _find_words(text):
        pieces = [piece for piece in _PIECE.findall(word) if len(piece) >= _MIN_CAPITALISED]
        spellings = _spell(word)
        if not private_words.isdisjoint(spellings.union(*map(_spell, pieces))):
            return True
        if any(part in spelling for spelling in spellings for part in parts):
            return True
    return False


@lru_cache(maxsize=10_000)
def screen_text(text: str, private_words: frozenset[str]) -> str:
    """Returns a text with `HIDDEN` in place of private words, long numbers, dates and what is not printable."""
    composed = unicodedata.normalize("NFC", text)
    printable = "".join(character if character.isprintable() else HIDDEN for character in composed)
    return _WORD.sub(
        lambda match: HIDDEN if names_somebody(match[0], private_words) else match[0],
        _LONG_NUMBER.sub(HIDDEN, printable),
    )


def screen_number(number: float, private_words: frozenset[str]) -> str:
    """Returns `HIDDEN` for a number that may identify, else nothing."""
    return HIDDEN if number > _MAX_NUMBER or f"{number:g}" in private_words else ""


def screen_attributes(
    attributes: Mapping[str, AttributeValue], private_words: frozenset[str]
) -> dict[str, AttributeValue]:
    """Returns attributes whose text and numbers are screened."""
    return {name: _screen_value(value, private_words) for name, value in attributes.items()}


def _screen_value(value: AttributeValue, private_words: frozenset[str]) -> AttributeValue:
    if isinstance(value, str):
        return screen_text(value, private_words)
    if isinstance(value, tuple):
        texts = tuple(screen_text(item, private_words) for item in value if isinstance(item, str))
        numbers = (screen_number(item, private_words) for item in value if isinstance(item, float))
        return texts or next(filter(None, numbers), value)
    return screen_number(value, private_words) or value
