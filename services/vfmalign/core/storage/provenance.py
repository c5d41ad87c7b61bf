"""Records who created a dataset, a model or a feature set, and when, in an object beside it.

The document that commits an object is a function of its content: references contain its digest, and a lost document is
created again with the same bytes. It can therefore not contain the caller or the time.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Self

from pydantic import Field

from vfmalign.core.domain.errors import NotFound, PreconditionFailed
from vfmalign.core.domain.record import OptionalSha256, Record
from vfmalign.core.storage.keys import provenance_key
from vfmalign.core.storage.store.object_store import ObjectStore


class Provenance(Record):
    """Who created an object, and when.

    Attributes:
        created_by: `Identity.key` of the person or program that asked for the object; empty if unknown.
        created_at: when the object was created; None if unknown.
        parent_sha256: digest of the weights that a model was fine-tuned from; empty for other objects.
    """

    created_by: str = Field(default="", max_length=1024)
    created_at: datetime | None = None
    parent_sha256: OptionalSha256 = ""

    @classmethod
    def of(cls, created_by: str, parent_sha256: str = "") -> Self:
        """Returns the provenance of an object that is created now."""
        return cls(created_by=created_by, created_at=datetime.now(UTC), parent_sha256=parent_sha256)


def record_provenance(store: ObjectStore, prefix: str, digest: str, provenance: Provenance) -> None:
    """Records the provenance of an object, unless it is unknown or recorded. Call it just before the object's commit.

    Args:
        store: object store of the object.
        prefix: prefix of the object, below which its deletion removes everything.
        digest: digest of the content. An unfinished publication of other content under the same id does not count.
        provenance: the provenance.
    """
    if provenance != Provenance():
        store.put_if_absent(provenance_key(prefix, digest), provenance.to_json())


def read_provenance(store: ObjectStore, prefix: str, digest: str) -> Provenance:
    """Returns the provenance of an object, with arguments as in `record_provenance`.

    Its fields are empty if no record exists, as for objects of earlier versions, or if the record is damaged.
    """
    with suppress(NotFound, PreconditionFailed):  # the object itself remains usable
        return store.read(provenance_key(prefix, digest), Provenance)
    return Provenance()
