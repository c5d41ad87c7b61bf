"""Table of each service's access to the bucket. Policies for any S3 store are generated from this table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class StoreAccess:
    """Keys that one identity of the object store may read or write. Every identity may list the bucket.

    Prefixes do not contain a tenant until `of_tenants` adds the tenants' names. Listing is not limited to prefixes. If
    an identity may not list, S3 reports absent objects with 403 instead of 404.

    Attributes:
        read: prefixes of keys that the identity may read.
        write: prefixes of keys that the identity may write and delete.
    """

    read: tuple[str, ...]
    write: tuple[str, ...]

    def of_tenants(self, tenants: Iterable[str]) -> StoreAccess:
        """Returns this access, limited to the given tenants. The prefixes begin with the tenants' names."""
        names = tuple(tenants)
        return StoreAccess(
            read=tuple(f"{tenant}/{prefix}" for tenant in names for prefix in self.read),
            write=tuple(f"{tenant}/{prefix}" for tenant in names for prefix in self.write),
        )

    def to_policy(self, bucket: str) -> dict[str, object]:
        """Returns the access as an AWS policy document. MinIO, Ceph and other stores also support such policies."""
        arn = f"arn:aws:s3:::{bucket}"

        def allow(actions: list[str], resources: list[str]) -> dict[str, object]:
            return {"Effect": "Allow", "Action": [f"s3:{action}" for action in actions], "Resource": resources}

        statements = [
            allow(["GetBucketLocation", "ListBucket", "ListBucketVersions"], [arn]),
            allow(["GetObject"], [f"{arn}/{prefix}*" for prefix in self.read]),
        ]
        if self.write:
            writing = ["PutObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploadParts"]
            statements.append(allow(writing, [f"{arn}/{prefix}*" for prefix in self.write]))
        return {"Version": "2012-10-17", "Statement": statements}


_TRAINING = StoreAccess(read=("datasets/", "jobs/", "models/", "volumes/"), write=("jobs/", "models/"))
_ORCHESTRATOR = StoreAccess(
    read=(
        "cells/",
        "checks/",
        "datasets/",
        "erasures/finetuning/",
        "experiments/",
        "features/",
        "jobs/",
        "models/",
        "studies/",
    ),
    write=("cells/", "checks/", "erasures/finetuning/", "experiments/", "jobs/", "uses/"),
)

STORE_ACCESS: Mapping[str, StoreAccess] = MappingProxyType(
    {
        "features": StoreAccess(
            read=(
                "datasets/",
                "erasures/features/",
                "features/",
                "incoming/",
                "models/",
                "outbox/",
                "uploads/",
                "volumes/",
            ),
            write=(
                "datasets/",
                "deletions/",
                "erasures/features/",
                "features/",
                "incoming/",
                "models/",
                "outbox/",
                "volumes/",
            ),
        ),
        "mmd": StoreAccess(read=("features/", "uploads/"), write=("uploads/features/",)),
        "finetuning": _ORCHESTRATOR,
        "monitoring": StoreAccess(
            read=("datasets/", "erasures/monitoring/", "features/", "monitors/"),
            write=("erasures/monitoring/", "monitors/"),
        ),
        "training": _TRAINING,
    }
)
"""Access by service; `training` is for the pods of a job."""


def combine(*services: str) -> StoreAccess:
    """Returns the combined access of several services."""
    parts = [STORE_ACCESS[service] for service in services]
    return StoreAccess(
        read=tuple(sorted({prefix for part in parts for prefix in part.read})),
        write=tuple(sorted({prefix for part in parts for prefix in part.write})),
    )
