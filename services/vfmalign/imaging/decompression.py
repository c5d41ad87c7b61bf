"""Decompresses untrusted gzip files in linear time. Limits memory and members, and can be cancelled."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from vfmalign.core.domain.errors import BadVolume
from vfmalign.core.runtime.work_context import WorkContext

_inflater: ModuleType = zlib
try:
    from isal import isal_zlib
except ImportError:  # no wheel for this processor; zlib takes 50 % longer
    pass
else:
    _inflater = isal_zlib

MAX_GZIP_MEMBERS = 1024
CHUNK_BYTES = 2**16
"""Compressed bytes passed to a decompressor at a time, because it copies all input after the end of its member."""
_PIECE_BYTES = 2**22
"""Uncompressed bytes that are copied at a time; a chunk may expand to a thousand times its size."""
_GZIP_MAGIC = b"\x1f\x8b"


def decompress(data: bytes | memoryview, limit: int, name: str, context: WorkContext) -> memoryview:
    """Returns at most the first `limit` uncompressed bytes of a file. Decompression stops at this limit.

    Args:
        data: the file's content, compressed with gzip or not.
        limit: maximum number of uncompressed bytes.
        name: the file's name in error messages.
        context: checked before every chunk.

    Raises:
        BadVolume: the gzip data are damaged or truncated, or contain more than `MAX_GZIP_MEMBERS` members.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    if data[:2] != _GZIP_MAGIC:
        return memoryview(data)[:limit]
    file = _GzipFile(data, limit, name, context)
    # A gzip file may consist of several members in a row (pigz, bgzip), and end in zero padding.
    for _ in range(MAX_GZIP_MEMBERS):
        file.inflate_member()
        file.skip_zeros()
        if file.position >= len(data) or file.size >= limit:
            return file.content[: file.size]
    raise BadVolume(
        f"more than {MAX_GZIP_MEMBERS} gzip members",
        subject=name,
        remedy="decompress the file and compress it again with gzip",
    )


@dataclass
class _GzipFile:
    """A file that is decompressed from a position on.

    Attributes:
        data, limit, name, context: see `decompress`.
        content: `limit` bytes, of which `size` are filled. The system provides memory only for the filled bytes;
            a growing buffer would be copied.
    """

    data: bytes | memoryview
    limit: int
    name: str
    context: WorkContext
    position: int = 0
    size: int = 0
    content: memoryview = field(init=False)

    def __post_init__(self) -> None:
        self.content = np.empty(self.limit, np.uint8).data

    def inflate_member(self) -> None:
        """Decompresses from the current position to the end of the gzip member, or to the limit."""
        decompressor = _inflater.decompressobj(wbits=31)
        while not decompressor.eof and self.size < self.limit:
            chunk = self._get_chunk()
            if not chunk:
                raise BadVolume("truncated .nii.gz", subject=self.name, remedy="copy or export the file again")
            try:
                piece = decompressor.decompress(chunk, min(_PIECE_BYTES, self.limit - self.size))
            except _inflater.error:
                raise BadVolume(
                    "damaged gzip data", subject=self.name, remedy="copy or export the file again"
                ) from None
            self.content[self.size : self.size + len(piece)] = piece
            self.size += len(piece)
            self.position += len(chunk) - len(decompressor.unused_data) - len(decompressor.unconsumed_tail)

    def skip_zeros(self) -> None:
        """Moves the position to the next nonzero byte."""
        while chunk := self._get_chunk():
            rest = chunk.lstrip(b"\0")
            self.position += len(chunk) - len(rest)
            if rest:
                return

    def _get_chunk(self) -> bytes:
        self.context.checkpoint()
        return bytes(self.data[self.position : self.position + CHUNK_BYTES])
