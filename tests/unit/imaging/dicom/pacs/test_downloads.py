"""Instances out of a multipart answer, however it is cut into chunks."""

from __future__ import annotations

import io
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.dicom_files import make_series

from vfmalign.core.domain.errors import BadPacsAnswer, PacsUnavailable
from vfmalign.imaging.dicom.pacs.downloads import InstanceWriter, get_file_name
from vfmalign.imaging.dicom.pacs.servers import PacsServer

SERVER = PacsServer(name="ward", url="https://pacs.example")
TYPE = 'Multipart/Related; Type="application/dicom"; boundary="b-0\'9"'
BOUNDARY = b"b-0'9"


def make_parts(count: int = 3) -> dict[str, bytes]:
    """Files by identifier; they hold what looks like the beginning of a boundary."""
    parts = {}
    for dataset in make_series()[:count]:
        dataset.ImageComments = "\r\n--b-0\r\n--b-0'"
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        parts[str(dataset.SOPInstanceUID)] = file.getvalue()
    return parts


def join(parts: dict[str, bytes]) -> bytes:
    head = b"Content-Type: application/dicom\r\n\r\n"
    return b"".join(b"\r\n--" + BOUNDARY + b"\r\n" + head + part for part in parts.values())


def write(data: bytes, folder: Path, wanted: list[str], size: int = 1_000) -> InstanceWriter:
    writer = InstanceWriter(TYPE, folder, wanted, SERVER)
    try:
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
    finally:
        writer.close()
    return writer


@pytest.mark.parametrize("size", [1, 7, 1_000, 2**20])
def test_instances_are_files_whatever_the_chunks(tmp_path: Path, size: int) -> None:
    parts = make_parts()
    write(join(parts) + b"\r\n--" + BOUNDARY + b"--\r\n", tmp_path, list(parts), size).finish()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        get_file_name(uid): part for uid, part in parts.items()
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_an_identifier_that_is_not_quite_one_is_never_printed(tmp_path: Path) -> None:
    """In a process of its own: others may have silenced pydicom before."""
    program = f"""
from pathlib import Path
from vfmalign.imaging.dicom.pacs.downloads import InstanceWriter
from vfmalign.imaging.dicom.pacs.servers import PacsServer

uid = b"1.2.840.0113619.04711"
part = bytes(128) + b"DICM\\x02\\x00\\x03\\x00UI" + (22).to_bytes(2, "little") + uid + bytes(1)
server = PacsServer(name="ward", url="https://pacs.example")
writer = InstanceWriter('multipart/related; type="application/dicom"; boundary=x', Path({str(tmp_path)!r}), [], server)
writer.write(b"--x\\r\\n\\r\\n" + part + b"\\r\\n--x\\r\\n\\r\\n" + part + b"\\r\\n--x--")
writer.finish()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_half_an_answer_leaves_whole_instances_alone(tmp_path: Path) -> None:
    parts = make_parts()
    data = join(parts)
    writer = write(data[: -len(list(parts.values())[-1]) // 2], tmp_path, list(parts))
    with pytest.raises(PacsUnavailable):
        writer.finish()
    assert {path.name for path in tmp_path.iterdir()} == set(map(get_file_name, list(parts)[:2]))


def test_what_was_not_asked_for_is_dropped(tmp_path: Path) -> None:
    parts = make_parts()
    first = next(iter(parts))
    write(join(parts) + b"\r\n--" + BOUNDARY + b"--", tmp_path, [first]).finish()
    assert [path.name for path in tmp_path.iterdir()] == [get_file_name(first)]


@pytest.mark.parametrize("content", [b"", b"DICM", b"\0" * 128 + b"DICM", b"\0" * 200, b"\x02\0\x03\0UI\xff\xff" * 99])
def test_a_part_that_is_no_instance_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadPacsAnswer, match="not a DICOM instance"):
        write(join({"1": content}) + b"\r\n--" + BOUNDARY + b"--", tmp_path, ["1"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/related; boundary=x",
        'multipart/related; type="application/dicom"',
        'multipart/related; type="application/dicom+xml"; boundary=x',
        f'multipart/related; type="application/dicom"; boundary={"x" * 10_000}',
    ],
)
def test_another_content_type_is_refused(tmp_path: Path, content_type: str) -> None:
    with pytest.raises(BadPacsAnswer):
        InstanceWriter(content_type, tmp_path, [], SERVER)
