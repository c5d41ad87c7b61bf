"""PACS client: searches for studies (QIDO-RS) and downloads their instances (WADO-RS).

Transient failures are retried. Instances that were already downloaded are skipped. Errors contain the configured name
of the server, but no address, identifier or patient name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydicom.datadict import tag_for_keyword
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from vfmalign.core.domain.errors import (
    BadOption,
    BadPacsAnswer,
    Cancelled,
    DeadlineExceeded,
    PacsUnavailable,
    StudyNotFound,
    StudyTooLarge,
)
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.imaging.dicom.pacs.downloads import InstanceWriter, get_file_name
from vfmalign.imaging.dicom.pacs.servers import PacsServer
from vfmalign.imaging.dicom.pacs.session import PacsSession, to_bad_answer, to_subject
from vfmalign.imaging.private_files import make_private_folder

UID = re.compile(r"[0-9][0-9.]{0,63}")
"""Pattern of an identifier. Components that begin with 0 occur, although the standard forbids them."""
MAX_SEARCH_BYTES = 8 * 2**20
"""Maximum size of an answer to a search."""
_PAGE = 1_000
_MAX_GROUPS = 512 * _PAGE
"""Maximum number of lists and objects in an answer to a search. Parsed, they take up to 50 times their size in bytes.
An attribute has two of them."""
_MAX_VALUE = 1_024
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_PATIENT, _ISSUER = "00100020", "00100021"
_JSON = "application/dicom+json, application/json"
_DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""Requests instances in their stored encoding; without the last parameter, the server would decode them."""
_MAX_STATED_S = 300.0
T = TypeVar("T")

ByteProgress = Callable[[int], None]
"""Called as `progress(bytes)` with the number of bytes received since the last call."""


def ignore_bytes(size_bytes: int) -> None:
    """Ignores the progress."""


@dataclass(frozen=True)
class PacsLimits:
    """Limits of a client.

    Attributes:
        studies: maximum number of studies in a search result.
        instances: maximum number of instances in a study.
        study_bytes: maximum size of a study in bytes.
        attempts: maximum number of attempts per operation.
        first_wait_s: wait in seconds before the second attempt. The wait doubles before each further attempt. A longer
            `Retry-After` from the server replaces this wait, up to five minutes.
    """

    studies: int = 100_000
    instances: int = 100_000
    study_bytes: int = 16 * 2**30
    attempts: int = 5
    first_wait_s: float = 1.0


@dataclass(frozen=True, order=True)
class FoundStudy:
    """A study found by a search. Private.

    Attributes:
        study_uid: identifier of the study.
        patient: PatientID with its issuer; empty if the server does not state a PatientID.
    """

    study_uid: str
    patient: str


class ListedInstance(NamedTuple):
    """An instance in the server's list. Private."""

    series_uid: str
    instance_uid: str


@dataclass(frozen=True)
class Downloaded:
    """A study downloaded to a folder.

    Attributes:
        instances: number of its instances.
        size_bytes: total size of the instances' files.
    """

    instances: int
    size_bytes: int


def check_query(query: Mapping[str, str]) -> None:
    """Checks a query; see `PacsClient.find_studies`.

    Raises:
        BadOption: a key is not a DICOM attribute, or a value is empty or not printable.
    """
    for key, value in query.items():
        if tag_for_keyword(key) is None:
            raise BadOption("a key is no attribute", field="--query", remedy="use keywords such as ModalitiesInStudy")
        if not 0 < len(value) <= _MAX_VALUE or not value.isprintable():
            raise BadOption(f"the value of {key} is not valid", field="--query", remedy="write KEY=VALUE")


