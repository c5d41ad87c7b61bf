"""`vfmalign drift` on arrays, without a deployment: its lines, its tables, its gate and its errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from rich.console import Console
from tests.drift_documents import make_document

from vfmalign.analysis.checks.gates import Outcome
from vfmalign.cli import drift_windows, exits
from vfmalign.cli.commands.api import drift as command
from vfmalign.cli.target import Target
from vfmalign.cli.views.drift_tables import show_drift
from vfmalign.core.domain.drift import DriftRequest
from vfmalign.core.domain.errors import PreconditionFailed, Unavailable
from vfmalign.monitoring.local import observer
from vfmalign.monitoring.local.history import History
from vfmalign.monitoring.local.observer import observe
from vfmalign.monitoring.local.state_file import DriftState, ObservedRows, write_state
from vfmalign.monitoring.sequential import Monitor, MonitorOptions, state
from vfmalign.reports.drift.document import DriftDocument

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A reference and a stream that shifts after 30 rows."""
    random = np.random.default_rng(0)
    stream = random.normal(size=(60, 4))
    stream[30:] += 3
    np.save(tmp_path / "reference.npy", random.normal(size=(80, 4)))
    np.save(tmp_path / "stream.npy", stream)
    return [str(tmp_path / "reference.npy"), str(tmp_path / "stream.npy")]


def test_the_defaults_of_the_command_and_of_the_library_are_the_same() -> None:
    request, options = DriftRequest(reference="r", streams=("s",)), MonitorOptions()
    for name in ("alpha", "run_length", "patient_window_days", "first_patients", "seed"):
        assert getattr(request, name) == getattr(options, name)


def test_an_alarm_is_a_line_a_table_a_page_and_a_failed_gate(invoke: Invoke, files: list[str], tmp_path: Path) -> None:
    page = tmp_path / "drift.html"
    arguments = ("drift", *files, "--local", "--set", "window_rows=20", "--require", "no_alarm", "--report", str(page))
    code, out, err = invoke(*arguments, "--json")
    assert code == exits.GATE_FAILED
    document = json.loads(out)
    assert document.pop("gate") == {"no_alarm": "failed"}
    alarm = DriftDocument.model_validate_json(json.dumps(document)).alarm
    assert alarm is not None
    assert 30 < alarm.row < 60
    assert f"ALARM at row {alarm.row}, observation row {alarm.row}: evidence of " in err
    assert any(f"(threshold {limit})" in err for limit in ("313", "500", "5,000")), "of 4 channels"
    components = [one["component"] for one in document["components"]]
    assert components == ["rows", "blocks_of_4", "blocks_of_16", "channels"]
    assert [window["first_row"] for window in document["windows"]] == [1, 21, 41]
    assert document["windows"][-1]["p_value"]["value"] == 0.001
    assert document["windows"][-1]["mmd2"]["interval"]["lower"] > 0
    assert f"Alarm since row {alarm.row} of 60" in page.read_text()
    code, out, err = invoke("drift", *files, "--local", "--set", "window_rows=0")
    assert code == exits.OK, "an alarm stops nothing unless it is asked to"
    assert "Most extreme rows" in out
    assert "Windowed MMD²" not in out


def test_a_stream_without_drift_passes(invoke: Invoke, files: list[str]) -> None:
    rows = np.load(files[1])[:30]
    np.save(files[1], rows)
    code, out, err = invoke("drift", *files, "--set", "window_rows=0", "--require", "no_alarm")
    assert code == exits.OK, err
    assert "No alarm in 30 rows." in out
    assert "gate no_alarm: passed" in out
    np.save(files[1], np.full((3, 4), np.nan))
    code, out, _ = invoke("drift", *files, "--set", "window_rows=0", "--require", "no_alarm")
    assert (code, "gate no_alarm: undecidable" in out) == (exits.GATE_FAILED, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--require", "gain"), "--require: 'gain' is not a valid value\n  → choose one of no_alarm"),
        (("--alpha", "0.7"), "--alpha: alpha is 0.7\n  → use a number above 0 and up to 0.5"),
        (("--set", "run_length=7"), "run_length: run_length is 7"),
        (("--set", "run_length=900", "--alpha", "0.01"), "run_length: it replaces --alpha"),
        (("--set", "window_rows=3"), "window_rows: 3 is out of range"),
        (("--set", "window_rows=x"), "--set: 'x' is not a value of window_rows\n  → choose a whole number"),
        (
            ("--set", "window=3"),
            "there is no key 'window'\n  → choose one of run_length, patient_window_days, window_rows, seed",
        ),
        (("--by", "scanner"), "--by: arrays have no strata"),
        (("--layer", "x"), "REFERENCE: it has no layer `x`"),
        (("--set", "patient_window_days=30"), "patient_window_days: the days of the rows are unknown"),
        (("--stream-table", "gone.csv"), "--stream-table: there is no such file"),
        (("--reference-table", "gone.csv"), "--reference-table: there is no such file"),
        (("--state", "/dev/null"), "--state: "),
        (("--state", "gone/state"), "--state: it cannot be written"),
        (("--report", "gone/page.html"), "--report: the file cannot be written"),
        (("--set", "seed=-1"), "seed: seed is -1"),
        (("gone.npy",), "STREAM: there is no such file"),
        (("stream.npz",), "STREAM: archives (.npz) are not supported"),
    ],
)
def test_a_wrong_option_or_file_is_named(
    invoke: Invoke, files: list[str], arguments: tuple[str, ...], words: str
) -> None:
    asks_for_windows = any(argument.startswith("window") for argument in arguments)
    code, _, err = invoke(
        "drift", *files, *arguments, *(("--local",) if asks_for_windows else ("--set", "window_rows=0"))
    )
    assert code == exits.BAD_INPUT
    assert words in err
    assert "  → " in err


