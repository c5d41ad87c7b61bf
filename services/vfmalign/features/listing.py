"""Pages of lists: published models, stored datasets, and feature sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Self, TypeVar

from vfmalign.client.dataset_description import describe_dataset
from vfmalign.client.messages.common import ObjectRef
from vfmalign.client.messages.features import Dataset, FeatureSet, ListFeatureSetsRequest
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.errors import DataLoss, InvalidInput, NotFound, PreconditionFailed, VfmalignError
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.record import is_id
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.rpc.page_tokens import PageTokens, bad_token
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.work_context import current_work
from vfmalign.core.storage.datasets import list_datasets as list_dataset_ids
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.feature_sets import CommittedSet, is_feature_set_id, read_committed
from vfmalign.core.storage.keys import FEATURES, dataset_prefix, features_prefix, model_prefix
from vfmalign.core.storage.model_cards import list_model_ids, load_card
from vfmalign.core.storage.provenance import Provenance, read_provenance
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.extraction.dataset_extraction import get_weights_digest

DEFAULT_PAGE_SIZE = 100
PAGE_BYTES = 4 * 2**20
"""A page ends before its descriptions exceed this size in bytes, whatever their number."""

T = TypeVar("T")
_LOG = logs.get("listing")


@dataclass(frozen=True)
class PageQuery:
    """The requested page of a list.

    Attributes:
        size: maximum number of objects.
        after: id of the last object on the previous page; empty for the first page.
        tokens: creates the token of the next page.
    """

    size: int
    after: str
    tokens: PageTokens

    @classmethod
    def parse(cls, request: Any) -> Self:
        """Returns the page that a list request asks for.

        Raises:
            BadOption: the token is invalid, or belongs to another list.
        """
        tokens = PageTokens.of(request)
        position = tokens.read(request.page_token) if request.page_token else ("",)
        if len(position) != 1 or not (is_id(position[0]) or not request.page_token):
            raise bad_token("it is not a page token")
        return cls(request.page_size or DEFAULT_PAGE_SIZE, position[0], tokens)


@dataclass(frozen=True)
class ObjectPage(Generic[T]):
    """One page of a list.

    Attributes:
        items: items in order of id.
        unreadable: maps the id of each unreadable object to its error.
        next_token: token of the next page; empty if this is the last page.
    """

    items: tuple[T, ...]
    unreadable: dict[str, VfmalignError]
    next_token: str


def get_model(store: ObjectStore, model_id: str) -> tuple[ModelCard, Provenance]:
    """Reads a model's card and provenance; see `load_card` for the errors."""
    card = load_card(store, model_id)
    return card, read_provenance(store, model_prefix(card.id), card.checkpoint.sha256)


def list_models(store: ObjectStore, query: PageQuery) -> ObjectPage[tuple[ModelCard, Provenance]]:
    """Reads one page of models; see `read_page` for the errors."""

    def measure(model: tuple[ModelCard, Provenance]) -> int:
        return len(model[0].model_dump_json())

    return read_page(list_model_ids(store), lambda model_id: get_model(store, model_id), measure, query)


def describe_stored(store: ObjectStore, dataset: DatasetManifest) -> Dataset:
    """Describes a stored dataset with its provenance."""
    described = describe_dataset(dataset)
    provenance = read_provenance(store, dataset_prefix(dataset.id), described.dataset_digest)
    return described.model_copy(update={"create_time": provenance.created_at, "created_by": provenance.created_by})


def list_datasets(store: ObjectStore, query: PageQuery) -> ObjectPage[Dataset]:
    """Reads one page of datasets; see `read_page` for the errors."""

    def describe(name: str) -> Dataset:
        return describe_stored(store, load_dataset(store, name))  # a page with all cases would take gigabytes

    def measure(dataset: Dataset) -> int:
        return len(dataset.model_dump_json())

    return read_page(list_dataset_ids(store), describe, measure, query)