class PacsClient:
    """Client of one server. Not thread-safe.

    All methods raise:
        PacsUnavailable: after several attempts, the server still does not answer, closes the connection or is
        overloaded. PacsRefused: the server rejects the credentials, or the credential files cannot be read.
        StudyNotFound: the server does not have the requested data. BadPacsAnswer: the server's answer cannot be used.
        DeadlineExceeded, Cancelled: see `WorkContext`.

    Args:
        server: the server.
        limits: limits on its answers.
    """

    def __init__(self, server: PacsServer, limits: PacsLimits = PacsLimits()) -> None:
        self._server = server
        self._limits = limits
        self._session = PacsSession(server)

    @property
    def subject(self) -> str:
        """Name of the server in error messages."""
        return to_subject(self._server)

    def to_bad_answer(self, what: str) -> BadPacsAnswer:
        """Returns the error for unexpected instances."""
        return to_bad_answer(self._server, what)

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def find_studies(self, query: Mapping[str, str], context: WorkContext = UNLIMITED) -> Iterator[FoundStudy]:
        """Yields each study that matches a query once.

        Args:
            query: values by DICOM keyword, as in QIDO-RS: `*` and `?` are wildcards, `-` denotes a range of dates.
            context: limits of the work.
        """
        fields = {"includefield": f"{_PATIENT},{_ISSUER}"}
        for answer in self._page("/studies", {**query, **fields}, _STUDY, self._limits.studies, context):
            patient, issuer = _get_text(answer, _PATIENT), _get_text(answer, _ISSUER)
            yield FoundStudy(_get_text(answer, _STUDY), f"{patient}^^^{issuer}" if patient and issuer else patient)

    def list_instances(
        self, study_uid: str, series_uids: Sequence[str] = (), context: WorkContext = UNLIMITED
    ) -> list[ListedInstance]:
        """Returns the instances of a study, ordered by series and identifier.

        Args:
            study_uid: the study.
            series_uids: series of the study to list; by default all series.
            context: limits of the work.
        """
        path, fields = f"/studies/{study_uid}/instances", {"includefield": _SERIES}
        answers = self._page(path, fields, _INSTANCE, self._limits.instances, context)
        listed = sorted(ListedInstance(_get_text(answer, _SERIES), _get_text(answer, _INSTANCE)) for answer in answers)
        if not all(UID.fullmatch(instance.series_uid) for instance in listed):
            raise to_bad_answer(self._server, "instances without an identifier of their series")
        chosen = [instance for instance in listed if not series_uids or instance.series_uid in series_uids]
        if not chosen or set(series_uids) - {instance.series_uid for instance in chosen}:
            raise StudyNotFound(
                "it lists no instance of the study, or of one of the requested series",
                subject=to_subject(self._server),
                remedy="check the identifiers, and that the study is in the archive",
            )
        return chosen

    def download(
        self,
        study_uid: str,
        instances: Sequence[ListedInstance],
        folder: Path,
        context: WorkContext = UNLIMITED,
        progress: ByteProgress = ignore_bytes,
    ) -> Downloaded:
        """Downloads instances to a folder. Instances that an earlier download has stored in the folder are skipped.

        Args:
            study_uid: the study.
            instances: instances to download.
            folder: destination folder. The folder is created with mode 0700, and its files with mode 0600. File names
                are hashes.
            context: limits of the work.
            progress: see `ByteProgress`.

        Raises:
            StudyTooLarge: the study exceeds the size limit.
        """
        make_private_folder(folder)
        uids_by_series: dict[str, list[str]] = {}
        for instance in instances:
            uids_by_series.setdefault(instance.series_uid, []).append(instance.instance_uid)
        for series_uid, uids in uids_by_series.items():
            path = f"/studies/{study_uid}/series/{series_uid}"
            self._retry(partial(self._fetch_series, path, uids, folder, context, progress), context)
        sizes = [(folder / get_file_name(instance.instance_uid)).stat().st_size for instance in instances]
        return Downloaded(len(sizes), sum(sizes))

    def _fetch_series(
        self, path: str, uids: Collection[str], folder: Path, context: WorkContext, progress: ByteProgress
    ) -> None:
        """Fetches a series as a whole if no instance is there, and then missing instances one by one."""
        if len(self._list_missing(uids, folder)) == len(uids):
            self._fetch(path, uids, folder, context, progress)
        for uid in self._list_missing(uids, folder):
            self._fetch(f"{path}/instances/{uid}", [uid], folder, context, progress)
            if self._list_missing([uid], folder):
                raise to_bad_answer(self._server, "fewer instances than it lists")

    def _fetch(
        self, path: str, uids: Collection[str], folder: Path, context: WorkContext, progress: ByteProgress
    ) -> None:
        stored_bytes = sum(file.stat().st_size for file in folder.iterdir())
        left_bytes = self._limits.study_bytes - stored_bytes
        with self._session.get(path, _DICOM, context) as answer:
            if not answer.content_type:
                return
            writer = InstanceWriter(answer.content_type, folder, uids, self._server)
            try:
                while data := answer.read():
                    left_bytes -= len(data)
                    if left_bytes < 0:
                        raise StudyTooLarge(
                            f"the study has more than {self._limits.study_bytes:,} bytes",
                            subject=to_subject(self._server),
                            remedy="exclude it",
                        )
                    writer.write(data)
                    progress(len(data))
                writer.finish()
            finally:
                writer.close()

    def _list_missing(self, uids: Collection[str], folder: Path) -> list[str]:
        return [uid for uid in uids if not (folder / get_file_name(uid)).exists()]

    def _page(
        self, path: str, query: Mapping[str, str], key: str, limit: int, context: WorkContext
    ) -> Iterator[Mapping[str, Any]]:
        """Yields the results of all pages, each once; a server may send short pages, or ignore the offset."""
        known: set[str] = set()
        offset = 0
        while True:
            page: dict[str, str | int] = {**query, "limit": _PAGE, "offset": offset}
            answers = self._retry(partial(self._search, path, page, context), context)
            size = len(known)
            for answer in answers:
                uid = _get_text(answer, key)
                if not UID.fullmatch(uid):
                    raise to_bad_answer(self._server, "something other than DICOM identifiers")
                if uid not in known:
                    known.add(uid)
                    if len(known) > limit:
                        raise to_bad_answer(self._server, f"more than {limit:,} results", "narrow the query")
                    yield answer
            if len(known) == size:
                return
            offset += len(answers)

    def _search(self, path: str, query: Mapping[str, str | int], context: WorkContext) -> list[Mapping[str, Any]]:
        data = bytearray()
        with self._session.get(path, _JSON, context, query) as answer:
            while chunk := answer.read():
                data += chunk
                if len(data) > MAX_SEARCH_BYTES:
                    raise to_bad_answer(self._server, "more than a search may return", "narrow the query")
        if not data:
            return []
        if data.count(b"{") + data.count(b"[") > _MAX_GROUPS:
            raise to_bad_answer(self._server, f"more than {_MAX_GROUPS:,} lists and objects for a page of results")
        try:
            content = parse_json(bytes(data), MAX_SEARCH_BYTES)
        except ValueError:
            raise to_bad_answer(self._server, "something other than JSON") from None
        if not isinstance(content, list):
            raise to_bad_answer(self._server, "something other than a list")
        return [entry for entry in content if isinstance(entry, dict)]

    def _retry(self, operation: Callable[[], T], context: WorkContext) -> T:
        """Runs an operation, with retries after transient failures as far as the deadline allows."""
        failures: list[PacsUnavailable] = []

        def get_wait_s(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            stated_s = 0.0
            if isinstance(error, PacsUnavailable):
                failures.append(error)
                stated_s = error.stated_wait_s
            wait_s = max(self._limits.first_wait_s * 2.0 ** (state.attempt_number - 1), min(stated_s, _MAX_STATED_S))
            if error is not None and context.deadline is not None and time.monotonic() + wait_s > context.deadline:
                raise error
            return wait_s

        retrying = Retrying(
            retry=retry_if_exception_type(PacsUnavailable),
            stop=stop_after_attempt(self._limits.attempts),
            wait=get_wait_s,
            sleep=lambda wait_s: _sleep(wait_s, context),
            reraise=True,
        )
        try:
            return retrying(operation)
        except (DeadlineExceeded, Cancelled) as ended:
            if failures:  # they used up the time
                raise failures[-1] from None
            ended.subject = to_subject(self._server)
            raise


def _get_text(answer: Mapping[str, Any], tag: str) -> str:
    """The first value of an attribute in DICOM's JSON; empty where there is none."""
    element = answer.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return values[0].strip() if isinstance(values, list) and values and isinstance(values[0], str) else ""


def _sleep(wait_s: float, context: WorkContext) -> None:
    end = time.monotonic() + wait_s
    while (left_s := end - time.monotonic()) > 0:
        context.checkpoint()
        time.sleep(min(left_s, 0.2))
