"""A folder of finished cells as JSON: results that outlive the state folder, and that another machine goes on from."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import BadOption, VfmalignError
from vfmalign.core.domain.record import is_id
from vfmalign.core.storage.keys import cell_key
from vfmalign.core.storage.object_store import ObjectStore

SAVE_PERIOD_S = 15.0
MAX_CELL_BYTES = 16 * 2**20


@dataclass(frozen=True)
class CellFolder:
    """The folder; one file for each cell of one dataset, named after the check that computed it.

    Attributes:
        path: the folder; it is created.
        dataset: id of the dataset.
    """

    path: Path
    dataset: str

    def restore(self, store: ObjectStore) -> int:
        """Put the cells of the folder into the store, where they are not there yet; returns their number.

        The orchestrator decides by their digests which of them an experiment can use.

        Raises:
            BadOption: a file is not the result of a cell.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        files = sorted(self.path.glob("*.json"))
        for file in files:
            data = file.read_bytes() if file.stat().st_size <= MAX_CELL_BYTES else b""
            cell = _read(data).get("cell")
            if not isinstance(cell, str) or not is_id(cell):
                raise BadOption(
                    f"{file.name} is not the result of a cell", field="--cells", remedy="remove it, or restore the file"
                )
            store.put_if_absent(cell_key(cell), data)
        return len(files)

    def save(self, store: ObjectStore) -> None:
        """Write the cells of the dataset in the store that the folder does not have."""
        saved = {_read(file.read_bytes()).get("cell") for file in self.path.glob("*.json")}
        for key in store.list("cells/"):
            data = store.get(key, max_bytes=MAX_CELL_BYTES)
            content = _read(data)
            if content.get("cell") in saved or content["report"]["result"]["settings"]["dataset"] != self.dataset:
                continue
            file = self.path / f"{content['check']}.json"
            unfinished = file.with_suffix(".json.part")
            unfinished.write_bytes(data)
            os.replace(unfinished, file)

    @contextmanager
    def keep_in_step(self, store: ObjectStore, output: Output) -> Iterator[None]:
        """Restore the cells, and save those that finish during a block."""
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


def _read(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