def list_feature_sets(store: ObjectStore, filters: ListFeatureSetsRequest, query: PageQuery) -> ObjectPage[FeatureSet]:
    """Reads one page of committed feature sets; see `read_page` for the errors. Reads at most `query.size` sets."""

    def accepts(name: str) -> bool:
        current_work.get().checkpoint()
        return is_feature_set_id(name)

    def find(name: str) -> FeatureSet | None:
        try:
            committed = read_committed(store, name)
            request = committed.manifest.request
            if filters.model_id not in {"", request.model_id} or filters.dataset_id not in {"", request.dataset_id}:
                return None
            time = store.get_write_time(committed.key)
        except NotFound:  # not committed yet
            return None
        if time < (filters.created_after or time) or (filters.created_before and time >= filters.created_before):
            return None
        return describe_feature_set(store, committed, _find_weights_digest(store, committed), time)

    def measure(feature_set: FeatureSet) -> int:
        return len(feature_set.model_dump_json())

    names = store.list_folders(FEATURES, after=query.after, limit=query.size + 1, accepts=accepts)
    return read_page(names, find, measure, query)


def get_feature_set(store: ObjectStore, feature_set_id: str) -> FeatureSet:
    """Describes a committed feature set; see `read_committed` for the errors."""
    committed = read_committed(store, feature_set_id)
    digest, time = _find_weights_digest(store, committed), store.get_write_time(committed.key)
    return describe_feature_set(store, committed, digest, time)


def describe_feature_set(
    store: ObjectStore, committed: CommittedSet, checkpoint_sha256: str, create_time: datetime | None = None
) -> FeatureSet:
    """Describes a committed feature set.

    Args:
        store: object store of the set.
        committed: its manifest.
        checkpoint_sha256: see `get_weights_digest`.
        create_time: time at which the manifest was written, if known.
    """
    manifest, request = committed.manifest, committed.manifest.request
    set_id = request.feature_set_id()
    ref = StoredFile(key=committed.key, sha256=committed.sha256, size_bytes=committed.size_bytes)
    return FeatureSet(
        feature_set_id=set_id,
        manifest=ObjectRef.of(ref, store.uri),
        rows=manifest.rows,
        groups=len(set(manifest.groups)),
        layers=manifest.layers,
        checkpoint_sha256=checkpoint_sha256,
        dataset_digest=request.dataset_digest,
        model_id=request.model_id,
        dataset_id=request.dataset_id,
        split=request.split,
        initialisation=request.initialisation,
        initialisation_seed=request.init_seed,
        input_transform=request.input_transform,
        create_time=create_time,
        created_by=read_provenance(store, features_prefix(set_id), set_id).created_by,
    )


def _find_weights_digest(store: ObjectStore, committed: CommittedSet) -> str:
    """Returns the digest of a set's weights; empty if they are random and the card of their model cannot be read."""
    request = committed.manifest.request
    if request.initialisation == "checkpoint":
        return request.model_sha256
    try:
        return get_weights_digest(request, load_card(store, request.model_id))
    except (NotFound, PreconditionFailed):
        return ""


def read_page(
    ids: Iterable[str], load: Callable[[str], T | None], measure: Callable[[T], int], query: PageQuery
) -> ObjectPage[T]:
    """Reads one page of objects.

    Reports the id of each unreadable object, so that one damaged object does not hide the others.

    Args:
        ids: ids of all objects, or of the objects after `query.after`.
        load: function that reads an object. If `load` returns None, the object is left out.
        measure: returns the size in bytes of an object's description.
        query: the page.

    Raises:
        Cancelled, DeadlineExceeded: the caller no longer waits for the page.
    """
    following = sorted(name for name in ids if is_id(name) and name > query.after)
    items: list[T] = []
    unreadable: dict[str, VfmalignError] = {}
    last, free_bytes = "", PAGE_BYTES
    for name in following[: query.size]:
        current_work.get().checkpoint()
        try:
            item = load(name)
        except (PreconditionFailed, InvalidInput, NotFound, DataLoss) as error:
            unreadable[name] = error
            free_bytes -= len(str(error))
            _LOG.warning("object_unreadable", id=name, error=error)
        else:
            free_bytes -= 0 if item is None else measure(item)
            if last and free_bytes < 0:
                break
            if item is not None:
                items.append(item)
        last = name
    has_next = bool(following) and last < following[-1]
    return ObjectPage(tuple(items), unreadable, query.tokens.write(last) if has_next else "")
