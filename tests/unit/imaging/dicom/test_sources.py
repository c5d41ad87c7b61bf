"""Folders, zips and DICOMDIRs: what is read of them, and which are refused."""

from __future__ import annotations

import gc
import os
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread, uid
from pydicom.fileset import FileSet
from tests.dicom_files import make_array, write_series

from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.dicom import instances, sources
from vfmalign.imaging.dicom.sources import ZipLimits, ZipSource, digest_file, open_source

NAME = "Zauberberg^Walpurga"


def make_zip(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return path


def read_all(path: Path) -> dict[str, bytes]:
    source = open_source(path)
    content = {}
    for name in source.files:
        with source.open(name) as file:
            content[name] = file.read()
    source.close()
    return content


def test_a_folder_and_a_zip_of_it_give_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "d"
    (folder / "a/b").mkdir(parents=True)
    (folder / ".git").mkdir()
    contents = {"a/b/1": b"one", "2.dcm": b"two", ".DS_Store": b"no", ".git/x": b"no"}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    archive = make_zip(tmp_path / "d.zip", ("__MACOSX/._2.dcm", b"no"), *contents.items())

    before = set(tmp_path.rglob("*"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    expected = {"a/b/1": b"one", "2.dcm": b"two"}
    assert read_all(folder) == read_all(archive) == expected
    assert [digest_file(open_source(path), "a/b/1") for path in (folder, archive)] == [
        digest_file(open_source(folder), "a/b/1")
    ] * 2
    assert set(tmp_path.rglob("*")) == before, "nothing is unpacked"


def test_links_that_lead_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "1").write_bytes(b"one")
    (folder / "inside").symlink_to(folder / "1")
    assert sorted(open_source(folder).files) == ["1", "inside"]
    (tmp_path / NAME).write_bytes(b"two")
    (folder / "outside").symlink_to(tmp_path / NAME)
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(
        BadDataset, match="2 links to nothing, or out of the folder; replace links by the files"
    ) as caught:
        open_source(folder)
    assert NAME not in str(caught.value)


def test_links_to_folders_and_hidden_files_are_left_out_with_a_note(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    (folder / ".cache/more").mkdir(parents=True)
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "again").symlink_to(folder)
    source = open_source(folder)
    assert not source.files
    assert source.notes == (
        "left out: 1 folder (hidden)", "left out: 1 link (to a folder)", "left out: 1 file (hidden)",
    )  # fmt: skip
    with closing(open_source(make_zip(tmp_path / "d.zip", ("a", b""), ("__MACOSX/._a", b"")))) as archive:
        assert archive.notes == ("left out: 1 file (hidden)",)


def _member(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def _named(name: str) -> zipfile.ZipInfo:
    """A member whose name zipfile would correct in its constructor."""
    info = zipfile.ZipInfo("x")
    info.filename = name
    return info


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (_named(f"../{NAME}"), "1 member whose path leaves it"),
        (_named("a/../../b"), "1 member whose path leaves it"),
        (_named("/etc/passwd"), "1 member whose path leaves it"),
        (_named("..\\b"), "1 member whose path leaves it"),
        (_named("C:\\b"), "1 member whose path leaves it"),
        (
            _member("a", stat.S_IFLNK | 0o777),
            "the zip has 1 member of another kind than a file, such as a link; zip the files alone",
        ),
        (_member("a", stat.S_IFIFO), "1 member of another kind than a file"),
    ],
)
def test_zips_that_lead_out_of_themselves_are_refused(tmp_path: Path, member: zipfile.ZipInfo, reason: str) -> None:
    archive = make_zip(tmp_path / "d.zip", (member, b"/etc/passwd"))
    with pytest.raises(BadDataset, match=reason) as caught:
        open_source(archive)
    assert NAME not in str(caught.value)


def test_a_member_without_a_name_is_a_file(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "d.zip", (zipfile.ZipInfo(""), b"one"), ("a/", b""))
    assert read_all(archive) == {"": b"one"}


def test_encrypted_zips_are_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "d.zip", ("a", b"secret"))
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    archive.write_bytes(data)
    with pytest.raises(BadDataset, match="the zip has 1 member with encryption; zip the folder without a password"):
        open_source(archive)


def test_other_compressions_and_repeated_names_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", b"x" * 100)
    with pytest.raises(BadDataset, match="the zip has 1 member compressed by another method than Deflate"):
        open_source(tmp_path / "lzma.zip")
    with pytest.warns(UserWarning, match="Duplicate name"):
        make_zip(tmp_path / "twice.zip", ("a", b"1"), ("a", b"2"))
    with pytest.raises(BadDataset, match="with the name of another"):
        open_source(tmp_path / "twice.zip")


def test_a_zip_bomb_is_refused_by_what_it_declares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_SMALL_BYTES", 2**20)
    archive = make_zip(tmp_path / "d.zip", *((f"{number}", bytes(2**20)) for number in range(4)))
    with pytest.raises(BadDataset, match="the zip holds 4 MiB, over 100 times its own size, unlike any images"):
        open_source(archive)
    with pytest.raises(BadDataset, match="the zip holds more than 1 MiB"):
        ZipSource(archive, ZipLimits(total_bytes=2**20))
    for limits in (ZipLimits(files=3), ZipLimits(files=3, directory_bytes=100)):
        with pytest.raises(BadDataset, match="more than 3 files; divide them into several"):
            ZipSource(archive, limits)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_may_be_larger_than_the_list_of_members(tmp_path: Path, compression: int) -> None:
    content = os.urandom(10_000)
    with zipfile.ZipFile(tmp_path / "d.zip", "w", compression) as archive:
        archive.writestr("a", content)
    with closing(ZipSource(tmp_path / "d.zip", ZipLimits(directory_bytes=1000))) as source, source.open("a") as file:
        assert file.read() == content


