"""Strata: the parameters of a case's acquisition that a dataset may record.

A dataset contains only voxels, geometry, strata and the values of `describe_series`. Numbers are rounded so that only
differences between protocols remain (nominal field strength, echo times to 10 ms, repetition times to 1 s). A
repetition time of 4,183 ms may identify a patient, while 4 s only identifies a protocol. Scanners write text. A text is
omitted if only one patient has it or if it may contain a name.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vfmalign.core.domain.datasets import MAX_STRATA, MAX_STRATUM_VALUES, TakenSeries
from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.record import VOLUME_KIND
from vfmalign.imaging.dicom.frames import AttributeValue
from vfmalign.imaging.dicom.screening import PrivateWords, names_somebody, screen_number
from vfmalign.imaging.dicom.stacks import Stack

ALLOWED = "allowed"
"""Stratum of cases with images that a lifted refusal admits; its value is the names of these refusals."""
_MAX_VALUE = 64
"""Maximum length of a value. The names of all refusals have 76 characters; cut to this length, four can be read."""
OTHER = "other"
"""Replaces the rarest values of a stratum with too many values."""
_VENDORS = ("siemens", "ge", "philips", "canon", "toshiba", "hitachi", "fujifilm", "united imaging", "agfa", "esaote",
            "hologic", "neusoft", "samsung", "bruker")  # fmt: skip
_FIELD_STRENGTHS_T = (0.2, 0.25, 0.35, 0.4, 0.5, 0.55, 0.7, 1.0, 1.2, 1.5, 3.0, 4.7, 7.0, 9.4, 10.5, 11.7)
_MAX_NUMBER = 50_000
"""Larger numbers do not come from a protocol; they may be composed of identifiers."""
_CALCULATED = re.compile(r"(?i)calc|synth|computed|(^|[^a-z])c-?dwi")
"""Names of images with a computed b-value by Siemens, GE and Philips, in ImageType or SeriesDescription."""
_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/+()-]{0,47}")
_LONG_NUMBER = re.compile(
    r"\d{5,}|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}|(?<!\d)(?:\d{4}([ _])\d\d?\1\d\d?|\d\d?([ _])\d\d?\2\d{4})(?!\d)"
)
"""Numbers that resemble identifiers, and dates."""


class CaseAcquisition(NamedTuple):
    """Data from which a case's classes are derived.

    Attributes:
        attributes: attributes of each modality's volume. Private. The text of attributes is checked for patterns and
            words before it is recorded.
        private_words: see `Study`.
        allowed: refusals that the user overrode for the case.
    """

    attributes: Mapping[VolumeKind, Mapping[str, AttributeValue]]
    private_words: PrivateWords
    allowed: Sequence[str] = ()


class Stratum(NamedTuple):
    """One stratum.

    Attributes:
        name: id of the stratum. If each modality has its own stratum, `name` is only the end of the id, such as
            `echo_time` in `t2w_echo_time`.
        keyword: the attribute.
        to_text: converts a value to its class; returns an empty text if there is none.
        is_text: whether the attribute is text written by a person or scanner.
    """

    name: str
    keyword: str
    to_text: Callable[[AttributeValue], str]
    is_text: bool = False


def _round_to(step: float, unit: str) -> Callable[[AttributeValue], str]:
    def convert(value: AttributeValue) -> str:
        number = _get_number(value)
        return "" if number is None else f"{round(number / step) * step:g} {unit}"

    return convert


def _to_vendor(value: AttributeValue) -> str:
    words = re.findall("[a-z]+", str(value).lower())
    text = f" {' '.join(words)} "
    return next((name for name in _VENDORS if f" {name} " in text), OTHER)


def _to_field_strength(value: AttributeValue) -> str:
    number = _get_number(value)
    if number is None or not 0.1 <= number <= 20:
        return ""
    return f"{min(_FIELD_STRENGTHS_T, key=lambda nominal: abs(nominal - number)):g} T"


def _to_repetition_time(value: AttributeValue) -> str:
    """Rounds to seconds for spin echo, with its long repetition times, and to 10 ms for gradient echo."""
    number = _get_number(value)
    if number is None:
        return ""
    return f"{round(number / 1000):g} s" if number >= 500 else f"{round(number / 10) * 10:g} ms"


def _to_written(value: AttributeValue) -> str:
    text = str(value[0] if isinstance(value, tuple) and value else value)
    return text if _TEXT.fullmatch(text) and not _LONG_NUMBER.search(text) else ""


def _get_number(value: AttributeValue) -> float | None:
    number = value[0] if isinstance(value, tuple) and value else value
    return number if isinstance(number, float) and math.isfinite(number) and 0 <= number < _MAX_NUMBER else None


OF_CASE = (
    Stratum("manufacturer", "Manufacturer", _to_vendor),
    Stratum("scanner", "ManufacturerModelName", _to_written, is_text=True),
    Stratum("field_strength", "MagneticFieldStrength", _to_field_strength),
    Stratum("tube_voltage", "KVP", _round_to(10, "kV")),
)
OF_MODALITY = (
    Stratum("slice_thickness", "SliceThickness", _round_to(0.5, "mm")),
    Stratum("b_value", "b_value", _round_to(50, "s/mm²")),
    Stratum("kernel", "ConvolutionKernel", _to_written, is_text=True),
    Stratum("echo_time", "EchoTime", _round_to(10, "ms")),
    Stratum("repetition_time", "RepetitionTime", _to_repetition_time),
)


def classify(case: CaseAcquisition, modalities: Sequence[VolumeKind]) -> dict[VolumeKind, str]:
    """Returns the class of a case in each stratum. `make_strata` selects the strata that a dataset may record."""
    classes = {ALLOWED: "+".join(case.allowed)[:_MAX_VALUE]}
    classes |= {name: _get_value(case, kinds, stratum) for name, kinds, stratum in _list_strata(modalities)}
    return {name: text for name, text in classes.items() if text}


def get_b_values(classes: Mapping[VolumeKind, str], modalities: Sequence[VolumeKind]) -> dict[VolumeKind, str]:
    """Maps each b-value stratum of a case, such as `dwi_b_value`, to the b-value from the case's classes."""
    return {name: classes[name] for kind in modalities if (name := f"{kind}_b_value") in classes}


