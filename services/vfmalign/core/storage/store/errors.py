"""Converts failures of S3 requests to errors that name the object and the remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass

import urllib3
from minio.error import InvalidResponseError, S3Error, ServerError

from vfmalign.core.domain.errors import NotFound, PreconditionFailed, StoreRefused, StoreUnavailable, VfmalignError

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
STORE_FAILING = "STORE_FAILING"
_FULL_STATUS = 507
_ERROR_CODE = re.compile(rb"<Code>(\w+)</Code>")
TAKEN_CODES = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists", "NoSuchBucket"})
"""Error codes if another client creates the same bucket at the same time; the last one comes from SeaweedFS."""
_MISSING_CODES = frozenset({"NoSuchKey", "NoSuchObject", "NoSuchUpload"})
_CREDENTIAL_CODES = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidTokenId"})
_REGION_CODES = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError",
        "IllegalLocationConstraintException",
        "InvalidLocationConstraint",
        "PermanentRedirect",
    }
)


class TransientError(Exception):
    """A failed request that may succeed if it is repeated.

    Attributes:
        status: HTTP status of the response. None if the response was incomplete.
        code: S3's error code, if the response has one.
    """

    def __init__(self, message: str, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


CLIENT_ERRORS = (
    S3Error,
    ServerError,
    InvalidResponseError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
    TransientError,
)
"""Exceptions of requests to the store, apart from this project's own errors."""


@dataclass(frozen=True)
class StoreErrors:
    """Creates the errors for failed requests to one bucket.

    Attributes:
        bucket: name of the bucket.
        region: region that signs requests.
    """

    bucket: str
    region: str

    def from_client_error(self, key: str, error: Exception) -> VfmalignError:
        """Returns the error to raise for one of `CLIENT_ERRORS`."""
        if isinstance(error, S3Error) and error.response is not None:
            status = error.response.status
            if status in TRANSIENT_STATUS:
                return self._failing(status, error.code)
            # The response to a HEAD request has no error code; AWS names the bucket's region in a header.
            region = error.response.headers.get("x-amz-bucket-region", self.region)
            return self.from_response(key, status, error.code if region == self.region else None, region)
        if isinstance(error, ServerError):
            return self._failing(error.status_code)
        if isinstance(error, TransientError) and error.status is not None:
            return self._failing(error.status, error.code)
        return StoreUnavailable(
            "the object store does not answer",
            subject=f"s3://{self.bucket}",
            remedy="check that it runs at AWS_ENDPOINT_URL_S3, then try again",
        )

    def from_response(self, key: str, status: int, code: str | None, region: str = "") -> VfmalignError:
        """Returns the error to raise for a response that reports a failure.

        Args:
            key: key of the object; empty for requests to the bucket.
            status: HTTP status.
            code: S3's error code, if the response has one.
            region: region of the bucket, if the response contains it.
        """
        subject = f"s3://{self.bucket}/{key}"
        if code in _REGION_CODES or (region and region != self.region):
            return PreconditionFailed(
                f"the object store does not accept the region {self.region} for this bucket",
                subject=f"s3://{self.bucket}",
                remedy=f"set AWS_REGION to {region or 'the region of the bucket'}",
                reason="WRONG_REGION",
            )
        if code in _MISSING_CODES or (status == 404 and code != "NoSuchBucket"):
            return NotFound("there is no such object", subject=subject, remedy="check the id, or upload it first")
        if code == "NoSuchBucket":
            return NotFound(
                "there is no such bucket",
                subject=f"s3://{self.bucket}",
                remedy="create it with `vfmalign store init`, or set VFMALIGN_BUCKET",
                reason="BUCKET_NOT_FOUND",
            )
        if code == "RequestTimeTooSkewed":
            return StoreRefused(
                f"the clocks of the service and of the object store differ too much ({code})",
                subject=f"s3://{self.bucket}",
                remedy="ask the operator to synchronise the clocks of both machines",
            )
        if code in _CREDENTIAL_CODES or status in {401, 403}:
            return StoreRefused(
                f"the object store rejects the service's credentials ({code or status})",
                subject=f"s3://{self.bucket}",
                remedy="ask the operator to check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their permissions",
            )
        return self._failing(status, code)

    @staticmethod
    def find_code(body: bytes) -> str | None:
        """Returns S3's error code in the body of a response, if it has one."""
        match = _ERROR_CODE.search(body)
        return None if match is None else match[1].decode()

    def _failing(self, status: int, code: str | None = None) -> StoreUnavailable:
        """Returns the error for a store that answers with an error of its own, such as that its disk is full."""
        return StoreUnavailable(
            describe_failure(status, code),
            subject=f"s3://{self.bucket}",
            remedy="check its free disk space and its log, then try again",
            reason=STORE_FAILING,
        )


def describe_failure(status: int, code: str | None) -> str:
    """Returns the cause of a failure that the object store reports.

    MinIO reports a full disk with its own code (507, `XMinioStorageFull`). SeaweedFS reports a full disk like any other
    internal error.
    """
    answer = f"HTTP {status}{f' {code}' if code else ''}"
    if status == _FULL_STATUS:
        return f"the disk of the object store is full ({answer})"
    return f"the object store answers with errors ({answer}); its disk may be full"


def is_transient(error: BaseException) -> bool:
    """Returns whether a retry may succeed after this error."""
    if isinstance(error, S3Error):
        return error.response is not None and error.response.status in TRANSIENT_STATUS
    return isinstance(error, TransientError | urllib3.exceptions.HTTPError | ServerError | ConnectionError)