def test_features_of_another_width_are_named(invoke: Invoke, files: list[str]) -> None:
    np.save(files[1], np.zeros((5, 3)))
    code, _, err = invoke("drift", *files, "--local")
    assert code == exits.BAD_INPUT
    assert "STREAM: it has 3 channels, and the reference 4" in err
    np.save(files[0], np.zeros((9, 3)))
    assert "REFERENCE: the reference has rows of 9 patients" in invoke("drift", *files, "--local")[2]


def test_feature_sets_need_a_deployment(invoke: Invoke, files: list[str], tmp_path: Path) -> None:
    code, _, err = invoke("drift", "a" * 32, "b" * 32, "--home", str(tmp_path), "--local")
    assert (code, "vfmalign up" in err.replace("\n", " ")) == (exits.UNAVAILABLE, True)
    code, _, err = invoke("drift", *files, "--home", str(tmp_path))
    assert code == exits.UNAVAILABLE, "a service compares windows unless --local or window_rows=0"


def test_windows_say_why_they_are_absent(monkeypatch: pytest.MonkeyPatch, invoke: Invoke, files: list[str]) -> None:
    def refuse(*_: object) -> None:
        raise PreconditionFailed("windowed MMD² needs torch, which is not installed", remedy="pip install x")

    monkeypatch.setattr(drift_windows, "require_modules", refuse)
    code, out, _ = invoke("drift", *files, "--local")
    assert code == exits.OK
    assert "– windowed MMD² needs torch, which is not installed: pip install x" in out


def test_a_service_that_fails_is_asked_once_and_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, invoke: Invoke, files: list[str]
) -> None:
    asked: list[object] = []

    def fail(work: object, **_: object) -> None:
        asked.append(work)
        raise Unavailable("the service does not answer", subject="mmd")

    target = Target({}, None)
    monkeypatch.setattr(Target, "run", lambda _, work: fail(work))
    monkeypatch.setattr(Target, "find", lambda _: target)
    code, out, _ = invoke("drift", *files, "--set", "window_rows=20")
    assert (code, len(asked)) == (exits.OK, 1)
    assert "– the MMD service did not compare: the service does not answer" in out


def test_a_state_of_another_release_is_refused_with_what_to_do(
    invoke: Invoke, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("drift", *files, "--set", "window_rows=0", "--state")
    with monkeypatch.context() as patch:
        patch.setattr(state, "VERSION", 1)
        write_state(tmp_path / "old", make_state(files[0]))
    code, _, err = invoke(*arguments, str(tmp_path / "old"))
    assert code == exits.BAD_INPUT
    assert "--state: another release of `vfmalign drift` wrote it" in err
    assert "→ name a new file, and give all files or feature sets of the stream so far" in " ".join(err.split())
    assert invoke(*arguments, str(tmp_path / "new"))[0] == exits.OK


def make_state(reference: str) -> DriftState:
    """The state of a monitor before its first row."""
    rows = np.load(reference)
    monitor = Monitor(MonitorOptions(), rows, [f"p{row}" for row in range(len(rows))])
    return DriftState(monitor, History(), ObservedRows(), {})


def test_ctrl_c_ends_the_command_and_keeps_the_state(files: list[str], tmp_path: Path) -> None:
    np.save(files[1], np.random.default_rng(1).normal(size=(200_000, 4)))
    arguments = ["drift", files[0], files[1], "--set", "window_rows=0", "--state", str(tmp_path / "state")]
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
         "from vfmalign.cli.__main__ import run; sys.exit(run(sys.argv[1:]))", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        while process.poll() is None and not (tmp_path / "state").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == exits.INTERRUPTED
    assert "Traceback" not in err
    request = DriftRequest(reference=files[0], streams=(str(tmp_path / "part.npy"),), window_rows=0)
    np.save(tmp_path / "part.npy", np.load(files[1])[:8_000])
    first: list[int] = []
    document, _ = observe(
        request.model_copy(update={"state": str(tmp_path / "state")}),
        lambda _, total: first.append(total),
        lambda *_: None,
    )
    assert document.rows >= 8_000
    assert first[0] <= 3_000, "the rows of the stored state are not observed again"


def test_the_monitor_uses_one_thread_and_leaves_those_of_the_process(
    invoke: Invoke, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def count_threads() -> set[int]:
        return {one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"}

    used: list[set[int]] = []

    def observe_and_count(*arguments: Any) -> Any:
        used.append(count_threads())
        return observe(*arguments)

    monkeypatch.setattr(observer, "observe", observe_and_count)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        assert invoke("drift", *files, "--set", "window_rows=0")[0] == exits.OK
        assert count_threads() == {2}
    assert used == [{1}]


def test_the_tables_show_the_document() -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in show_drift(make_document(), {"no_alarm": Outcome.FAILED}):
        console.print(part)
    text = console.export_text()
    for words in (
        "Alarm since row 231 of 400",
        "1.1 × 10¹⁷",
        "9.6 × 10⁵",
        "if the studies of one scanner are exchangeable.",
        "Mix of scanner",
        "The mix raises no alarm.",
        "repeated patient",
        "301 to 400",
        "stages.1",
    ):
        assert words in text
    assert text.count("stages.1") == 1, "of other layers, the last window"
    console.file.close()


@pytest.mark.parametrize(("fields", "outcome"), [({}, "failed"), ({"alarm": None}, "passed")], ids=str)
def test_the_gate_follows_the_alarm(fields: dict[str, Any], outcome: str) -> None:
    assert command.evaluate_alarm(make_document(**fields)).value == outcome
