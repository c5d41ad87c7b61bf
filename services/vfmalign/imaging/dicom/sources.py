"""Sources of DICOM files: a folder, a zip (which is never unpacked), or the files listed in a DICOMDIR.

File names may contain patients' names. Errors and notes therefore refer to files by number, never by name.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, Protocol, cast

from pydicom.multival import MultiValue

from vfmalign.core.domain.errors import BadDataset, BadVolume
from vfmalign.core.formats.documents import pluralise
from vfmalign.core.formats.untrusted import open_regular_file
from vfmalign.imaging.dicom.headers import refuse_damage
from vfmalign.imaging.dicom.instances import read_elements

MAX_FILES = 1_000_000
"""Maximum number of files of a source; a thousand patients with three series of 300 slices have 900,000."""
MAX_FILE_BYTES = 2 * 2**30
"""Maximum size of a file. An enhanced CT of 512 × 512 × 1,024 voxels of 16 bits takes a quarter of it."""
MAX_ZIP_BYTES = 4 * 2**40
"""Maximum total uncompressed size of a zip's members."""
MAX_RATIO = 100
"""Maximum ratio of the uncompressed size to the size of a zip, for contents of more than `_SMALL_BYTES`. Images
compress by a factor of 2 to 10.
"""
_ITEMS_PER_FILE = 20
"""Maximum number of items of a DICOMDIR per file: records of the file, its patient, its study and its series."""
_ITEMS_BESIDE_FILES = 10_000
"""Number of additional items of a DICOMDIR, such as for files that were not copied with it."""
_SMALL_BYTES = 2**30
_CHUNK_BYTES = 2**20
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DICOMDIR = "DICOMDIR"
_FOREIGN_FOLDER = "__MACOSX"


class OversizedZip(BadDataset):
    """A zip whose members together exceed `ZipLimits`."""


@dataclass(frozen=True)
class ZipLimits:
    """Limits on a zip.

    Attributes:
        files: maximum number of members.
        total_bytes: maximum total uncompressed size of the members.
        directory_bytes: maximum size of the zip's list of members; None for no limit. The list is read at once and
            takes ten times its size in memory.
    """

    files: int = MAX_FILES
    total_bytes: int = MAX_ZIP_BYTES
    directory_bytes: int | None = None


class _LimitedReader(io.BufferedReader):
    """Reader that limits a zip's list of members, the only large part that `zipfile` reads when it opens a zip.

    Attributes:
        limits: None once it is open, because members are read in pieces of any size.
    """

    def __init__(self, path: Path, limits: ZipLimits) -> None:
        super().__init__(io.FileIO(path))
        self.limits: ZipLimits | None = limits

    def read(self, size: int | None = -1, /) -> bytes:
        limits = self.limits
        if limits and limits.directory_bytes is not None and size is not None and size > limits.directory_bytes:
            raise _too_many(limits.files)
        return super().read(size)

    def __del__(self) -> None:
        self.close()  # as `ZipFile` does with a file of its own: cases keep their source until they are imported


class DicomSource(Protocol):
    """DICOM files by name.

    Attributes:
        files: file names in order; private, because they may contain patients' names.
        notes: notes on omitted files, without patients' names.
    """

    files: Sequence[str]
    notes: tuple[str, ...]

    def open(self, name: str) -> BinaryIO:
        """Opens a file for reading as a seekable stream.

        Raises:
            OSError: the file cannot be read, or is larger than `MAX_FILE_BYTES`.
        """

    def close(self) -> None:
        """Closes the source."""


