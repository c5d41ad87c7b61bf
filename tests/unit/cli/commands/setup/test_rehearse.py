"""`vfmalign rehearse`: from its options to the plan that it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import Invoke

from vfmalign.cli.demo import rehearsal
from vfmalign.cli.demo.cell_folder import CellFolder
from vfmalign.cli.demo.real_plan import RealPlan


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Plans and folders of cells with which the rehearsal was called, in place of a stack."""
    calls: list[dict[str, Any]] = []

    def run(directory: object, output: object, plan: rehearsal.Plan, reports: Path, cells: CellFolder | None) -> None:
        calls.append({"plan": plan, "reports": reports, "cells": cells})

    monkeypatch.setattr(rehearsal, "run", run)
    return calls


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "encoders").mkdir()
    (tmp_path / "encoders" / "one.pth").touch()
    return ["rehearse", "--data", str(tmp_path / "data"), "--encoders", str(tmp_path / "encoders")]


def test_controls_are_an_experiment_of_their_own_that_goes_on_from_the_cells_without_them(
    invoke: Invoke, ran: list[dict[str, Any]], arguments: list[str], tmp_path: Path
) -> None:
    assert invoke(*arguments)[0] == 0
    assert invoke(*arguments, "--controls", "--cells", str(tmp_path / "cells"))[0] == 0
    plain, controlled = (call["plan"] for call in ran)
    assert isinstance(plain, RealPlan)
    assert isinstance(controlled, RealPlan)
    assert (plain.spec().shuffled_labels, plain.superseded) == (False, "")
    assert controlled.spec() == plain.spec().model_copy(update={"shuffled_labels": True})
    assert controlled.superseded == plain.experiment != controlled.experiment
    assert controlled.dataset == plain.dataset, "else no cell would be used again"
    assert ran[0]["cells"] is None
    assert ran[1]["cells"] == CellFolder(tmp_path / "cells", plain.dataset)


def test_a_declaration_s_selections_reach_the_plan(
    invoke: Invoke, ran: list[dict[str, Any]], arguments: list[str], tmp_path: Path
) -> None:
    labels = [{"name": "gland", "values": {"1": "inner", "2": "outer"}}]
    selections = [{"name": "t1w", "conditions": {"Modality": "MR"}}]
    file = tmp_path / "declaration.json"
    file.write_text(json.dumps({"name": "a", "modalities": ["t1w"], "labels": labels, "selections": selections}))
    code, _, err = invoke(*arguments, "--declaration", str(file))
    assert code == 0, err
    assert [selection.name for selection in ran[0]["plan"].selections] == ["t1w"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("rehearse", "--controls"), "phantoms have no controls → leave it out, or name --data"),
        (("rehearse", "--encoders", "."), "name --data as well"),
        (("rehearse", "--data", "."), "name a folder of checkpoints"),
        (("rehearse", "--data", ".", "--encoders", "."), "no file that ends with .pth or .safetensors"),
        (("rehearse", "--data", ".", "--encoders", ".", "--size", "small"), "choose one of evidence"),
    ],
)
def test_options_that_do_not_fit_each_other_run_nothing(
    invoke: Invoke, ran: list[dict[str, Any]], changed: tuple[str, ...], words: str
) -> None:
    code, _, err = invoke(*changed)
    assert code == 2
    assert words in " ".join(err.split())
    assert ran == []