def test_a_member_that_declares_less_than_it_holds_gives_no_more(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "d.zip", ("a", bytes(2**20)))
    data = archive.read_bytes()
    archive.write_bytes(data.replace((2**20).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    source = open_source(archive)
    with source.open("a") as file, pytest.raises(zipfile.BadZipFile):
        file.read()
    source.close()


@pytest.mark.parametrize("change", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no zip"])
def test_what_is_no_zip_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    archive = make_zip(tmp_path / "d.zip", ("a", os.urandom(1000)), ("b", os.urandom(1000)))
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(BadDataset, match="the file is not a zip, or is truncated; copy it again"):
        open_source(archive)


def _make_medium(folder: Path) -> Path:
    """A medium as it is burnt on a disc, with its files in folders of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # pydicom leaves its temporary folder to the collector
        files = FileSet()
        for path in write_series(folder.parent / "originals"):
            files.add(path)
        files.write(folder)
        del files
        gc.collect()
    return folder


def test_a_dicomdir_says_which_files_are_used(tmp_path: Path) -> None:
    medium = _make_medium(tmp_path / "medium")
    (medium / "viewer.exe").write_bytes(b"MZ")
    for path in (medium, medium / "DICOMDIR"):
        source = open_source(path)
        assert len(source.files) == 5
        assert source.notes == ("left out: 1 file (not listed by the DICOMDIR)",)
        with source.open(source.files[0]) as file:
            assert dcmread(file).Modality == "MR"


def test_a_dicomdir_decides_in_a_zip_as_in_a_folder(tmp_path: Path) -> None:
    medium = _make_medium(tmp_path / "medium")
    (medium / "viewer.exe").write_bytes(b"MZ")
    with zipfile.ZipFile(tmp_path / "medium.zip", "w") as archive:
        for path in sorted(path for path in medium.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(medium))
    with closing(open_source(tmp_path / "medium.zip")) as source:
        assert list(source.files) == list(open_source(medium).files)
        assert source.notes == ("left out: 1 file (not listed by the DICOMDIR)",)
    with zipfile.ZipFile(tmp_path / "medium.zip", "w") as archive:
        archive.write(medium / "DICOMDIR", "DICOMDIR")
    with pytest.raises(BadDataset, match="the DICOMDIR lists 5 files that its folder does not have"):
        open_source(tmp_path / "medium.zip")


def test_a_dicomdir_may_be_copied_in_lower_case(tmp_path: Path) -> None:
    medium = _make_medium(tmp_path / "medium")
    for path in sorted(medium.rglob("*"), reverse=True):
        path.rename(path.with_name(path.name.lower()))
    assert len(open_source(medium).files) == 5


def test_a_dicomdir_whose_files_are_missing_or_outside_is_refused(tmp_path: Path) -> None:
    medium = _make_medium(tmp_path / "medium")
    listed = open_source(medium).files
    (medium / listed[-1]).unlink()
    with pytest.raises(BadDataset, match="the DICOMDIR lists 1 file that its folder does not have; copy the medium"):
        open_source(medium)
    directory = dcmread(medium / "DICOMDIR")
    record = Dataset()
    record.ReferencedFileID = ["..", "originals", "IM00000.dcm"]
    directory.DirectoryRecordSequence = [record]
    directory.save_as(medium / "DICOMDIR")
    with pytest.raises(BadDataset, match="the DICOMDIR lists 1 file that its folder does not have"):
        open_source(medium)
    (medium / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + uid.generate_uid().encode())
    with pytest.raises(BadDataset, match="the DICOMDIR cannot be read"):
        open_source(medium)


def test_what_is_neither_a_folder_nor_a_file_is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadDataset, match="neither a folder nor a file"):
        open_source(tmp_path / "pipe")


def test_a_dicomdir_that_is_compressed_as_a_whole_is_inflated_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    medium = _make_medium(tmp_path / "medium")
    directory = dcmread(medium / "DICOMDIR")
    directory.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    directory.save_as(medium / "DICOMDIR")
    assert len(open_source(medium).files) == 5
    monkeypatch.setattr(instances, "MAX_INFLATED_BYTES", 64)
    with pytest.raises(BadDataset, match="the DICOMDIR cannot be read"):
        open_source(medium)


def test_a_dicomdir_of_more_records_than_its_files_need_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_series(tmp_path, make_array((40, 34, 1)))
    directory = Dataset()
    directory.DirectoryRecordSequence = [Dataset()] * 10_041
    directory.file_meta = dcmread(path).file_meta
    directory.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    monkeypatch.setattr(instances, "_parse", lambda data: pytest.fail("parsed"))
    with pytest.raises(BadDataset, match="the DICOMDIR cannot be read"):
        open_source(tmp_path)
