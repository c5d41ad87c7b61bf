"""Map the failures of S3 requests to errors that name the object and the remedy."""

from __future__ import annotations

from dataclasses import dataclass

from minio.error import S3Error

from vfmalign.core.domain.errors import NotFound, PreconditionFailed, StoreRefused, StoreUnavailable, VfmalignError
from vfmalign.core.runtime import metrics

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
TAKEN_CODES = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})
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


@dataclass(frozen=True)
class StoreErrors:
    """The errors of one bucket.

    Attributes:
        bucket: name of the bucket.
        region: region that signs requests.
    """

    bucket: str
    region: str

    def unavailable(self) -> StoreUnavailable:
        """Returns the error for a store that does not answer."""
        return StoreUnavailable(
            "the object store does not answer",
            subject=f"s3://{self.bucket}",
            remedy="check that it runs at AWS_ENDPOINT_URL_S3, then try again",
        )

    def from_s3_error(self, key: str, error: S3Error) -> VfmalignError:
        """Returns the error for a failed call of the S3 client."""
        if error.response is None:
            return self.from_response(key, 0, error.code)
        if error.response.status in TRANSIENT_STATUS:
            return self.unavailable()
        # The response to a HEAD request has no error code; AWS names the bucket's region in a header.
        region = error.response.headers.get("x-amz-bucket-region", self.region)
        return self.from_response(key, error.response.status, error.code if region == self.region else None, region)

    def from_response(self, key: str, status: int, code: str | None, region: str = "") -> VfmalignError:
        """Returns the error for a response.

        Args:
            key: key of the object; empty for the bucket.
            status: HTTP status.
            code: S3's error code, if the response has one.
            region: region of the bucket, if the response names it.
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
        if code in _CREDENTIAL_CODES or status in {401, 403}:
            metrics.store_failures.inc()
            return StoreRefused(
                f"the object store rejects the service's credentials ({code or status})",
                subject=f"s3://{self.bucket}",
                remedy="ask the operator to check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their permissions",
            )
        return StoreUnavailable(f"the object store answered {code or status}", subject=subject, remedy="check its log")
