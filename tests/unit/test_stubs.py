"""The committed stubs load with the installed protobuf and gRPC runtimes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import google.protobuf
import grpc
import pytest

STUBS = Path(__file__).resolve().parents[2] / "services" / "vfmalign" / "v1"
PROTOS = Path(__file__).resolve().parents[2] / "proto" / "vfmalign" / "v1"


def test_every_proto_has_its_stubs() -> None:
    names = {path.stem for path in PROTOS.glob("*.proto")}
    assert {path.name.removesuffix("_pb2.py") for path in STUBS.glob("*_pb2.py")} == names
    assert {path.name.removesuffix("_pb2_grpc.py") for path in STUBS.glob("*_pb2_grpc.py")} == names


@pytest.mark.parametrize("path", sorted(STUBS.glob("*_pb2*.py")), ids=lambda path: path.stem)
def test_stubs_load(path: Path) -> None:
    importlib.import_module(f"vfmalign.v1.{path.stem}")


@pytest.mark.parametrize("path", sorted(STUBS.glob("*_pb2.py")), ids=lambda path: path.stem)
def test_protobuf_has_the_major_version_of_the_stubs_and_is_not_older(path: Path) -> None:
    match = re.search(r"# Protobuf Python Version: (\d+)\.(\d+)\.(\d+)", path.read_text())
    assert match is not None
    gencode = tuple(int(part) for part in match.groups())
    runtime = tuple(int(part) for part in google.protobuf.__version__.split(".")[:3])
    assert gencode[0] == runtime[0]
    assert gencode <= runtime


@pytest.mark.parametrize("path", sorted(STUBS.glob("*_pb2_grpc.py")), ids=lambda path: path.stem)
def test_grpc_is_not_older_than_its_stubs(path: Path) -> None:
    match = re.search(r"GRPC_GENERATED_VERSION = '(\d+)\.(\d+)\.(\d+)'", path.read_text())
    assert match is not None
    generated = tuple(int(part) for part in match.groups())
    assert generated <= tuple(int(part) for part in grpc.__version__.split(".")[:3])


def test_every_field_of_the_api_has_a_comment() -> None:
    """Messages, fields, enum values, services and RPCs are documented."""
    undocumented = []
    for path in sorted(PROTOS.glob("*.proto")):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines[1:], start=1):
            text = line.strip()
            declares = re.match(r"(message|enum|service|rpc|oneof|(optional |repeated )?[\w.]+ \w+ = \d+)\b", text)
            unspecified = "_UNSPECIFIED = 0" in text
            if declares and not unspecified and not lines[number - 1].strip().startswith("//"):
                undocumented.append(f"{path.name}:{number + 1}: {text}")
    assert undocumented == []
