"""A folder of finished cells goes into the store, and cells of its dataset come out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench.evidence.cell_folder import CellFolder

from vfmalign.core.domain.errors import BadOption, Conflict
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.models.cards import publish
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import random_state

PUBLISHED = Path(__file__).resolve().parents[4] / "docs/evidence/cells"


def make_cell(digit: str, dataset: str = "brains") -> bytes:
    """A published cell under another digest, of another check and dataset."""
    cell = json.loads(min(PUBLISHED.glob("*.json")).read_bytes())
    cell["report"]["result"]["settings"]["dataset_id"] = dataset
    return json.dumps(cell | {"cell": digit * 64, "check_id": f"check-{digit}"}).encode()


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
    with pytest.raises(BadOption, match=r"notes\.json is no CellResult of this version"):
        CellFolder(tmp_path, "brains").restore(store)
    assert list(store.list("")) == before


def pretrain(store: ObjectStore, seed: int) -> str:
    architecture = get_architecture("profound_conv_micro_single")
    state = random_state(architecture, seed)
    return publish(store, "small", state, architecture=architecture.name, objective="contrastive").id


@pytest.fixture
def pretrained(store: Any) -> str:
    return pretrain(store, seed=1)


def test_models_are_kept_and_published_in_another_store(store: Any, pretrained: str, tmp_path: Path) -> None:
    folder = CellFolder(tmp_path, "brains")
    folder.save_models(store, [pretrained])
    assert folder.restore_models(store) == {"small"}, "they are published already"
    objects = {key: store.get(key) for key in store.list("models/")}
    other = store.of_tenant("elsewhere")
    assert CellFolder(tmp_path, "brains").restore_models(other) == {"small"}
    assert {key: other.get(key) for key in other.list("models/")} == objects
    assert folder.restore(store) == 0, "models are no cells"


def test_a_damaged_model_is_refused_and_named(store: Any, pretrained: str, tmp_path: Path) -> None:
    folder, other = CellFolder(tmp_path, "brains"), store.of_tenant("damaged")
    folder.save_models(store, [pretrained])
    (weights,) = tmp_path.glob("models/small/*.safetensors")
    content = weights.read_bytes()
    for damage in (lambda: weights.write_bytes(content[:-1]), weights.unlink):
        damage()
        with pytest.raises(BadOption, match="the weights of model small are missing or damaged"):
            folder.restore_models(other)
    weights.write_bytes(content)
    (tmp_path / "models/small/model.json").write_text("{}")
    with pytest.raises(BadOption, match="is no ModelCard of this version"):
        folder.restore_models(other)
    assert not list(other.list(""))


def test_another_published_model_is_not_replaced(store: Any, pretrained: str, tmp_path: Path) -> None:
    folder, other = CellFolder(tmp_path, "brains"), store.of_tenant("another")
    folder.save_models(store, [pretrained])
    pretrain(other, seed=2)
    card = other.get("models/small/model.json")
    with pytest.raises(Conflict, match="another model with this id is published"):
        folder.restore_models(other)
    assert other.get("models/small/model.json") == card
