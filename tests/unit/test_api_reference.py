"""docs/api-reference.md is what `make docs` writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("api_reference", ROOT / "docs/generate_api_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(generator: ModuleType) -> str:
    return generator.render(generator.compile_protos(ROOT / "proto"))


def test_the_page_is_up_to_date(page: str) -> None:
    assert (ROOT / "docs/api-reference.md").read_text() == page, "run `make docs`"


def test_it_lists_calls_fields_bounds_and_values(page: str) -> None:
    assert "| `Compute` | [ComputeRequest](#computerequest) | [ComputeResponse](#computeresponse) |" in page
    assert "| `shape` | repeated `int64` | Size per axis, outermost first; 1 to 6 axes, each at least 1. " in page
    assert "*Bound: at most 6 entries, from 0 to 16,777,216.*" in page
    assert "| `inline` | [InlineFeatures](#inlinefeatures) | One of `source`. " in page
    assert "| `values` | map of `uint32` to `string` |" in page
    assert "| `PAIRING_PAIRED` = 1 | Row i of x" in page


def test_every_link_leads_to_a_heading(page: str) -> None:
    headings = {line.removeprefix("### ").lower() for line in page.splitlines() if line.startswith("### ")}
    links = {part.partition(")")[0] for part in page.split("](#")[1:]}
    assert links
    assert links <= headings
