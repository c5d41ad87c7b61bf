"""The page on imports says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vfmalign.imaging.datasets.layouts.derivation import parse_declaration
from vfmalign.imaging.dicom import stacks
from vfmalign.imaging.dicom.frames import DERIVED
from vfmalign.imaging.dicom.rules.conditions import WORDS, Condition

PAGE = (Path(__file__).parents[4] / "docs" / "datasets.md").read_text()
DECLARATIONS = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_has_declarations_with_and_without_rules() -> None:
    assert {"selections" in declaration for declaration in DECLARATIONS} == {True, False}


@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_the_declarations_on_the_page_are_read(declaration: str) -> None:
    read = parse_declaration(declaration.encode())
    names = {selection.name for selection in read.selections}
    expected = {*read.declaration.modalities, *read.declaration.label_names} if "selections" in declaration else set()
    assert names == expected


def test_the_page_names_what_a_condition_may_be() -> None:
    members = {field.alias or name for name, field in Condition.model_fields.items()}
    assert members <= set(re.findall(r"`(\w+)`", PAGE))


def test_the_page_names_derived_attributes_and_their_words() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert set(DERIVED) <= named
    assert {word for words in WORDS.values() for word in words} <= named


def test_the_page_names_what_divides_a_series() -> None:
    assert {*stacks._DIVIDING, *stacks._DIVIDING_REPEATED} <= set(re.findall(r"`(\w+)`", PAGE))
