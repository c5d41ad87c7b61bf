"""Files of a study on this machine: read without showing their names, and packed under other ones."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from vfmalign.client import dicom
from vfmalign.client.dicom import pack_files, read_archive, read_files
from vfmalign.core.domain.errors import BadOption

NAME = "Zauberberg"


def test_a_folder_is_read_and_packed_without_its_names(tmp_path: Path) -> None:
    hidden = [(name, b"hidden") for name in (".DS_Store", ".Trash/d.dcm", "__MACOSX/b.dcm")]
    for name, content in (("b.dcm", b"two"), ("a/c.dcm", b"one"), *hidden):
        path = tmp_path / NAME / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    contents = read_files(tmp_path / NAME)
    assert sorted(contents) == [b"one", b"two"]
    data = pack_files(contents)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["00001.dcm", "00002.dcm"]
        assert [archive.read(name) for name in archive.namelist()] == contents
    assert NAME.encode() not in data


def test_a_study_that_is_packed_again_has_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = pack_files([b"one"])
    monkeypatch.setattr(zipfile.time, "time", lambda: 2e9)  # type: ignore[attr-defined]
    assert pack_files([b"one"]) == first


def test_a_folder_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("1.dcm", "2.dcm"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(3 * 2**30)
    monkeypatch.setattr(dicom, "read_regular_file", None)
    with pytest.raises(BadOption, match="dicom: the study has more than 5,120 MiB"):
        read_files(tmp_path)


def test_what_cannot_be_read_is_refused_without_its_name(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / f"{NAME}-empty.zip").touch()
    with (tmp_path / f"{NAME}-large.zip").open("wb") as large:
        large.truncate(5 * 2**30 + 1)
    refused = {
        "the folder has no files": (read_files, NAME),
        "No such file": (read_archive, f"{NAME}.zip"),
        "the file is empty": (read_archive, f"{NAME}-empty.zip"),
        "more than 5,120 MiB": (read_archive, f"{NAME}-large.zip"),
    }
    for message, (read, name) in refused.items():
        path = tmp_path / name
        with pytest.raises(BadOption, match=message) as caught:
            read(path)
        assert caught.value.field == "dicom"
        assert caught.value.remedy
        assert NAME not in str(caught.value)
