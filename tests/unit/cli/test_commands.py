"""Arguments, exit codes and words of the commands that need no service."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from vfmalign import __version__
from vfmalign.cli import __main__ as program
from vfmalign.cli import exits, extras
from vfmalign.cli.local import doctor
from vfmalign.cli.local.stack import SERVICES
from vfmalign.core.domain import errors
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.models.importer import InputDescription

NEED_A_STACK = [
    ("dataset", "list"),
    ("dataset", "phantoms"),
    ("models", "list"),
    ("features", "list"),
    ("models", "pretrain", "d1"),
    ("extract", "d1", "--model", "m1"),
    ("finetune", "d1", "--model", "m1", "--task", "segmentation"),
    ("check", "d1", "--model", "m1", "--task", "segmentation"),
    ("check", "d1", "--model", "m1", "--task", "segmentation", "--gate", "mmd2.upper<=1"),
    ("check", "d1", "--model", "m1", "--task", "segmentation", "--seeds", "3"),
    ("checks", "show", "c1"),
    ("experiment", "d1", "--model", "m1", "--task", "segmentation"),
    ("experiments", "list"),
    ("experiments", "show", "s1"),
    ("jobs", "cancel", "j1"),
    ("jobs", "retry", "j1"),
    ("checks", "retry", "c1"),
    ("experiments", "retry", "s1"),
    ("watch", "c1"),
    ("mmd", "a" * 32, "b" * 32, "--paired", "--sigma", "1"),
    ("mmd", "a" * 32, "b" * 32, "--paired", "--sigma", "1", "--local"),
]

# No stack runs: an answer about the gate shows that it was read before anything was begun.
GATED = ("check", "d1", "--task", "segmentation", "--model", "m", "--gate")


@pytest.mark.parametrize("arguments", NEED_A_STACK, ids=" ".join)
def test_without_a_stack_every_command_says_how_to_start_one(invoke, arguments: tuple[str, ...]) -> None:
    code, out, err = invoke(*arguments)
    assert code == exits.UNAVAILABLE
    assert out == ""
    assert "no stack runs in this state folder" in err
    assert "`vfmalign up --detach`" in err
    assert "Traceback" not in err


def test_the_command_that_starts_a_stack_names_the_folder(invoke, tmp_path: Path) -> None:
    _, _, err = invoke("jobs", "list", "--home", "other")
    assert f"`vfmalign up --detach --home {tmp_path}/other`" in err


def test_with_json_an_error_is_the_one_document_on_stdout(invoke) -> None:
    code, out, err = invoke("checks", "show", "c1", "--json")
    assert code == exits.UNAVAILABLE
    assert json.loads(out)["error"]["reason"] == "STACK_DOWN"
    assert "vfmalign up" in json.loads(out)["error"]["remedy"]
    assert "error:" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bogus",), "No such command"),
        (("check", "d1", "--task", "segmentation", "--model", "m", "--steps", "4"), "--set, --steps-per-epoch)"),
        (("check", "d1", "--task"), "requires an argument"),
        (("check", "d1"), "--task"),
        (("check", "d1", "--task", "segmentation", "--model", "m", "--seed", "-1"), "--seed"),
        (("check", "d1", "--task", "segmentation", "--model", "m", "--seeds", "11"), "--seeds"),
        (("demo", "--seeds", "0"), "--seeds"),
        (("check", "d1", "--task", "segmentation", "--model", "m", "--epochs", "0"), "--epochs"),
        ((*GATED, "mmd2.upper<=low"), "is not a number"),
        ((*GATED, "mmd2<=1"), "a gate compares only the ends of intervals"),
        ((*GATED, "p_value<=0.05"), "is a p-value, which cannot be gated"),
        ((*GATED, "mmd2.upper<=1", "--no-wait"), "a gate needs a finished check"),
        (("checks", "show", "c1", "--gate", "mmd.upper<=1"), "'mmd' is not a known quantity"),
        (("extract", "d1", "--model", "m", "--split", "all"), "choose one of pretrain, train, val, test"),
        (("models", "pretrain", "d1", "--objective", "supervised"), "masked_reconstruction, contrastive"),
        (("jobs", "list", "--state", "lost"), "queued, pending, running"),
        (("experiment", "d1", "--task", "segmentation"), "--model"),
        (("experiment", "d1", "--model", "m1", "--task", "segmentation", "--seed", "-1"), "--seed"),
        (("experiment", "d1", "--model", "m1", "--task", "segmentation", "--max-running", "0"), "--max-running"),
        (("experiments", "list", "--state", "lost"), "queued, running"),
        (
            ("demo", "--task", "astrology"),
            "choose one of segmentation, super_resolution, denoising, distortion, translation",
        ),
        (("demo", "--objective", "supervised"), "choose one of masked_reconstruction, contrastive"),
        (("mmd", "Not An Id", "b" * 32, "--paired", "--sigma", "1"), "neither the id of a feature set nor a .npy file"),
    ],
)
def test_bad_usage_is_one_sentence_and_code_2(invoke, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = invoke(*arguments)
    assert code == exits.BAD_INPUT
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BadVolume("x"), 2),
        (errors.NotFound("x"), 2),
        (errors.Leakage("x"), 2),
        (errors.Conflict("x"), 2),
        (errors.Exhausted("x"), 3),
        (errors.Unavailable("x"), 3),
        (errors.DeadlineExceeded("x"), 3),
        (errors.StoreRefused("x"), 4),
        (errors.Forbidden("x"), 4),
        (errors.Unauthenticated("x"), 4),
        (errors.Cancelled("x"), 1),
        (errors.Internal("x"), 1),
    ],
)
def test_every_error_has_its_exit_code(error: errors.VfmalignError, code: int) -> None:
    assert exits.get_exit_code(error) == code


def test_the_version_is_one_line(invoke) -> None:
    assert invoke("--version") == (exits.OK, f"vfmalign {__version__}\n", "")


@pytest.mark.parametrize("group", [(), ("checks",)], ids=str)
def test_a_command_that_is_not_finished_shows_its_help(invoke, group: tuple[str, ...]) -> None:
    code, out, err = invoke(*group)
    assert code == exits.BAD_INPUT
    assert out.startswith(f"Usage: {' '.join(('vfmalign', *group))}")
    assert err == ""


def test_help_lists_the_exit_codes(invoke) -> None:
    code, out, _ = invoke("--help")
    assert code == exits.OK
    text = " ".join(out.split())
    for number, meaning in exits.MEANINGS.items():
        assert f"{number}: {meaning}" in text


def test_the_page_lists_the_exit_codes() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/command-line.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)
    assert {int(number): meaning for number, meaning in rows} == exits.MEANINGS


def test_ctrl_c_is_code_130_without_a_trace(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vfmalign.cli.local.state_directory.StateDirectory.read", interrupt)
    code, _, err = invoke("status")
    assert code == exits.INTERRUPTED
    assert "Traceback" not in err


def test_a_fault_of_ours_is_one_sentence_and_its_words_stay_out_of_the_trace(
    invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = "SURNAME^GIVEN_1234567"

    def fail(*_: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr("vfmalign.cli.local.state_directory.StateDirectory.read", fail)
    monkeypatch.setattr(program.tempfile, "tempdir", str(tmp_path))
    code, _, err = invoke("status")
    assert code == exits.FAILED
    assert "internal error (RuntimeError)" in err
    (trace,) = tmp_path.glob("vfmalign-traceback-*.txt")
    assert str(trace) in err.replace("\n", "")
    assert "in status" in trace.read_text()
    assert words not in trace.read_text() + err


@pytest.mark.parametrize(
    ("arguments", "unbuffered"), [(("--help",), ""), (("status",), "1"), (("status", "--json"), "")]
)
def test_a_full_disk_is_no_fault_of_ours(arguments: tuple[str, ...], unbuffered: str, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vfmalign.cli", *arguments], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == exits.FAILED
    assert "error: the output or a file cannot be written, because its disk is full\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_state_folder_is_a_folder(invoke, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = invoke("status", "--home", "file")
    assert (code, err) == (
        exits.BAD_INPUT,
        "error: --home: is not a folder\n  → name the state folder of the stack\n",
    )


def test_a_wrong_path_of_a_checkpoint_is_repeated_as_it_was_given(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFMALIGN_FEATURES_ADDRESS", "localhost:1")  # nothing is asked before the file is read
    code, _, err = invoke("models", "import", "../gone.pth", "--as", "meshnet")
    assert code == exits.BAD_INPUT
    assert "error: checkpoint: the file '../gone.pth' does not exist" in err


def test_every_part_of_an_input_reaches_the_import_of_a_model(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def import_model(*arguments: object, **_: object) -> NoReturn:
        asked.extend(arguments)
        raise errors.BadOption("is not imported here", field="input")

    monkeypatch.setattr("vfmalign.models.importer.import_model", import_model)
    monkeypatch.setenv("VFMALIGN_FEATURES_ADDRESS", "localhost:1")
    pairs = (
        "modalities=t2w, adc", "spacing_mm=3,1.5,1.5", "shape_dhw=16,32,32", "normalisation=quantile_range",
        "quantiles=0.01,0.99", "window=-160,240", "reference=adc",
    )  # fmt: skip
    words = [word for pair in pairs for word in ("--set", f"input.{pair}")]
    code, _, err = invoke("models", "import", "bundle", "--layers", "a.0, a.1", *words)
    assert (code, err) == (exits.BAD_INPUT, "error: input: is not imported here\n")
    described = InputDescription(
        ("t2w", "adc"), (3.0, 1.5, 1.5), (16, 32, 32), "quantile_range", (0.01, 0.99), (-160.0, 240.0), "adc"
    )
    assert asked[2:4] == [("a.0", "a.1"), described]


def test_a_wrong_import_command_does_not_repeat_the_folder(invoke) -> None:
    code, out, err = invoke("dataset", "import", "here", "SURNAME^GIVEN_1234567")
    assert code == exits.BAD_INPUT
    assert "SURNAME" not in out + err


def test_one_address_in_the_environment_names_a_deployment_without_the_other_services(
    invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("VFMALIGN_FEATURES_ADDRESS", f"127.0.0.1:{closed.getsockname()[1]}")
        assert invoke("models", "list")[0] == exits.UNAVAILABLE
        code, _, err = invoke("checks", "list")
    assert code == exits.BAD_INPUT
    assert "no address of the finetuning service is configured" in err
    assert err.splitlines()[1:] == ["  → set VFMALIGN_FINETUNING_ADDRESS"]


def test_a_service_that_is_not_there_is_code_3(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        for service in ("FEATURES", "MMD", "FINETUNING", "MONITORING"):
            monkeypatch.setenv(f"VFMALIGN_{service}_ADDRESS", address)
        code, _, err = invoke("checks", "list")
    assert code == exits.UNAVAILABLE
    assert "check that the service runs" in err


def test_doctor_names_the_failing_step_and_skips_what_needs_it(invoke) -> None:
    code, out, _ = invoke("doctor", "--json")
    report = json.loads(out)
    assert code == exits.UNAVAILABLE
    assert report["failed"] == ["stack"]
    steps = {step["name"]: step for step in report["steps"]}
    assert "vfmalign up --detach" in steps["stack"]["remedy"]
    assert steps["s3"]["outcome"] == steps["mmd"]["outcome"] == "skipped"
    assert steps["s3 program"]["outcome"] == "ok"


def test_doctor_asks_a_deployment_for_nothing_that_only_a_local_stack_needs(
    invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for service in ("FEATURES", "MMD", "FINETUNING", "MONITORING"):
            monkeypatch.setenv(f"VFMALIGN_{service}_ADDRESS", f"127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setattr(ObjectStore, "probe", lambda _: None)
        monkeypatch.setattr(doctor.probes, "check_store", lambda *_: "write")
        code, out, _ = invoke("doctor", "--json")
    steps = {step["name"]: step["outcome"] for step in json.loads(out)["steps"]}
    assert code == exits.UNAVAILABLE
    assert [name for name, outcome in steps.items() if outcome == "skipped"] == [
        "packages", "s3 program", "torch", "disk", "tokens",
    ]  # fmt: skip
    assert (steps["stack"], steps["s3"]) == ("ok", "ok")
    assert [name for name, outcome in steps.items() if outcome == "failed"] == list(SERVICES)


@pytest.mark.parametrize(
    ("endpoint", "outcome", "words"),
    [("", "skipped", "AWS_ENDPOINT_URL_S3 is not set"), ("nonsense", "failed", "AWS_ENDPOINT_URL_S3: is wrong")],
)
def test_doctor_goes_on_without_the_object_storage(
    invoke, endpoint: str, outcome: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("VFMALIGN_FEATURES_ADDRESS", f"127.0.0.1:{closed.getsockname()[1]}")
        code, out, _ = invoke("doctor", "--json")
    steps = {step["name"]: step for step in json.loads(out)["steps"]}
    assert code == exits.UNAVAILABLE
    assert (steps["s3"]["outcome"], steps["features"]["outcome"]) == (outcome, "failed")
    assert words in steps["s3"]["detail"]


def test_doctor_tells_a_store_that_hangs_from_one_that_is_slow(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.probes, "CALL_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("VFMALIGN_MMD_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("VFMALIGN_FEATURES_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        _, out, _ = invoke("doctor", "--json")
    steps = {step["name"]: step for step in json.loads(out)["steps"]}
    assert steps["s3"]["detail"] == "s3://vfmalign: the object store does not answer"


def test_doctor_names_missing_packages_and_a_full_disk(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.probes, "get_versions", lambda: {"torch": "2.9.0", "monai": "missing"})
    monkeypatch.setattr(doctor.probes, "get_free_gib", lambda _: 0.2)
    code, out, err = invoke("doctor")
    assert code == exits.UNAVAILABLE
    assert "a local stack needs monai, which is not installed" in out
    assert extras.get_install_command("local") in out
    assert "0.2 GiB are free" in out
    assert "the first failing step is `packages`" in err


def test_the_demo_empties_no_folder_that_is_not_its_own(invoke, tmp_path: Path) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.txt").write_text("all my work")
    code, _, err = invoke("demo", "--home", str(precious))
    assert code == exits.BAD_INPUT
    assert "was not created by a demo" in err
    assert (precious / "chapter1.txt").read_text() == "all my work"
