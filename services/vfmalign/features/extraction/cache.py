"""Least-recently-used cache of encoders on the device, bounded by the bytes of their weights.

Encoders are identified by their tenant and the digest of their weights. A tenant therefore cannot find out which
encoders other tenants have loaded. Concurrent requests for the same encoder load the encoder only once.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from vfmalign.core.domain.errors import Cancelled, DeadlineExceeded, InvalidInput, TooLarge
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.runtime.work_context import current_work
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.models.cards import load_card_encoder
from vfmalign.models.encoder import Encoder
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import build_encoder, random_state

_OVERHEAD_BYTES = 16 * 2**20
"""Bytes that a weights file may contain in addition to the weights: its header, and the graph of a program."""


@dataclass(frozen=True)
class _Key:
    """Identity of an encoder: its architecture, and either the tenant and digest of its weights or a seed."""

    architecture: str
    tenant: str = ""
    sha256: str = ""
    seed: int = -1


class ModelCache:
    """Loads and caches encoders. Thread-safe.

    Args:
        store: object store with the models of a tenant.
        device: device that the encoders are loaded to.
        budget_bytes: maximum total size of all loaded weights in bytes.
    """

    def __init__(self, store: ObjectStore, device: torch.device, budget_bytes: int) -> None:
        self.device = device
        self._store = store
        self._budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._encoders: OrderedDict[_Key, Future[Encoder]] = OrderedDict()

    def of_store(self, store: ObjectStore) -> ModelCache:
        """Returns a view of this cache that loads another tenant's models. The views share one budget."""
        view = copy.copy(self)
        view._store = store
        return view

    def get(self, model_id: str, sha256: str = "") -> tuple[Encoder, ModelCard]:
        """Returns a published encoder and its card. Raises the same errors as `models.cards.load_encoder`."""
        card = load_card(self._store, model_id, sha256)
        return self.get_by_card(card), card

    def get_by_card(self, card: ModelCard) -> Encoder:
        """Returns the encoder with the weights that a card names."""
        key = _Key(card.architecture, self._store.tenant, card.checkpoint.sha256)
        limit = self._budget_bytes + _OVERHEAD_BYTES
        return self._load_once(key, lambda: load_card_encoder(self._store, card, self.device, limit))

    def get_random(self, architecture: str, seed: int) -> Encoder:
        """Returns an encoder of the card's architecture with random weights from `seed`."""
        built = get_architecture(architecture)
        key = _Key(architecture, seed=seed)
        return self._load_once(key, lambda: build_encoder(built, random_state(built, seed), self.device))

    def used_bytes(self) -> int:
        """Returns the total size of all loaded weights in bytes."""
        with self._lock:
            return sum(_size_bytes(f.result()) for f in self._encoders.values() if _is_loaded(f))

    def _load_once(self, key: _Key, load: Callable[[], Encoder]) -> Encoder:
        while True:
            with self._lock:
                future = self._encoders.get(key)
                if future is None:
                    future = self._encoders[key] = Future()
                    break
                self._encoders.move_to_end(key)
            try:
                return future.result()
            except (Cancelled, DeadlineExceeded):
                # The caller that was loading it has left. This caller loads it now, unless it has left as well.
                current_work.get().checkpoint()
        try:
            self._check_budget(key)
            encoder = load()
        except BaseException as error:
            # Remove the entry, so that the next request tries again. Waiting requests get this error.
            with self._lock:
                self._encoders.pop(key, None)
            future.set_exception(error)
            raise
        future.set_result(encoder)
        self._evict(keep=key)
        return encoder

    def _check_budget(self, key: _Key) -> None:
        """Raises TooLarge for a model that exceeds the whole budget, before its weights are read."""
        try:
            empty = get_architecture(key.architecture).build_empty()
        except InvalidInput:
            return  # unknown architecture (the loader reports it), or a program: its size follows from its weights
        if (size := _size_bytes(empty)) > self._budget_bytes:
            raise TooLarge(
                f"its weights need {size:,} bytes, and the whole model cache has {self._budget_bytes:,}",
                subject=key.architecture,
                remedy="raise VFMALIGN_FEATURES__MODEL_CACHE_BYTES",
                reason="MODEL_TOO_LARGE",
            )

    def _evict(self, keep: _Key) -> None:
        with self._lock:
            loaded = {k: _size_bytes(f.result()) for k, f in self._encoders.items() if _is_loaded(f)}
            for key in list(loaded):
                if sum(loaded.values()) <= self._budget_bytes:
                    return
                if key != keep:
                    # Running requests keep their reference; the memory is freed when the last of them finishes.
                    del self._encoders[key], loaded[key]


def _is_loaded(future: Future[Encoder]) -> bool:
    return future.done() and future.exception() is None


def _size_bytes(encoder: Encoder) -> int:
    return sum(p.numel() * p.element_size() for p in encoder.parameters())
