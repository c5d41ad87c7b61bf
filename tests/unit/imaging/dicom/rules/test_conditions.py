"""Conditions on attributes: what holds, why not, and forms that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from vfmalign.client.messages.base import to_bad_option
from vfmalign.imaging.dicom.frames import DERIVED, KEYWORDS, AttributeValue
from vfmalign.imaging.dicom.rules.conditions import NUMBERS, WORDS, Conditions, find_unmet, format_value

T2W: Mapping[str, AttributeValue] = {
    "Modality": "MR",
    "ImageType": ("ORIGINAL", "PRIMARY", "M", "DIS2D"),
    "SeriesDescription": "t2_tse_tra",
    "EchoTime": 104.0,
    "EchoNumbers": (1.0, 2.0),
    "orientation": "transverse",
    "slices": 19.0,
}


def explain(conditions: Mapping[str, Any], attributes: Mapping[str, AttributeValue] = T2W) -> str:
    return find_unmet(Conditions.model_validate(conditions), attributes, lambda name: format_value(attributes[name]))


@pytest.mark.parametrize(
    "conditions",
    [
        {"Modality": "MR"},
        {"Modality": "mr"},
        {"Modality": {"equals": "MR"}},
        {"Modality": {"in": ["CT", "MR"]}},
        {"orientation": "transverse", "slices": 19},
        {"SeriesDescription": {"contains": "TSE"}},
        {"SeriesDescription": {"regex": "(?i)T2.*tra$"}},
        {"SeriesDescription": {"regex": "^t2", "contains": "tse"}},
        {"EchoTime": {"min": 104, "max": 104}},
        {"EchoTime": {"in": [63, 104]}},
        {"ImageType": "PRIMARY"},
        {"ImageType": {"regex": "^DIS"}},
        {"EchoNumbers": {"min": 2}},
        {"b_value": {"absent": True}},
        {"EchoTime": {"absent": False}},
        {"not": {"ImageType": "DERIVED"}},
        {"not": {"Modality": "MR", "EchoTime": {"max": 50}}},
        {"not": {"b_value": {"min": 0}}},
        {"any": [{"Modality": "CT"}, {"slices": {"min": 10}}]},
        {"all": [{"ImageType": "ORIGINAL"}, {"ImageType": "PRIMARY"}]},
        {"all": [{"any": [{"not": {"not": {"Modality": "MR"}}}]}]},
    ],
)
def test_conditions_hold(conditions: Mapping[str, Any]) -> None:
    assert explain(conditions) == ""


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ({"Modality": "CT"}, "Modality is MR, not CT"),
        ({"orientation": {"in": ["sagittal", "coronal"]}}, "orientation is transverse, not sagittal or coronal"),
        ({"SeriesDescription": {"contains": "dwi"}}, "SeriesDescription does not contain dwi"),
        ({"SeriesDescription": {"regex": "T2"}}, "SeriesDescription does not match"),
        ({"SeriesDescription": {"regex": "^t2", "contains": "cor"}}, "SeriesDescription does not contain cor"),
        ({"EchoTime": {"max": 50}}, "EchoTime is 104, above 50"),
        ({"EchoTime": {"min": 104.5}}, "EchoTime is 104, below 104.5"),
        ({"EchoTime": {"in": [63, 80, 90, 100]}}, "EchoTime is 104, not 63 or 80 or 90 …"),
        ({"slices": 20}, "slices is 19, not 20"),
        ({"ImageType": "DERIVED"}, "ImageType is ORIGINAL, PRIMARY, M, DIS2D, not DERIVED"),
        # One of the values meets everything that is set: neither is above 1 and below 2 at once.
        ({"EchoNumbers": {"min": 1.5, "max": 1.9}}, "EchoNumbers is 1, 2, below 1.5"),
        ({"b_value": {"min": 500}}, "no b_value"),
        ({"b_value": {"absent": False}}, "no b_value"),
        ({"EchoTime": {"absent": True}}, "EchoTime is 104, but must be absent"),
        ({"not": {"Modality": "MR"}}, "Modality is MR, which is excluded"),
        ({"not": {"any": [{"Modality": "CT"}, {"EchoTime": {"min": 60}}]}}, "EchoTime is 104, which is excluded"),
        ({"not": {"b_value": {"absent": True}, "slices": 19}}, "no b_value and slices is 19, which is excluded"),
        ({"not": {"not": {"Modality": "CT"}}}, "the conditions of `not` hold, which is excluded"),
        ({"any": [{"Modality": "CT"}, {"b_value": 0}]}, "Modality is MR, not CT and no b_value"),
        ({"any": [{"slices": n} for n in range(6)]}, "slices is 19, not 0 and slices is 19, not 1 and slices is 19, "
         "not 2 and 3 more"),
        ({"all": [{"Modality": "MR"}, {"Modality": "CT"}]}, "Modality is MR, not CT"),
        ({"Modality": "MR", "slices": {"max": 5}, "not": {"Modality": "MR"}}, "slices is 19, above 5"),
    ],
)  # fmt: skip
def test_the_reason_is_the_first_condition_that_does_not_hold(conditions: Mapping[str, Any], reason: str) -> None:
    assert explain(conditions) == reason


def test_a_reason_quotes_what_may_be_shown_alone() -> None:
    conditions = Conditions.model_validate({"SeriesDescription": "dwi"})
    reason = find_unmet(conditions, {"SeriesDescription": "Mueller t2"}, lambda name: "… t2")
    assert reason == "SeriesDescription is … t2, not dwi"
    assert format_value("x" * 256) == "x" * 39 + "…"
    assert format_value((1.5, 104.0)) == "1.5, 104"


@pytest.mark.parametrize("keyword", [*KEYWORDS, *DERIVED])
def test_every_attribute_can_be_tested(keyword: str) -> None:
    value: str | float = 7.0 if keyword in NUMBERS else WORDS.get(keyword, ("x",))[0]
    other: str | float = 8.0 if keyword in NUMBERS else WORDS.get(keyword, ("x", "y"))[1]
    assert explain({keyword: value}, {keyword: value}) == ""
    assert explain({keyword: value}, {keyword: other}).startswith(f"{keyword} is ")
    assert explain({keyword: value}, {}) == f"no {keyword}"


def nest(depth: int) -> dict[str, Any]:
    return {"Modality": "MR"} if depth == 1 else {"not": nest(depth - 1)}


@pytest.mark.parametrize(
    ("conditions", "field", "message"),
    [
        ({}, "c", "no condition; name at least one attribute"),
        ([], "c", "Input should be a valid dictionary or instance of Conditions"),
        ({"PatientName": "x"}, "c.PatientName", "not an attribute of rules"),
        ({"echotime": 1}, "c.echotime", "not an attribute of rules"),
        ({"Modality": None}, "c.Modality", "it has no field"),
        ({"Modality": True}, "c.Modality.equals", "neither text nor a number"),
        ({"Modality": ["MR"]}, "c.Modality.equals", "neither text nor a number"),
        ({"Modality": ""}, "c.Modality.equals", "empty or too long"),
        ({"Modality": {}}, "c.Modality", "it has no field"),
        ({"Modality": {"equals": "MR", "absent": True}}, "c.Modality", "it has no field, or `absent` with others"),
        ({"Modality": {"matches": "MR"}}, "c.Modality.matches", "there is no field of this name"),
        ({"Modality": {"in": []}}, "c.Modality.in", "at least 1 item"),
        ({"Modality": {"in": ["MR", ["CT"]]}}, "c.Modality.in[1]", "neither text nor a number"),
        ({"Modality": {"in": ["x"] * 65}}, "c.Modality.in", "at most 64 items"),
        ({"Modality": 3}, "c", "Modality is text; put the value in quotes"),
        ({"Modality": {"min": 3}}, "c", "Modality is text"),
        ({"EchoTime": "104"}, "c", "EchoTime is a number; use a number without quotes"),
        ({"EchoTime": {"regex": "1"}}, "c", "EchoTime is a number"),
        ({"EchoTime": {"min": float("inf")}}, "c.EchoTime.min", "finite number"),
        ({"EchoTime": {"min": "low"}}, "c.EchoTime.min", "valid number"),
        ({"EchoTime": 10**400}, "c.EchoTime.equals", "not a finite number"),
        ({"EchoTime": float("nan")}, "c.EchoTime.equals", "not a finite number"),
        ({"orientation": "axial"}, "c", "orientation has no such value; choose one of transverse, coronal, sagittal"),
        ({"diffusion": {"in": ["trace", "isotropic"]}}, "c", "diffusion has no such value; choose one of trace"),
        ({"SeriesDescription": {"regex": "("}}, "c.SeriesDescription.regex", "not a regular expression that RE2 takes"),
        ({"SeriesDescription": {"regex": "(?=t2)"}}, "c.SeriesDescription.regex", "not a regular expression"),
        ({"SeriesDescription": {"regex": r"(t)\1"}}, "c.SeriesDescription.regex", "not a regular expression"),
        ({"SeriesDescription": {"regex": "((a{100}){100}){9}"}}, "c.SeriesDescription.regex", "not a regular"),
        ({"SeriesDescription": {"regex": "a" * 257}}, "c.SeriesDescription.regex", "at most 256 characters"),
        ({"SeriesDescription": {"contains": ""}}, "c.SeriesDescription.contains", "at least 1 character"),
        ({"all": []}, "c.all", "at least 1 item"),
        ({"any": {"Modality": "MR"}}, "c.any", "valid tuple"),
        ({"any": [{"Modality": "MR"}, {}]}, "c.any[1]", "no condition"),
        ({"not": {"any": [{"Rows": "x"}]}}, "c.not.any[0]", "Rows is a number"),
    ],
)
def test_a_wrong_condition_is_refused_by_field_and_without_its_value(conditions: Any, field: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Conditions.model_validate(conditions)
    error = to_bad_option(caught.value, "c")
    assert error.field == field
    assert message in str(error)


def test_the_size_of_conditions_is_measured() -> None:
    assert Conditions.model_validate(nest(5)).measure() == (5, 1)
    both = {"Modality": "MR", "any": [{"Rows": 1}, {"Rows": 2, "all": [{"Columns": 3}]}], "not": {"Rows": 4}}
    assert Conditions.model_validate(both).measure() == (3, 5)


def test_a_regular_expression_reads_text_that_is_no_unicode() -> None:
    assert explain({"SeriesDescription": {"regex": "t2$"}}, {"SeriesDescription": "\udc80 t2"}) == ""


def test_a_regular_expression_takes_linear_time() -> None:
    # Python's own engine would backtrack for about 2²⁵⁶ steps: the test ends because RE2 does not.
    assert explain({"SeriesDescription": {"regex": "^(a+)+$"}}, {"SeriesDescription": "a" * 255 + "b"})
