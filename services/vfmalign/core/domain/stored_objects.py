"""References to stored objects: key and digest, with the size of files and the caption of figures."""

from __future__ import annotations

import hashlib
from typing import Self

from pydantic import Field

from vfmalign.core.domain.record import Key, Record, Sha256


class StoredObject(Record):
    """Key and digest of a stored object, such as a volume or an encoder's weights."""

    key: Key
    sha256: Sha256

    @classmethod
    def of(cls, key: str, data: bytes) -> Self:
        """Returns the reference to an object with this content."""
        return cls(key=key, sha256=hashlib.sha256(data).hexdigest())


class StoredFile(StoredObject):
    """A file that clients can download, with its size in bytes."""

    size_bytes: int = Field(ge=0)

    @classmethod
    def of(cls, key: str, data: bytes) -> Self:
        """Returns the reference to a file with this content."""
        return cls(**StoredObject.of(key, data).model_dump(), size_bytes=len(data))


class StoredFigure(StoredObject):
    """A figure of a report, with its caption."""

    caption: str
