"""The API reference that `make site` generates: the protos have the comments that it consists of."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, MESSAGES, ENUMS, SERVICES = 2, 4, 5, 6
FIELDS, NESTED_MESSAGES, NESTED_ENUMS, METHODS = 2, 3, 4, 2
"""Numbers of the fields of descriptors that paths of comments consist of."""
UNDOCUMENTED = """
syntax = "proto3";
package vfmalign.v1;
message Box {
  int64 width = 1;
  // Of the box.
  map<string, Unit> units = 2;
}
enum Unit { UNIT_UNSPECIFIED = 0; }
service Boxes { rpc Pack(Box) returns (Box); }
"""


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


def list_undocumented(files: Sequence[FileDescriptorProto]) -> list[str]:
    """Returns the files, calls, messages, fields and enums without a comment."""
    unknown = []
    for file in files:
        comments = {tuple(one.path): one.leading_comments.strip() for one in file.source_code_info.location}
        elements = [((PACKAGE,), file.name), *list_elements(file.message_type, (MESSAGES,))]
        elements += [((ENUMS, i), enum.name) for i, enum in enumerate(file.enum_type)]
        for i, service in enumerate(file.service):
            elements.append(((SERVICES, i), service.name))
            elements += [((SERVICES, i, METHODS, j), one.name) for j, one in enumerate(service.method)]
        unknown += [name for path, name in elements if not comments.get(path)]
    return unknown


def list_elements(messages: Sequence[DescriptorProto], path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yields the path and name of messages, their fields and the messages and enums in them."""
    for i, message in enumerate(messages):
        if message.options.map_entry:
            continue
        yield (*path, i), message.name
        yield from (((*path, i, FIELDS, j), f"{message.name}.{one.name}") for j, one in enumerate(message.field))
        yield from list_elements(message.nested_type, (*path, i, NESTED_MESSAGES))
        yield from (((*path, i, NESTED_ENUMS, j), one.name) for j, one in enumerate(message.enum_type))


def test_every_call_message_and_field_has_a_comment(generator: ModuleType) -> None:
    assert list_undocumented(generator.compile_protos(ROOT / "proto")) == []


def test_what_lacks_a_comment_is_found(generator: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "vfmalign/v1").mkdir(parents=True)
    (tmp_path / "vfmalign/v1/x.proto").write_text(UNDOCUMENTED)
    unknown = list_undocumented(generator.compile_protos(tmp_path))
    assert unknown == ["vfmalign/v1/x.proto", "Box", "Box.width", "Unit", "Boxes", "Pack"]


def test_the_program_writes_the_page(page: str, tmp_path: Path) -> None:
    written = tmp_path / "api-reference.md"
    program = [sys.executable, ROOT / "docs/generate_api_reference.py", ROOT / "proto", written]
    subprocess.run(program, check=True)
    assert written.read_text() == page


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
