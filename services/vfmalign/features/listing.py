"""Pages of the published models and of the stored datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from vfmalign.client.dataset_description import describe_dataset
from vfmalign.client.messages.features import Dataset
from vfmalign.core.domain.errors import BadOption, InvalidInput, NotFound, PreconditionFailed, VfmalignError
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.record import is_id
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.work_context import current_work
from vfmalign.core.storage.datasets import list_datasets as list_dataset_ids
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.model_cards import list_model_ids, load_card
from vfmalign.core.storage.store.object_store import ObjectStore

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
PAGE_BYTES = 4 * 2**20
"""A page ends before its descriptions exceed this size in bytes, whatever their number."""

T = TypeVar("T")
_LOG = logs.get("listing")


@dataclass(frozen=True)
class ObjectPage(Generic[T]):
    """One page of a list.

    Attributes:
        items: items in order of id.
        unreadable: error of each unreadable object, by id.
        next_token: last id of this page; empty if this is the last page.
    """

    items: tuple[T, ...]
    unreadable: dict[str, VfmalignError]
    next_token: str


def list_models(store: ObjectStore, page_size: int, token: str) -> ObjectPage[ModelCard]:
    """Reads one page of model cards; see `read_page` for the arguments and errors."""

    def measure(card: ModelCard) -> int:
        return len(card.model_dump_json())

    return read_page(list_model_ids(store), lambda model_id: load_card(store, model_id), measure, page_size, token)


def list_datasets(store: ObjectStore, page_size: int, token: str) -> ObjectPage[Dataset]:
    """Reads one page of datasets; see `read_page` for the arguments and errors."""

    def describe(name: str) -> Dataset:
        return describe_dataset(load_dataset(store, name))  # a page with all cases would take gigabytes

    def measure(dataset: Dataset) -> int:
        return len(dataset.model_dump_json())

    return read_page(list_dataset_ids(store), describe, measure, page_size, token)


def read_page(
    ids: Iterable[str], load: Callable[[str], T], measure: Callable[[T], int], page_size: int, token: str
) -> ObjectPage[T]:
    """Reads one page of objects.

    An object that cannot be read is reported by its id, so that one damaged object does not hide the others.

    Args:
        ids: ids of all objects.
        load: function that reads an object.
        measure: size in bytes of an object's description.
        page_size: 1 to 1,000; 0 means 100.
        token: `next_token` of the previous page; empty for the first page.

    Raises:
        BadOption: the page size or token is invalid.
        Cancelled, DeadlineExceeded: the caller has left.
    """
    if not 0 <= page_size <= MAX_PAGE_SIZE:
        raise BadOption(f"{page_size} is not a page size", field="page_size", remedy=f"choose 1 to {MAX_PAGE_SIZE}")
    if token and not is_id(token):
        raise BadOption("not a page token", field="page_token", remedy="send the last page's `next_page_token`")
    size = page_size or DEFAULT_PAGE_SIZE
    following = sorted(name for name in ids if is_id(name) and name > token)
    items: list[T] = []
    unreadable: dict[str, VfmalignError] = {}
    last, free_bytes = "", PAGE_BYTES
    for name in following[:size]:
        current_work.get().checkpoint()
        try:
            item = load(name)
        except (PreconditionFailed, InvalidInput, NotFound) as error:
            unreadable[name] = error
            free_bytes -= len(str(error))
            _LOG.warning("object_unreadable", id=name, error=str(error))
        else:
            free_bytes -= measure(item)
            if last and free_bytes < 0:
                break
            items.append(item)
        last = name
    return ObjectPage(tuple(items), unreadable, last if following and last < following[-1] else "")
