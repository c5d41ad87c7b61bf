"""The committed stubs load with the installed protobuf and gRPC runtimes."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import google.protobuf
import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from vfmalign.v1 import bounds_pb2

STUBS = Path(__file__).resolve().parents[2] / "services" / "vfmalign" / "v1"
PROTO_ROOT = Path(__file__).resolve().parents[2] / "proto"
PROTOS = PROTO_ROOT / "vfmalign" / "v1"


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


def build_with_protoc(folder: Path) -> None:
    """Debian's protoc, which is older than the compiler of the committed stubs."""
    if (protoc := shutil.which("protoc")) is None:
        pytest.skip("protoc is not installed (Debian: protobuf-compiler)")
    files = [str(path.relative_to(PROTO_ROOT)) for path in sorted(PROTOS.glob("*.proto"))]
    outputs = [f"--python_out={folder}", f"--descriptor_set_out={folder / 'api.binpb'}"]
    subprocess.run([protoc, f"-I{PROTO_ROOT}", *outputs, *files], check=True, timeout=60)


def build_with_buf(folder: Path) -> None:
    """The client's buf, without plugins of the network."""
    buf, protoc = Path(sys.executable).with_name("buf"), [sys.executable, "-m", "grpc_tools.protoc"]
    plugin = {"protoc_builtin": "python", "out": str(folder), "protoc_path": protoc}
    template = json.dumps({"version": "v2", "plugins": [plugin]})
    subprocess.run([buf, "generate", PROTO_ROOT, "--template", template], check=True, timeout=60)
    image = ("--as-file-descriptor-set", "-o", folder / "api.binpb")
    subprocess.run([buf, "build", PROTO_ROOT, *image], check=True, timeout=60)


@pytest.mark.parametrize("build", [build_with_protoc, build_with_buf])
def test_callers_build_stubs_and_can_read_which_fields_are_secret(build, tmp_path: Path) -> None:
    build(tmp_path)
    assert {path.stem for path in tmp_path.rglob("*_pb2.py")} == {f"{path.stem}_pb2" for path in PROTOS.glob("*.proto")}
    files = FileDescriptorSet.FromString((tmp_path / "api.binpb").read_bytes()).file
    own = [file for file in files if file.package == "vfmalign.v1"]
    assert {file.options.go_package for file in own} == {"example.com/vfmalign/v1;vfmalignv1"}
    fields = [(message.name, field) for file in own for message in file.message_type for field in message.field]
    secrets = {(owner, field.name) for owner, field in fields if field.options.Extensions[bounds_pb2.secret]}
    assert secrets == {("FileUpload", "url"), ("FileUpload", "headers")}


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
