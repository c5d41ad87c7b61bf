"""Screening of text written by people. Such text is hidden unless the user asks for it on a terminal.

Descriptions of series and protocols help to choose a series. But such descriptions may contain a name, place or date,
which cannot be detected reliably. Terms defined by the standard are shown. Numbers are shown if they cannot identify a
patient.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from vfmalign.imaging.dicom.frames import AttributeValue

HIDDEN = "…"
"""Replaces hidden text."""
PrivateWords = frozenset[str] | None
"""Lower-case words of the identifiers of a study, which may be numbers; such numbers are not shown. None if the user
asked to hide nothing.
"""
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
"""Values that the standard, vendors or this program define. They reveal nothing about a patient, even if a patient or
hospital has the same name.
"""
_MIN_WORD = 2
"""Minimum number of letters of a private word; family names of two are common in romanised Chinese and Korean."""
_MIN_NUMBER = 4
"""Minimum number of digits of an identifying number; a study or step is often called 1."""
_MIN_DIGITS = 3
"""Minimum number of digits without leading zeros: 0815 is 815 in a numeric attribute."""
_MAX_NUMBER = 99_999
"""Largest number that is shown; larger ones may be composed of dates or identifiers."""
_WORD = re.compile(r"[^\W_]+")
_CODE = re.compile(r"(DCM|FMA|LN|NCIt|RADLEX|SCT|SRT|UMLS):[A-Z]{0,3}-?[0-9A-F]+")
"""A concept of a public terminology. A hospital's own code may be a name."""


def list_private_words(identities: Iterable[str]) -> frozenset[str]:
    """Returns the words in a study's identifiers, in lower case. Leading zeros of numbers are removed."""
    words = {word for text in identities for word in _WORD.findall(text.casefold())}
    numbers = {word.lstrip("0") for word in words if word.isdigit() and len(word) >= _MIN_NUMBER}
    return frozenset(
        {word for word in words if not word.isdigit() and len(word) >= _MIN_WORD}
        | {number for number in numbers if len(number) >= _MIN_DIGITS}
    )


def names_somebody(text: str, private_words: PrivateWords) -> bool:
    """Returns whether a text contains a private word."""
    return private_words is not None and not private_words.isdisjoint(list_private_words([text]))


def screen_text(text: str, private_words: PrivateWords) -> str:
    """Returns the text itself if the user asked for such text, and otherwise `HIDDEN`."""
    return text if private_words is None else HIDDEN


def screen_code(code: str, private_words: PrivateWords) -> str:
    """Returns a coded concept, such as `SCT:41216001`, in a form that is safe to print."""
    return code if _CODE.fullmatch(code) else screen_text(code, private_words)


def screen_number(number: float, private_words: PrivateWords) -> str:
    """Returns `HIDDEN` if a number may identify a patient, and otherwise an empty text."""
    if private_words is None:
        return ""
    return HIDDEN if abs(number) > _MAX_NUMBER or f"{abs(number):g}" in private_words else ""


def screen_attributes(
    attributes: Mapping[str, AttributeValue], private_words: PrivateWords
) -> dict[str, AttributeValue]:
    """Returns attributes with screened text and numbers. Codes are shown if they are in `DEFINED_TERMS`."""
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
