"""Marks of the datasets and models that unfinished operations read, so that nobody deletes them meanwhile.

See `core.storage.deletion` for the protocol. The feature service, which deletes datasets and models, cannot read the
database of this service.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.storage.deletion import Kind, check_not_deleted
from vfmalign.core.storage.keys import USES, uses_prefix
from vfmalign.core.storage.store.object_store import ObjectStore

_GRACE_S = 60.0
"""Marks are not removed before this age, because an operation writes its marks before its row."""
_PAUSE_S = 60.0


def mark_uses(store: ObjectStore, noun: str, item_id: str, spec: JobSpec | CheckSpec | ExperimentSpec) -> None:
    """Marks the inputs of an operation before it is created or retried. If that fails, the leader removes the marks.

    Raises:
        Unavailable: one of the inputs is being deleted.
    """
    models = spec.model_ids if isinstance(spec, ExperimentSpec) else (spec.model_id,)
    inputs: list[tuple[Kind, str]] = [("datasets", spec.dataset_id), *(("models", name) for name in models if name)]
    for kind, name in inputs:
        store.put(f"{uses_prefix(kind, name)}{noun}/{item_id}", b"")
    for kind, name in inputs:
        check_not_deleted(store, kind, name)


class Uses:
    """Removes the marks of operations that have ended. The leader calls it in every round.

    Args:
        store: object store of the tenant.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._unfinished: Mapping[str, frozenset[str]] | None = None
        self._next = 0.0

    def release(self, unfinished: Mapping[str, frozenset[str]]) -> None:
        """Removes marks at once if the unfinished operations have changed, and otherwise once a minute.

        Args:
            unfinished: ids of all unfinished operations, by noun.
        """
        if unfinished == self._unfinished and time.monotonic() < self._next:
            return
        moment = datetime.now(UTC) - timedelta(seconds=_GRACE_S)
        for key in self._store.sizes_bytes(USES, before=moment):
            noun, item_id = key.split("/")[-2:]
            if item_id not in unfinished.get(noun, frozenset()):
                self._store.delete(key)
        self._unfinished, self._next = unfinished, time.monotonic() + _PAUSE_S
