"""Uploads of arrays that are too large for a message."""

from __future__ import annotations

from vfmalign.client.messages.common import FileContent, FileUpload, ObjectRef
from vfmalign.client.messages.mmd import CreateUploadResponse
from vfmalign.core.domain.errors import TooLarge
from vfmalign.core.storage.keys import UPLOADS, upload_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.presigning import Presigner
from vfmalign.core.storage.store.quota import StorageQuota
from vfmalign.core.storage.uploads import CallUploads
from vfmalign.mmd.settings import MmdOptions


class Uploads:
    """Uploads of one tenant. Files are named by their digest, so that uploading one again changes nothing.

    Args:
        store: objects of the tenant.
        presigner: signs the uploads.
        options: of the MMD service.
    """

    def __init__(self, store: ObjectStore, presigner: Presigner, options: MmdOptions) -> None:
        self._store, self._limit_bytes = store, options.memory_mib * 2**20
        quota = StorageQuota(
            store,
            options.max_uploaded_bytes,
            setting="VFMALIGN_MMD__MAX_UPLOADED_BYTES",
            uploads=UPLOADS,
            counted=UPLOADS,
            name="uploads",
        )
        self._files = CallUploads(store, presigner, UPLOADS, quota, options.upload_url_s, options.upload_age_s)
        self.start, self.close = self._files.start, self._files.close

    def create(self, file: FileContent) -> CreateUploadResponse:
        """Returns where a file is uploaded.

        Raises:
            TooLarge: no comparison may use a file of its size, or it does not fit into the quota.
        """
        if file.size_bytes > self._limit_bytes:
            raise TooLarge(
                f"the file has {file.size_bytes:,} bytes, and a comparison may use {self._limit_bytes:,}",
                subject="file.size_bytes",
                remedy="compare fewer rows or float16, extract the features into stored sets, which are read part by "
                "part, or ask an operator to raise VFMALIGN_MMD__MEMORY_MIB",
                reason="UPLOAD_TOO_LARGE",
            )
        key = upload_key(file.sha256)
        request, expire_time = self._files.sign(key, file.size_bytes, file.sha256)
        return CreateUploadResponse(
            upload=FileUpload.of(file.sha256, request),
            object=ObjectRef(uri=self._store.uri(key), sha256=file.sha256, size_bytes=file.size_bytes),
            expire_time=expire_time,
        )
