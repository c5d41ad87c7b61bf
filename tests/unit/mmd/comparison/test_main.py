"""`python -m vfmalign.mmd.comparison a.npy b.npy`: what it prints, what it refuses, how processes share it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tests.unit.mmd.comparison import two_processes

from vfmalign.core.runtime.settings import EXIT_BAD_SETTINGS
from vfmalign.mmd import __main__ as service
from vfmalign.mmd import local, mmd_test
from vfmalign.mmd.comparison import __main__ as comparison
from vfmalign.mmd.comparison.__main__ import BAD_INPUT, NO_MEMORY, OK
from vfmalign.mmd.statistics import similarity

ROWS, CHANNELS = 30, 4
INDEPENDENT, PAIRED = ("--pairing", "independent"), ("--pairing", "paired")


@pytest.fixture
def files(tmp_path, rng):
    """Two files of rows, and the arrays in them."""
    x = rng.normal(size=(ROWS, CHANNELS)).astype(np.float32)
    y = (rng.normal(size=(ROWS, CHANNELS)) + 0.7).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    return tmp_path / "x.npy", tmp_path / "y.npy", x, y


@pytest.fixture
def answer(capsys):
    def ask(*arguments, code=OK, **options):
        given = ("--options", json.dumps(options)) if options else ()
        assert comparison.main([str(one) for one in (*arguments, *given)]) == code
        return capsys.readouterr()

    return ask


def first_layer(captured):
    return json.loads(captured.out)["layers"][0]


def test_the_document_has_the_library_numbers(files, answer):
    x_file, y_file, x, y = files
    pooled = {"bandwidth_rule": "BANDWIDTH_RULE_POOLED_MEDIAN"}
    raw = first_layer(answer(x_file, y_file, *INDEPENDENT, kernel=pooled, test={"permutations": 200}))["raw"]
    expected = mmd_test(x, y, pairing="independent", permutations=200)
    assert raw["mmd2"]["value"] == expected.mmd2
    assert raw["p_value"]["value"] == expected.p_value
    assert raw["sigma"] == expected.sigma
    assert raw["mmd2"]["interval"]["lower"] == expected.interval.lower


def test_pairing_decides_what_is_compared_and_has_no_default(files, answer, capsys):
    x_file, y_file, *_ = files
    paired, independent = (
        json.loads(answer(x_file, y_file, *pairing, "--sigma", 2).out) for pairing in (PAIRED, INDEPENDENT)
    )
    assert paired["estimator"] == "ESTIMATOR_UNBIASED_PAIRED"
    assert independent["estimator"] == "ESTIMATOR_UNBIASED_INDEPENDENT"
    with pytest.raises(SystemExit) as caught:
        comparison.main([str(x_file), str(y_file), "--sigma", "2"])
    assert caught.value.code == BAD_INPUT
    assert "--pairing" in capsys.readouterr().err


def test_a_reference_adds_standardised_features(files, answer):
    x_file, y_file, *_ = files
    assert "standardised" in first_layer(answer(x_file, y_file, *PAIRED, "--reference", x_file))
    both = first_layer(answer(x_file, y_file, *PAIRED, "--reference", x_file, "--sigma", 1))
    assert both["raw"]["sigma"] == both["standardised"]["sigma"] == 1
    assert "standardised" not in first_layer(answer(x_file, y_file, *PAIRED, "--sigma", 1))


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((), {}, "or BANDWIDTH_RULE_POOLED_MEDIAN"),
        (
            ("--sigma", "1"),
            {"kernel": {"bandwidth_rule": "BANDWIDTH_RULE_POOLED_MEDIAN"}},
            "the bandwidth rule uses a median",
        ),
        (("--sigma", "-1"), {}, "kernel.fixed_sigma: out of range; choose a value of at least 0"),
        (("--sigma", "1"), {"estimator": "ESTIMATOR_UNBIASED_PAIRED"}, "needs rows of the same cases"),
        (
            ("--sigma", "1"),
            {"test": {"permutations": 100_001}},
            "test.permutations: out of range",
        ),
        (("--sigma", "1"), {"measures": ["MEASURE_CKA"]}, "`cka` needs paired samples"),
        (("--sigma", "1"), {"kernels": 3}, "not the JSON of a ComputeRequest"),
        (("--sigma", "1", "--options", "{"), {}, "not the JSON of a ComputeRequest"),
        (("--sigma", "1", "--options", "3"), {}, "not the JSON of a ComputeRequest"),
        (("--sigma", "1"), {"pairing": "PAIRING_PAIRED"}, "`pairing` has its own argument"),
        (("--sigma", "1"), {"x": {"feature_set_id": "a"}}, "`x` has its own argument"),
    ],
)
def test_what_cannot_succeed_is_said_in_one_sentence(files, answer, arguments, options, words):
    x_file, y_file, *_ = files
    done = answer(x_file, y_file, *INDEPENDENT, *arguments, code=BAD_INPUT, **options)
    assert words in done.err
    assert done.out == ""
    assert str(x_file.parent) not in done.err


def test_files_that_are_no_features_are_refused(files, tmp_path, answer):
    x_file, *_ = files
    ask_for = (*INDEPENDENT, "--sigma", 1)
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    assert "without unpickling" in answer(x_file, tmp_path / "objects.npy", *ask_for, code=BAD_INPUT).err
    assert "y: there is no such file" in answer(x_file, tmp_path / "none.npy", *ask_for, code=BAD_INPUT).err
    np.save(tmp_path / "nan.npy", np.full((3, CHANNELS), np.nan))
    assert "NaN" in answer(x_file, tmp_path / "nan.npy", *ask_for, code=BAD_INPUT).err
    np.save(tmp_path / "wide.npy", np.zeros((3, CHANNELS + 1)))
    assert "different numbers of channels" in answer(x_file, tmp_path / "wide.npy", *ask_for, code=BAD_INPUT).err


def test_a_backend_that_was_wanted_and_not_taken_is_said(files, answer, monkeypatch):
    monkeypatch.setenv("VFMALIGN_MMD__BACKEND", "triton")
    assert "triton " in json.loads(answer(*files[:2], *PAIRED, "--sigma", 1).out)["backend_note"]


def test_what_does_not_fit_into_memory_is_refused_with_what_would(files, tmp_path, answer, monkeypatch):
    monkeypatch.setenv("VFMALIGN_MMD__MEMORY_MIB", "16")
    np.save(tmp_path / "big.npy", np.zeros((20_000, 64), np.float16))
    ask_for = (tmp_path / "big.npy", tmp_path / "big.npy", *INDEPENDENT, "--sigma", 1)
    done = answer(*ask_for, code=NO_MEMORY, test={"permutations": 1000})
    assert "the limit is 16 MiB" in done.err
    assert "choose the estimator `random_fourier`, or allow more memory (VFMALIGN_MMD__MEMORY_MIB)" in done.err


@pytest.mark.parametrize("arguments", [("one.npy",), ("a.npy", "b.npy", "c.npy"), ("a.npy", "b.npy", "--kernel", "x")])
def test_arguments_that_do_not_fit_are_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        comparison.main([*arguments, *PAIRED])
    assert caught.value.code == BAD_INPUT
    assert "error:" in capsys.readouterr().err


def test_the_service_takes_no_files(files, capsys):
    with pytest.raises(SystemExit) as caught:
        service.main([str(one) for one in files[:2]])
    assert caught.value.code == EXIT_BAD_SETTINGS
    assert "unrecognized arguments" in capsys.readouterr().err


def test_the_program_compares_without_a_server_or_a_store(files):
    x_file, y_file, *_ = files
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "VFMALIGN_"))}
    command = [sys.executable, "-m", "vfmalign.mmd.comparison", str(x_file), str(y_file), *PAIRED, "--sigma", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["groups"] == ROWS


def test_help_names_the_launcher_and_the_settings(capsys):
    with pytest.raises(SystemExit) as caught:
        comparison.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "torchrun --nproc-per-node" in shown
    assert "VFMALIGN_MMD__MEMORY_MIB" in shown


def test_random_fourier_reads_files_larger_than_the_memory_allowed_in_blocks(tmp_path, rng, monkeypatch, answer):
    files = tmp_path / "x.npy", tmp_path / "y.npy"
    for path in files:
        np.save(path, rng.normal(size=(3000, 400)).astype(np.float32))
    ask_for = (*files, *INDEPENDENT, "--sigma", 30)
    exact = {"test": {"permutations": 20}, "precision": "PRECISION_EXACT"}
    options = exact | {"estimator": "ESTIMATOR_RANDOM_FOURIER", "frequencies": 256}
    whole = first_layer(answer(*ask_for, **options))
    monkeypatch.setenv("VFMALIGN_MMD__MEMORY_MIB", "16")
    read = []
    monkeypatch.setattr(local, "read_npy", lambda path, name: read.append(name))
    in_parts = first_layer(answer(*ask_for, **options))
    assert not read
    value, expected = (found["raw"]["mmd2"]["value"] for found in (in_parts, whole))
    assert value == pytest.approx(expected, rel=1e-10)
    assert "random_fourier" in answer(*ask_for, code=NO_MEMORY, **exact).err


def by_torchrun(_, arguments):
    launcher = ["-m", "torch.distributed.run", "--log-dir", str(arguments[0].parent), "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "vfmalign.mmd.comparison", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [done.stdout]


@pytest.mark.parametrize(
    ("estimator", "start"),
    [("ESTIMATOR_UNBIASED_INDEPENDENT", by_torchrun), ("ESTIMATOR_RANDOM_FOURIER", two_processes.compare)],
)
def test_processes_that_share_the_work_come_to_the_value_of_one(tmp_path, rng, estimator, start, answer, python):
    files = tmp_path / "x.npy", tmp_path / "y.npy"
    for path in files:
        np.save(path, rng.normal(size=(900, 16)).astype(np.float32))
    options = {"test": {"permutations": 40}, "precision": "PRECISION_EXACT", "estimator": estimator}
    ask_for = [*files, *INDEPENDENT, "--sigma", 5, "--options", json.dumps(options)]
    one = first_layer(answer(*ask_for))["raw"]
    two = json.loads(start(python, ask_for)[0])["layers"][0]["raw"]
    assert two["mmd2"]["value"] == pytest.approx(one["mmd2"]["value"], rel=1e-10, abs=1e-14)
    assert two["mmd2"]["interval"]["upper"] == pytest.approx(one["mmd2"]["interval"]["upper"], rel=1e-9)
    assert two["p_value"] == one["p_value"]


def test_processes_that_share_the_work_agree_on_the_channels_that_move_most(tmp_path, rng, answer, python):
    files = tmp_path / "x.npy", tmp_path / "y.npy"
    x = rng.normal(size=(300, 120))
    np.save(files[0], x)
    np.save(files[1], x + 0.1 * rng.normal(size=x.shape) + 2.0 * (np.arange(120) == 7))
    ask_for = [*files, *PAIRED, "--reference", files[0]]
    one = first_layer(answer(*ask_for))["top_channels"]
    two = json.loads(two_processes.compare(python, ask_for)[0])["layers"][0]["top_channels"]
    assert one["count"] == two["count"] == 2
    assert one["caution"] == two["caution"] != ""
    alone, shared = ((top["displacement_share"]["value"], top["shift_without"]["mmd2"]["value"]) for top in (one, two))
    assert shared == pytest.approx(alone, rel=1e-9, abs=1e-14)


def test_measures_beside_mmd_are_printed_with_their_dimension(files, answer):
    x_file, y_file, x, y = files
    names = ["MEASURE_CKA", "MEASURE_ENERGY", "MEASURE_FRECHET"]
    found = first_layer(answer(x_file, y_file, *PAIRED, "--sigma", 2, measures=names))["measures"]
    assert [one["measure"] for one in found] == names
    assert found[0]["value"]["value"] == pytest.approx(similarity.cka(x, y).value)
    assert found[1]["value"]["value"] == pytest.approx(similarity.energy(x, y, paired=True).value)
    assert found[1]["dimension"] == CHANNELS
