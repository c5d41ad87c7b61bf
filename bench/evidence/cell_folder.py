"""A folder of finished cells as JSON, which outlives the state folder and lets another machine continue.

It holds the pretrained models as well. A cell belongs to the digest of its model's weights, and a
model that is pretrained again on another processor has other weights, because rounding differs.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import BadOption, Conflict, VfmalignError
from vfmalign.core.domain.models import ModelCard
from vfmalign.core.domain.record import Record
from vfmalign.core.storage.keys import cell_key, model_card_key, weights_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.finetuning.experiments.cell_results import CellResult

SAVE_PERIOD_S = 15.0
AnyRecord = TypeVar("AnyRecord", bound=Record)


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
            store.put_if_absent(cell_key(_read(file, CellResult).cell), file.read_bytes())
        return len(files)

    def save(self, store: ObjectStore) -> None:
        """Writes the cells of the dataset in the store that the folder does not have."""
        saved = {cell_key(_read(file, CellResult).cell) for file in self.path.glob("*.json")}
        for key in set(store.list("cells/")) - saved:
            cell = store.read(key, CellResult)
            if cell.report.result.settings["dataset_id"] == self.dataset:
                _write(self.path / f"{cell.check_id}.json", store.get(key))

    def restore_models(self, store: ObjectStore) -> frozenset[str]:
        """Publishes the models of the folder, unless they are published; returns their ids.

        Raises:
            BadOption: a card cannot be read, or its weights are missing or damaged.
            Conflict: another model with the id of one is published.
        """
        cards = [_read(file, ModelCard) for file in sorted(self.path.glob(model_card_key("*")))]
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
        """Restores the cells, and saves those that finish during a block."""
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


def _read(file: Path, record: type[AnyRecord]) -> AnyRecord:
    """Reads a file of the folder.

    Raises:
        BadOption: this version cannot read it.
    """
    try:
        return record.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        raise BadOption(
            f"{file} is no {record.__name__} of this version", field="--cells", remedy="restore or remove it"
        ) from None
