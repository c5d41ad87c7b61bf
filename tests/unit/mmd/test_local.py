"""`python -m vfmalign.mmd a.npy b.npy`: what it prints, what it refuses, and that nothing else starts the service."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from vfmalign.core.settings import parser
from vfmalign.mmd import local, measures, mmd_test
from vfmalign.mmd.settings import MmdSettings

ROWS, CHANNELS = 30, 4


@pytest.fixture
def files(tmp_path, rng):
    """Two files of rows, and the arrays in them."""
    x = rng.normal(size=(ROWS, CHANNELS)).astype(np.float32)
    y = (rng.normal(size=(ROWS, CHANNELS)) + 0.7).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    return tmp_path / "x.npy", tmp_path / "y.npy", x, y


def ask(*arguments):
    return local.parse(parser("mmd", MmdSettings, local.SUMMARY), [str(one) for one in arguments])


def answer(capsys, *arguments, code=0):
    assert local.run(ask(*arguments)) == code
    return capsys.readouterr()


def test_the_document_has_the_library_numbers(files, capsys):
    x_file, y_file, x, y = files
    raw = json.loads(answer(capsys, x_file, y_file, "--relabellings", 200, "--json").out)["layers"][0]["raw"]
    expected = mmd_test(x, y, relabellings=200)
    assert raw["mmd2"]["value"] == expected.mmd2
    assert raw["p_value"]["value"] == expected.p_value
    assert raw["sigma"] == expected.sigma
    assert raw["mmd2"]["interval"]["lower"] == expected.interval.lower


def test_the_table_says_what_was_computed_in_which_units(files, capsys):
    x_file, y_file, *_ = files
    out = answer(capsys, x_file, y_file, "--paired", "--sigma", 2, "--aggregated", "--relabellings", 200).out
    assert "MMD² (unbiased_paired, paired samples, gaussian kernel): 30 and 30 rows of 4 channels, 30 groups" in out
    header, row = (line.split() for line in out.splitlines()[3:5])
    assert header[:2] == ["features", "MMD²"]
    assert "95 % interval" in out
    assert "σ (feature units)" in out
    assert "p aggregated" in out
    assert "pooled median" not in out
    assert row[0] == "raw"
    assert row[4] == "2"


def test_a_reference_adds_standardised_features(files, capsys):
    x_file, y_file, *_ = files
    out = answer(capsys, x_file, y_file, "--reference", x_file).out
    assert "standardised" in out
    assert "grows with the shift" not in out
    assert "grows with the shift" in answer(capsys, x_file, y_file).out


def test_groups_move_together(files, tmp_path, capsys):
    x_file, y_file, *_ = files
    (tmp_path / "groups").write_text("\n".join(f"g{row // 10}" for row in range(ROWS)))
    out = answer(capsys, x_file, y_file, "--paired", "--sigma", 1, "--groups-x", tmp_path / "groups").out
    assert "3 groups" in out
    assert "- 3 groups are too few for a test" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bandwidth", "fixed"), "a fixed bandwidth needs its value"),
        (("--bandwidth", "pooled_median", "--sigma", "1"), "the rule takes a median"),
        (("--sigma", "-1"), "expected a finite σ above 0"),
        (("--sigma", "1", "--estimator", "unbiased_paired"), "needs pairs of rows"),
        (("--sigma", "1", "--relabellings", "100001"), "100000 relabellings"),
        (("--sigma", "1", "--groups-x", "nowhere"), "--groups-x: cannot be read as text"),
    ],
)
def test_what_cannot_succeed_is_said_in_one_sentence(files, capsys, arguments, words):
    x_file, y_file, *_ = files
    done = answer(capsys, x_file, y_file, *arguments, code=local.BAD_INPUT)
    assert words in done.err
    assert done.out == ""
    assert str(x_file.parent) not in done.err


def test_files_that_are_no_features_are_refused(files, tmp_path, capsys):
    x_file, *_ = files
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    assert "without unpickling" in answer(capsys, x_file, tmp_path / "objects.npy", code=local.BAD_INPUT).err
    assert "y: there is no such file" in answer(capsys, x_file, tmp_path / "none.npy", code=local.BAD_INPUT).err
    np.save(tmp_path / "nan.npy", np.full((3, CHANNELS), np.nan))
    assert "NaN" in answer(capsys, x_file, tmp_path / "nan.npy", "--sigma", 1, code=local.BAD_INPUT).err
    np.save(tmp_path / "wide.npy", np.zeros((3, CHANNELS + 1)))
    assert "different channels" in answer(capsys, x_file, tmp_path / "wide.npy", "--sigma", 1, code=local.BAD_INPUT).err


def test_a_backend_that_was_wanted_and_not_taken_is_said(files, capsys, monkeypatch):
    monkeypatch.setenv("VFMALIGN_MMD__BACKEND", "triton")
    assert "not by another backend: triton " in answer(capsys, *files[:2], "--sigma", 1).out


def test_what_does_not_fit_into_memory_is_refused_with_what_would(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VFMALIGN_MMD__MEMORY_MIB", "16")
    np.save(tmp_path / "big.npy", np.zeros((20_000, 64), np.float16))
    done = answer(capsys, tmp_path / "big.npy", tmp_path / "big.npy", "--sigma", 1, code=local.NO_ROOM)
    assert "16.0 MiB are allowed; allow " in done.err


def test_without_files_the_service_runs():
    assert ask() is None


@pytest.mark.parametrize(
    "arguments", [("--paired",), ("one.npy",), ("a.npy", "b.npy", "c.npy"), ("--kernel", "cosine")]
)
def test_arguments_that_fit_neither_are_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        ask(*arguments)
    assert caught.value.code == local.BAD_INPUT
    assert "error:" in capsys.readouterr().err


def test_the_program_compares_without_a_server_or_a_store(files):
    x_file, y_file, *_ = files
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "VFMALIGN_"))}
    command = [sys.executable, "-m", "vfmalign.mmd"]
    done = subprocess.run(
        [*command, str(x_file), str(y_file)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "MMD²" in done.stdout
    shown = subprocess.run([*command, "--help"], env=environment, capture_output=True, text=True, timeout=120).stdout
    assert "Without files: the MMD service" in shown
    assert "With two .npy files" in shown
    assert "VFMALIGN_MMD__SHORT_S" in shown


def test_files_larger_than_the_memory_allowed_are_read_in_parts(tmp_path, rng, monkeypatch, capsys):
    files = tmp_path / "x.npy", tmp_path / "y.npy"
    for path in files:
        np.save(path, rng.normal(size=(3000, 400)).astype(np.float32))
    ask_for = (*files, "--sigma", 30, "--relabellings", 20, "--precision", "exact", "--json")
    whole = json.loads(answer(capsys, *ask_for).out)
    monkeypatch.setenv("VFMALIGN_MMD__MEMORY_MIB", "48")
    read = []
    monkeypatch.setattr(local, "read_npy", lambda path, name: read.append(name))
    in_parts = json.loads(answer(capsys, *ask_for).out)
    assert not read
    value, expected = (found["layers"][0]["raw"]["mmd2"]["value"] for found in (in_parts, whole))
    assert value == pytest.approx(expected, rel=1e-10)
    monkeypatch.setenv("VFMALIGN_MMD__MEMORY_MIB", "16")
    assert "allow" in answer(capsys, *ask_for, code=local.NO_ROOM).err


@pytest.mark.parametrize("estimator", ["unbiased_independent", "fourier"])
def test_processes_that_share_the_work_come_to_the_value_of_one(tmp_path, rng, estimator, capsys):
    files = tmp_path / "x.npy", tmp_path / "y.npy"
    for path in files:
        np.save(path, rng.normal(size=(900, 16)).astype(np.float32))
    ask_for = [*files, "--sigma", 5, "--relabellings", 40, "--precision", "exact", "--estimator", estimator, "--json"]
    one = json.loads(answer(capsys, *ask_for).out)["layers"][0]["raw"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "vfmalign.mmd"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, *map(str, ask_for)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)["layers"][0]["raw"]
    assert two["mmd2"]["value"] == pytest.approx(one["mmd2"]["value"], rel=1e-10, abs=1e-14)
    assert two["mmd2"]["interval"]["upper"] == pytest.approx(one["mmd2"]["interval"]["upper"], rel=1e-9)
    assert two["p_value"] == one["p_value"]


def test_measures_beside_mmd_are_printed_with_their_dimension(files, capsys):
    x_file, y_file, x, y = files
    asked = (x_file, y_file, "--paired", "--sigma", 2, "--measure", "cka,energy,frechet")
    lines = answer(capsys, *asked).out.splitlines()
    expected = f"energy: {measures.energy(x, y, paired=True).value:.6g} (raw features, dimension {CHANNELS})"
    assert expected in lines
    assert any(line.startswith("cka: ") for line in lines)
    found = json.loads(answer(capsys, *asked, "--json").out)["layers"][0]["measures"]
    assert [one["measure"] for one in found] == ["MEASURE_CKA", "MEASURE_ENERGY", "MEASURE_FRECHET"]
    assert found[0]["value"]["value"] == pytest.approx(measures.cka(x, y).value)
    done = answer(capsys, x_file, y_file, "--sigma", 2, "--measure", "cka", code=local.BAD_INPUT)
    assert "`cka` needs row i of x and of y to be of one case" in done.err
