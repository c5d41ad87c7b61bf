"""Uploads of files with arrays that are too large for a message."""

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
    """Uploads of one tenant. The name of a file is its digest, so a repeated upload changes nothing.

    Args:
        store: object storage of the tenant.
        presigner: signs upload URLs.
        options: options of the MMD service.
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
        """Returns the URL to which the client uploads a file.

        Raises:
            TooLarge: the file exceeds the memory limit of a comparison or the tenant's quota.
        """
        if file.size_bytes > self._limit_bytes:
            raise TooLarge(
                f"the file has {file.size_bytes:,} bytes, but a comparison may use only {self._limit_bytes:,}",
                subject="file.size_bytes",
                remedy="compare fewer rows or float16, extract the features into stored sets, which `random_fourier` "
                "reads at any length, or ask an operator to increase VFMALIGN_MMD__MEMORY_MIB",
                reason="UPLOAD_TOO_LARGE",
            )
        key = upload_key(file.sha256)
        request, expire_time = self._files.sign(key, file.size_bytes, file.sha256)
        return CreateUploadResponse(
            upload=FileUpload.of(file.sha256, request),
            object=ObjectRef(uri=self._store.uri(key), sha256=file.sha256, size_bytes=file.size_bytes),
            expire_time=expire_time,
        )
