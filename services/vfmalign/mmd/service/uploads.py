"""Uploads of arrays that are too large for a message: their URLs, quota and expiry."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from vfmalign.client.messages.common import ObjectRef
from vfmalign.client.messages.imports import FileContent, FileUpload
from vfmalign.client.messages.mmd import CreateUploadResponse
from vfmalign.core.domain.errors import TooLarge
from vfmalign.core.storage.keys import UPLOADS, upload_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.presigning import Presigner
from vfmalign.core.storage.store.quota import StorageQuota
from vfmalign.core.storage.uploads import keep_deleting_expired
from vfmalign.mmd.settings import MmdOptions


class Uploads:
    """Uploads of one tenant. Files are named by their digest, so that uploading one again changes nothing.

    Args:
        store: objects of the tenant.
        presigner: signs the uploads.
        options: of the MMD service.
    """

    def __init__(self, store: ObjectStore, presigner: Presigner, options: MmdOptions) -> None:
        self._store, self._presigner, self._options = store, presigner, options
        self._quota = StorageQuota(
            store,
            options.max_uploaded_bytes,
            setting="VFMALIGN_MMD__MAX_UPLOADED_BYTES",
            uploads=UPLOADS,
            counted=UPLOADS,
        )
        self._sweep: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to delete expired uploads."""
        self._sweep = asyncio.create_task(keep_deleting_expired(self._store, UPLOADS, self._options.upload_age_s))

    def close(self) -> None:
        """Ends the deletion of expired uploads."""
        if self._sweep is not None:
            self._sweep.cancel()

    def create(self, file: FileContent) -> CreateUploadResponse:
        """Returns where a file is uploaded.

        Raises:
            TooLarge: no comparison may use a file of its size, or it does not fit into the quota.
        """
        limit = self._options.memory_mib * 2**20
        if file.size_bytes > limit:
            raise TooLarge(
                f"the file has {file.size_bytes:,} bytes, and a comparison may use {limit:,}",
                subject="file.size_bytes",
                remedy="compare fewer rows or float16, extract the features into stored sets, which are read part by "
                "part, or ask an operator to raise VFMALIGN_MMD__MEMORY_MIB",
                reason="UPLOAD_TOO_LARGE",
            )
        key, expires = upload_key(file.sha256), timedelta(seconds=self._options.upload_url_s)
        expire_time = datetime.now(UTC) + expires
        self._quota.announce([(key, file.size_bytes)], expires.total_seconds())
        upload = FileUpload(sha256=file.sha256, complete=True)
        if not self._stays(key, file.size_bytes):
            request = self._presigner.sign_put(self._store.name(key), file.size_bytes, file.sha256, expires)
            upload = FileUpload(sha256=file.sha256, url=request.url, headers=request.headers)
        ref = ObjectRef(uri=self._store.uri(key), sha256=file.sha256, size_bytes=file.size_bytes)
        return CreateUploadResponse(upload=upload, object=ref, expire_time=expire_time)

    def _stays(self, key: str, size_bytes: int) -> bool:
        """Whether a file is there for half of its time at least: else it is uploaded again, which renews it."""
        old = datetime.now(UTC) - timedelta(seconds=self._options.upload_age_s / 2)
        return self._store.size_bytes(key) == size_bytes and key not in self._store.sizes_bytes(key, before=old)
