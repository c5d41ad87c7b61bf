"""Deletes stored objects. Marks protect objects in use, and let interrupted deletions be completed.

Marks are empty objects of two kinds:

- `deletions/<kind>/<id>`: the object is being deleted. This mark is written first and removed last. This mark shows
which deletions were interrupted and must be completed.
- `uses/<kind>/<id>/<operation>`: an unfinished operation reads the object.

The deletion and the operation each write their own mark before they look for the mark of the other. If the deletion and
the operation begin at the same time, at least one of them finds the other's mark and stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from vfmalign.core.domain.errors import PreconditionFailed, Unavailable, VfmalignError
from vfmalign.core.formats.documents import pluralise
from vfmalign.core.runtime import logs, metrics
from vfmalign.core.runtime.threads import STORE, Threads
from vfmalign.core.runtime.work_context import current_work
from vfmalign.core.storage.keys import deletion_key, uses_prefix
from vfmalign.core.storage.store.object_store import ObjectStore

Kind = Literal["datasets", "models", "features"]
"""Kind of an object that has marks. `features` are feature sets and stored studies."""
NOUNS: dict[Kind, str] = {"datasets": "dataset", "models": "model", "features": "feature set"}
_PARALLEL_REQUESTS = 8
_SWEEP_PAUSE_S = 3600.0
_LOG = logs.get("deletion")


@dataclass(frozen=True)
class Deleted:
    """Number of deleted objects, and their total size in bytes."""

    objects: int = 0
    size_bytes: int = 0

    def __add__(self, other: Deleted) -> Deleted:
        return Deleted(self.objects + other.objects, self.size_bytes + other.size_bytes)


def measure_below(store: ObjectStore, prefixes: Sequence[str]) -> Deleted:
    """Returns the number and total size of the objects below these prefixes."""
    sizes = _list_sizes(store, prefixes)
    return Deleted(len(sizes), sum(sizes.values()))


def delete_below(store: ObjectStore, prefixes: Sequence[str]) -> Deleted:
    """Deletes every object below these prefixes, one prefix after the other, until no object is left.

    Raises:
        Cancelled, DeadlineExceeded: the call was cancelled or exceeded its deadline.
    """
    deleted = Deleted()
    with Threads(_PARALLEL_REQUESTS, "deletion") as threads:

        def delete(key: str) -> None:
            current_work.get().checkpoint()
            store.delete(key)

        while _list_sizes(store, prefixes):  # work in progress may have added an object
            for prefix in prefixes:
                sizes = store.sizes_bytes(prefix)
                list(threads.map(delete, sizes))
                deleted += Deleted(len(sizes), sum(sizes.values()))
    return deleted


def _list_sizes(store: ObjectStore, prefixes: Sequence[str]) -> dict[str, int]:
    """Returns the sizes of the objects below these prefixes, which may overlap, by key."""
    return {key: size for prefix in prefixes for key, size in store.sizes_bytes(prefix).items()}


def check_not_deleted(store: ObjectStore, kind: Kind, object_id: str) -> None:
    """Checks that an object is not being deleted. Call this function before writing or reading the object.

    Raises:
        Unavailable: it is being deleted.
    """
    if is_being_deleted(store, kind, object_id):
        raise Unavailable(
            f"the {NOUNS[kind]} is being deleted",
            subject=object_id,
            remedy="choose another id, or repeat its deletion and try again",
            reason="BEING_DELETED",
        )


def is_being_deleted(store: ObjectStore, kind: Kind, object_id: str) -> bool:
    """Returns whether an object has a deletion mark. Every service may list marks, but no service may read them."""
    key = deletion_key(kind, object_id)
    return key in store.list(key)


def delete_marked(store: ObjectStore, kind: Kind, object_id: str, prefixes: Sequence[str]) -> Deleted:
    """Marks an object, deletes everything below its prefixes, and removes the mark. Completes an interrupted deletion.

    Args:
        store: the object store.
        kind: kind of the object.
        object_id: its id.
        prefixes: prefixes of its objects. The first prefix is the key of the object that readers look up first.

    Raises:
        PreconditionFailed: an unfinished operation uses the object. Nothing is deleted.
        Cancelled, DeadlineExceeded: the call was cancelled or exceeded its deadline. The mark remains.
    """
    mark = deletion_key(kind, object_id)
    store.put(mark, b"")
    if store.sizes_bytes(prefixes[0]):
        try:
            check_unused(store, kind, object_id)
        except PreconditionFailed:
            store.delete(mark)
            raise
    deleted = record_deletion(kind, delete_below(store, prefixes))
    store.delete(mark)
    return deleted


def check_unused(store: ObjectStore, kind: Kind, object_id: str) -> None:
    """Checks that no unfinished operation uses an object.

    Raises:
        PreconditionFailed: at least one operation uses the object. The error names the first operation.
    """
    prefix = uses_prefix(kind, object_id)
    users = [key.removeprefix(prefix) for key in store.list(prefix)]
    if users:
        noun, _, user = users[0].partition("/")
        others = f" and {pluralise(len(users) - 1, 'other operation')} use it" if len(users) > 1 else " uses it"
        raise PreconditionFailed(
            f"the {noun} {user}{others}",
            subject=object_id,
            remedy=f"wait until it has ended, or run `vfmalign {noun}s cancel {user}`",
            reason="IN_USE",
        )


def list_marked(store: ObjectStore) -> list[tuple[Kind, str]]:
    """Returns the kinds and ids of the objects with an incomplete deletion."""
    return [(kind, key.rpartition("/")[2]) for kind in NOUNS for key in store.list(deletion_key(kind, ""))]


def record_deletion(kind: str, deleted: Deleted) -> Deleted:
    """Adds deleted objects to the metrics. Returns them unchanged."""
    metrics.deleted_objects.labels(kind).inc(deleted.objects)
    metrics.deleted_bytes.labels(kind).inc(deleted.size_bytes)
    return deleted


async def keep_sweeping(
    store: ObjectStore, kind: str, sweep: Callable[[], Deleted], pause_s: float = _SWEEP_PAUSE_S
) -> None:
    """Runs `sweep` for a tenant at once and then every hour, until the task is cancelled.

    Args:
        store: objects of the tenant.
        kind: kind of the deleted objects, for the log and the metrics.
        sweep: deletes what is due, and returns the number and size of the deleted objects.
        pause_s: seconds between two sweeps; by default an hour.
    """
    logs.bind(tenant=store.tenant)
    last = metrics.last_sweep.labels(store.tenant, kind)
    last.set_to_current_time()
    while True:
        try:
            if (deleted := await STORE.run(sweep)).objects:
                _LOG.info("swept", kind=kind, objects=deleted.objects, bytes=deleted.size_bytes)
            last.set_to_current_time()
        except VfmalignError as error:
            _LOG.warning("not_swept", kind=kind, error=error)
        except Exception:
            _LOG.exception("not_swept", kind=kind)
        await asyncio.sleep(pause_s)
