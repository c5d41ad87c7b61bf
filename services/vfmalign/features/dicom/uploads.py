"""Uploads of zip files with DICOM studies that are too large for one message."""

from __future__ import annotations

from vfmalign.client.messages.common import FileContent, FileUpload, ObjectRef
from vfmalign.client.messages.features import CreateStudyUploadResponse
from vfmalign.core.rpc.access.identity import current_identity
from vfmalign.core.storage.keys import STUDY_UPLOADS, study_upload_prefix
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.store.presigning import Presigner
from vfmalign.core.storage.store.quota import StorageQuota
from vfmalign.core.storage.uploads import CallUploads, digest_caller
from vfmalign.features.dicom.reader import too_large
from vfmalign.features.settings import FeaturesOptions


class StudyUploads:
    """Uploads of one tenant. Callers can access only their own uploads, because uploads identify patients.

    Args:
        store: object store of the tenant.
        presigner: signs upload URLs.
        quota: quota of all uploads to the feature service.
        options: options of the feature service.
    """

    def __init__(self, store: ObjectStore, presigner: Presigner, quota: StorageQuota, options: FeaturesOptions) -> None:
        self._store, self._limit_bytes = store, options.dicom_study_bytes
        self._files = CallUploads(
            store, presigner, STUDY_UPLOADS, quota, options.upload_url_s, options.study_upload_age_s
        )
        self.start, self.close = self._files.start, self._files.close

    def get_prefix(self) -> str:
        """Returns the key prefix of the caller's uploads."""
        identity = current_identity.get()
        return study_upload_prefix(digest_caller("" if identity is None else identity.key))

    def create(self, file: FileContent) -> CreateStudyUploadResponse:
        """Returns the destination for an upload of the caller.

        Raises:
            TooLarge: the file exceeds the maximum size of a study, or the quota.
        """
        if file.size_bytes > self._limit_bytes:
            raise too_large(self._limit_bytes, "file.size_bytes")
        key = self.get_prefix() + file.sha256
        request, expire_time = self._files.sign(key, file.size_bytes, file.sha256)
        return CreateStudyUploadResponse(
            upload=FileUpload.of(file.sha256, request),
            object=ObjectRef(uri=self._store.uri(key), sha256=file.sha256, size_bytes=file.size_bytes),
            expire_time=expire_time,
        )
