"""Recognises objects that are still needed but missing, truncated or changed. Names the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vfmalign.core.domain.errors import MISCONFIGURED_STORE, DataLoss, NotFound, PreconditionFailed
from vfmalign.core.domain.models import ModelCard

IMPORT_DATASET = "import the dataset again under the same id with `vfmalign dataset import`, which restores its volumes"
EXTRACT_AGAIN = (
    "run `vfmalign extract DATASET --model MODEL --split SPLIT --verify` with the options of the check or command that "
    "made the set, which computes its damaged parts again"
)


def describe_publishing(card: ModelCard) -> str:
    """Returns the remedy that publishes the weights of a model again under the same id."""
    if card.source.startswith("job "):
        job = card.source.removeprefix("job ")
        return f"run `vfmalign jobs retry {job}`, which publishes the model again from the job's checkpoint"
    return f"import the model again with `vfmalign models import --id {card.id}`, which restores its weights"


@contextmanager
def lost_as(kind: str, owner: str, remedy: str) -> Iterator[None]:
    """Raises DataLoss if a recorded object is missing, unreadable or changed when the block reads it.

    Args:
        kind: see `DataLoss`.
        owner: see `DataLoss`.
        remedy: how to create the object again.
    """
    try:
        yield
    except (NotFound, PreconditionFailed) as error:
        if error.reason in MISCONFIGURED_STORE:  # a wrong setting, which says nothing about the object
            raise
        raise DataLoss(error.message, kind=kind, owner=owner, subject=error.subject, remedy=remedy) from error
