"""Marks of the datasets and models that unfinished operations read. The marks prevent their deletion.

See `core.storage.deletion` for the protocol. The feature service, which deletes datasets and models, cannot read the
database of this service.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from vfmalign.core.domain.record import Record
from vfmalign.core.storage.deletion import Kind, check_not_deleted
from vfmalign.core.storage.keys import USES, uses_prefix
from vfmalign.core.storage.store.object_store import ObjectStore

_GRACE_S = 60.0
"""Marks are not removed before this age, because an operation writes its marks before its row."""
_POLL_S = 5.0
_LIST_S = 60.0


@contextmanager
def marking_uses(store: ObjectStore, noun: str, item_id: str, spec: Record) -> Iterator[None]:
    """Marks the inputs of the operation that the `with` block creates or retries.

    If the block fails, the marks are removed.

    Raises:
        Unavailable: one of the inputs is being deleted.
    """
    inputs = _list_inputs(spec.model_dump(mode="json"))
    marks = [_get_mark(one, noun, item_id) for one in inputs]
    for mark in marks:
        store.put(mark, b"")
    try:
        for kind, name in inputs:
            check_not_deleted(store, kind, name)
        yield
    except BaseException:
        for mark in marks:
            store.delete(mark)
        raise


class Uses:
    """Keeps the marks of unfinished operations, and removes the marks of all other operations.

    The leader calls `update` in every round.

    Args:
        store: object store of the tenant.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._expected: frozenset[str] | None = None
        self._next_poll = self._next_list = 0.0

    def is_due(self) -> bool:
        """Returns whether the caller should call `update` now, which happens every few seconds."""
        return time.monotonic() >= self._next_poll

    def update(self, unfinished: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Updates the marks at once if the set of unfinished operations has changed, and otherwise once a minute.

        Args:
            unfinished: the request of each unfinished operation as JSON, by kind and id.
        """
        self._next_poll = time.monotonic() + _POLL_S
        expected = frozenset(
            _get_mark(one, noun, item_id)
            for noun, requests in unfinished.items()
            for item_id, request in requests.items()
            for one in _list_inputs(request)
        )
        if expected == self._expected and time.monotonic() < self._next_list:
            return
        for key in expected.difference(self._store.list(USES)):  # reopened, or older than this version
            self._store.put(key, b"")
        moment = datetime.now(UTC) - timedelta(seconds=_GRACE_S)
        for key in self._store.sizes_bytes(USES, before=moment).keys() - expected:
            self._store.delete(key)
        self._expected, self._next_list = expected, time.monotonic() + _LIST_S


def _list_inputs(request: Mapping[str, Any]) -> list[tuple[Kind, str]]:
    """Returns kind and id of the inputs that a request of a job, check or experiment names."""
    models = request.get("model_ids") or [request.get("model_id", "")]
    return [("datasets", request["dataset_id"]), *(("models", name) for name in models if name)]


def _get_mark(used: tuple[Kind, str], noun: str, item_id: str) -> str:
    return f"{uses_prefix(*used)}{noun}/{item_id}"