class FolderSource:
    """Files below a folder; see `DicomSource`."""

    def __init__(self, folder: Path, files: Sequence[str], notes: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self.files = files
        self.notes = notes

    def open(self, name: str) -> BinaryIO:
        """See `DicomSource`."""
        return open_regular_file(self._folder / name, MAX_FILE_BYTES)

    def close(self) -> None:
        """See `DicomSource`."""


class ZipSource:
    """Members of a zip, decompressed only as far as they are read; see `DicomSource`.

    Raises:
        BadDataset: the file is not a zip, or is a zip that imports refuse.
    """

    def __init__(self, path: Path, limits: ZipLimits = ZipLimits()) -> None:
        self._file = _LimitedReader(path, limits)
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._file.limits = None
        except BadDataset:
            self._file.close()
            raise
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
            self._file.close()
            remedy = "copy it again, or give a folder or a DICOMDIR"
            raise _refuse("the file is not a zip, or is truncated", remedy) from None
        try:
            # Not by `is_dir`, which expects a name of at least one character.
            members = [member for member in self._zip.infolist() if not member.filename.endswith("/")]
            _check_members(members, path.stat().st_size, limits)
            self._members = {member.filename: member for member in members if not _is_hidden(member.filename)}
            self.files: Sequence[str] = sorted(self._members)
            self.notes = _note_left_out({("file", "hidden"): len(members) - len(self.files)})
            directory = next((name for name in self.files if name.upper() == _DICOMDIR), None)
            if directory is not None:
                with self.open(directory) as file:
                    self.files, notes = _keep_listed(self.files, file)
                self.notes += notes
        except BadDataset:
            self.close()
            raise

    def open(self, name: str) -> BinaryIO:
        """See `DicomSource`."""
        if self._members[name].file_size > MAX_FILE_BYTES:
            raise OSError(f"larger than {MAX_FILE_BYTES // 2**20} MiB")
        return cast(BinaryIO, self._zip.open(self._members[name]))

    def close(self) -> None:
        """See `DicomSource`."""
        self._zip.close()
        self._file.close()


def open_source(path: Path) -> DicomSource:
    """Opens a folder, a zip, or the folder of a DICOMDIR.

    Hidden files and links to folders are omitted, with a note. If a folder or zip contains a DICOMDIR, only the files
    that the DICOMDIR lists are used.

    Raises:
        BadDataset: the path is neither a folder, a zip nor a DICOMDIR, contains links that lead outside, is too large,
            or is a zip that imports refuse.
        OSError: a folder cannot be read.
    """
    if path.is_dir():
        entries = (path / name for name in sorted(os.listdir(path)) if name.upper() == _DICOMDIR)
        directory = next((entry for entry in entries if entry.is_file()), None)
        return _open_folder(path, directory)
    if path.name.upper() == _DICOMDIR:
        return _open_folder(path.parent, path)
    if not path.is_file():
        raise _refuse("it is neither a folder nor a file", "give a folder, a zip or a DICOMDIR")
    return ZipSource(path)


def place_file(source: DicomSource, number: int) -> str:
    """Returns the label of a file in error messages: a number, because the name may contain a patient's name."""
    return f"file {number + 1} of {len(source.files)}"


@contextmanager
def name_file(source: DicomSource, name: str) -> Iterator[None]:
    """Adds the file's label to errors that the `with` block raises."""
    try:
        yield
    except BadVolume as error:
        if name in source.files:  # a source that was opened again may have lost it
            error.args = (f"{place_file(source, source.files.index(name))}: {error.message}",)
        raise


def digest_file(source: DicomSource, name: str) -> bytes:
    """Returns the SHA-256 of a file."""
    digest = hashlib.sha256()
    with source.open(name) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.digest()


def _open_folder(folder: Path, directory: Path | None) -> FolderSource:
    files, notes = _list_files(folder)
    if directory is None:
        return FolderSource(folder, files, notes)
    try:
        with open_regular_file(directory, MAX_FILE_BYTES) as file:
            listed, others = _keep_listed(files, file)
    except OSError:
        raise _refuse_directory() from None
    return FolderSource(folder, listed, notes + others)


def _list_files(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """Names of the files below a folder, in order, and notes on files that were left out.

    Raises:
        BadDataset: a link leads out of the folder, or there are too many files.
        OSError: a folder cannot be read.
    """
    root = folder.resolve()
    files: list[str] = []
    left_out: Counter[tuple[str, str]] = Counter()
    outside = 0
    for parent, folders, names in os.walk(folder, onerror=_raise):
        left_out["folder", "hidden"] += sum(map(_is_hidden, folders))
        folders[:] = [name for name in folders if not _is_hidden(name)]
        left_out["link", "to a folder"] += sum(Path(parent, name).is_symlink() for name in folders)
        left_out["file", "hidden"] += sum(map(_is_hidden, names))
        for name in names:
            path = Path(parent, name)
            if _is_hidden(name):
                continue
            if len(files) == MAX_FILES:
                raise _too_many(MAX_FILES)
            if path.is_symlink() and not _resolves_below(path, root):
                outside += 1
            files.append(path.relative_to(folder).as_posix())
    if outside:
        raise _refuse(f"{pluralise(outside, 'link')} to nothing, or out of the folder", "replace links by the files")
    return sorted(files), _note_left_out(left_out)


def _note_left_out(counts: Mapping[tuple[str, str], int]) -> tuple[str, ...]:
    return tuple(f"left out: {pluralise(count, noun)} ({why})" for (noun, why), count in counts.items() if count)


def _resolves_below(path: Path, root: Path) -> bool:
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # a link to nothing, or a loop of links
        return False


def _keep_listed(files: Sequence[str], directory: BinaryIO) -> tuple[list[str], tuple[str, ...]]:
    """The files that a DICOMDIR lists, and a note on the others.

    Names on discs are in upper case, and copies of them often in lower case.
    """
    by_name = {name.upper(): name for name in files}
    references = _read_references(directory, _ITEMS_BESIDE_FILES + _ITEMS_PER_FILE * len(files))
    listed = sorted({by_name[name] for name in references if name in by_name})
    if missing := len(references - by_name.keys()):
        raise _refuse(
            f"the DICOMDIR lists {pluralise(missing, 'file')} that its folder does not have",
            "copy the medium again, or remove the DICOMDIR to import the files that are there",
        )
    return listed, _note_left_out({("file", "not listed by the DICOMDIR"): len(files) - len(listed) - 1})


def _read_references(directory: BinaryIO, max_items: int) -> set[str]:
    """Names of the files that a DICOMDIR lists, with `/` between folders, in upper case."""
    names: set[str] = set()
    try:
        with refuse_damage("DICOMDIR"):
            for record in read_elements(directory, max_items).dataset.DirectoryRecordSequence:
                if (parts := record.get("ReferencedFileID")) is not None:
                    names.add("/".join(parts if isinstance(parts, MultiValue) else [parts]).upper())
    except BadVolume:
        raise _refuse_directory() from None
    return names


def _refuse_directory() -> BadDataset:
    return _refuse("the DICOMDIR cannot be read", "copy the medium again, or remove the DICOMDIR")


def _check_members(members: Sequence[zipfile.ZipInfo], size_bytes: int, limits: ZipLimits) -> None:
    """Refuses a zip that is too large, or that contains anything but files below it.

    The declared sizes can be trusted, because a member is never read beyond its declared size.
    """
    if len(members) > limits.files:
        raise _too_many(limits.files)
    checks = (
        (_leaves, "whose path leaves it, is absolute, or contains `..`", "zip the folder again"),
        (_is_no_file, "of another kind than a file, such as a link", "zip the files alone"),
        (_is_encrypted, "with encryption", "zip the folder without a password"),
        (_is_compressed_otherwise, "compressed by another method than Deflate", "zip the folder with Deflate"),
    )
    for check, what, remedy in checks:
        if count := sum(map(check, members)):
            raise _refuse(f"the zip has {pluralise(count, 'member')} {what}", remedy)
    if repeated := sum(count - 1 for count in Counter(member.filename for member in members).values()):
        raise _refuse(f"the zip has {pluralise(repeated, 'member')} with the name of another", "zip the folder again")
    total_bytes = sum(member.file_size for member in members)
    if total_bytes > limits.total_bytes:
        message = f"the zip holds more than {limits.total_bytes // 2**20:,} MiB"
        raise OversizedZip(message, field="directory", remedy="divide it into several")
    if total_bytes > max(_SMALL_BYTES, MAX_RATIO * size_bytes):
        raise _refuse(
            f"the zip holds {total_bytes // 2**20:,} MiB, over {MAX_RATIO} times its own size, unlike any images",
            "unpack it, look at the files, and import the folder",
        )


def _leaves(member: zipfile.ZipInfo) -> bool:
    name = member.orig_filename.replace("\\", "/")
    return (
        ".." in PurePosixPath(name).parts or name.startswith("/") or "\0" in name or bool(PureWindowsPath(name).drive)
    )


def _is_no_file(member: zipfile.ZipInfo) -> bool:
    mode = member.external_attr >> 16
    return stat.S_IFMT(mode) not in (0, stat.S_IFREG)


def _is_encrypted(member: zipfile.ZipInfo) -> bool:
    return bool(member.flag_bits & 1)


def _is_compressed_otherwise(member: zipfile.ZipInfo) -> bool:
    return member.compress_type not in _COMPRESSIONS


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == _FOREIGN_FOLDER for part in PurePosixPath(name).parts)


def _raise(error: OSError) -> None:
    raise error


def _too_many(limit: int) -> BadDataset:
    return _refuse(f"more than {limit:,} files", "divide them into several")


def _refuse(message: str, remedy: str) -> BadDataset:
    return BadDataset(message, field="directory", remedy=remedy)
