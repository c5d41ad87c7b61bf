"""Objects that something refers to but that are missing, truncated or changed: recognise them and name the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vfmalign.core.domain.errors import DataLoss, NotFound, PreconditionFailed

IMPORT_DATASET = "import the dataset again under the same id with `vfmalign dataset import`, which restores its volumes"
EXTRACT_AGAIN = "extract the set again with `vfmalign extract --verify`, which computes its damaged parts again"


@contextmanager
def lost_as(kind: str, owner: str, remedy: str) -> Iterator[None]:
    """Raises DataLoss where the block finds that a recorded object is missing, unreadable or has another digest.

    Args:
        kind: see `DataLoss`.
        owner: see `DataLoss`.
        remedy: how to create the object again.
    """
    try:
        yield
    except (NotFound, PreconditionFailed) as error:
        if error.reason == "BUCKET_NOT_FOUND":  # a wrong setting, which says nothing about the object
            raise
        raise DataLoss(error.message, kind=kind, owner=owner, subject=error.subject, remedy=remedy) from error
