"""An object store in memory: what a stranger with access to the bucket could have written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from vfmalign.core.domain.errors import NotFound
from vfmalign.core.storage.store.object_store import ObjectStore


class MemoryStore(ObjectStore):
    """Objects by key; reading and parsing them is the real store's."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.bucket, self.objects = "fuzz", objects

    def get(self, key: str, sha256: str | None = None, max_bytes: int | None = None) -> bytes:
        """Returns the bytes of an object, verified like those of the real store."""
        if key not in self.objects:
            raise NotFound("no object has this key", subject=self.uri(key))
        data = self.objects[key]
        self._verify(key, hashlib.sha256(data).hexdigest(), sha256)
        return data

    def size_bytes(self, key: str) -> int | None:
        """Returns the size of an object, or None."""
        return len(self.objects[key]) if key in self.objects else None

    def first(self, key: str, size: int) -> bytes:
        """Returns the first bytes of an object."""
        return self.get(key)[:size]

    def list(self, prefix: str) -> Iterator[str]:
        """Returns the keys below a prefix."""
        return iter(sorted(key for key in self.objects if key.startswith(prefix)))
