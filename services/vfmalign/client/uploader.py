"""Sends files to presigned URLs."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import urllib3
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from vfmalign.client.messages.common import FileContent, FileUpload
from vfmalign.core.domain.errors import DigestMismatch, StoreUnavailable
from vfmalign.core.storage.store.errors import STORE_FAILING, StoreErrors, describe_failure

_ATTEMPTS = 5
_CONNECTIONS = 8
_TIMEOUT = urllib3.Timeout(connect=5.0, read=300.0)
_BAD_DIGEST = b"<Code>BadDigest</Code>"


class Uploader:
    """Sends files to presigned URLs."""

    def __init__(self) -> None:
        # Files beyond this number wait for a connection.
        self._http = urllib3.PoolManager(timeout=_TIMEOUT, retries=False, maxsize=_CONNECTIONS, block=True)

    async def upload(
        self,
        contents: Sequence[bytes],
        sign: Callable[[Sequence[FileContent]], Awaitable[Sequence[FileUpload]]],
    ) -> tuple[str, ...]:
        """Uploads the files that the store does not have yet. Returns the digests of all files.

        Requests new URLs for every attempt, because the previous URLs may have expired.
        """
        digests = await asyncio.to_thread(_digest, contents)  # seconds for gigabytes, in which other calls go on
        by_digest = dict(zip(digests, contents, strict=True))
        files = [
            FileContent.from_fields(sha256=sha256, size_bytes=len(content)) for sha256, content in by_digest.items()
        ]
        policy = AsyncRetrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            retry=retry_if_exception_type(StoreUnavailable),
            reraise=True,
        )

        async def send_all() -> None:
            pending = [upload for upload in await sign(files) if not upload.complete]
            await asyncio.gather(
                *(asyncio.to_thread(self._send, upload, by_digest[upload.sha256]) for upload in pending)
            )

        await policy(send_all)
        return digests

    def _send(self, upload: FileUpload, content: bytes) -> None:
        host = urlsplit(upload.url).netloc
        try:
            # Read in blocks: a body of bytes would have to be sent as a whole within the timeout for connecting.
            headers = {**upload.headers, "Content-Length": str(len(content))}
            response = self._http.request("PUT", upload.url, body=io.BytesIO(content), headers=headers)
        except (urllib3.exceptions.HTTPError, OSError):
            # The error's own message holds the URL, which is a secret.
            raise StoreUnavailable(
                "the object storage cannot be reached from this machine",
                subject=host,
                remedy="check the network, or ask an operator to set VFMALIGN_PRESIGNED_ENDPOINT for the service",
            ) from None
        if response.status == 200:
            return
        if _BAD_DIGEST in response.data:
            raise DigestMismatch(
                "the file changed on its way to the object storage", subject=host, remedy="upload it again"
            )
        if response.status >= 500:
            raise StoreUnavailable(
                describe_failure(response.status, StoreErrors.find_code(response.data)),
                subject=host,
                remedy="ask an operator to check its free disk space and its log, then upload again",
                reason=STORE_FAILING,
            )
        raise StoreUnavailable(
            f"the object storage refused an upload (HTTP {response.status})",
            subject=host,
            remedy="upload it again, which sends what is missing; if that fails, ask an operator to compare the clocks "
            "of the service and of the object storage",
        )


def _digest(contents: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(content).hexdigest() for content in contents)
