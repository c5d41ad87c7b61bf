"""Downloads: writes the instances of a multipart answer to files, in constant memory."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from pydicom.filereader import read_partial
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from vfmalign.imaging.dicom.headers import silence_libraries
from vfmalign.imaging.dicom.pacs.servers import PacsServer
from vfmalign.imaging.dicom.pacs.session import to_bad_answer, to_unavailable
from vfmalign.imaging.dicom.sources import MAX_FILE_BYTES
from vfmalign.imaging.private_files import open_private_file

_PARTIAL = ".part"
_META_BYTES = 64 * 2**10
"""Number of bytes of an instance that are read to find its identifier; file meta information has less than 1 KiB."""


def get_file_name(instance_uid: str) -> str:
    """Returns the file name of an instance. The name does not reveal the instance's identifier."""
    return f"{hashlib.sha256(instance_uid.encode()).hexdigest()[:40]}.dcm"


class InstanceWriter:
    """Writes each part of an answer to a file. The file gets its final name once it is complete.

    Args:
        content_type: header of the answer.
        folder: destination.
        wanted: identifiers of the instances to write. Other instances are dropped.
        server: the server, for errors.

    Raises:
        BadPacsAnswer: the answer does not consist of instances.
    """

    def __init__(self, content_type: str, folder: Path, wanted: Collection[str], server: PacsServer) -> None:
        self._server = server
        self._folder = folder
        self._wanted = wanted
        self._file: BinaryIO | None = None
        self._is_complete = False
        silence_libraries()  # pydicom would quote a malformed identifier
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)  # the errors below say more
        parameters = parse_options_header(content_type)[1]
        kind = parameters.get(b"type", b"").lower()
        if not parameters.get(b"boundary") or kind != b"application/dicom":
            raise to_bad_answer(self._server, "something other than DICOM instances in parts with a boundary")
        try:
            self._parser = MultipartParser(
                parameters[b"boundary"],
                {
                    "on_part_begin": self._begin,
                    "on_part_data": self._add,
                    "on_part_end": self._end,
                    "on_end": self._complete,
                },
            )
        except FormParserError:
            raise to_bad_answer(self._server, "a boundary that is too long") from None

    def write(self, data: bytes) -> None:
        """Processes the next bytes of the answer.

        Raises:
            BadPacsAnswer: the bytes are not parts with DICOM instances.
        """
        try:
            self._parser.write(data)
        except FormParserError:
            raise to_bad_answer(self._server, "parts that do not match its boundary") from None

    def close(self) -> None:
        """Removes the file of an incomplete part."""
        if self._file is not None:
            self._file.close()
            self._file = None
        (self._folder / _PARTIAL).unlink(missing_ok=True)

    def finish(self) -> None:
        """Ends the answer. The whole answer must have been received.

        Raises:
            PacsUnavailable: the last boundary of the answer is missing.
        """
        if not self._is_complete:
            raise to_unavailable(self._server, "its answer ended early")

    def _begin(self) -> None:
        self._file = open_private_file(self._folder / _PARTIAL)

    def _add(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            if self._file.tell() + end - start > MAX_FILE_BYTES:
                raise to_bad_answer(self._server, f"an instance of more than {MAX_FILE_BYTES // 2**20} MiB")
            self._file.write(data[start:end])

    def _end(self) -> None:
        if self._file is not None:
            uid = self._read_identifier(self._file)
            self._file.close()
            self._file = None
            if uid in self._wanted:
                (self._folder / _PARTIAL).replace(self._folder / get_file_name(uid))

    def _complete(self) -> None:
        self._is_complete = True

    def _read_identifier(self, file: BinaryIO) -> str:
        file.seek(0)
        try:
            start = read_partial(io.BytesIO(file.read(_META_BYTES)), stop_when=lambda *_: True)
            return str(start.file_meta.MediaStorageSOPInstanceUID)
        except Exception:  # of many types, for what is not DICOM
            raise to_bad_answer(self._server, "a part that is not a DICOM instance") from None
