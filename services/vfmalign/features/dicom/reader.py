"""Reads the DICOM study of a request, which is in the message, in an upload, or at a PACS."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from vfmalign.client.messages.features import PacsReference
from vfmalign.core.domain.errors import (
    BadOption,
    DeadlineExceeded,
    DigestMismatch,
    PreconditionFailed,
    StudyTooLarge,
)
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features import metrics
from vfmalign.features.dicom.folders import PrivateFolders
from vfmalign.features.dicom.reading import FIELD, InlineSource, ReadStudy, about_study, read_study
from vfmalign.features.dicom.rules import load_rules
from vfmalign.features.settings import FeaturesOptions
from vfmalign.imaging.dicom.pacs.client import PacsClient, PacsLimits
from vfmalign.imaging.dicom.pacs.servers import PacsServer
from vfmalign.imaging.dicom.sources import DicomSource, OversizedZip, ZipLimits, ZipSource, open_source
from vfmalign.imaging.preprocessing import needed_kinds

MAX_INSTANCES = 20_000
"""Maximum number of files of a study, ten times as many as in a whole-body CT."""
_MAX_DIRECTORY_BYTES = 512 * MAX_INSTANCES
ATTEMPTS = 3
"""Maximum number of attempts of an operation at a PACS."""
_ANSWER_S = 1.0
"""Maximum time in seconds by which a download ends before the deadline."""
_LOG = logs.get("dicom")
_HASH_KEY = secrets.token_bytes(16)
"""Key for hashes of study UIDs in the log. Each process draws its own, so that a UID cannot be looked up."""


@dataclass(frozen=True)
class DicomRequest:
    """A checked DICOM study of a request.

    Attributes:
        content: files of the study, the uploaded zip file, or the reference to a study at a PACS.
        rules_dataset_id: dataset that provides the rules; empty for the rules of the model's card.
    """

    content: tuple[bytes, ...] | StoredObject | PacsReference
    rules_dataset_id: str


class DicomReader:
    """Reads studies for one tenant.

    Args:
        store: object store of the tenant.
        servers: PACS servers that the tenant may use, by name.
        folders: temporary folders for the files.
        options: options of the feature service.
    """

    def __init__(
        self, store: ObjectStore, servers: Mapping[str, PacsServer], folders: PrivateFolders, options: FeaturesOptions
    ) -> None:
        self._store, self._servers, self._folders, self._options = store, servers, folders, options
        metrics.register_pacs(servers)

    def read(self, request: DicomRequest, card: ModelCard, stages: Stages, context: WorkContext) -> ReadStudy:
        """Reads the volumes that a model needs.

        Raises:
            BadOption, NotFound, PreconditionFailed: see `load_rules`; or the server, upload or study does not exist.
            BadVolume: see `read_study`.
            StudyTooLarge: the files of the study are larger than `dicom_study_bytes`.
            PacsUnavailable, PacsRefused, BadPacsAnswer: see `PacsClient`.
            Exhausted: the disk is full.
            Cancelled, DeadlineExceeded: see `WorkContext`; or `dicom_timeout_s` has passed.
        """
        limit_s = self._options.dicom_timeout_s
        deadline = time.monotonic() + limit_s
        if context.deadline is not None and context.deadline <= deadline:
            return self._read(request, card, stages, context)
        try:
            return self._read(request, card, stages, replace(context, deadline=deadline))
        except DeadlineExceeded as error:  # the original remedy is for callers, who cannot raise this limit
            error.remedy = f"ask an operator to raise VFMALIGN_FEATURES__DICOM_TIMEOUT_S, which is {limit_s:g} s"
            raise

    def _read(self, request: DicomRequest, card: ModelCard, stages: Stages, context: WorkContext) -> ReadStudy:
        rules, content = load_rules(self._store, request.rules_dataset_id, card), request.content

        def read_from(source: DicomSource, expected: PacsReference | None = None) -> ReadStudy:
            try:
                return read_study(source, rules, needed_kinds(card.preprocessing), stages, context, expected=expected)
            finally:
                source.close()

        if isinstance(content, tuple):
            return read_from(InlineSource(content))
        with self._folders.open() as folder:
            if isinstance(content, StoredObject):
                with stages.stage("download"):
                    archive = self._open_upload(content, folder)
                return read_from(archive)
            # The download ends slightly before the deadline, so that an error can still name the slow PACS.
            self._download(content, folder, stages, _end_earlier(context))
            return read_from(open_source(folder), content)

    def _open_upload(self, ref: StoredObject, folder: Path) -> ZipSource:
        limit, field = self._options.dicom_study_bytes, f"{FIELD}.uploaded"
        size_bytes = self._store.size_bytes(ref.key)
        if size_bytes is None:
            raise PreconditionFailed(
                "the file was not uploaded, or its upload has expired",
                subject=field,
                remedy="upload the file again, and call Extract within one hour",
                reason="UPLOAD_MISSING",
            )
        if size_bytes > limit:
            raise too_large(limit, field)
        path = folder / "study.zip"
        try:
            self._store.download(ref.key, path, ref.sha256)
            with about_study():
                return ZipSource(path, ZipLimits(MAX_INSTANCES, limit, _MAX_DIRECTORY_BYTES))
        except OversizedZip:
            raise too_large(limit, field) from None
        except DigestMismatch:
            if ref.key.endswith(f"/{ref.sha256}"):  # otherwise, a file of this size would not be uploaded again
                self._store.delete(ref.key)
            raise DigestMismatch(
                "the uploaded file does not match the announced digest", subject=field, remedy="upload the file again"
            ) from None

    def _download(self, reference: PacsReference, folder: Path, stages: Stages, context: WorkContext) -> None:
        name, started_s = reference.server, time.monotonic()
        server = self._servers.get(name)
        if server is None:
            choose = f"choose one of {', '.join(sorted(self._servers))}, or " if self._servers else ""
            raise BadOption(
                f"the service has no PACS named {name!r}",
                field=f"{FIELD}.reference.server",
                remedy=f"{choose}ask an operator to set VFMALIGN_DICOMWEB__{name.upper()}__URL",
                reason="UNKNOWN_PACS",
            )
        limits = PacsLimits(instances=MAX_INSTANCES, study_bytes=self._options.dicom_study_bytes, attempts=ATTEMPTS)
        context.checkpoint()  # an expired deadline is not a failure of the PACS
        with ExitStack() as opened:
            with stages.stage("search"), metrics.observe_pacs(name, "search"):
                client = opened.enter_context(closing(PacsClient(server, limits)))
                listed = client.list_instances(reference.study_uid, reference.series_uids, context)
            received = metrics.pacs_received_bytes.labels(name)
            try:
                with stages.stage("download"), metrics.observe_pacs(name, "download"):
                    downloaded = client.download(reference.study_uid, listed, folder, context, received.inc)
            except StudyTooLarge:
                raise too_large(limits.study_bytes, f"{FIELD}.reference") from None
        _LOG.info(
            "study_downloaded",
            server=name,
            study=hashlib.blake2b(reference.study_uid.encode(), key=_HASH_KEY, digest_size=8).hexdigest(),
            instances=downloaded.instances,
            size_bytes=downloaded.size_bytes,
            seconds=round(time.monotonic() - started_s, 3),
        )


def _end_earlier(context: WorkContext) -> WorkContext:
    """Returns a context that ends slightly before the deadline of the call, so that the error can still be sent."""
    if context.deadline is None:
        return context
    left_s = max(0.0, context.deadline - time.monotonic())
    return replace(context, deadline=context.deadline - min(_ANSWER_S, left_s / 10))


def too_large(limit_bytes: int, subject: str) -> StudyTooLarge:
    """Returns the error for a study that is too large."""
    return StudyTooLarge(
        f"the study has more than {limit_bytes:,} bytes",
        subject=subject,
        remedy="send only the series that the rules select, or ask an operator to raise "
        "VFMALIGN_FEATURES__DICOM_STUDY_BYTES",
    )
