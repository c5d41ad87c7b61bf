"""Files that clients upload, for an import or for a call.

Files for an import are stored below `incoming/` until the import is published. All uploaded files expire.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from vfmalign.core.domain.errors import DigestMismatch, NotFound, PreconditionFailed
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.storage.deletion import Deleted, keep_sweeping, record_deletion
from vfmalign.core.storage.keys import incoming_prefix
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.presigning import PresignedRequest, Presigner
from vfmalign.core.storage.store.quota import StorageQuota

_PARALLEL_REQUESTS = 8


def digest_caller(caller: str) -> str:
    """Returns the text that identifies a caller (`Identity.key`) in keys."""
    return hashlib.sha256(caller.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class UploadArea:
    """The uploads of one import.

    The names of files are their digests. Uploading a file again therefore changes nothing.

    Attributes:
        store: object storage of the caller's tenant.
        caller: `Identity.key` of the importing caller. No other caller can access the files, because their keys contain
            this caller's digest.
        import_id: chosen by the caller.
    """

    store: ObjectStore
    caller: str
    import_id: str

    @property
    def prefix(self) -> str:
        """Prefix of the files."""
        return incoming_prefix(digest_caller(self.caller), self.import_id)

    def key(self, sha256: str) -> str:
        """Returns the key of a file."""
        return self.prefix + sha256

    def sign(
        self, presigner: Presigner, files: Sequence[tuple[str, int]], expires: timedelta
    ) -> list[PresignedRequest | None]:
        """Returns one upload request for each file, or None if the file is already stored.

        Args:
            presigner: signs the requests.
            files: digest and size in bytes of each file.
            expires: time until the requests expire.
        """
        with Threads(_PARALLEL_REQUESTS, "uploads") as threads:
            stored = list(threads.map(lambda file: self.store.size_bytes(self.key(file[0])), files))
        return [
            None if present == size else presigner.sign_put(self.store.name(self.key(sha256)), size, sha256, expires)
            for (sha256, size), present in zip(files, stored, strict=True)
        ]

    def find(self, sha256: str, max_bytes: int) -> bytes | None:
        """Returns a verified file, or None if it was not uploaded.

        Raises:
            DigestMismatch: the digest of the stored bytes differs. The stored bytes are deleted, so that the file can
                be uploaded again.
            InvalidInput: the file is too large.
        """
        key = self.key(sha256)
        try:
            return self.store.get(key, sha256=sha256, max_bytes=max_bytes)
        except NotFound as error:
            if error.subject != self.store.uri(key):
                raise  # the bucket itself is missing
            return None
        except DigestMismatch:
            self.store.delete(key)
            raise DigestMismatch(
                "the uploaded bytes differ from the announced digest",
                subject=self._name(sha256),
                remedy="upload the file again, or run the import again",
            ) from None

    def read(self, sha256: str, max_bytes: int) -> bytes:
        """Returns a verified file. Raises the errors of `find` and `missing`."""
        data = self.find(sha256, max_bytes)
        if data is None:
            raise self.missing(sha256)
        return data

    def missing(self, sha256: str) -> PreconditionFailed:
        """Returns the error for a file that was not uploaded."""
        return PreconditionFailed(
            "the file was not uploaded, or its upload has expired",
            subject=self._name(sha256),
            remedy="upload it, or run the import again",
            reason="UPLOAD_MISSING",
        )

    def clear(self, first: str) -> None:
        """Deletes all files.

        Deletes the file `first` before the other files, because `first` lists them. A repeated call then finds no
        partial import.
        """
        self.store.delete(self.key(first))
        for key in self.store.list(self.prefix):
            self.store.delete(key)

    def _name(self, sha256: str) -> str:
        return f"file {sha256[:12]}… of import {self.import_id}"


@dataclass
class CallUploads:
    """Uploaded files of one tenant that are too large for a message. Calls can refer to a file until it expires.

    Attributes:
        store: objects of the tenant.
        presigner: signs the uploads.
        prefix: prefix of the keys.
        quota: common quota of all files.
        url_s: seconds during which the URL of an upload is valid.
        age_s: age in seconds at which files are deleted.
    """

    store: ObjectStore
    presigner: Presigner
    prefix: str
    quota: StorageQuota
    url_s: int
    age_s: int
    _tasks: Sequence[asyncio.Task[None]] = ()

    def start(self) -> None:
        """Starts two tasks: one deletes expired files, the other measures the quota while it is nearly used up."""
        sweep = partial(delete_expired, self.store, self.prefix, self.age_s)
        tasks = keep_sweeping(self.store, "uploads", sweep), self.quota.keep_measured()
        self._tasks = [asyncio.create_task(task) for task in tasks]

    def close(self) -> None:
        """Ends what `start` began."""
        for task in self._tasks:
            task.cancel()

    def sign(self, key: str, size_bytes: int, sha256: str) -> tuple[PresignedRequest | None, datetime]:
        """Returns the request that uploads a file, and when the request expires.

        The request is None if the file is already stored.

        Raises:
            TooLarge: the file exceeds the remaining quota.
        """
        expires = timedelta(seconds=self.url_s)
        expire_time = datetime.now(UTC) + expires
        self.quota.announce([(key, size_bytes)], expires.total_seconds())
        if self._stays(key, size_bytes):
            return None, expire_time
        return self.presigner.sign_put(self.store.name(key), size_bytes, sha256, expires), expire_time

    def _stays(self, key: str, size_bytes: int) -> bool:
        """Whether a stored file has at least half of its time left; otherwise, a new upload renews it."""
        old = datetime.now(UTC) - timedelta(seconds=self.age_s / 2)
        return self.store.size_bytes(key) == size_bytes and key not in self.store.sizes_bytes(key, before=old)


def delete_expired(store: ObjectStore, prefix: str, age_s: float) -> Deleted:
    """Deletes uploads of a tenant below a prefix that are older than `age_s` seconds."""
    expired = store.sizes_bytes(prefix, before=datetime.now(UTC) - timedelta(seconds=age_s))
    for key in expired:
        store.delete(key)
    return record_deletion("uploads", Deleted(len(expired), sum(expired.values())))
