"""Lists the objects of a tenant, and returns their sizes and times without reading them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import TypeVar, cast

from minio import Minio

from vfmalign.core.domain.errors import NotFound
from vfmalign.core.storage.store.attempts import Attempts, Operation
from vfmalign.core.storage.store.tenant_keys import TenantKeys

_T = TypeVar("_T")
_Accepts = Callable[[str], bool]


class StoreListing(TenantKeys):
    """Lists the objects of one tenant by key."""

    _client: Minio
    _attempts: Attempts

    def exists(self, key: str) -> bool:
        """Returns whether an object exists."""
        return self.size_bytes(key) is not None

    def size_bytes(self, key: str) -> int | None:
        """Returns the size of an object, or None if it does not exist."""
        try:
            return self._retry("head", key, lambda: self._client.stat_object(self.bucket, self.name(key))).size or 0
        except NotFound:
            return None

    def get_write_time(self, key: str) -> datetime:
        """Returns the time at which an object was last written.

        Raises:
            NotFound: it does not exist.
        """
        stat = self._retry("head", key, lambda: self._client.stat_object(self.bucket, self.name(key)))
        return cast(datetime, stat.last_modified)

    def list(self, prefix: str) -> Iterator[str]:
        """Returns the keys below a prefix, in lexical order."""
        return iter(sorted(self.sizes_bytes(prefix)))

    def sizes_bytes(
        self, prefix: str, before: datetime | None = None, limit: int | None = None, accepts: _Accepts | None = None
    ) -> dict[str, int]:
        """Returns the size of each object below a prefix, by key. Sends one request per thousand objects.

        `accepts` selects objects by key. `before` selects objects that were written before this time. Only the first
        `limit` objects that `accepts` selects are examined.
        """

        def sizes() -> dict[str, int]:
            items = self._client.list_objects(self.bucket, self.name(prefix), recursive=True)
            named = ((str(item.object_name).removeprefix(self.name("")), item) for item in items)
            listed = islice(((key, item) for key, item in named if accepts is None or accepts(key)), limit)
            return {key: item.size or 0 for key, item in listed if before is None or item.last_modified < before}

        return self._retry("list", prefix, sizes)

    def list_folders(self, prefix: str, *, after: str, limit: int, accepts: _Accepts) -> Sequence[str]:
        """Returns the names of the folders directly below a prefix. Sends one request per thousand folders.

        Args:
            prefix: prefix that ends in a slash.
            after: only folders after this name in lexical order are returned. If `after` is empty, all folders are
                returned.
            limit: maximum number of folders.
            accepts: selects folders by name.
        """
        path = self.name(prefix)

        def names() -> Sequence[str]:
            items = self._client.list_objects(self.bucket, path, start_after=path + after if after else None)
            named = (str(item.object_name).removeprefix(path).removesuffix("/") for item in items if item.is_dir)
            return tuple(islice((name for name in named if name > after and accepts(name)), limit))

        return self._retry("list", prefix, names)

    def _retry(
        self, operation: Operation, key: str, call: Callable[[], _T], check: Callable[[], None] | None = None
    ) -> _T:
        return self._attempts.run(operation, self.name(key), call, check)
