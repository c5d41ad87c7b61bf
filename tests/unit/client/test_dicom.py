"""Files of a study on this machine: read without showing their names, and packed under other ones."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from vfmalign.client.dicom import pack_files, read_archive, read_files
from vfmalign.core.domain.errors import BadOption

NAME = "Zauberberg"


def test_a_folder_is_read_and_packed_without_its_names(tmp_path: Path) -> None:
    for name, content in (("b.dcm", b"two"), ("a/c.dcm", b"one"), (".DS_Store", b"hidden")):
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


def test_what_cannot_be_read_is_refused_without_its_name(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    for read, path in ((read_files, tmp_path / NAME), (read_archive, tmp_path / f"{NAME}.zip")):
        with pytest.raises(BadOption) as caught:
            read(path)
        assert caught.value.field == "dicom"
        assert caught.value.remedy
        assert NAME not in str(caught.value)
