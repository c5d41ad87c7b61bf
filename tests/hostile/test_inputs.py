"""Hostile files, documents and texts, one row each, at every function that reads or shows them.

What arrives over the wire stands in the tables beside this one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pydantic import ValidationError
from rich.text import Text
from tests.hostile_programs import INPUT as PROGRAM_INPUT
from tests.hostile_programs import make_graph, make_state

from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import new_table
from vfmalign.core.domain.errors import InvalidInput, VfmalignError
from vfmalign.core.domain.models import Layer
from vfmalign.core.domain.record import check_key
from vfmalign.core.formats.untrusted import MAX_JSON_DEPTH, parse_json, read_regular_file, to_printable
from vfmalign.core.rpc.access.signing_keys import parse_keys
from vfmalign.core.storage.arrays import read_npy
from vfmalign.core.storage.row_tables import read_table
from vfmalign.core.storage.safetensors_header import parse_header
from vfmalign.features.imports.datasets import parse_datalist
from vfmalign.imaging.datasets.assignments import read_patients, read_splits
from vfmalign.imaging.datasets.layouts.derivation import parse_declaration, read_declaration
from vfmalign.imaging.datasets.layouts.folders import read as read_folder
from vfmalign.imaging.datasets.layouts.sources import OUTSIDE, read_dataset_json
from vfmalign.models.formats.exported_program import build_exported
from vfmalign.models.formats.monai_bundle import read_bundle
from vfmalign.models.formats.program_archive import read_program
from vfmalign.models.formats.stack_checkpoint import read_description
from vfmalign.models.importer import InputDescription, import_model
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import MAX_WEIGHTS_BYTES, is_safetensors
from vfmalign.monitoring.local.state_file import MAGIC, read_state
from vfmalign.reports.templating import load_template

NETWORK = {
    "_target_": "SegResNet",
    "spatial_dims": 3,
    "init_filters": 8,
    "in_channels": 3,
    "out_channels": 2,
    "blocks_down": [1, 1],
    "blocks_up": [1],
    "dropout_prob": 0.5,
}
INPUT = InputDescription(("t2w", "dwi", "adc"), (3.0, 1.0, 1.0), (8, 16, 16), "zscore_nonzero")


def make_file(folder: Path, data: bytes, name: str = "file.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def make_bundle(folder: Path, inference: bytes | None = None) -> Path:
    definition = json.dumps({"network_def": NETWORK}).encode() if inference is None else inference
    make_file(folder, definition, "configs/inference.json")
    make_file(folder, b"{}", "configs/metadata.json")
    (folder / "models").mkdir()
    return folder


def read_as_bundle(folder: Path, inference: bytes | None = None) -> object:
    return read_bundle(make_bundle(folder, inference), ["down_layers.0"], INPUT.preprocessing(), "bundle")


def read_as_header(data: bytes) -> object:
    return parse_header(len(data).to_bytes(8, "little") + data, 8 + len(data))


def read_as_program(data: bytes) -> object:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("model/models/model.json", data)
    return read_program(archive.getvalue(), [], "program")


def is_refused_as_safetensors(data: bytes) -> None:
    if not is_safetensors(len(data).to_bytes(8, "little") + data):
        raise ValueError("cannot be read as JSON")


READERS: dict[str, Callable[[Path, bytes], object]] = {
    "description of a stack": lambda d, data: read_description(make_file(d, data), lambda default: default),
    "configuration of a bundle": read_as_bundle,
    "graph of a program": lambda d, data: read_as_program(data),
    "header of weights": lambda d, data: is_refused_as_safetensors(data),
    "header of safetensors": lambda d, data: read_as_header(data),
    "splits": lambda d, data: read_splits(make_file(d, data)),
    "dataset.json": lambda d, data: read_dataset_json(make_file(d, data, "dataset.json").parent),
    "declaration": lambda d, data: read_declaration(str(make_file(d, data))),
    "selections": lambda d, data: parse_declaration(b'{"name": "d", "modalities": ["m"], "selections": ' + data + b"}"),
    "datalist": lambda d, data: parse_datalist(data, "d"),
    "keys of an issuer": lambda d, data: parse_keys(data),
}
DOCUMENTS = {
    "lists nested 100,000 deep": b"[" * 100_000,
    "objects nested 100,000 deep": b'{"a":' * 100_000,
    "lists nested 100 deep": b'{"network_def": ' + b"[" * 100 + b"]" * 100 + b"}",
    "NaN": b'{"network_def": {"dropout_prob": NaN}}',
    "minus infinity": b'{"network_def": {"dropout_prob": -Infinity}}',
    "number beyond a float": b'{"network_def": {"dropout_prob": 1e999}}',
    "zeros": bytes(100),
    "half a character": b'{"network_def": "\xc3"}',
    "nothing": b"",
}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_document_that_is_not_plain_json_is_refused(
    tmp_path: Path, read: Callable[[Path, bytes], object], document: bytes
) -> None:
    with pytest.raises((InvalidInput, ValueError)) as caught:
        read(tmp_path, document)
    if isinstance(caught.value, VfmalignError):
        assert caught.value.remedy


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_an_argument_of_a_bundle_is_a_finite_number(tmp_path: Path, number: str) -> None:
    definition = json.dumps({"network_def": NETWORK}).replace("0.5", number).encode()
    with pytest.raises(InvalidInput, match=r"configs/inference\.json cannot be read as JSON: has (the|a) number"):
        read_as_bundle(tmp_path, definition)


def test_json_is_bounded_in_size_and_depth_and_may_have_unique_names() -> None:
    deepest = "[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH
    assert parse_json(deepest, 1000)
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        parse_json(f"[{deepest}]", 1000)
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        parse_json(deepest, 100)
    assert parse_json('\ufeff{"a": 1, "a": 2}'.encode(), 1000) == {"a": 2}
    with pytest.raises(ValueError, match="names a member of an object twice"):
        parse_json('{"a": 1, "a": 2}', 1000, unique_names=True)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**37)


def put_weights(folder: Path, make: Callable[[Path], None]) -> object:
    make_bundle(folder)
    make(folder / "models/model.safetensors")
    return read_bundle(folder, ["down_layers.0"], INPUT.preprocessing(), "bundle")


def put_configuration(folder: Path, make: Callable[[Path], None]) -> object:
    make_bundle(folder)
    (folder / "configs/inference.json").unlink()
    make(folder / "configs/inference.json")
    return read_bundle(folder, ["down_layers.0"], INPUT.preprocessing(), "bundle")


def put(name: str, read: Callable[[Path], object]) -> Callable[[Path, Callable[[Path], None]], object]:
    def put_and_read(folder: Path, make: Callable[[Path], None]) -> object:
        make(folder / name)
        return read(folder / name)

    return put_and_read


FILE_READERS: dict[str, Callable[[Path, Callable[[Path], None]], object]] = {
    "checkpoint": put("net.pth", lambda path: import_model([path], "profound_conv_micro", [], INPUT, "net")),
    "checkpoint of a stack": put("net.pth", lambda path: import_model([path], "meshnet", [], INPUT, "net")),
    "program": put("net.pt2", lambda path: import_model([path], "", [], INPUT, "net")),
    "description of a stack": put("net.json", lambda path: read_description(path, lambda default: default)),
    "weights of a bundle": put_weights,
    "configuration of a bundle": put_configuration,
    "splits in JSON": put("splits.json", read_splits),
    "splits in CSV": put("splits.csv", read_splits),
    "patients": put("patients.csv", read_patients),
    "declaration": put("declaration.json", lambda path: read_declaration(str(path))),
    "array": put("x.npy", lambda path: read_npy(path, "x")),
    "state of a monitor": put("state", read_state),
    "table of rows": put("rows.csv", lambda path: read_table(path, 2, "stream_table")),
}


@pytest.mark.timeout(120)  # instead of for ever
@pytest.mark.parametrize("make", [make_pipe, make_device, make_huge], ids=["pipe", "device", "128 GiB"])
@pytest.mark.parametrize("read", FILE_READERS.values(), ids=FILE_READERS)
def test_a_file_that_does_not_end_is_refused(
    tmp_path: Path, read: Callable[[Path, Callable[[Path], None]], object], make: Callable[[Path], None]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, make)
    assert caught.value.remedy
    assert str(tmp_path) not in str(caught.value)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = make_file(tmp_path, b"12345")
    assert read_regular_file(path, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_regular_file(path, 4)
    with pytest.raises(OSError, match="not a regular file"):
        read_regular_file(tmp_path, 5)
    assert MAX_WEIGHTS_BYTES < 2**37


def pack_state(compression: int = zipfile.ZIP_STORED, **arrays: Any) -> bytes:
    """The content of a state, which has the right digest whatever it holds."""
    named = {"header": np.frombuffer(b'{"fixed": {}, "stride": 1}', np.uint8), "monitor": np.zeros(3, np.uint8)}
    named |= {name: np.zeros(0) for name in ("ids", "features", "rows")}
    named |= {f"history.{name}": np.zeros((0, 4)) for name in ("points", "alarm", "peak", "last")}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, array in (named | arrays).items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", member.getvalue())
    return content.getvalue()


STATES = {
    "nothing": b"",
    "not an archive": b"x" * 100,
    "an archive of nothing": pack_state()[-22:],
    "no monitor": pack_state(),
    "an object to unpickle": pack_state(monitor=np.array([{"a": 1}], object)),
    "a compressed archive": pack_state(zipfile.ZIP_DEFLATED, monitor=np.zeros(2**24, np.uint8)),
    "a header that is no JSON": pack_state(header=np.frombuffer(b"[" * 100_000, np.uint8)),
    "a header of another type": pack_state(header=np.frombuffer(b"3", np.uint8)),
    "names without values": pack_state(ids=np.zeros(3)),
}


@pytest.mark.parametrize("content", STATES.values(), ids=STATES)
def test_a_state_that_holds_no_monitor_is_refused(tmp_path: Path, content: bytes) -> None:
    path = make_file(tmp_path, MAGIC + hashlib.sha256(content).digest() + content, "state")
    with pytest.raises(InvalidInput, match="does not contain a monitor") as caught:
        read_state(path)
    assert caught.value.remedy


KEYS = {
    "backslash": "volumes\\x",
    "backslash at the end": "volumes/x\\",
    "backslashes that climb": "volumes/..\\..\\x",
    "empty segment": "volumes//x",
    "segment that climbs": "volumes/../x",
    "line end": "volumes/x\n",
    "right-to-left override": "volumes/\u202ex",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_key_that_stores_read_in_another_way_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="not a canonical key"):
        check_key(key)


LAYERS = {
    "path that climbs": "../x",
    "path": "a/b",
    "empty segment": "a//b",
    "backslash": "a\\b",
    "dots": "..",
    "right-to-left override": "a\u202eb",
    "zero-width space": "a\u200bb",
    "control sequence of a terminal": "a\x1b[2Jb",
    "line end": "a\n",
    "space": "a b",
    "formula": "=1+1",
    "letter that looks like another": "lаyer",
    "129 characters": "a" * 129,
    "nothing": "",
}


@pytest.mark.parametrize("name", LAYERS.values(), ids=LAYERS)
def test_a_layer_with_another_name_than_a_path_of_modules_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Layer(name=name, channels=1)
    graph = make_graph(layers=[[name, "out"]], channels={name: 2}, strides=[[name, [1, 1, 1]]])
    with pytest.raises(InvalidInput):
        build_exported(make_state(graph), "program")


def test_layers_of_every_architecture_and_usual_paths_are_names() -> None:
    own = [layer.name for architecture in ARCHITECTURES.values() for layer in architecture.layers]
    for name in (*own, "encoder.blocks.3", "_orig_mod.net-1.conv", "add_12", "0", "blocks:3", "getitem_2"):
        Layer(name=name, channels=1)
    assert PROGRAM_INPUT.modalities
    assert build_exported(make_state(make_graph()), "program").layer_names() == ["out"]


TEXTS = {
    "right-to-left override": ("a\u202eb", "a\\u202eb"),
    "isolate": ("\u2066a\u2069", "\\u2066a\\u2069"),
    "zero-width space": ("a\u200bb", "a\\u200bb"),
    "control sequence of a terminal": ("\x1b]0;x\x07", "\\u001b]0;x\\u0007"),
    "control sequence of one byte": ("\x9b2J", "\\u009b2J"),
    "carriage return": ("safe\rharm", "safe\\rharm"),
    "line separator": ("a\u2028b", "a\\u2028b"),
    "tag": ("a\U000e0041", "a\\udb40\\udc41"),
    "half a pair": ("a\ud800", "a\\ud800"),
    "plain": ("Größe 3\u202f mm², ≥ 1 → 漢字\n\t", "Größe 3\u202f mm², ≥ 1 → 漢字\n\t"),
}


@pytest.mark.parametrize(("text", "shown"), TEXTS.values(), ids=TEXTS)
def test_no_text_controls_a_terminal_or_a_report(capsys: pytest.CaptureFixture[str], text: str, shown: str) -> None:
    assert to_printable(text) == shown
    line = shown.strip()
    table = new_table("Title", "name")
    table.add_row(text)
    Output.to_terminal().emit(None, table, text)
    Output.to_terminal(as_json=True).emit({"name": text})
    output = Output.to_terminal()
    output.note(text)
    output.fail(VfmalignError(text, subject=text, remedy=text))
    out, err = capsys.readouterr()
    assert out.count(line) == 3
    assert err.count(line) == 4
    output.emit(None, Text(text))
    out += capsys.readouterr().out
    assert to_printable(out + err) == out + err
    environment = load_template("macros.html.j2").environment
    for template in ("{{ text }}", "{{ text | safe }}", "<a title='{{ text }}'>"):
        assert line in environment.from_string(template).render(text=text)


def test_json_on_stdout_keeps_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    document = {name: text for name, (text, _) in TEXTS.items() if name != "half a pair"}
    Output.to_terminal(as_json=True).emit(document)
    assert cast(dict[str, Any], json.loads(capsys.readouterr().out)) == document


def test_a_link_to_a_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    secret = make_file(tmp_path, b"", "elsewhere/t2.nii.gz")
    for name in ("t2", "dwi", "adc"):
        make_file(tmp_path, b"", f"data/{name}.nii.gz")
    (tmp_path / "data/t2.nii.gz").unlink()
    (tmp_path / "data/t2.nii.gz").symlink_to(secret)
    assert [case.problems for case in read_folder(tmp_path / "data", None).cases] == [(OUTSIDE,)]
    (tmp_path / "data/t2.nii.gz").unlink()
    (tmp_path / "data/t2.nii.gz").symlink_to("dwi.nii.gz")
    assert [case.problems for case in read_folder(tmp_path / "data", None).cases] == [()]