def describe_series(kind: VolumeKind, stack: Stack, private_words: PrivateWords) -> TakenSeries:
    """Describes the series of a modality for a dataset and for the answer of `Extract`."""
    if stack.affine is None:
        raise ValueError("the stack is not a volume")
    attributes = stack.attributes
    numbers = {name: _get_number(attributes.get(name, "")) for name in ("SeriesNumber", "b_value", "EchoTime")}
    shown = {name: None if n is None or screen_number(n, private_words) else n for name, n in numbers.items()}
    number = shown["SeriesNumber"]
    written = (attributes.get(name, "") for name in ("ImageType", "SeriesDescription"))
    return TakenSeries(
        modality=kind,
        number=None if number is None else int(number),
        b_value=shown["b_value"],
        calculated="b_value" in attributes and any(_CALCULATED.search(str(text)) for text in written),
        echo_time_ms=shown["EchoTime"],
        orientation=str(attributes["orientation"]),
        spacing_mm=tuple(np.linalg.norm(stack.affine[:3, :3], axis=0).round(6).tolist()),
    )


def make_strata(
    classes: Sequence[Mapping[VolumeKind, str]], patients: Sequence[str], modalities: Sequence[VolumeKind]
) -> list[dict[VolumeKind, str]]:
    """Returns the strata of each case: at most `MAX_STRATA`, each with at most `MAX_STRATUM_VALUES` values.

    If only one of several patients has a value, `other` replaces the value, because it would identify this patient.

    Args:
        classes: classes of all cases of the dataset; see `classify`.
        patients: patient of each case.
        modalities: in declared order.
    """
    columns = {ALLOWED: [of_case.get(ALLOWED, "") for of_case in classes]}
    for name, _, _ in _list_strata(modalities):
        columns[name] = _limit(_drop_single([of_case.get(name, "") for of_case in classes], patients))
    filled = [name for name, values in columns.items() if any(values)][:MAX_STRATA]
    return [{name: columns[name][index] for name in filled if columns[name][index]} for index in range(len(classes))]


def _list_strata(modalities: Sequence[VolumeKind]) -> list[tuple[VolumeKind, Sequence[VolumeKind], Stratum]]:
    """Name, modalities and attribute of every stratum, without strata with too long names."""
    strata = [
        *((stratum.name, modalities, stratum) for stratum in OF_CASE),
        *((sys.intern(f"{kind}_{stratum.name}"), (kind,), stratum) for stratum in OF_MODALITY for kind in modalities),
    ]
    return [entry for entry in strata if VOLUME_KIND.matches(entry[0])]


def _get_value(case: CaseAcquisition, kinds: Sequence[VolumeKind], stratum: Stratum) -> str:
    """The classes of the volumes, joined if they differ."""
    stated = [case.attributes[kind] for kind in kinds if kind in case.attributes]
    values = [attributes[stratum.keyword] for attributes in stated if stratum.keyword in attributes]
    texts = [stratum.to_text(value) for value in values]
    if stratum.is_text:
        texts = [text for text in texts if not names_somebody(text, case.private_words)]
    return " + ".join(dict.fromkeys(filter(None, texts)))[:_MAX_VALUE].strip()


def _drop_single(values: Sequence[str], patients: Sequence[str]) -> list[str]:
    """Replaces values that only one of several patients has."""
    needed = min(2, len(set(patients)))
    owners: dict[str, set[str]] = {}
    for value, patient in zip(values, patients, strict=True):
        owners.setdefault(value, set()).add(patient)
    return [value if len(owners[value]) >= needed else OTHER if value else "" for value in values]


def _limit(values: Sequence[str]) -> list[str]:
    """Replaces the rarest values if a stratum has too many."""
    counts = Counter(filter(None, values))
    if len(counts) <= MAX_STRATUM_VALUES:
        return list(values)
    common = {value for value, _ in counts.most_common(MAX_STRATUM_VALUES - 1)}
    return [value if value in common else OTHER if value else "" for value in values]
