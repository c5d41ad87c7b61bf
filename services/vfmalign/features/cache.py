"""Encoders kept on the device between requests.

Knows models by the digest of their weights; knows nothing of requests. Least recently used ones go first when a budget
of bytes is exceeded, and a model that many requests want at once is loaded once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from vfmalign.core.domain.artifacts import ModelCard
from vfmalign.core.domain.errors import Exhausted, InvalidInput
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.models.cards import check_checkpoint_digest, load_card, load_card_encoder
from vfmalign.models.encoder import Encoder
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import build_encoder, random_state


@dataclass(frozen=True)
class _Key:
    """What determines an encoder: its architecture, and either its weights' digest or its seed."""

    architecture: str
    sha256: str = ""
    seed: int = -1


class ModelCache:
    """Loaded encoders; safe to use from many threads.

    Args:
        store: where models lie.
        device: where they are loaded to.
        budget_bytes: how much their weights may take together.
    """

    def __init__(self, store: ObjectStore, device: torch.device, budget_bytes: int) -> None:
        self.device = device
        self._store = store
        self._budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._encoders: OrderedDict[_Key, Future[Encoder]] = OrderedDict()

    def get(self, model_id: str, sha256: str = "") -> tuple[Encoder, ModelCard]:
        """A published encoder and its card; see `models.cards.load_encoder` for the errors."""
        card = load_card(self._store, model_id)
        check_checkpoint_digest(card, sha256)
        return self.of_card(card), card

    def of_card(self, card: ModelCard) -> Encoder:
        """The encoder with the weights a card names."""
        key = _Key(card.architecture, sha256=card.checkpoint.sha256)
        return self._once(key, lambda: load_card_encoder(self._store, card, self.device))

    def random(self, architecture: str, seed: int) -> Encoder:
        """The architecture with random weights from `seed`."""
        built = get_architecture(architecture)
        key = _Key(architecture, seed=seed)
        return self._once(key, lambda: build_encoder(built, random_state(built, seed), self.device))

    def used_bytes(self) -> int:
        """Bytes of the weights that are loaded."""
        with self._lock:
            return sum(_size_bytes(f.result()) for f in self._encoders.values() if _is_loaded(f))

    def _once(self, key: _Key, load: Callable[[], Encoder]) -> Encoder:
        with self._lock:
            future = self._encoders.get(key)
            if mine := future is None:
                future = self._encoders[key] = Future()
            self._encoders.move_to_end(key)
        if not mine:
            return future.result()
        try:
            self._check_budget(key)
            encoder = load()
        except BaseException as error:
            # Forgotten, so that the next request tries again; those that wait now share this failure.
            with self._lock:
                self._encoders.pop(key, None)
            future.set_exception(error)
            raise
        future.set_result(encoder)
        self._evict(keep=key)
        return encoder

    def _check_budget(self, key: _Key) -> None:
        """Refuses a model that could only be loaded by breaking the budget, before its weights are read."""
        try:
            empty = get_architecture(key.architecture).build_empty()
        except InvalidInput:
            return  # the loader says so better, or the size is known only with the weights
        if (size := _size_bytes(empty)) > self._budget_bytes:
            error = Exhausted(
                f"its {size} bytes are more than the whole model cache of {self._budget_bytes}",
                subject=key.architecture,
                remedy="raise VFMALIGN_FEATURES__MODEL_CACHE_BYTES",
                reason="MODEL_TOO_LARGE",
            )
            error.retry_after_s = None
            raise error

    def _evict(self, keep: _Key) -> None:
        with self._lock:
            loaded = {k: _size_bytes(f.result()) for k, f in self._encoders.items() if _is_loaded(f)}
            for key in list(loaded):
                if sum(loaded.values()) <= self._budget_bytes:
                    return
                if key != keep:
                    # Requests that still hold the encoder finish with it; its memory goes with the last of them.
                    del self._encoders[key], loaded[key]


def _is_loaded(future: Future[Encoder]) -> bool:
    return future.done() and future.exception() is None


def _size_bytes(encoder: Encoder) -> int:
    return sum(p.numel() * p.element_size() for p in encoder.parameters())
