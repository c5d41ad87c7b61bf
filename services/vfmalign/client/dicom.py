"""Files of a DICOM study on this machine, for requests of Extract."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.formats.untrusted import describe_failure, read_regular_file

_MAX_FILE_BYTES = 2 * 2**30
_HIDDEN = "."


def read_files(path: Path) -> list[bytes]:
    """Returns the content of the files below a folder; hidden ones are left out.

    Raises:
        BadOption: it is no folder, has no files, or one cannot be read. The error does not name it, because names of
            files may hold patients' names.
    """
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(_HIDDEN)]
    if not files:
        raise BadOption(
            "there is no file of a study", field="dicom", remedy="give a folder of DICOM files, or a zip of them"
        )
    return _read(files)


def read_archive(path: Path) -> bytes:
    """Returns the content of a zip; raises as `read_files`."""
    return _read([path])[0]


def pack_files(contents: Sequence[bytes]) -> bytes:
    """Returns a zip of files, which it names by their number: their own names may hold patients' names."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as opened:
        for number, content in enumerate(contents, start=1):
            opened.writestr(f"{number:05d}.dcm", content)
    return archive.getvalue()


def _read(files: Sequence[Path]) -> list[bytes]:
    try:
        return [read_regular_file(file, _MAX_FILE_BYTES) for file in files]
    except OSError as error:
        raise BadOption(
            f"a file cannot be read: {describe_failure(error)}",
            field="dicom",
            remedy="give files that this account may read",
        ) from None
