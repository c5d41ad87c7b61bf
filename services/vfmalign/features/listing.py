"""The published models, page by page. Knows cards and the store; knows nothing of gRPC."""

from __future__ import annotations

from dataclasses import dataclass

from vfmalign.core.domain.artifacts import ModelCard, is_id
from vfmalign.core.domain.errors import BadOption, PreconditionFailed
from vfmalign.core.runtime import logs
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.models.cards import list_cards, load_card

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

_LOG = logs.get("listing")


@dataclass(frozen=True)
class ModelPage:
    """Cards in order of id, and the token of the next page: the last id of this one, empty where nothing follows."""

    cards: tuple[ModelCard, ...]
    next_token: str


def list_models(store: ObjectStore, page_size: int, token: str) -> ModelPage:
    """Reads one page of cards.

    A card that cannot be read is left out and logged, so that one damaged model does not hide the others; asking for it
    by id says what is wrong with it.

    Args:
        store: where the models are.
        page_size: 1 to 1,000; 0 means 100.
        token: `next_token` of the page before; empty for the first.

    Raises:
        BadOption: the page size or token is wrong.
    """
    if not 0 <= page_size <= MAX_PAGE_SIZE:
        raise BadOption(f"{page_size} is no page size", field="page_size", remedy=f"choose 1 to {MAX_PAGE_SIZE}")
    if token and not is_id(token):
        raise BadOption("not a token of ours", field="page_token", remedy="send the last page's `next_page_token`")
    size = page_size or DEFAULT_PAGE_SIZE
    following = [model_id for model_id in sorted(list_cards(store)) if model_id > token]
    cards = []
    for model_id in following[:size]:
        try:
            cards.append(load_card(store, model_id))
        except (PreconditionFailed, BadOption) as error:
            _LOG.warning("a model is left out of the list", model=model_id, error=str(error))
    return ModelPage(tuple(cards), following[size - 1] if len(following) > size else "")
