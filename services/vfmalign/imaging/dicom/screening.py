"""Screening of text that people write: what names a patient, a place or a date is hidden before text is printed.

Descriptions of series and protocols help to choose a series, and now and then hold a name. What the identifying
attributes of the same study say is known, so its words are hidden wherever they occur, in whichever spelling, and so
are long numbers and dates. A name that no identifying attribute holds cannot be recognised: text is printed on the
user's own terminal alone, and never enters a dataset.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from vfmalign.core.domain.errors import VfmalignError
from vfmalign.imaging.dicom.frames import AttributeValue
from vfmalign.imaging.dicom.headers import get_representation

HIDDEN = "…"
"""Stands in place of what is hidden."""
PrivateWords = frozenset[str] | None
"""Words that are hidden, in lower case and without diacritics; None where nothing is hidden, because the user said so.
All text and all numbers are hidden where there are more than `MAX_PRIVATE_WORDS`.
"""
EVERY_WORD = ""
"""The private word that stands for every other one, where none was collected; numbers are shown beside it."""
MAX_PRIVATE_WORDS = 1_024
"""Most private words of one study that are collected."""
IDENTIFYING_KEYWORDS = (
    "AccessionNumber",
    "AdmissionID",
    "BranchOfService",
    "ClinicalTrialCoordinatingCenterName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSponsorName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "CountryOfResidence",
    "CurrentPatientLocation",
    "DetectorID",
    "DeviceSerialNumber",
    "DistributionAddress",
    "FillerOrderNumberImagingServiceRequest",
    "GantryID",
    "HumanPerformerOrganization",
    "InstitutionAddress",
    "InstitutionName",
    "InstitutionalDepartmentName",
    "InsurancePlanIdentification",
    "IssuerOfAdmissionID",
    "IssuerOfPatientID",
    "IssuerOfServiceEpisodeID",
    "MedicalRecordLocator",
    "MilitaryRank",
    "Occupation",
    "OrderCallbackPhoneNumber",
    "OrderCallbackTelecomInformation",
    "OrderEntererLocation",
    "OtherPatientIDs",
    "PatientAddress",
    "PatientComments",
    "PatientID",
    "PatientInstitutionResidence",
    "PatientReligiousPreference",
    "PatientTelecomInformation",
    "PatientTelephoneNumbers",
    "PerformedLocation",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedStationName",
    "PersonAddress",
    "PersonTelecomInformation",
    "PersonTelephoneNumbers",
    "PlacerOrderNumberImagingServiceRequest",
    "ReferringPhysicianAddress",
    "ReferringPhysicianTelephoneNumbers",
    "RegionOfResidence",
    "RequestedProcedureID",
    "RequestedProcedureLocation",
    "RequestingService",
    "ResponsibleOrganization",
    "RetrieveAETitle",
    "ScheduledPatientInstitutionResidence",
    "ScheduledProcedureStepID",
    "ScheduledProcedureStepLocation",
    "ScheduledStationAETitle",
    "ScheduledStationName",
    "ScheduledStudyLocation",
    "ScheduledStudyLocationAETitle",
    "ServiceEpisodeID",
    "StationAETitle",
    "StationName",
    "StudyID",
    "StudyIDIssuer",
    "VerifyingOrganization",
)
"""Attributes that identify, beside every person's name: those of the basic profile of PS3.15 that name a person, a
place or a device, or number them. Dates are hidden by how they are written.
"""
_CODED = ("PersonIdentificationCodeSequence", "InstitutionCodeSequence")
"""Sequences of codes whose meaning is a name."""
_CODED_KEYWORDS = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodeMeaning")
_DEFINED_TERMS = {
    "Modality": "CR CT DX ECG MG MR NM OT PR PT REG RF RTDOSE RTIMAGE RTPLAN RTSTRUCT RWV SC SEG SR US XA",
    "ImageType": "ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER OTHER NONE MIXED M P R I ND DIS2D DIS3D NORM FFE "
    "SE M_FFE M_SE M_IR DIFFUSION ADC TRACEW FA TRACE VOLUME MPR MAGNITUDE PHASE REAL IMAGINARY IMAGE",
    "BodyPartExamined": "ABDOMEN BRAIN BREAST CHEST HEAD HEART KNEE LIVER NECK PELVIS PROSTATE SPINE",
    "Laterality": "L R B U",
    "ScanningSequence": "SE IR GR EP RM",
    "SequenceVariant": "SK MTC SS TRSS SP MP OSP NONE",
    "ScanOptions": "PER RG CG PPG FC PFF PFP SP FS",
    "MRAcquisitionType": "2D 3D",
    "EchoPlanarPulseSequence": "YES NO",
    "AcquisitionContrast": "DIFFUSION FLOW_ENCODED FLUID_ATTENUATED PERFUSION PROTON_DENSITY STIR TAGGING T1 T2 "
    "T2_STAR TOF UNKNOWN",
    "ComplexImageComponent": "MAGNITUDE PHASE REAL IMAGINARY MIXED",
    "PatientPosition": "HFS HFP HFDR HFDL FFS FFP FFDR FFDL",
    "PhotometricInterpretation": "MONOCHROME1 MONOCHROME2 RGB YBR_FULL",
    "RescaleType": "HU US",
    "BurnedInAnnotation": "YES NO",
    "orientation": "transverse coronal sagittal oblique",
    "diffusion": "trace direction none adc",
}
DEFINED_TERMS = {name: frozenset(terms.split()) for name, terms in _DEFINED_TERMS.items()}
"""Values that the standard, vendors or this program define: they say nothing of a patient whose name, or whose
hospital's, has the same letters.
"""
_MAX_ITEMS = 16
"""Most items of one sequence whose attributes count; that of the frames has one for each."""
_MAX_ALL_ITEMS = 256
"""Most items of the sequences of one header, the outer ones first."""
_TAGS = frozenset(map(tag_for_keyword, IDENTIFYING_KEYWORDS))
_CODED_SEQUENCES = frozenset(map(tag_for_keyword, _CODED))
_CODED_TAGS = frozenset(map(tag_for_keyword, _CODED_KEYWORDS))
_MIN_WORD = 2
"""Fewest letters of a private word in ASCII; family names of two are common in romanised Chinese and Korean."""
_MIN_PART = 4
"""Fewest letters of a private word in ASCII that is hidden inside a longer one, such as in `MuellerT2`. Other scripts
have names of one character, and may not separate words.
"""
_MIN_NUMBER = 4
"""Fewest digits of a number that identifies: a study or step is often called 1."""
_MIN_DIGITS = 3
"""Fewest of them without zeros in front: 0815 is 815 where it is a number."""
_MIN_CAPITALISED = 3
"""Fewest letters of one that is hidden where capitals or digits set it off, such as in `KimT2`."""
_MAX_TEXT = 1024
"""Most characters of a value whose words count; only comments are longer."""
_MAX_LETTERS = 64
"""Letters of a word that are kept, as many as a part of a name has. A longer word contains them, and is hidden."""
_MAX_SCREENED = 256
"""Texts whose screened form is kept. With each, the private words of its study stay in memory, up to 200 KiB."""
_MAX_NUMBER = 99_999
"""Largest number of an attribute that is shown; longer ones are made of dates or identifiers."""
_LONG_NUMBER = re.compile(
    r"(?<![^\W_])[^\W_]*(?:\d{5,}|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}"
    r"|(?<!\d)(?:\d{4}([ _])\d\d?\1\d\d?|\d\d?([ _])\d\d?\2\d{4})(?!\d))[^\W_]*"
)
"""Numbers as identifiers have them, and dates, with the letters beside them: of `SMITH19240712`, an identifier, the
first half would not be found among the private words.
"""
_WORD = re.compile(r"[^\W_]+")
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^A-Za-z\d]+")
_PLAIN = str.maketrans({"ł": "l", "đ": "d", "ø": "o", "ı": "i", "æ": "ae"})
_TRANSCRIBED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae"})
"""The two ways of writing a letter in ASCII: `Müller` is `Muller` and `Mueller`."""


def list_private_words(header: Dataset) -> frozenset[str]:
    """Returns the words of names, identifiers and places in a header, in lower case and without diacritics.

    Where there are more than `MAX_PRIVATE_WORDS`, these are not all of them.

    Raises:
        BadVolume: a value is too long to be read.
    """
    words: set[str] = set()
    items = [(header, _TAGS)]
    for item, tags in items:  # it grows by the items of their sequences
        for element in item.elements():
            representation = get_representation(element)
            if representation not in ("PN", "SQ") and element.tag not in tags:
                continue
            try:
                value = item[element.tag].value
            except VfmalignError:  # a long value, which may hold a name, or nobody waits any more
                raise
            except Exception:  # noqa: S112 - pydicom raises many types for a value that cannot be read
                continue
            if isinstance(value, Sequence):
                nested = _CODED_TAGS if element.tag in _CODED_SEQUENCES else _TAGS
                items += [(part, nested) for part in value[: min(_MAX_ITEMS, _MAX_ALL_ITEMS - len(items))]]
            else:
                words |= _split(value)
                if len(words) > MAX_PRIVATE_WORDS:
                    return frozenset(words)
    return frozenset(words)


def hide_every_word(identifiers: Iterable[str]) -> frozenset[str]:
    """Returns the private words by which all text is hidden, and of the numbers those that are in identifiers."""
    return frozenset({EVERY_WORD}).union(*map(_split, identifiers))


def _split(value: Any) -> set[str]:
    texts = value if isinstance(value, MultiValue) else [value]
    found = {word[:_MAX_LETTERS] for text in texts for word in _find_words(str(text)[:_MAX_TEXT])}
    words = {spelt for word in found for spelt in _spell(word)}
    words = {
        word for word in words if not word.isascii() or len(word) >= (_MIN_NUMBER if word.isdigit() else _MIN_WORD)
    }
    bare = {word.lstrip("0") for word in words if word.isdigit()}
    return words | {number for number in bare if len(number) >= _MIN_DIGITS}


def _find_words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text))


def _spell(word: str) -> set[str]:
    """The spellings under which a word is looked for, in lower case and without diacritics."""
    lower = unicodedata.normalize("NFKC", word.casefold())
    decomposed = (unicodedata.normalize("NFKD", lower.translate(table)) for table in (_PLAIN, _TRANSCRIBED))
    bare = ("".join(filter(lambda character: not unicodedata.combining(character), text)) for text in decomposed)
    return {unicodedata.normalize("NFC", text) for text in bare}


def names_somebody(text: str, private_words: PrivateWords) -> bool:
    """Returns whether a word of a text is private, or contains a private one."""
    if private_words is None:
        return False
    if EVERY_WORD in private_words or len(private_words) > MAX_PRIVATE_WORDS:
        return True
    parts = [word for word in private_words if len(word) >= _MIN_PART or not word.isascii()]
    for word in _find_words(text):
        pieces = [piece for piece in _PIECE.findall(word) if len(piece) >= _MIN_CAPITALISED]
        spellings = _spell(word)
        if not private_words.isdisjoint(spellings.union(*map(_spell, pieces))):
            return True
        if any(part in spelling for spelling in spellings for part in parts):
            return True
    return False


@lru_cache(maxsize=_MAX_SCREENED)
def screen_text(text: str, private_words: PrivateWords) -> str:
    """Returns a text with `HIDDEN` in place of private words, long numbers, dates and what is not printable."""
    if private_words is None:
        return text
    composed = unicodedata.normalize("NFC", text)
    printable = "".join(character if character.isprintable() else HIDDEN for character in composed)
    return _WORD.sub(
        lambda match: HIDDEN if names_somebody(match[0], private_words) else match[0],
        _LONG_NUMBER.sub(HIDDEN, printable),
    )


def screen_number(number: float, private_words: PrivateWords) -> str:
    """Returns `HIDDEN` for a number that may identify, else nothing."""
    if private_words is None:
        return ""
    size = abs(number)
    identifies = size > _MAX_NUMBER or len(private_words) > MAX_PRIVATE_WORDS or f"{size:g}" in private_words
    return HIDDEN if identifies else ""


def screen_attributes(
    attributes: Mapping[str, AttributeValue], private_words: PrivateWords
) -> dict[str, AttributeValue]:
    """Returns attributes whose text and numbers are screened; codes are left that are `DEFINED_TERMS`."""
    return {name: _screen_value(name, value, private_words) for name, value in attributes.items()}


def _screen_value(name: str, value: AttributeValue, private_words: PrivateWords) -> AttributeValue:
    if isinstance(value, float):
        return screen_number(value, private_words) or value
    if isinstance(value, str):
        return _screen_term(name, value, private_words)
    texts = tuple(_screen_term(name, item, private_words) for item in value if isinstance(item, str))
    numbers = (screen_number(item, private_words) for item in value if isinstance(item, float))
    return texts or next(filter(None, numbers), value)


def _screen_term(name: str, text: str, private_words: PrivateWords) -> str:
    return text if text in DEFINED_TERMS.get(name, ()) else screen_text(text, private_words)
