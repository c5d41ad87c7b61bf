"""Deletion of this service's objects: datasets with their volumes, models, feature sets and stored studies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from vfmalign.client.messages.common import Deletion
from vfmalign.core.domain.errors import NotFound, PreconditionFailed
from vfmalign.core.runtime import logs
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.deletion import (
    NOUNS,
    Deleted,
    Kind,
    check_unused,
    delete_marked,
    is_being_deleted,
    keep_sweeping,
    list_marked,
    measure_below,
)
from vfmalign.core.storage.feature_sets import is_feature_set_id, read_unfinished
from vfmalign.core.storage.keys import (
    FEATURES,
    dataset_key,
    dataset_prefix,
    features_prefix,
    manifest_key,
    model_card_key,
    model_prefix,
    volumes_prefix,
)
from vfmalign.core.storage.store.object_store import ObjectStore

PREFIXES: Mapping[Kind, Callable[[str], tuple[str, ...]]] = MappingProxyType(
    {
        "datasets": lambda name: (dataset_key(name), dataset_prefix(name), volumes_prefix(name)),
        "models": lambda name: (model_card_key(name), model_prefix(name)),
        "features": lambda name: (manifest_key(name), features_prefix(name)),
    }
)
"""Prefixes of each kind. Without the object of the first one, readers do not find the others."""
_COMMANDS: Mapping[Kind, str] = MappingProxyType({"datasets": "dataset", "models": "models", "features": "features"})
_ABANDONED_S = 3600.0
_log = logs.get(__name__)


class Deletions:
    """Deletes objects of one tenant. Also completes interrupted deletions and deletes old features, once an hour.

    Args:
        store: objects of the tenant.
        features_days: age in days at which feature sets and stored studies are deleted; None keeps them.
    """

    def __init__(self, store: ObjectStore, features_days: int | None = None) -> None:
        self._store = store
        self._features_days = features_days
        self._sweep: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins the sweeps."""
        self._sweep = asyncio.create_task(keep_sweeping(self._store, "features", self.sweep))

    def close(self) -> None:
        """Ends the sweeps."""
        if self._sweep is not None:
            self._sweep.cancel()

    def delete(self, kind: Kind, object_id: str, *, dry_run: bool) -> Deletion:
        """Deletes an object, or continues its interrupted deletion.

        Args:
            kind: kind of the object.
            object_id: its id.
            dry_run: if true, only measure what would be deleted.

        Raises:
            NotFound: the object does not exist.
            PreconditionFailed: an unfinished operation uses the object.
        """
        if not self._exists(kind, object_id) and not is_being_deleted(self._store, kind, object_id):
            raise NotFound(
                f"no such {NOUNS[kind]}",
                subject=object_id,
                remedy=f"run `vfmalign {_COMMANDS[kind]} list` to see the available ids",
            )
        prefixes = PREFIXES[kind](object_id)
        if dry_run:
            check_unused(self._store, kind, object_id)
            deleted = measure_below(self._store, prefixes)
        else:
            deleted = delete_marked(self._store, kind, object_id, prefixes)
            _log.info("deleted", kind=kind, id=object_id, objects=deleted.objects, bytes=deleted.size_bytes)
        return Deletion(objects=deleted.objects, size_bytes=deleted.size_bytes)

    def sweep(self) -> Deleted:
        """Completes interrupted deletions. Then deletes each feature set or study whose objects are all old enough."""
        deleted = self.complete() + self._delete_abandoned()
        if self._features_days is None:
            return deleted
        limit = datetime.now(UTC) - timedelta(days=self._features_days)
        for name in sorted(set(map(_get_folder, self._store.sizes_bytes(FEATURES, before=limit)))):
            prefix = features_prefix(name)  # listed again, because the deletion of the others may have taken hours
            if (sizes := self._store.sizes_bytes(prefix)) and sizes == self._store.sizes_bytes(prefix, before=limit):
                deleted += delete_marked(self._store, "features", name, PREFIXES["features"](name))
        return deleted

    def _delete_abandoned(self) -> Deleted:
        """Deletes old parts of feature sets that cannot be completed, because their dataset has changed or is gone."""
        deleted, limit = Deleted(), datetime.now(UTC) - timedelta(seconds=_ABANDONED_S)
        sizes, old = self._store.sizes_bytes(FEATURES), self._store.sizes_bytes(FEATURES, before=limit)
        young = set(map(_get_folder, sizes.keys() - old.keys()))
        for name in sorted(set(map(_get_folder, old)) - young):
            if is_feature_set_id(name) and manifest_key(name) not in sizes and not self._is_current(name):
                deleted += delete_marked(self._store, "features", name, PREFIXES["features"](name))
        return deleted

    def _is_current(self, set_id: str) -> bool:
        request = read_unfinished(self._store, set_id)
        if request is None:
            return False
        try:
            load_dataset(self._store, request.dataset_id, request.dataset_digest)
        except NotFound:
            return False
        except PreconditionFailed as error:
            return error.reason != "DIGEST_MISMATCH"
        return True

    def complete(self) -> Deleted:
        """Completes interrupted deletions.

        If an operation uses an object again, the object is kept and its mark is removed.
        """
        deleted = Deleted()
        for kind, object_id in list_marked(self._store):
            try:
                deleted += delete_marked(self._store, kind, object_id, PREFIXES[kind](object_id))
            except PreconditionFailed as error:
                _log.info("deletion_withdrawn", kind=kind, id=object_id, error=error)
        return deleted

    def _exists(self, kind: Kind, object_id: str) -> bool:
        if kind == "features" and not is_feature_set_id(object_id):  # a stored study has no manifest
            return bool(self._store.sizes_bytes(features_prefix(object_id)))
        return self._store.exists(PREFIXES[kind](object_id)[0])


def _get_folder(key: str) -> str:
    """Returns the id of the feature set or study to which an object belongs."""
    return key.removeprefix(FEATURES).partition("/")[0]
