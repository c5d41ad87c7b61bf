"""Coded concepts of drawn structures, such as `SCT:41216001` for the prostate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from vfmalign.imaging.dicom.examinations import Segment

_MAX_CODE = 128
_MODIFIERS = "SegmentedPropertyTypeModifierCodeSequence"


def read_codes(items: Iterable[Dataset], keywords: Sequence[str]) -> tuple[str, ...]:
    """Returns the coded concepts in the items' sequences, including modifiers, each as `scheme:value`.

    Args:
        items: datasets that describe one structure.
        keywords: keywords of the sequences that contain concepts.
    """
    concepts = list(_list_items(items, keywords))
    concepts += _list_items(concepts, (_MODIFIERS,))
    return tuple(dict.fromkeys(filter(None, map(_read_code, concepts))))


def _list_items(datasets: Iterable[Dataset], keywords: Sequence[str]) -> Iterator[Dataset]:
    for dataset in datasets:
        for keyword in keywords:
            yield from dataset.get(keyword) or ()


def _read_code(concept: Dataset) -> str:
    values = (concept.get(keyword) for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue"))
    value = next(filter(None, values), "")
    return f"{concept.get('CodingSchemeDesignator', '')}:{value}"[:_MAX_CODE] if value else ""


def has_code(segment: Segment, code: str) -> bool:
    """Returns whether a coded concept describes a segment.

    Older SNOMED codes (`SRT:T-92000`) are treated as equal to the codes that replaced them.
    """
    return any(_to_code(code) == _to_code(own) for own in segment.codes)


def _to_code(text: str) -> Code:
    scheme, _, value = text.partition(":")
    return Code(value, scheme, "")
