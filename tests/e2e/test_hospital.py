"""Folders of NIfTI files, as a hospital has them, through the command line."""

from __future__ import annotations

import gzip
import urllib.request
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from tests.e2e.conftest import PHANTOMS
from tests.identities import read_audit_events
from tests.integration.cli.commands import call

from vfmalign.imaging.phantoms.rendering import generate_case
from vfmalign.v1 import alignment_pb2

pytestmark = pytest.mark.e2e

NAME = "SURNAME^GIVEN_1234567"
TRACES = (b"surname", b"1234567")


def run(world: Any, *arguments: str, code: int = 0) -> str:
    """Runs a command against the stack, and returns everything that it prints."""
    done = call(*arguments, "--home", str(world.home.path), code=code)
    return done.out + done.err


def write_study(folder: Path, index: int) -> None:
    """A phantom as a careless export leaves it: the patient's name in the path and in the header."""
    folder.mkdir(parents=True)
    names = {"t2w": "t2", "dwi": "dwi", "adc": "adc", "gland": "mask", "lesions": "lesions"}
    for kind, volume in generate_case(99, index, PHANTOMS).volumes.items():
        image = nibabel.nifti1.Nifti1Image(np.asarray(volume.array_XYZ, dtype=np.float32), volume.affine)
        image.header["descrip"] = NAME.encode()
        image.header["intent_name"] = b"SURNAME"
        image.header["aux_file"] = b"1234567"
        nibabel.save(image, folder / f"{names[kind]}.nii.gz")


def traces(text: bytes) -> list[bytes]:
    """Which traces of the name a text holds."""
    return [trace for trace in TRACES if trace in text.lower()]


def test_a_patient_s_name_stays_in_the_user_s_folder(world: Any, tmp_path: Path) -> None:
    """Imported, extracted and made to fail: nothing that leaves the user's private folder holds the name."""
    folder = tmp_path / "export"
    for index in range(3):
        write_study(folder / (NAME if index == 0 else f"{NAME}_{index}"), index)
    said = []
    share = ["--share", "train=0.34", "--share", "val=0.33", "--share", "test=0.33"]
    told = run(world, "dataset", "import", str(folder), "--id", "hospital", *share, "--json")
    said.append(told.replace(str(folder), ""))
    said.append(run(world, "extract", "hospital", "--model", "micro", "--split", "test", "--json"))
    # Made to fail: a check whose volume was damaged, and an import of a broken file.
    victim = next(key for key in world.store.list("volumes/hospital/") if key.endswith("/t2w.nii.gz"))
    world.store.put(victim, world.store.get(victim)[:1000])
    check = ("check", "hospital", "--model", "micro", "--task", "segmentation", "--preset", "demo", "--seeds", "1")
    said.append(run(world, *check, "--set", "recipe.learning_rate=8e-3", code=1))
    broken = tmp_path / "broken"
    write_study(broken / NAME, 5)
    (broken / NAME / "t2.nii.gz").write_bytes(b"not a volume")
    said.append(run(world, "dataset", "import", str(broken), "--id", "broken", code=2))

    for text in said:
        assert traces(text.encode()) == [], text
    for key in world.store.list(""):
        assert traces(key.encode()) == []
        if not key.startswith(("volumes/phantoms", "models/", "features/")):
            data = world.store.get(key)
            assert traces(data) == [], key
            if key.endswith(".nii.gz") and key != victim:
                assert traces(gzip.decompress(data)) == [], key
    for log in (path for path in world.home.path.rglob("*.log") if path.is_file()):
        assert traces(log.read_bytes()) == [], log
    events = read_audit_events(world.home.logs)
    assert {"PublishDataset", "CreateCheck", "ExtractDataset"} <= set(events)
    assert traces("".join(events.values()).encode()) == []
    for service in world.stack.get_state().services.values():
        text = urllib.request.urlopen(f"http://127.0.0.1:{service.ports.metrics}/metrics").read()
        assert traces(text) == []
    mapping = world.home.private / "mapping.csv"
    assert traces(mapping.read_bytes()) == list(TRACES), "the user can still tell who is who"
    assert mapping.stat().st_mode & 0o077 == 0


def test_one_real_case_gives_descriptive_values_alone(world: Any, picai: Path, tmp_path: Path) -> None:
    """Training patches from one case: no p-value, no interval, not held out, one step is no training."""
    home = ["--home", str(world.home.path), "--json"]
    call("dataset", "import", str(picai), "--id", "real", *home)
    arguments = ["real", "--model", "micro", "--task", "segmentation", "--preset", "demo", "--id", "real-case"]
    budget = ["--epochs", "1", "--steps-per-epoch", "1", "--set", "recipe.patch_shape_dhw=16,32,32"]
    budget += ["--set", "recipe.learning_rate=8e-3"]
    assert call("check", *arguments, *budget, "--seeds", "1", "--reports", str(tmp_path), *home).document
    result = world.get("real-case").result
    assert result.verdict == alignment_pb2.VERDICT_INSUFFICIENT_TRAINING
    assert not result.held_out
    for shift in result.shifts:
        assert not shift.mmd.raw.p_value.HasField("value")
        assert shift.mmd.raw.p_value.absent_reason
        assert not shift.mmd.raw.mmd2.HasField("interval")
    assert result.rpg_specialised.score >= 0
    html = next(tmp_path.glob("*.html")).read_text()
    assert "not held out" in html.lower()


def test_the_terminal_shows_the_first_screen_of_a_check(world: Any, undisturbed: Any) -> None:
    done = call("checks", "show", "undisturbed", "--home", str(world.home.path))
    for word in ("stages.3", "specialised", "without pretraining", "verdict", "mmd"):
        assert word in done.out.lower()
