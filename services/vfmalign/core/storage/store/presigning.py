"""Presigned URLs. Each URL permits one request to the object storage without credentials."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from minio import Minio
from minio.signer import get_credential_string, sign_v4_s3

from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.credentials import get_credential_provider


@dataclass(frozen=True)
class PresignedRequest:
    """A request that anyone who has the URL may send until the URL expires.

    Attributes:
        url: URL of the request, which is secret until the request expires.
        headers: headers to send with the request, in addition to `Content-Length`.
    """

    url: str
    headers: dict[str, str]


class Presigner:
    """Signs requests to the bucket. The URLs contain the endpoint that clients can reach."""

    def __init__(self, settings: StoreSettings) -> None:
        url = urlsplit(settings.presigned_endpoint or settings.endpoint)
        self._bucket, self._region = settings.bucket, settings.region
        self._credentials = get_credential_provider(settings)
        self._client = Minio(
            endpoint=url.netloc, credentials=self._credentials, secure=url.scheme == "https", region=settings.region
        )

    def sign_put(self, name: str, size_bytes: int, sha256: str, expires: timedelta) -> PresignedRequest:
        """Returns a request that can store only these bytes, under a name in the bucket (`ObjectStore.name`).

        The headers for length and checksum are signed. All stores refuse content of another length. Stores that verify
        checksums (`x-amz-checksum-sha256`) also refuse other bytes. The presigned URLs of the `minio` package sign
        neither header.

        Raises:
            StoreRefused: no credentials are available.
        """
        now = datetime.now(UTC)
        credentials = self._credentials.retrieve()
        # minio chooses between the bucket in the path and in the host name.
        url = urlsplit(self._client.get_presigned_url("PUT", self._bucket, name))._replace(query="")
        headers = {"x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode()}
        signed: dict[str, Any] = {**headers, "host": url.netloc, "content-length": str(size_bytes)}
        parameters = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": get_credential_string(credentials.access_key, now, self._region),
            "X-Amz-Date": now.strftime("%Y%m%dT%H%M%SZ"),
            "X-Amz-Expires": str(round(expires.total_seconds())),
            "X-Amz-SignedHeaders": ";".join(sorted(signed)),
        }
        if credentials.session_token:
            parameters["X-Amz-Security-Token"] = credentials.session_token
        url = url._replace(query=urlencode(parameters, quote_via=quote, safe=""))
        authorization = sign_v4_s3(
            method="PUT",
            url=url,
            region=self._region,
            headers=signed,
            credentials=credentials,
            content_sha256="UNSIGNED-PAYLOAD",
            date=now,
        )["Authorization"]
        signature = str(authorization).rpartition("Signature=")[2]
        return PresignedRequest(f"{url.geturl()}&X-Amz-Signature={signature}", headers)
