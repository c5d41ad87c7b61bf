"""A folder of finished cells as JSON, which outlives the state folder and lets another machine continue.

It holds the pretrained models as well. A cell belongs to the digest of its model's weights, and a
model that is pretrained again on another processor has other weights, because rounding differs.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import BadOption, Conflict, VfmalignError
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.record import is_id
from vfmalign.core.formats.untrusted import parse_json, read_regular_file
from vfmalign.core.storage.keys import cell_key, model_card_key, weights_key
from vfmalign.core.storage.store.object_store import ObjectStore

SAVE_PERIOD_S = 15.0
MAX_CELL_BYTES = 16 * 2**20


@dataclass(frozen=True)
class CellFolder:
    """The folder; one file for each cell of one dataset, named after the check that computed it.

    Models are in the folder `models`, with the names of their objects in the store.

    Attributes:
        path: the folder; it is created.
        dataset: id of the dataset.
    """

    path: Path
    dataset: str

    def restore(self, store: ObjectStore) -> int:
        """Puts the cells of the folder into the store, where they are not there yet; returns their number.

        The orchestrator decides by their digests which of them an experiment can use.

        Raises:
            BadOption: a file is not the result of a cell.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        files = sorted(self.path.glob("*.json"))
        for file in files:
            data = _read_file(file)
            cell = _read(data).get("cell")
            if not isinstance(cell, str) or not is_id(cell):
                raise BadOption(
                    f"{file.name} is not the result of a cell", field="--cells", remedy="remove it, or restore the file"
                )
            store.put_if_absent(cell_key(cell), data)
        return len(files)

    def save(self, store: ObjectStore) -> None:
        """Writes the cells of the dataset in the store that the folder does not have."""
        saved = {_read(_read_file(file)).get("cell") for file in self.path.glob("*.json")}
        for key in store.list("cells/"):
            data = store.get(key, max_bytes=MAX_CELL_BYTES)
            content = _read(data)
            if content.get("cell") in saved or content["report"]["result"]["settings"]["dataset_id"] != self.dataset:
                continue
            _write(self.path / f"{content['check_id']}.json", data)

    def restore_models(self, store: ObjectStore) -> frozenset[str]:
        """Publishes the models of the folder, unless they are published; returns their ids.

        Raises:
            BadOption: a card cannot be read, or its weights are missing or damaged.
            Conflict: another model with the id of one is published.
        """
        cards = [_read_card(file) for file in sorted(self.path.glob(model_card_key("*")))]
        for card in cards:
            weights = self.path / weights_key(card.id, card.checkpoint.sha256)
            data = weights.read_bytes() if weights.is_file() else b""
            if hashlib.sha256(data).hexdigest() != card.checkpoint.sha256:
                raise BadOption(
                    f"the weights of model {card.id} are missing or damaged",
                    field="--cells",
                    remedy=f"restore {weights.name}, or remove the folder of the model to pretrain it again",
                )
            store.put_if_absent(weights_key(card.id, card.checkpoint.sha256), data)
            key = model_card_key(card.id)
            if not store.put_if_absent(key, (self.path / key).read_bytes()) and store.read(key, ModelCard) != card:
                raise Conflict(
                    "another model with this id is published",
                    subject=card.id,
                    remedy="begin with an empty state folder (--home), or remove the folder of the model (--cells)",
                )
        return frozenset(card.id for card in cards)

    def save_models(self, store: ObjectStore, models: Iterable[str]) -> None:
        """Writes published models that the folder does not have; the card of each is written last."""
        for model in models:
            card_file = self.path / model_card_key(model)
            if not card_file.is_file():
                card = store.read(model_card_key(model), ModelCard)
                key = weights_key(model, card.checkpoint.sha256)
                _write(self.path / key, store.get(key, sha256=card.checkpoint.sha256))
                _write(card_file, store.get(model_card_key(model)))

    @contextmanager
    def keep_in_step(self, store: ObjectStore, output: Output) -> Iterator[None]:
        """Restores the cells, and save those that finish during a block."""
        output.note(f"{self.restore(store)} finished cells are in {self.path}")
        stop = threading.Event()

        def save_now_and_then() -> None:
            while not stop.wait(SAVE_PERIOD_S):
                try:
                    self.save(store)
                except VfmalignError:  # the store is being restarted: the next time saves all
                    continue

        thread = threading.Thread(target=save_now_and_then, name="cells", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.save(store)


def _write(file: Path, data: bytes) -> None:
    """Writes a file that is whole or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.part")
    unfinished.write_bytes(data)
    os.replace(unfinished, file)


def _read_card(file: Path) -> ModelCard:
    card = None
    with suppress(ValueError):
        card = ModelCard.model_validate_json(_read_file(file))
    if card is None or card.id != file.parent.name:
        raise BadOption(
            f"{file} is not the card of model {file.parent.name}",
            field="--cells",
            remedy="restore the file, or remove its folder to pretrain the model again",
        )
    return card


def _read_file(file: Path) -> bytes:
    """Reads a file; empty for one that cannot be read or is too large, which is neither a result nor a card."""
    try:
        return read_regular_file(file, MAX_CELL_BYTES)
    except OSError:
        return b""


def _read(data: bytes) -> dict[str, Any]:
    try:
        content = parse_json(data, MAX_CELL_BYTES)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
