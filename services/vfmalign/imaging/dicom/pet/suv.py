"""Standardised uptake values by body weight (SUVbw): tissue activity per gram over injected activity per gram of body.

To convert activity concentration, the patient's weight and the injected dose are used. The dose is decayed to the
reference time of the images' decay correction. This reference time is determined as in the vendor-neutral calculation
of QIBA's FDG-PET profile. Weight, dose and times are used only here and never stored. If an attribute is missing, the
error names its keyword. No value is assumed.

Legend: X columns, Y rows, Z slices.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, DT, TM

from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.dicom.headers import find, find_private, list_texts, refuse_damage, to_first_text
from vfmalign.imaging.dicom.instances import read_header
from vfmalign.imaging.dicom.pixels import read_stack
from vfmalign.imaging.dicom.sources import DicomSource
from vfmalign.imaging.dicom.stacks import Stack
from vfmalign.imaging.volumes import Volume, check_values

MAX_DIFFERENCE = 0.01
"""Largest relative difference between the factors of a volume's images; their times are rounded to seconds."""
MAX_HALF_LIFE_S = 6 * 3600.0
"""Longest half-life for which an injection time without a date is taken to be within the day before the scan."""
MAX_HALF_LIVES = 20.0
"""Maximum number of half-lives between injection and scan."""
_WEIGHTS_KG = (0.01, 700.0)
_DOSES_BQ = (1e5, 1e11)
"""Bounds that distinguish Bq from MBq, and kg from g."""
_CORRECTIONS = ("ATTN", "DECY")


def read_suv(source: DicomSource, stack: Stack, name: str, kind: VolumeKind) -> Volume:
    """Returns the volume of a PET stack in SUVbw. For the arguments, see `pixels.read_stack`.

    Raises:
        BadVolume: as for `pixels.read_stack`, or the images cannot be converted. The error's text names attributes, but
            no values.
    """
    volume = read_stack(source, stack, name, kind)
    factors: dict[str, float] = {}
    for file in dict.fromkeys(frame.file for frame in stack.frames):
        with refuse_damage(name), source.open(file) as stream:
            factors[file] = find_factor(read_header(stream).dataset, name)
    if max(factors.values()) > (1 + MAX_DIFFERENCE) * min(factors.values()):
        raise _refuse("its images state different weights, doses or times", name)
    array_XYZ = np.empty(volume.array_XYZ.shape, np.float32)
    for z, frame in enumerate(stack.frames):
        array_XYZ[..., z] = volume.array_XYZ[..., z] * factors[frame.file]
    converted = Volume(array_XYZ, volume.affine)
    check_values(converted, name, kind, is_label=False)
    return converted


def find_factor(header: Dataset, name: str) -> float:
    """Returns the factor that converts the displayed values of an image to SUVbw.

    Args:
        header: header of the image.
        name: the volume's name in error messages.

    Raises:
        BadVolume: an attribute is missing, or its value does not determine SUVbw.
    """
    units = _read_text(header, "Units", name)
    if units == "GML":
        if (find([header], "SUVType") or "BW") != "BW":
            raise _refuse("its values are SUV, but not by body weight (SUVType)", name)
        return 1.0
    if units == "CNTS":
        return _find_private_factor(header, name)
    if units != "BQML":
        raise _refuse("its Units are neither BQML nor GML", name)
    corrections = list_texts([header], "CorrectedImage")
    if missing := [correction for correction in _CORRECTIONS if correction not in corrections]:
        raise _refuse(f"its CorrectedImage does not state {' and '.join(missing)}", name)
    weight_kg = _read_number(header, "PatientWeight", name, _WEIGHTS_KG)
    injection = _get_injection(header, name)
    dose_bq = _read_number(injection, "RadionuclideTotalDose", name, _DOSES_BQ)
    return weight_kg * 1000 / (dose_bq * _find_decay(header, injection, name))


def _find_private_factor(header: Dataset, name: str) -> float:
    """Philips' factor from its scaled counts to SUVbw."""
    factor = float(to_first_text(find_private([header], "Philips PET Private Group", 0x7053, 0x00)) or 0)
    if not 0 < factor < math.inf:
        raise _refuse("its Units are CNTS (counts), which can be converted only with Philips' private factor", name)
    return factor


def _get_injection(header: Dataset, name: str) -> Dataset:
    items: list[Dataset] = list(header.get("RadiopharmaceuticalInformationSequence") or ())
    if len(items) != 1:
        raise _refuse("its RadiopharmaceuticalInformationSequence does not describe one injection", name)
    return items[0]


