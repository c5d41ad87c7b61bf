"""Object store: stores bytes, files and JSON records of one tenant in an S3 bucket, and verifies them by SHA-256.

Transient failures are retried as long as the call that needs the object lasts. The object store is synchronous and
thread-safe. Asynchronous code calls the object store in `threads.STORE`.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import S3Error
from pydantic import ValidationError

from vfmalign.core.domain.errors import (
    DigestMismatch,
    InvalidInput,
    NotFound,
    PreconditionFailed,
)
from vfmalign.core.domain.record import Record, describe_invalid
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.core.storage.store.attempts import Attempts, Operation
from vfmalign.core.storage.store.credentials import get_credential_provider
from vfmalign.core.storage.store.errors import TAKEN_CODES, TRANSIENT_STATUS, StoreErrors, TransientError
from vfmalign.core.storage.store.listing import StoreListing

ATTEMPTS = 6
TIMEOUT_S = 60.0
"""Seconds without an answer, or without a further byte of one, after which an attempt ends."""
_CONNECT_TIMEOUT_S = 5.0
MAX_DOCUMENT_BYTES = 256 << 20
"""Largest JSON object that is read, such as the datalist of 100,000 cases."""
_LISTED_VERSIONS = 1000
_CHUNK_BYTES = 1 << 20
_PART_BYTES = 16 << 20

AnyRecord = TypeVar("AnyRecord", bound=Record)
_T = TypeVar("_T")


class _HashingReader:
    """A file that hashes the bytes that are read from it: the digest of what was sent, even if the file changes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


