"""Selections of a declaration's file: their form, what they must fit, and those that come along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vfmalign.core.domain.declarations import get_declaration, list_declarations
from vfmalign.core.domain.errors import BadOption
from vfmalign.imaging.datasets.layouts.derivation import parse_declaration, read_declaration
from vfmalign.imaging.dicom.examinations import Segment
from vfmalign.imaging.dicom.rules import SegmentRule, check_selections, get_selections

T1W: dict[str, Any] = {"name": "t1w", "conditions": {"Modality": "MR"}}
TISSUE: dict[str, Any] = {
    "name": "tissue",
    "conditions": {"Modality": "SEG"},
    "segments": {"1": {"label": "grey"}, "2": {"number": 2}},
}
BRAIN: dict[str, Any] = {
    "name": "brain",
    "modalities": ["t1w"],
    "labels": [{"name": "tissue", "values": {"1": "grey", "2": "white"}}],
}


def parse(*selections: Any, **changes: Any) -> Any:
    return parse_declaration(json.dumps(BRAIN | {"selections": list(selections)} | changes).encode())


def test_a_declaration_s_file_may_hold_selections() -> None:
    declaration, selections = parse(T1W, TISSUE)
    assert declaration.modalities == ("t1w",)
    assert [selection.name for selection in selections] == ["t1w", "tissue"]
    assert selections[0].conditions.attributes["Modality"].equals == "MR"
    assert sorted(selections[1].segments or {}) == [1, 2]
    assert parse(T1W).selections[0].name == "t1w"  # a label map may have none
    assert parse_declaration(json.dumps(BRAIN).encode()).selections == ()


def test_a_file_and_a_name_are_read(tmp_path: Path) -> None:
    path = tmp_path / "brain.json"
    path.write_text(json.dumps(BRAIN | {"selections": [T1W]}))
    assert read_declaration(str(path)) == parse(T1W)
    assert read_declaration("prostate_mpmri") == (
        get_declaration("prostate_mpmri"),
        get_selections(get_declaration("prostate_mpmri")),
    )
    assert read_declaration("hippocampus").selections == ()
    # As `--dry-run --json` prints it.
    path.write_bytes(get_declaration("prostate_mpmri").to_json())
    assert read_declaration(str(path)) == read_declaration("prostate_mpmri")


def nest(depth: int) -> dict[str, Any]:
    return {"Modality": "MR"} if depth == 1 else {"not": nest(depth - 1)}


MANY = {"any": [{"Rows": n} for n in range(200)]}


@pytest.mark.parametrize(
    ("selections", "field", "message"),
    [
        ([{}], "[0].name", "this field is required; set it"),
        ([{"name": "t1w"}], "[0].conditions", "this field is required; set it"),
        ([T1W | {"name": "T1w"}], "[0].name", "not a valid id"),
        ([T1W | {"condition": {}}], "[0].condition", "correct the name, or leave the field out"),
        ([T1W | {"conditions": {"Modality": {"regex": "["}}}], "[0].conditions.Modality.regex", "RE2"),
        ([T1W | {"conditions": nest(9)}], "[0]", "use at most 256 conditions, nested at most 8 levels deep"),
        ([T1W | {"conditions": MANY, "prefer": [{"conditions": MANY}]}], "[0]", "use at most 256 conditions"),
        ([T1W | {"prefer": [{"largest": "SeriesDescription"}]}], "[0].prefer[0].largest", "not a numeric attribute"),
        ([T1W | {"prefer": [{"largest": "slices", "smallest": "slices"}]}], "[0].prefer[0]", "set one of largest"),
        ([T1W | {"prefer": [{}]}], "[0].prefer[0]", "set one of largest, smallest, conditions"),
        ([T1W | {"prefer": [{"largest": "slices"}] * 17}], "[0].prefer", "at most 16 items"),
        ([T1W, TISSUE | {"segments": {"0": {"number": 1}}}], "[1].segments.0.[key]", "choose a value of at least 1"),
        ([T1W, TISSUE | {"segments": {"1": {}}}], "[1].segments.1", "set one of number, label, code"),
        ([T1W, TISSUE | {"segments": {"1": {"number": 1, "label": "x"}}}], "[1].segments.1", "set one of"),
        ([T1W, TISSUE | {"segments": {"1": {"label": 3}}}], "[1].segments.1", "a label is text"),
        ([T1W, TISSUE | {"segments": {"1": {"label": {"absent": True}}}}], "[1].segments.1", "a label is text"),
        ([T1W, TISSUE | {"segments": {"1": {"code": "prostate"}}}], "[1].segments.1.code[0]", "not a name of the"),
        ([T1W, TISSUE | {"segments": {"1": {"code": []}}}], "[1].segments.1.code", "at least 1 item"),
        ([T1W, TISSUE | {"segments": {"1": {"number": 0}}}], "[1].segments.1.number", "at least 1"),
        # What does not fit the declaration.
        ([T1W | {"name": "flair"}], "[0].name", "give one selection to each of t1w, tissue"),
        ([T1W, T1W], "[1].name", "a repeated name"),
        ([T1W | {"segments": {"1": {"number": 1}}}], "[0].segments", "not allowed for a modality"),
        ([T1W, {**TISSUE, "segments": None}], "[1].segments", "required by value for a label map"),
        ([T1W, TISSUE | {"segments": {"3": {"number": 1}}}], "[1].segments", "required by value for a label map"),
        ([TISSUE], "", "brain has no selection for t1w"),
    ],
)
def test_a_wrong_selection_is_refused_by_field(selections: list[Any], field: str, message: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse(*selections)
    assert caught.value.field == f"declaration.selections{field}"
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "field", "message"),
    [
        (b"{", "declaration", "the file is not JSON: Expecting property name"),
        (b'{"name": "a", "name": "b"}', "declaration", "names a member of an object twice"),
        (b"[]", "declaration", "valid dictionary"),
        (json.dumps(BRAIN | {"selections": {}}).encode(), "declaration.selections", "valid tuple"),
        (json.dumps(BRAIN | {"selections": [T1W] * 65}).encode(), "declaration.selections", "at most"),
        (json.dumps(BRAIN | {"selection": []}).encode(), "declaration.selection", "correct the name"),
        (json.dumps(BRAIN | {"modalities": 1}).encode(), "declaration.modalities", "valid tuple"),
    ],
)
def test_a_wrong_file_is_refused(content: bytes, field: str, message: str) -> None:
    with pytest.raises(BadOption, match=message) as caught:
        parse_declaration(content)
    assert caught.value.field == field


def test_without_selections_the_error_shows_how_one_is_written() -> None:
    with pytest.raises(BadOption) as caught:
        check_selections(get_declaration("hippocampus"), ())
    assert "hippocampus has no selection for t1w" in caught.value.message
    example = caught.value.remedy.split("for example, ")[1].split("; `vfmalign")[0]
    selections = json.loads("{" + example + "}")["selections"]
    check_selections(get_declaration("hippocampus"), parse(*selections).selections)
    assert "`vfmalign dicom show`" in caught.value.remedy


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [
        ({"number": 2}, [2]),
        ({"label": "Prostate"}, [1]),
        ({"label": {"contains": "zone"}}, [2, 3]),
        ({"label": {"regex": "(?i)^p.*e$"}}, [1, 2]),
        ({"label": {"in": ["prostate", "transition zone"]}}, [1, 3]),
        ({"code": "SCT:41216001"}, [1]),
        ({"code": "SCT:123037004"}, [1, 2, 3]),
        ({"code": "SRT:T-92000"}, [1]),
        ({"code": ["FMA:9600", "SCT:399384005"]}, [3]),
        ({"code": "FMA:9600"}, []),
        ({"number": 9}, []),
    ],
)
def test_segments_are_found_by_number_label_or_code(rule: dict[str, Any], numbers: list[int]) -> None:
    segments = (
        Segment(1, "prostate", ("SCT:123037004", "SCT:41216001")),
        Segment(2, "Peripheral zone", ("SCT:123037004", "SCT:279706003")),
        Segment(3, "Transition zone", ("SCT:123037004", "SCT:399384005")),
    )
    matches = SegmentRule.model_validate(rule).matches
    assert [segment.number for segment in segments if matches(segment)] == numbers


@pytest.mark.parametrize("name", list_declarations())
def test_the_selections_that_come_along_fit_their_declaration(name: str) -> None:
    declaration = get_declaration(name)
    if selections := get_selections(declaration):
        check_selections(declaration, selections)
    assert bool(selections) == (name in {"prostate_mpmri", "brain_t1w"})
