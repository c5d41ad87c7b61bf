"""HTTP session with a PACS: credentials, and limits on what an answer may be and how long it may take.

Every answer is untrusted. A redirect is refused, as it would carry credentials and queries to another host. Errors name
the server by its configured name alone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import quote, urlencode

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError, SSLError

from vfmalign.core.domain.errors import BadPacsAnswer, PacsRefused, PacsUnavailable, StudyNotFound
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.imaging.dicom.pacs.servers import PacsServer

MIN_BYTES = 16 * 2**10
"""Fewest bytes of an answer in every span of the server's timeout; a slower one would hold a thread for days."""
_CHUNK_BYTES = 256 * 2**10
_WATCH_S = 0.1
_PLAIN = "!$'()*,/:;?@"
"""Characters of a query that stay as they are: Orthanc takes their escapes literally."""
_TRANSIENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
_LATER = "try again later, or ask its operator"
_CHECK_URL = "check that its URL is the address of DICOMweb, and what it supports"


def to_subject(server: PacsServer) -> str:
    """Returns what errors call a server."""
    return f"PACS {server.name}"


def to_unavailable(server: PacsServer, message: str) -> PacsUnavailable:
    """Returns the error of a server that may answer later."""
    return PacsUnavailable(message, subject=to_subject(server), remedy=_LATER)


def to_bad_answer(server: PacsServer, what: str, remedy: str = _CHECK_URL) -> BadPacsAnswer:
    """Returns the error of an answer that cannot be used."""
    return BadPacsAnswer(f"it answers with {what}", subject=to_subject(server), remedy=remedy)


class Answer:
    """An answer whose status and type are those that were asked for, and whose content is read as it arrives.

    Attributes:
        content_type: its header; empty for an answer without content.
    """

    def __init__(self, raw: BaseHTTPResponse, watch: _Watch, server: PacsServer, context: WorkContext) -> None:
        self.content_type = raw.headers.get("Content-Type", "") if raw.status == HTTPStatus.OK else ""
        self._raw = raw
        self._watch = watch
        self._server = server
        self._context = context
        self._span_bytes = 0
        self._span_left_s = server.timeout_seconds

    def read(self) -> bytes:
        """Returns what has arrived, or waits for it; nothing at the end.

        Raises:
            PacsUnavailable: the connection broke off, or is too slow.
            DeadlineExceeded, Cancelled: see `WorkContext`.
        """
        self._context.checkpoint()
        started_s = time.monotonic()
        end_s = started_s + self._span_left_s
        try:
            with self._watch.until(end_s if self._context.deadline is None else min(end_s, self._context.deadline)):
                data = self._raw.read1(_CHUNK_BYTES, decode_content=False) or b""
        except (TimeoutError, ReadTimeoutError):
            self._context.checkpoint()
            raise to_unavailable(self._server, "it sends its answer too slowly (TIMEOUT_SECONDS)") from None
        except (HTTPError, OSError):
            self._context.checkpoint()
            raise to_unavailable(self._server, "it broke off its answer") from None
        self._span_bytes += len(data)
        self._span_left_s -= time.monotonic() - started_s
        if self._span_bytes >= MIN_BYTES:
            self._span_bytes, self._span_left_s = 0, self._server.timeout_seconds
        return data


class PacsSession:
    """Session with one server, for one thread at a time.

    Raises:
        PacsRefused: the files of its certificates cannot be read, or do not belong together.
    """

    def __init__(self, server: PacsServer) -> None:
        _silence_addresses()
        self._server = server
        self._pool = PoolManager(num_pools=1, retries=False, ssl_context=_load_certificates(server))
        self._pool.pool_classes_by_scheme = {"http": _WatchedPool, "https": _WatchedTlsPool}

    def close(self) -> None:
        """Closes the connections."""
        self._pool.clear()

    @contextmanager
    def get(
        self, path: str, accept: str, context: WorkContext, query: Mapping[str, str | int] | None = None
    ) -> Iterator[Answer]:
        """Asks for something, and yields the answer.

        Args:
            path: below the server's address.
            accept: type of the content.
            context: limits of the work.
            query: parameters.

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
            if timeout_s < self._server.timeout_seconds:  # the deadline may have ended the wait, and not the server
                context.checkpoint()
            raise to_unavailable(
                self._server, "it cannot be reached, or does not answer in time (TIMEOUT_SECONDS)"
            ) from None
        watch = cast(_Watched, raw.connection).watch
        try:
            self._check(raw, accept)
            yield Answer(raw, watch, self._server, context)
        except BaseException:
            raw.close()  # the rest of the answer is not read
            raise
        finally:
            watch.close()
        raw.release_conn()

    def _make_credentials(self) -> dict[str, str]:
        if self._server.token_file is not None:
            token = self._server.read_secret(self._server.token_file)
            if not token.isascii():
                raise self._refuse(
                    "the file of its token has letters beyond ASCII, which no token has",
                    "correct the file that the server's configuration names",
                )
            return {"Authorization": f"Bearer {token}"}
        if self._server.password_file is not None:
            pair = f"{self._server.username}:{self._server.read_secret(self._server.password_file)}"
            return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}  # urllib3 knows Latin-1 alone
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
            raise StudyNotFound("it does not have it (404)", subject=to_subject(self._server), remedy=remedy)
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
            raise to_bad_answer(self._server, "another type of content than was asked for")

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
            "its CA_FILE, CERTIFICATE_FILE or KEY_FILE cannot be read as PEM, or key and certificate differ",
            subject=to_subject(server),
            remedy="correct the files that its configuration names; the key must be unencrypted",
        ) from None
    return context


class _Watch:
    """Watch over a connection: ends a read that lasts too long, however slowly or fast bytes arrive meanwhile.

    The timeout of a socket counts from the last byte, and what divides the chunks of an answer is no content of it.

    Args:
        connected: the connection's socket.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._end_s = math.inf
        self._has_ended = False
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    @contextmanager
    def until(self, end_s: float) -> Iterator[None]:
        """Lets the block read until a time of `time.monotonic()`, and then shuts the connection down.

        Raises:
            TimeoutError: the connection was shut down.
        """
        self._end_s = end_s
        try:
            yield
        except (HTTPError, OSError):
            if not self._has_ended:
                raise
        finally:
            self._end_s = math.inf
        if self._has_ended:  # what came before may look like the end of an answer
            raise TimeoutError("the answer did not arrive in time")

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(_WATCH_S):
            if time.monotonic() > self._end_s:
                self._has_ended = True
                with contextlib.suppress(OSError):  # it is closed
                    # Below TLS, whose own shutdown is not safe beside a read of another thread.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                return


class _Watched(HTTPConnection):
    """A connection whose answer must begin within the timeout.

    Attributes:
        watch: over the answer that began last; its reader closes it.
    """

    watch: _Watch

    def getresponse(self) -> Any:
        """Waits for the beginning of an answer.

        Raises:
            TimeoutError: it does not come in time.
        """
        self.watch = _Watch(self.sock)
        try:
            with self.watch.until(time.monotonic() + (self.sock.gettimeout() or 0.0)):
                return super().getresponse()
        except BaseException:
            self.watch.close()
            raise


class _WatchedTls(_Watched, HTTPSConnection):
    """See `_Watched`."""


class _WatchedPool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _WatchedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls
