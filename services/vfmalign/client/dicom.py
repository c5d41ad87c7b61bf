"""Reads the files of a local DICOM study for `Extract` requests."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.formats.bounds import get_bounds, get_field
from vfmalign.core.formats.untrusted import describe_failure, read_regular_file
from vfmalign.v1 import common_pb2

_MAX_BYTES = int(get_bounds(get_field(common_pb2.FileContent, "size_bytes")).max)
"""Maximum bytes of all files together, which are held in memory: the size of the largest upload."""
_LEFT_OUT = (".", "__MACOSX")
"""Prefixes of the names of hidden files and folders, which an import leaves out as well."""


def read_files(path: Path) -> list[bytes]:
    """Returns the content of the files below a folder, except hidden files and folders.

    Raises:
        BadOption: the path is not a folder or has no files, or the files are too large or cannot be read. The error
            does not name a file, because names of files may contain patients' names.
    """
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part.startswith(_LEFT_OUT) for part in file.relative_to(path).parts)
    ]
    if not files:
        raise BadOption(
            "the folder has no files", field="dicom", remedy="give a folder of DICOM files, or a zip of them"
        )
    return _read(files)


def read_archive(path: Path) -> bytes:
    """Returns the content of a zip file. Raises the same errors as `read_files`."""
    (content,) = _read([path])
    if not content:
        raise BadOption("the file is empty", field="dicom", remedy="give a folder of DICOM files, or a zip of them")
    return content


def pack_files(contents: Sequence[bytes]) -> bytes:
    """Packs files into a zip. Numbers replace the file names, because file names may contain patients' names.

    The same files always produce the same zip. A study that is sent twice is therefore uploaded only once.
    """
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for number, content in enumerate(contents, start=1):
            member = zipfile.ZipInfo(f"{number:05d}.dcm")  # with a constant date
            opened.writestr(member, content, zipfile.ZIP_DEFLATED, compresslevel=1)
    return archive.getvalue()


def _read(files: Sequence[Path]) -> list[bytes]:
    try:
        if sum(file.stat().st_size for file in files) > _MAX_BYTES:
            raise BadOption(
                f"the study has more than {_MAX_BYTES // 2**20:,} MiB",
                field="dicom",
                remedy="give only the series that the model takes, or name the study at a PACS",
            )
        return [read_regular_file(file, _MAX_BYTES) for file in files]
    except OSError as error:
        raise BadOption(
            f"a file cannot be read: {describe_failure(error)}",
            field="dicom",
            remedy="give files that this account may read",
        ) from None
