"""Imports by the command line with a token, and nothing of the object storage in its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cut_organs import CASES, INPUT, write_folders
from tests.integration.features.callers import ADA, VIEWER
from tests.unit.imaging.datasets.brain_files import lay_out_decathlon, make_case

from vfmalign.cli import exits
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.datasets.layouts.derivation import parse_declaration, read_declaration
from vfmalign.imaging.phantoms.dataset import synthesise_dataset
from vfmalign.models.cards import load_encoder, publish
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import random_state

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(import_service: Any, python: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> Run:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "VFMALIGN_"))}
    environment = {**inherited, "VFMALIGN_FEATURES_ADDRESS": import_service.address, "HOME": str(tmp_path)}

    def run_command(*arguments: str, token: str = ADA, code: int = 0) -> dict[str, Any]:
        command = [sys.executable, "-m", "vfmalign.cli", *arguments, "--json"]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = python(command, cwd=tmp_path, env={**environment, "VFMALIGN_TOKEN": token}, **pipes)
        out, err = process.communicate()
        assert process.returncode == code, err.decode()
        document: dict[str, Any] = json.loads(out)
        return document

    return run_command


def test_a_dataset_is_imported_and_an_import_can_be_repeated(run: Run, tmp_path: Path, store: ObjectStore) -> None:
    lay_out_decathlon(tmp_path / "brain", [make_case(number) for number in range(4)])
    first = run("dataset", "import", "brain", "--id", "remote")
    assert first["notes"][0] == "left out: 1 image of dataset.json without a label map"
    assert "with 1 test patient, a check ends as `insufficient_data`" in first["notes"][1]
    assert run("dataset", "import", "brain", "--id", "remote") == first
    assert (tmp_path / ".vfmalign" / "private" / "mapping.csv").stat().st_mode & 0o777 == 0o600
    assert load_dataset(store, "remote").digest() == first["digest"]
    assert list(store.list("incoming/")) == []
    failed = run("dataset", "import", "brain", "--id", "remote", "--seed", "9", code=exits.BAD_INPUT)
    assert failed["error"]["reason"] == "ALREADY_EXISTS"
    assert list(store.list("incoming/")) == [], "nothing is uploaded where the id is taken"


def test_a_model_is_imported(run: Run, tmp_path: Path, store: ObjectStore) -> None:
    torch.save(get_architecture("profound_conv_micro").build().state_dict(), tmp_path / "foreign.pth")
    model = run("models", "import", "foreign.pth", "--as", "profound_conv_micro", "--id", "remote-model")
    shown = run("models", "show", "remote-model")
    assert (shown["checkpoint"], shown["objective"]) == (model["checkpoint"], "OBJECTIVE_UNKNOWN")
    assert load_encoder(store, "remote-model")[1].checkpoint.sha256 == model["checkpoint"]["sha256"]
    assert shown["has_dicom_rules"] is False


def test_a_model_keeps_the_rules_of_its_declaration(run: Run, tmp_path: Path, store: ObjectStore) -> None:
    torch.save(get_architecture("profound_conv_micro").build().state_dict(), tmp_path / "foreign.pth")
    command = ("models", "import", "foreign.pth", "--as", "profound_conv_micro", "--declaration")
    assert run(*command, "prostate_mpmri", "--id", "with-rules")["has_dicom_rules"] is True
    rules = parse_declaration(load_card(store, "with-rules").declaration.encode())
    assert rules == read_declaration("prostate_mpmri")


def test_a_viewer_learns_which_role_is_missing(run: Run, tmp_path: Path, store: ObjectStore) -> None:
    lay_out_decathlon(tmp_path / "brain", [make_case(number) for number in range(4)])
    failed = run("dataset", "import", "brain", "--id", "refused", token=VIEWER, code=exits.REFUSED)
    assert failed["error"]["reason"] == "MISSING_ROLE"
    assert "curator" in failed["error"]["remedy"]
    assert list(store.list("incoming/")) == []


def test_phantoms_are_those_that_the_demo_stores(run: Run, store: ObjectStore) -> None:
    counts = {"train": 1, "val": 0, "test": 1, "pretrain": 0}
    options = [text for split, count in counts.items() for text in ("--cases", f"{split}={count}")]
    first = run("dataset", "phantoms", "--id", "generated", "--seed", "5", *options)
    assert synthesise_dataset(store, "generated", 5, counts).digest() == first["digest"]
    assert first["phantom"] is True
    failed = run("dataset", "phantoms", "--id", "generated", "--seed", "6", *options, code=exits.BAD_INPUT)
    assert failed["error"]["reason"] == "ALREADY_EXISTS"


def test_an_import_for_a_model_names_the_cases_that_it_cuts(run: Run, tmp_path: Path, store: ObjectStore) -> None:
    name = "profound_conv_micro"
    state = random_state(get_architecture(name), 5)
    publish(store, "narrow", state, architecture=name, objective="contrastive", preprocessing=INPUT)
    write_folders(tmp_path / "cut")
    command = ("dataset", "import", "cut", "--id", "cut", "--model", "narrow")
    said = "less than 90 % of a structure lies in the field of view of narrow in 27 of 30 cases: case "

    uploads = list(store.list("incoming/"))
    failed = run(*command, code=exits.BAD_INPUT)
    (problem,) = failed["problems"]
    assert problem.startswith(said)
    assert problem.count("lesion 0 %") == 5, "the smallest shares are named"
    assert "; and 22 more cases; choose a model with a larger field of view, or allow it with" in problem
    assert "SURNAME" not in json.dumps(failed)
    assert list(store.list("incoming/")) == uploads, "nothing is uploaded"

    dry = run(*command, "--dry-run", code=exits.BAD_INPUT)
    assert sorted(map(str, dry["inside"].values())) == sorted(str(measured(case.inside)) for case in CASES)
    assert any(note.startswith(said.replace("90", "98").replace("27", "28")) for note in dry["notes"])

    allowed = run(*command, "--allow-cut-organs")
    assert allowed["inside"] == dry["inside"], "the ids of the cases are the same"
    assert any(note.startswith(said.replace("90", "98").replace("27", "28")) for note in allowed["notes"])
    assert "inside" not in run("dataset", "import", "cut", "--id", "cut")


def test_an_import_for_a_model_that_does_not_exist_says_so(run: Run, tmp_path: Path) -> None:
    lay_out_decathlon(tmp_path / "brain", [make_case(number) for number in range(4)])
    failed = run("dataset", "import", "brain", "--model", "gone", code=exits.BAD_INPUT)
    assert failed["error"]["reason"] == "MODEL_NOT_FOUND"


def test_an_import_for_a_model_needs_its_inputs(run: Run, tmp_path: Path, store: ObjectStore) -> None:
    name = "profound_conv_micro"
    state = random_state(get_architecture(name), 5)
    publish(store, "narrow", state, architecture=name, objective="contrastive", preprocessing=INPUT)
    lay_out_decathlon(tmp_path / "brain", [make_case(number) for number in range(4)])
    failed = run("dataset", "import", "brain", "--model", "narrow", "--dry-run", code=exits.BAD_INPUT)
    assert "narrow takes t2w, dwi, adc, which the dataset" in failed["error"]["message"]


def measured(inside: dict[str, float]) -> dict[str, float]:
    """Shares as they are computed from numbers of voxels."""
    voxels = {"gland": 480, "lesion": 32}
    return {name: round(share * voxels[name]) / voxels[name] for name, share in inside.items()}