class ObjectStore(StoreListing):
    """One tenant's part of a bucket of an S3 endpoint.

    Args:
        settings: address, bucket and keys.
        attempts: maximum number of attempts if a call fails transiently.
        timeout_s: seconds without an answer after which an attempt ends.
    """

    def __init__(self, settings: StoreSettings, *, attempts: int = ATTEMPTS, timeout_s: float = TIMEOUT_S) -> None:
        url = urlsplit(settings.endpoint)
        self.bucket = settings.bucket
        self._errors = StoreErrors(settings.bucket, settings.region)
        self._attempts = Attempts(self._errors, attempts)
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=min(_CONNECT_TIMEOUT_S, timeout_s), read=timeout_s),
            retries=False,
            maxsize=16,
            num_pools=4,
        )
        self._client = Minio(
            endpoint=url.netloc,
            credentials=get_credential_provider(settings),
            secure=url.scheme == "https",
            region=settings.region,
            http_client=self._http,
        )
        self._before_write: Callable[[], None] | None = None

    def guarded_by(self, check: Callable[[], None]) -> ObjectStore:
        """Returns a view of this store that calls `check` before each write.

        If `check` raises an error, the write is not made.
        """
        view = copy.copy(self)
        view._before_write = check
        return view

    # --- reading ---

    def get(self, key: str, sha256: str | None = None, max_bytes: int | None = None) -> bytes:
        """Returns the bytes of an object.

        Args:
            key: key of the object.
            sha256: expected digest of the bytes, in hex.
            max_bytes: maximum size in bytes.

        Raises:
            NotFound, DigestMismatch, Unavailable. InvalidInput if the object is too large.
        """
        data = self._retry("get", key, lambda: b"".join(self._chunks(key, max_bytes)))
        self._verify(key, hashlib.sha256(data).hexdigest(), sha256)
        return data

    def get_large(
        self, key: str, sha256: str | None = None, max_bytes: int | None = None, context: WorkContext = UNLIMITED
    ) -> memoryview:
        """Returns the bytes of a large object without copying them. Copying would hold the interpreter lock.

        Checks `context` before reading each MiB.

        Raises:
            NotFound, DigestMismatch, Unavailable. InvalidInput if the object is too large.
        """

        def fetch() -> tuple[bytearray, str]:
            data, digest = bytearray(), hashlib.sha256()
            for chunk in self._chunks(key, max_bytes):
                context.checkpoint()
                data += chunk
                digest.update(chunk)
            return data, digest.hexdigest()

        data, digest = self._retry("get", key, fetch)
        self._verify(key, digest, sha256)
        return memoryview(data)

    def first(self, key: str, size: int) -> bytes:
        """Returns the first `size` bytes of an object, without verification. Only the whole object has a digest."""

        def fetch() -> bytes:
            try:
                response = self._client.get_object(self.bucket, self.name(key), length=size)
            except S3Error as error:
                if error.code == "InvalidRange":  # the object is empty
                    return b""
                raise
            try:
                return bytes(response.read())
            finally:
                response.close()
                response.release_conn()

        return self._retry("get", key, fetch)

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Streams an object into a file. The file appears only when it is complete and verified."""
        partial = path.with_name(path.name + ".partial")

        def fetch() -> str:
            digest = hashlib.sha256()
            with partial.open("wb") as file:
                for chunk in self._chunks(key, None):
                    digest.update(chunk)
                    file.write(chunk)
            return digest.hexdigest()

        try:
            self._verify(key, self._retry("get", key, fetch), sha256)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def get_document(self, key: str, sha256: str | None = None) -> bytes:
        """Returns the bytes of a JSON object of at most `MAX_DOCUMENT_BYTES`. See `get` for the digest.

        Raises:
            NotFound, DigestMismatch, Unavailable. PreconditionFailed if the object is too large.
        """
        try:
            return self.get(key, sha256=sha256, max_bytes=MAX_DOCUMENT_BYTES)
        except InvalidInput as error:
            raise PreconditionFailed(error.message, subject=self.uri(key), remedy="create it again") from None

    def get_json(self, key: str) -> Any:
        """Returns the parsed JSON of an object of at most `MAX_DOCUMENT_BYTES`."""
        try:
            return parse_json(self.get_document(key), MAX_DOCUMENT_BYTES)
        except ValueError:
            raise PreconditionFailed(
                "the object is not JSON", subject=self.uri(key), remedy="restore it from a backup"
            ) from None

    def read(self, key: str, record: type[AnyRecord], sha256: str | None = None) -> AnyRecord:
        """Returns the record at a key, of at most `MAX_DOCUMENT_BYTES`. See `get` for the digest."""
        try:
            return record.model_validate_json(self.get_document(key, sha256))
        except ValidationError as error:
            raise PreconditionFailed(
                f"the object is not a {record.__name__} of this version: {describe_invalid(error)}",
                subject=self.uri(key),
                remedy="create it again with this version",
            ) from None

    # --- writing ---

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> StoredObject:
        """Writes an object atomically and returns its key and digest."""
        self._write("put", key, lambda: self._request("PUT", key, data, {"Content-Type": content_type}))
        return StoredObject.of(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Writes an object unless the key exists. Of several concurrent writers, exactly one succeeds.

        Returns:
            True if this call wrote the object; False if the key existed.
        """
        tries = 0

        def write() -> bool:
            nonlocal tries
            tries += 1
            if self._request("PUT", key, data, {"If-None-Match": "*"}) != 412:
                return True
            # The response to an earlier attempt of this call may have been lost: equal bytes then count as written.
            return tries > 1 and b"".join(self._chunks(key, None)) == data

        return self._write("put", key, write)

    def get_etag(self, key: str) -> str | None:
        """Returns the version of an object for `replace`; None if the object does not exist. Ask before you read it."""
        try:
            return self._retry("head", key, lambda: self._client.stat_object(self.bucket, self.name(key))).etag
        except NotFound as error:
            if error.subject != self.uri(key):
                raise  # the bucket itself is missing
            return None

    def replace(self, key: str, etag: str, new: bytes) -> bool:
        """Replaces an object if it still has the version `etag`.

        Returns:
            False if the object has another version. If an answer of the store was lost, the object may already contain
            `new`.
        """
        headers = {"If-Match": f'"{etag}"', "Content-Type": "application/json"}
        return self._write("put", key, lambda: self._request("PUT", key, new, headers)) != 412

    def upload(self, key: str, path: Path) -> StoredObject:
        """Streams a file into an object and returns its key and digest."""

        def send() -> str:
            with path.open("rb") as file:
                reader = _HashingReader(file)
                length = path.stat().st_size
                self._client.put_object(
                    self.bucket,
                    self.name(key),
                    reader,  # type: ignore[arg-type]
                    length,
                    part_size=_PART_BYTES,
                )
            return reader.digest.hexdigest()

        return StoredObject(key=key, sha256=self._write("put", key, send))

    def write(self, key: str, record: Record) -> StoredObject:
        """Writes a record as canonical JSON."""
        return self.put(key, record.to_json(), "application/json")

    def delete(self, key: str) -> None:
        """Deletes an object if it exists."""
        self._write("delete", key, lambda: self._client.remove_object(self.bucket, self.name(key)))

    def has_bucket(self) -> bool:
        """Returns whether the bucket exists.

        Raises:
            StoreRefused: the credentials are wrong, or the bucket belongs to another account.
            PreconditionFailed: the bucket is in another region.
            Unavailable: the store does not answer.
        """
        return self._retry("bucket", "", lambda: bool(self._client.bucket_exists(self.bucket)))

    def has_versions(self, prefix: str) -> bool:
        """Returns whether the bucket keeps versions of objects. Examines only the first objects below a prefix.

        Raises:
            StoreRefused: the credentials do not permit listing versions.
        """

        def find() -> bool:
            named = self._client.list_objects(self.bucket, self.name(prefix), recursive=True, include_version=True)
            return any(one.version_id not in {None, "", "null"} for one in islice(named, _LISTED_VERSIONS))

        return self._retry("list", prefix, find)

    def probe(self) -> None:
        """Lists an empty prefix, to check that the store answers, has the bucket and accepts the credentials.

        Every service may list objects. On some stores, a HEAD request for the bucket would need more permissions.

        Raises:
            NotFound: the bucket does not exist.
            StoreRefused, PreconditionFailed, Unavailable: as `has_bucket`.
        """

        def ask() -> None:
            next(iter(self._client.list_objects(self.bucket, self.name("probe/"))), None)

        self._retry("probe", "", ask)

    def ensure_bucket(self) -> bool:
        """Creates the bucket in the configured region if it does not exist.

        Returns:
            True if this call created the bucket.

        Raises:
            StoreRefused, PreconditionFailed, Unavailable: as `has_bucket`.
        """

        def make() -> bool:
            if self._client.bucket_exists(self.bucket):
                return False
            try:
                self._client.make_bucket(self.bucket)
            except S3Error as error:
                # Another client may have created it meanwhile. If another account did, this call is denied.
                if error.code not in TAKEN_CODES or not self._client.bucket_exists(self.bucket):
                    raise
                return False
            return True

        return self._retry("bucket", "", make)

    # --- requests and errors ---

    def _chunks(self, key: str, max_bytes: int | None) -> Iterator[bytes]:
        response = self._client.get_object(self.bucket, self.name(key))
        try:
            size = int(response.headers.get("Content-Length", "0"))
            if max_bytes is not None and size > max_bytes:
                raise InvalidInput(
                    f"the object has {size} bytes, the limit is {max_bytes}",
                    subject=self.uri(key),
                    remedy="store a smaller object",
                    reason="TOO_LARGE",
                )
            read = 0
            for chunk in response.stream(_CHUNK_BYTES):
                read += len(chunk)
                yield chunk
            if read != size:
                raise TransientError(f"received {read} of {size} bytes")
        finally:
            response.close()
            response.release_conn()

    def _request(self, method: str, key: str, data: bytes, headers: dict[str, str]) -> int:
        """Sends one presigned request, because minio's own calls do not support conditional headers.

        Because of the digest, the store refuses a body that ends early. Without it, SeaweedFS stores an empty object if
        a writer is killed between headers and body, and a later conditional write finds the key taken.
        """
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        headers = {**headers, "Content-MD5": base64.b64encode(digest).decode(), "Content-Length": str(len(data))}
        url = self._client.get_presigned_url(method, self.bucket, self.name(key), expires=timedelta(minutes=15))
        # Read in blocks: a body of bytes would have to be sent as a whole within the timeout for connecting.
        response = self._http.request(method, url, body=io.BytesIO(data), headers=headers)
        if response.status in {200, 412}:
            return response.status
        code = self._errors.find_code(response.data)
        if response.status in TRANSIENT_STATUS or response.status == 409:
            raise TransientError(f"HTTP {response.status}", response.status, code)
        # A write fails with 404 only if the bucket is missing.
        raise self._errors.from_response(self.name(key), response.status, code or "NoSuchBucket")

    def _write(self, operation: Operation, key: str, call: Callable[[], _T]) -> _T:
        return self._retry(operation, key, call, self._before_write)

    def _verify(self, key: str, digest: str, expected: str | None) -> None:
        if expected is not None and digest != expected:
            raise DigestMismatch(
                f"its SHA-256 is not {expected[:12]}…, as expected",
                subject=self.uri(key),
                remedy="the object has changed since it was recorded; restore it, or create it again",
            )
