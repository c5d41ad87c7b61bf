"""`python -m bench.evidence`: from its options to the plan that it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench.evidence import rehearsal
from bench.evidence.__main__ import main
from bench.evidence.cell_folder import CellFolder
from bench.evidence.plans import Plan, RealPlan

from vfmalign.cli.exits import BAD_INPUT


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """Stacks that began."""
    started: list[object] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rehearsal, "running_stack", lambda *_: started.append(_))
    return started


def test_the_options_reach_the_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(rehearsal, "run", lambda directory, output, *arguments: calls.append(arguments))
    (tmp_path / "one.pth").touch()
    assert main(["--reports", "out"]) == 0
    cells = tmp_path / "cells"
    assert main(["--data", str(tmp_path / "data"), "--encoders", str(tmp_path), "--cells", str(cells)]) == 0
    real = RealPlan(data=tmp_path / "data", encoders=tmp_path)
    assert calls == [
        (Plan(), Path("out"), None),
        (real, Path("reports"), CellFolder(cells, "hippocampus-evidence-2025")),
    ]


@pytest.mark.parametrize("arguments", [("--encoders", "."), ("--data", ".")])
def test_data_and_encoders_belong_together(
    stacks: list[object], arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code, stacks) == (BAD_INPUT, [])
    assert "name both --data and --encoders, or neither" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", ".", "--encoders", "."), "--encoders: the folder has no file that ends with .pth or .safetensors"),
        (("--reports", "file"), "--reports: the folder cannot be written"),
    ],
)
def test_nothing_begins_that_cannot_end(
    stacks: list[object], arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert (main(arguments), stacks) == (BAD_INPUT, [])
    assert words in " ".join(capsys.readouterr().err.split())
