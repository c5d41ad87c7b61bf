"""Decompression of untrusted gzip files: linear in their size, bounded in memory and members, and cancellable."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from types import ModuleType

from vfmalign.core.domain.errors import BadVolume
from vfmalign.core.runtime.work_context import WorkContext

_inflater: ModuleType = zlib
try:
    from isal import isal_zlib
except ImportError:  # no wheel for this processor; zlib takes half as long again
    pass
else:
    _inflater = isal_zlib

MAX_GZIP_MEMBERS = 1024
CHUNK_BYTES = 2**16
"""Compressed bytes passed to a decompressor at a time: it copies the input that follows its member."""
_GZIP_MAGIC = b"\x1f\x8b"


def decompress(data: bytes, limit: int, name: str, context: WorkContext) -> bytes | bytearray:
    """The first `limit` uncompressed bytes of a file (all where it has fewer), without decompressing more than that.

    Args:
        data: the file, compressed with gzip or not.
        limit: of the uncompressed bytes.
        name: name of the file in errors.
        context: checked before every chunk.

    Raises:
        BadVolume: the gzip data are damaged, truncated or in more than `MAX_GZIP_MEMBERS` members.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    if data[:2] != _GZIP_MAGIC:
        return data[:limit]
    file = _GzipFile(data, limit, name, context)
    # A gzip file may consist of several members in a row (pigz, bgzip), and end in zero padding.
    for _ in range(MAX_GZIP_MEMBERS):
        file.inflate_member()
        file.skip_zeros()
        if file.position >= len(data) or len(file.content) >= limit:
            return file.content
    raise BadVolume(
        f"more than {MAX_GZIP_MEMBERS} gzip members",
        subject=name,
        remedy="decompress the file and compress it again with gzip",
    )


@dataclass
class _GzipFile:
    """A file that is decompressed from a position on, into `content`; see `decompress` for the other attributes."""

    data: bytes
    limit: int
    name: str
    context: WorkContext
    position: int = 0
    content: bytearray = field(default_factory=bytearray)

    def inflate_member(self) -> None:
        """Decompresses the member at the position and moves behind it, or stops at the limit."""
        decompressor = _inflater.decompressobj(wbits=31)
        while not decompressor.eof and len(self.content) < self.limit:
            chunk = self._get_chunk()
            if not chunk:
                raise BadVolume("truncated .nii.gz", subject=self.name, remedy="copy or export the file again")
            try:
                self.content += decompressor.decompress(chunk, self.limit - len(self.content))
            except _inflater.error:
                raise BadVolume(
                    "damaged gzip data", subject=self.name, remedy="copy or export the file again"
                ) from None
            self.position += len(chunk) - len(decompressor.unused_data) - len(decompressor.unconsumed_tail)

    def skip_zeros(self) -> None:
        """Moves to the next byte that is not 0."""
        while chunk := self._get_chunk():
            rest = chunk.lstrip(b"\0")
            self.position += len(chunk) - len(rest)
            if rest:
                return

    def _get_chunk(self) -> bytes:
        self.context.checkpoint()
        return self.data[self.position : self.position + CHUNK_BYTES]