def _find_decay(header: Dataset, injection: Dataset, name: str) -> float:
    """Share of the injected activity that is left at the reference time of the images' decay correction."""
    half_life_s = _read_number(injection, "RadionuclideHalfLife", name, (1.0, math.inf))
    correction = _read_text(header, "DecayCorrection", name)
    if correction == "ADMIN":
        return 1.0
    if correction != "START":
        raise _refuse("its DecayCorrection is neither START nor ADMIN", name)
    scan = _find_scan(header, half_life_s, name)
    decay_s = (scan - _find_start(header, injection, scan, half_life_s, name)).total_seconds()
    if not 0 <= decay_s <= MAX_HALF_LIVES * half_life_s:
        raise _refuse("its injection lies after the scan, or long before it (RadiopharmaceuticalStartDateTime)", name)
    return float(2.0 ** (-decay_s / half_life_s))


def _find_scan(header: Dataset, half_life_s: float, name: str) -> datetime:
    """Reference time of the decay correction: the series' time, unless the series was created after the acquisition.

    Otherwise, the time is computed from the image: the acquisition time is the start of its bed position, and
    FrameReferenceTime is the offset from the reference time to the time of the position's average activity.
    """
    series = _read_time(header, "Series", name)
    acquisition = _read_time(header, "Acquisition", name)
    if series <= acquisition:
        return series
    if private := find_private([header], "GEMS_PETD_01", 0x0009, 0x0D):
        return _to_local(to_first_text(private), "private start time (0009,xx0D)", header, name)
    reference_s = _read_number(header, "FrameReferenceTime", name, (0.0, math.inf)) / 1000
    duration_s = _read_number(header, "ActualFrameDuration", name, (1.0, math.inf)) / 1000
    decay = math.log(2) * duration_s / half_life_s
    average_s = half_life_s / math.log(2) * math.log(decay / -math.expm1(-decay))
    return acquisition + timedelta(seconds=average_s - reference_s)


def _find_start(header: Dataset, injection: Dataset, scan: datetime, half_life_s: float, name: str) -> datetime:
    """Time of the injection."""
    stated = find([injection], "RadiopharmaceuticalStartDateTime")
    if stated is not None:
        return _to_local(str(stated), "RadiopharmaceuticalStartDateTime", header, name)
    time = _to_time(injection, "RadiopharmaceuticalStartTime", name)
    if half_life_s > MAX_HALF_LIFE_S:
        raise _refuse(
            "its injection may be days before the scan, and has no date (RadiopharmaceuticalStartDateTime)", name
        )
    start = datetime.combine(scan.date(), time)
    return start if start <= scan else start - timedelta(days=1)


def _to_local(text: str, keyword: str, header: Dataset, name: str) -> datetime:
    """Converts a time to the local time of the header's other times, without an offset."""
    time = DT(_check_precision(text, keyword, 12, name))
    if time.tzinfo is None:
        return time
    offset = DT("20000101000000" + _read_text(header, "TimezoneOffsetFromUTC", name))
    return time.astimezone(offset.tzinfo).replace(tzinfo=None)


def _read_time(header: Dataset, level: str, name: str) -> datetime:
    date = DA(_check_precision(_read_text(header, f"{level}Date", name), f"{level}Date", 8, name))
    return datetime.combine(date, _to_time(header, f"{level}Time", name))


def _to_time(dataset: Dataset, keyword: str, name: str) -> TM:
    return TM(_check_precision(_read_text(dataset, keyword, name), keyword, 4, name))


def _check_precision(text: str, keyword: str, digits: int, name: str) -> str:
    """Returns a date or time with at least so many digits; missing digits would count as midnight or zero."""
    if not re.match(rf"\d{{{digits}}}", text):
        raise _refuse(f"its {keyword} is not stated to the {'day' if digits == 8 else 'minute'}", name)
    return text


def _read_text(dataset: Dataset, keyword: str, name: str) -> str:
    value = find([dataset], keyword)
    if value is None:
        raise _refuse(f"it states no {keyword}", name)
    return str(value).strip()


def _read_number(dataset: Dataset, keyword: str, name: str, bounds: tuple[float, float]) -> float:
    value = float(_read_text(dataset, keyword, name))
    if not (bounds[0] <= value <= bounds[1] and math.isfinite(value)):
        raise _refuse(f"its {keyword} is not plausible in its unit", name)
    return value


def _refuse(cause: str, name: str) -> BadVolume:
    return BadVolume(
        f"SUVbw cannot be computed: {cause}",
        subject=name,
        remedy="export the original series with all of its attributes, or declare no unit for the modality",
    )
