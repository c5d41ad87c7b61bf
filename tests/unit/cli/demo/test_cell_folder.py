"""A folder of finished cells goes into the store, and cells of its dataset come out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vfmalign.cli.demo.cell_folder import CellFolder
from vfmalign.core.domain.errors import BadOption


def make_cell(digit: str, dataset: str = "brains") -> bytes:
    report = {"result": {"settings": {"dataset": dataset}}}
    return json.dumps({"cell": digit * 64, "check": f"check-{digit}", "report": report}).encode()


def test_cells_go_into_a_store_and_come_out_of_it(store: Any, tmp_path: Path) -> None:
    folder = CellFolder(tmp_path / "cells", "brains")
    assert folder.restore(store) == 0, "the folder is created"
    store.put(f"cells/{'a' * 64}.json", make_cell("a"))
    store.put(f"cells/{'b' * 64}.json", make_cell("b", dataset="phantoms"))
    folder.save(store)
    folder.save(store)
    assert [file.name for file in folder.path.iterdir()] == ["check-a.json"], "those of other datasets stay out"
    store.delete(f"cells/{'a' * 64}.json")
    assert folder.restore(store) == 1
    assert store.get(f"cells/{'a' * 64}.json") == make_cell("a")


def test_a_cell_in_the_folder_is_not_written_again_under_another_name(store: Any, tmp_path: Path) -> None:
    (tmp_path / "renamed.json").write_bytes(make_cell("c", dataset="hearts"))
    folder = CellFolder(tmp_path, "hearts")
    folder.restore(store)
    folder.save(store)
    assert [file.name for file in tmp_path.iterdir()] == ["renamed.json"]


@pytest.mark.parametrize("content", ["{", "[]", '{"cell": "../models/m/model.json"}', '{"cell": 3}'])
def test_other_files_are_refused_by_name(store: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "notes.json").write_text(content)
    before = list(store.list(""))
    with pytest.raises(BadOption, match=r"notes\.json is not the result of a cell"):
        CellFolder(tmp_path, "brains").restore(store)
    assert list(store.list("")) == before
