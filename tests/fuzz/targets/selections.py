"""Declarations with selections, which choose series of a DICOM study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources

import numpy as np
from tests.fuzz.harness import Target

from vfmalign.core.domain.declarations import get_declaration
from vfmalign.imaging.datasets.layouts.derivation import parse_declaration
from vfmalign.imaging.dicom import rules
from vfmalign.imaging.dicom.examinations import Segment, Segmentation, Series, Study
from vfmalign.imaging.dicom.frames import DERIVED, KEYWORDS, AttributeValue, Frame
from vfmalign.imaging.dicom.rules import check_selections
from vfmalign.imaging.dicom.rules.conditions import NUMBERS, WORDS
from vfmalign.imaging.dicom.selection import choose
from vfmalign.imaging.dicom.stacks import Stack

_T2W: Mapping[str, AttributeValue] = {
    "Modality": "MR",
    "ImageType": ("ORIGINAL", "PRIMARY", "M"),
    "SeriesDescription": "t2_tse_tra " * 20,
    "EchoTime": 104.0,
    "EchoNumbers": (1.0, 2.0),
    "orientation": "transverse",
    "slices": 19.0,
}
_ALL: Mapping[str, AttributeValue] = {
    name: 7.0 if name in NUMBERS else WORDS.get(name, ("é\u202e",))[0] for name in (*KEYWORDS, *DERIVED)
}


def _make_series(number: int, attributes: Mapping[str, AttributeValue], problem: str = "") -> Series:
    frame = Frame("x.dcm", 0, f"1.{number}", f"1.{number}.1", None, attributes)
    stack = Stack((frame,), attributes, None if problem else np.eye(4), ("EchoTime",), problem)
    return Series(f"series {number}", f"1.{number}", (stack, stack))


_SEGMENTS = (Segment(1, "Prostate", ("SCT:41216001",)), Segment(2, "Lesion 1", ("SCT:52988006", "99x:")))
_STUDY = Study(
    "p",
    "1",
    (_make_series(1, _T2W), _make_series(2, _ALL), _make_series(3, {}), _make_series(4, _T2W, "a single slice")),
    tuple(Segmentation(f"series {n}", "s.dcm", {"Modality": "SEG"}, ("1.1",), _SEGMENTS) for n in (5, 6)),
    frozenset({"prostate"}),
)


def run(data: bytes) -> None:
    """Reads the input as a declaration's file, and lets it choose."""
    declaration, selections = parse_declaration(data)
    check_selections(declaration, selections)
    choice = choose(_STUDY, declaration, selections)
    assert all(len(text) < 4_000 for text in choice.problems), "a problem fills a screen"


def make_seeds() -> Mapping[str, bytes]:
    """The declarations that come along, with their selections, and one that uses everything."""
    seeds: dict[str, bytes] = {}
    for name in ("prostate_mpmri", "brain_t1w"):
        document = get_declaration(name).model_dump(mode="json")
        document |= json.loads(resources.files(rules).joinpath(f"{name}.json").read_bytes())
        seeds[name] = json.dumps(document).encode()
    conditions = {
        "Modality": {"in": ["MR", "CT"]},
        "EchoTime": {"min": 1, "max": 200.5},
        "SeriesDescription": {"regex": "(?i)^t2", "contains": "TRA"},
        "b_value": {"absent": True},
        "all": [{"ImageType": "ORIGINAL"}],
        "any": [{"orientation": "transverse"}, {"slices": 20}],
        "not": {"diffusion": {"equals": "adc"}},
    }
    segments = {"1": {"label": {"contains": "pro"}}, "2": {"number": 2}, "3": {"code": ["SCT:41216001"]}}
    everything = {
        "name": "d",
        "modalities": ["t2w"],
        "labels": [{"name": "zones", "values": {"1": "a", "2": "b", "3": "c"}, "may_be_empty": True}],
        "selections": [
            {"name": "t2w", "conditions": conditions, "prefer": [{"largest": "EchoTime"}, {"smallest": "slices"}]},
            {"name": "zones", "conditions": {"Modality": "SEG"}, "segments": segments},
        ],
    }
    return seeds | {"everything": json.dumps(everything).encode()}


TARGET = Target(
    run,
    make_seeds,
    words=(*KEYWORDS, *DERIVED, "equals", "contains", "regex", "min", "max", "in", "absent", "all", "any", "not"),
    is_json=True,
    max_bytes=1 << 13,
)
