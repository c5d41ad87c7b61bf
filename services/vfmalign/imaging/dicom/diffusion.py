"""Diffusion weighting of a frame: its b-value, and whether it combines several directions.

Attributes of the standard (PS3.3, C.8.13.5.9) take precedence, in classic instances and in functional groups. If these
attributes are missing, the vendor's private attributes are read. For Siemens, these attributes are (0019,xx0C) and
(0019,xx0D), or the CSA header in older exports. For GE, the first value of (0043,xx39) contains flags in the digits
above 100,000. The attribute (0043,xx30) contains the kind of image. For Philips, these attributes are (2001,xx03) and
(2001,xx04). Private blocks are located by their creator, never by a fixed element number.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from vfmalign.imaging.dicom.headers import find, find_private, list_texts, to_first_text

with warnings.catch_warnings():
    # The import prints a warning. Only the reader of the CSA header is used, which is an old part of the package.
    warnings.filterwarnings("ignore", "The DICOM readers are highly experimental", UserWarning)
    from nibabel.nicom import csareader

MAX_B_VALUE = 100_000.0
"""Largest plausible b-value in s/mm². Pre-clinical scanners reach 40,000; Philips writes 1e38 for none."""
_GE_FLAG_UNIT = 100_000
_GE_KINDS = {3: "direction", 4: "direction", 5: "direction", 15: "trace", 16: "direction", 19: "trace"}
# `*ep_b800t` is a trace image, `ep_b800#3` the third direction; `*ep_b50_800`, of an ADC map, names several b-values.
_SIEMENS_SEQUENCE = re.compile(r"\*?[a-z]{2,4}_b(\d{1,5})(t|#\d{1,4})?")
_WORDS = {"ISOTROPIC": "trace", "DIRECTIONAL": "direction", "BMATRIX": "direction"}
_PHILIPS_WORDS = {"I": "trace", "O": "direction", "P": "direction", "M": "direction", "S": "direction"}

_Stated = tuple[float | None, str]
"""A b-value in s/mm², and `trace`, `direction` or an empty text."""


def read_diffusion(datasets: Sequence[Dataset]) -> dict[str, str | float]:
    """Returns the b-value in s/mm² as `b_value` and the kind of weighting as `diffusion`.

    The result is empty if the datasets state neither of these values. Images of any sequence may state a b-value of
    zero. The module `stacks` therefore compares a b-value of zero with the rest of the series.

    The kinds are `trace`, a combination of directions; `direction`, a single direction; `none`, an image without
    weighting; and `adc`, a map of the apparent diffusion coefficient, which has no b-value of its own.

    Args:
        datasets: datasets that describe the frame, most specific first.
    """
    image_type = {text.upper() for text in list_texts(datasets, "ImageType") + list_texts(datasets, "FrameType")}
    if any(text == "ADC" or text.startswith(("ADC_", "ADC ")) for text in image_type):
        return {"diffusion": "adc"}
    b_value, directionality = next(
        (stated for read in _READERS if (stated := read(datasets))[0] is not None), (None, "")
    )
    if b_value is None:
        return {}
    if b_value == 0:
        return {"b_value": 0.0, "diffusion": "none"}
    if any(text.startswith("TRACE") for text in image_type):
        directionality = "trace"
    return {"b_value": b_value} | ({"diffusion": directionality} if directionality else {})


def _read_standard(datasets: Sequence[Dataset]) -> _Stated:
    directionality = _WORDS.get(to_first_text(find(datasets, "DiffusionDirectionality")).upper(), "")
    # Some exports state the b-value in the standard's attribute, but the directionality only in a private one.
    return _to_b_value(find(datasets, "DiffusionBValue")), directionality or _read_siemens(datasets)[1]


def _read_siemens(datasets: Sequence[Dataset]) -> _Stated:
    b_value, directionality = [find_private(datasets, "SIEMENS MR HEADER", 0x0019, element) for element in (0x0C, 0x0D)]
    return _to_b_value(b_value), _WORDS.get(to_first_text(directionality).upper(), "")


def _read_siemens_csa(datasets: Sequence[Dataset]) -> _Stated:
    data = find_private(datasets, "SIEMENS CSA HEADER", 0x0029, 0x10)
    if not isinstance(data, bytes):
        return None, ""
    try:
        tags = csareader.read(data)["tags"]
        b_value, directionality = (
            next(iter(tags[name]["items"]), None) for name in ("B_value", "DiffusionDirectionality")
        )
    except Exception:  # a damaged header raises many types, and an image without diffusion may lack the tags
        return None, ""
    return _to_b_value(b_value), _WORDS.get(to_first_text(directionality).upper(), "")


def _read_ge(datasets: Sequence[Dataset]) -> _Stated:
    b_value = _to_number(find_private(datasets, "GEMS_PARM_01", 0x0043, 0x39))
    kind = _to_number(find_private(datasets, "GEMS_PARM_01", 0x0043, 0x30))
    stated = None if b_value is None else _to_b_value(b_value % _GE_FLAG_UNIT)
    return stated, _GE_KINDS.get(int(kind or 0), "")


def _read_philips(datasets: Sequence[Dataset]) -> _Stated:
    b_value, direction = [find_private(datasets, "Philips Imaging DD 001", 0x2001, element) for element in (0x03, 0x04)]
    if isinstance(b_value, bytes) and len(b_value) == 4:  # an implicit transfer syntax lost the type, a float
        b_value = float(np.frombuffer(b_value, "<f4")[0])
    return _to_b_value(b_value), _PHILIPS_WORDS.get(to_first_text(direction)[:1].upper(), "")


def _read_sequence_name(datasets: Sequence[Dataset]) -> _Stated:
    match = _SIEMENS_SEQUENCE.fullmatch(to_first_text(find(datasets, "SequenceName")))
    if match is None:
        return None, ""
    return _to_b_value(match[1]), {"t": "trace", "#": "direction"}.get((match[2] or "")[:1], "")


_READERS: tuple[Callable[[Sequence[Dataset]], _Stated], ...] = (
    _read_standard,
    _read_siemens,
    _read_siemens_csa,
    _read_ge,
    _read_philips,
    _read_sequence_name,
)


def _to_b_value(value: Any) -> float | None:
    number = _to_number(value)
    return number if number is not None and 0 <= number <= MAX_B_VALUE else None


def _to_number(value: Any) -> float | None:
    """The first of the values as a finite number, if it is one."""
    try:
        number = float(to_first_text(value))
    except ValueError:
        return None
    return number if np.isfinite(number) else None
