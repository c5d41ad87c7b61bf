"""HTTP session with a PACS: sends credentials, and limits the content and duration of answers.

Every answer is untrusted. Redirects are refused, because they would send credentials and queries to another host.
Errors contain only the server's configured name.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import quote, urlencode

from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError, SSLError

from vfmalign.core.domain.errors import BadPacsAnswer, PacsRefused, PacsUnavailable, StudyNotFound
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.imaging.dicom.pacs.servers import PacsServer

MIN_BYTES = 16 * 2**10
"""Minimum number of bytes in each timeout period of an answer; a slower one would occupy a thread for days."""
_CHUNK_BYTES = 256 * 2**10
_PLAIN = "!$'()*,/:;?@"
"""Characters of a query that are not escaped, because Orthanc does not unescape them."""
_TRANSIENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
_LATER = "try again later, or ask its operator"
_CHECK_URL = "check that its URL is the address of DICOMweb, and which services it supports"


def to_subject(server: PacsServer) -> str:
    """Returns the name of a server for error messages."""
    return f"PACS {server.name}"


def to_unavailable(server: PacsServer, message: str) -> PacsUnavailable:
    """Returns the error for a server that may become available later."""
    return PacsUnavailable(message, subject=to_subject(server), remedy=_LATER)


def to_bad_answer(server: PacsServer, what: str, remedy: str = _CHECK_URL) -> BadPacsAnswer:
    """Returns the error for an unusable answer."""
    return BadPacsAnswer(f"it answers with {what}", subject=to_subject(server), remedy=remedy)


class Answer:
    """An answer with the expected status and type. The content is read as it arrives.

    Attributes:
        content_type: the answer's Content-Type header; empty for an answer without content.
    """

    def __init__(self, raw: BaseHTTPResponse, server: PacsServer, context: WorkContext) -> None:
        self.content_type = raw.headers.get("Content-Type", "") if raw.status == HTTPStatus.OK else ""
        self._raw = raw
        self._server = server
        self._context = context
        self._span_bytes = 0
        self._span_left_s = server.timeout_seconds

    def read(self) -> bytes:
        """Waits until bytes have arrived and returns them. Returns empty bytes at the end of the answer.

        Raises:
            PacsUnavailable: the connection was closed, or is too slow.
            DeadlineExceeded, Cancelled: see `WorkContext`.
        """
        self._context.checkpoint()
        started_s = time.monotonic()
        try:
            data = self._raw.read1(_CHUNK_BYTES, decode_content=False) or b""
        except ReadTimeoutError:
            self._context.checkpoint()
            raise self._to_slow() from None
        except (HTTPError, OSError):
            self._context.checkpoint()
            raise to_unavailable(self._server, "its answer ended early") from None
        self._span_bytes += len(data)
        self._span_left_s -= time.monotonic() - started_s
        if self._span_bytes >= MIN_BYTES:
            self._span_bytes, self._span_left_s = 0, self._server.timeout_seconds
        elif data and self._span_left_s < 0.0:
            raise self._to_slow()
        return data

    def _to_slow(self) -> PacsUnavailable:
        return to_unavailable(self._server, "it sends its answer too slowly (TIMEOUT_SECONDS)")


class PacsSession:
    """Session with one server. Not thread-safe.

    Raises:
        PacsRefused: the certificate files cannot be read, or do not belong together.
    """

    def __init__(self, server: PacsServer) -> None:
        _silence_addresses()
        self._server = server
        self._pool = PoolManager(num_pools=1, retries=False, ssl_context=_load_certificates(server))

    def close(self) -> None:
        """Closes the connections."""
        self._pool.clear()

    @contextmanager
    def get(
        self, path: str, accept: str, context: WorkContext, query: Mapping[str, str | int] | None = None
    ) -> Iterator[Answer]:
        """Sends a request and yields the answer.

        Args:
            path: path below the server's address.
            accept: accepted content type.
            context: limits of the work.
            query: parameters of the query.

        Raises:
            VfmalignError: see `PacsClient`.
        """
        context.checkpoint()
        address = f"{self._server.url}{path}?{urlencode(query or {}, safe=_PLAIN, quote_via=quote)}".rstrip("?")
        timeout_s = self._server.timeout_seconds
        if context.deadline is not None:
            timeout_s = max(0.001, min(timeout_s, context.deadline - time.monotonic()))
        headers = {"Accept": accept, "Accept-Encoding": "identity", **self._make_credentials()}
        timeout = Timeout(connect=timeout_s, read=timeout_s)
        try:
            raw = self._pool.request(
                "GET", address, headers=headers, timeout=timeout, redirect=False, preload_content=False
            )
        except SSLError:
            raise self._refuse(
                "the TLS handshake with it fails", "correct its URL, CA_FILE, CERTIFICATE_FILE or KEY_FILE"
            ) from None
        except (HTTPError, OSError):
            if timeout_s < self._server.timeout_seconds:  # perhaps the deadline ended the wait
                context.checkpoint()
            raise to_unavailable(
                self._server, "it cannot be reached, or does not answer in time (TIMEOUT_SECONDS)"
            ) from None
        try:
            self._check(raw, accept)
            yield Answer(raw, self._server, context)
        except BaseException:
            raw.close()  # the rest of the answer is not read
            raise
        raw.release_conn()

    def _make_credentials(self) -> dict[str, str]:
        if self._server.token_file is not None:
            token = self._server.read_secret(self._server.token_file)
            if not token.isascii():
                raise self._refuse(
                    "the file with its token contains non-ASCII characters",
                    "correct the file that the server's configuration names",
                )
            return {"Authorization": f"Bearer {token}"}
        if self._server.password_file is not None:
            pair = f"{self._server.username}:{self._server.read_secret(self._server.password_file)}"
            return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}  # urllib3 supports only Latin-1
        return {}

    def _check(self, raw: BaseHTTPResponse, accept: str) -> None:
        """Refuses an answer by its status and headers."""
        status = raw.status
        if status == HTTPStatus.UNAUTHORIZED:
            raise self._refuse("it rejects the credentials (401)", "correct the credentials in its configuration")
        if status == HTTPStatus.FORBIDDEN:
            refused = self._refuse("it does not permit the request (403)", "ask its operator for access")
            refused.may_permit_others = True
            raise refused
        if status == HTTPStatus.NOT_FOUND:
            remedy = "check the study, and that its URL is the address of DICOMweb"
            raise StudyNotFound("it has no such data (404)", subject=to_subject(self._server), remedy=remedy)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRANSIENT:
            error = to_unavailable(self._server, f"it answers with status {status}")
            with contextlib.suppress(KeyError, InvalidHeader, ValueError, OverflowError):
                error.stated_wait_s = Retry().parse_retry_after(raw.headers["Retry-After"])
            raise error
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            raise to_bad_answer(
                self._server, "a redirect, which is not followed", "configure the address that it leads to"
            )
        if status == HTTPStatus.NO_CONTENT:
            return
        if status != HTTPStatus.OK:
            raise to_bad_answer(self._server, f"status {status}", "check the query, and what the server supports")
        kind = raw.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not kind or kind not in accept or raw.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise to_bad_answer(self._server, "an unexpected type of content")

    def _refuse(self, message: str, remedy: str) -> PacsRefused:
        return PacsRefused(message, subject=to_subject(self._server), remedy=remedy)


def _silence_addresses() -> None:
    """Keeps urllib3 from logging the addresses of requests, which contain identifiers."""
    requests = logging.getLogger("urllib3.connectionpool")  # others need its warnings
    requests.setLevel(max(requests.level, logging.WARNING))
    logging.getLogger("urllib3.connection").setLevel(logging.CRITICAL + 1)


def _load_certificates(server: PacsServer) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=server.ca_file)
        if server.certificate_file is not None:
            # With an empty password OpenSSL does not prompt for one at the terminal.
            context.load_cert_chain(server.certificate_file, server.key_file, password="")
    except OSError:  # ssl.SSLError is one
        raise PacsRefused(
            "its CA_FILE, CERTIFICATE_FILE or KEY_FILE cannot be read as PEM, or key and certificate do not match",
            subject=to_subject(server),
            remedy="correct the files that its configuration names; the key must be unencrypted",
        ) from None
    return context
