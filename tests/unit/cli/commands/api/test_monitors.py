"""`vfmalign monitors` against a small service over a socket: what is sent, what is written, and the exit codes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.monitor_records import NOW, SHA256, make_alarm, make_epoch
from tests.monitoring_service import PAGE, Monitoring
from tests.preloaded import PreloadedPython
from tests.unit.cli.conftest import Invoke

from vfmalign.cli import exits
from vfmalign.client.messages.monitors import EvidencePeak, Monitor
from vfmalign.v1 import monitoring_pb2

Python = Callable[..., PreloadedPython]
SET = "5f5b865d1efe16135f5b865d1efe1613"


def test_a_monitor_is_created_as_the_options_say(run: Invoke, monitoring: Monitoring) -> None:
    code, out, err = run(
        "create", "m1", f"{SET}@{SHA256}", "--layer", "stages.3", "--set", "descriptive_layers=stages.1",
        "--by", "scanner",
        "--alpha", "0.05", "--set", "patient_window_days=90", "--first-patients", "100", "--set", "window_rows=50",
        "--max-silence-hours", "24", "--set", "seed=7",
        "--set", "title=Prostate, 3 T",
    )  # fmt: skip
    assert code == exits.OK, err
    assert f"monitor m1: watches layer stages.3 of model profound with the reference {SET}" in " ".join(out.split())
    assert "`vfmalign monitors observe m1 FEATURE_SET`" in out
    spec = Monitor.from_proto(monitoring.monitors["m1"]).spec
    assert (spec.reference.feature_set_id, spec.reference.manifest_sha256) == (SET, SHA256)
    assert (spec.layer, spec.descriptive_layers, spec.stratum) == ("stages.3", ("stages.1",), "scanner")
    assert (spec.alpha, spec.run_length, spec.patient_window_days, spec.window_rows) == (0.05, 0, 90, 50)
    assert spec.first_patients == 100
    assert (spec.max_silence_hours, spec.seed, spec.title) == (24, 7, "Prostate, 3 T")
    code, out, _ = run("create", "m2", SET, "--set", "run_length=5000", "--json")
    assert json.loads(out)["monitor"]["spec"]["run_length"] == 5000
    code, _, err = run("create", "m1", SET)
    assert (code, "another monitor has this id" in err) == (exits.BAD_INPUT, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "m1", "march.npy"), "REFERENCE: is not the id of a feature set → extract the features of"),
        (("create", "m1", f"{SET}@short"), "REFERENCE: is not the id of a feature set → give the ID or ID@SHA256"),
        (("create", "m1", SET, "--alpha", "0.7"), "--alpha: out of range → choose a value of at most 0.5"),
        (
            ("create", "m1", SET, "--set", "run_length=7"),
            "--set: '7' is not a value of run_length → choose a whole number",
        ),
        (
            ("create", "m1", SET, "--set", "window_rows=3"),
            "not a value of window_rows → choose a whole number from 16 to 5,000",
        ),
        (("create", "m1", SET, "--by", "Not A Kind"), "--by: not a valid id"),
        (("create", "m1", SET, "--max-silence-hours", "-1"), "--max-silence-hours: out of range"),
        (
            ("create", "m1", SET, "--alpha", "0.01", "--set", "run_length=900"),
            "run_length: it replaces --alpha",
        ),
        (("list", "--state", "gone"), "--state: 'gone' is not a valid value → choose one of active, paused"),
        (("show", "absent"), "absent: there is no such monitor"),
        (("show", "m1", "--require", "gain"), "--require: 'gain' is not a valid value → choose one of no_alarm"),
        (("report", "m1", "-o", "page.pdf"), "--output: the name must end in .html or .json"),
        (("report", "prostate-3t", "-o", "gone/page.html"), "--output: the file cannot be written"),
        (("replace-reference", "m1", SET), "the reason of the new epoch is missing → give --fixed for a change"),
        (("replace-reference", "m1"), "the reason of the new epoch is missing → give --fixed for a change"),
        (("replace-reference", "m1", "march.npy", "--reset"), "REFERENCE: is not the id of a feature set → extract"),
        (("replace-reference", "m1", SET, "--fixed", "--reset"), "several reasons of the new epoch are given"),
        (("observe", "m1", "march.npy"), "--table: an array does not name the patients of its rows"),
        (("observe", "m1", "march.npy", "--table", "t.csv"), "--same-model: an array does not name the model"),
        (("observe", "m1", SET, "--same-model"), "--same-model: a feature set has patients, strata and an origin"),
        (("observe", "prostate-3t", "Not An Id"), "SOURCE: is neither the id of a feature set nor a .npy file"),
        (("observe", "prostate-3t", SET), f"{SET}: there is no such feature set"),
        (("observe", "absent", SET), "absent: there is no such monitor"),
        (("delete", "prostate-3t"), "--yes: there is no terminal to confirm the deletion → add --yes"),
    ],
)
def test_a_wrong_argument_is_named(run: Invoke, monitoring: Monitoring, arguments: tuple[str, ...], words: str) -> None:
    monitoring.add()
    code, _, err = run(*arguments)
    assert code == exits.BAD_INPUT
    assert words in err
    assert list(monitoring.monitors) == ["prostate-3t"]


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("monitor_id", "NAME"),
        ("spec.reference.feature_set_id", "REFERENCE"),
        ("reference.feature_set_id", "REFERENCE"),
        ("spec.layer", "--layer"),
        ("spec.descriptive_layers[1]", "descriptive_layers[1]"),
        ("spec.stratum", "--by"),
        ("spec.window_rows", "window_rows"),
        ("spec.patient_window_days", "patient_window_days"),
        ("spec.first_patients", "--first-patients"),
        ("spec.title", "title"),
    ],
)
def test_a_field_that_the_service_refuses_is_shown_as_its_option(
    run: Invoke, monitoring: Monitoring, field: str, option: str
) -> None:
    monitoring.refused = field
    code, _, err = run("create", "m1", SET)
    # Before it, gRPC may report the end of an earlier test's server.
    assert (code, err.endswith(f"error: {option}: is wrong")) == (exits.BAD_INPUT, True)


def test_a_deployment_without_monitoring_says_what_to_set(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFMALIGN_MMD_ADDRESS", "127.0.0.1:1")
    code, _, err = invoke("monitors", "list")
    assert code == exits.BAD_INPUT
    assert "set VFMALIGN_MONITORING_ADDRESS" in err


def test_the_list_shows_state_alarm_and_arrivals(run: Invoke, monitoring: Monitoring) -> None:
    monitoring.add("m1")
    monitoring.add("m2", alarm=False, state="paused")
    monitoring.add("m3", epoch=make_epoch(make_alarm(acknowledge_time=NOW)))
    code, out, _ = run("list")
    assert code == exits.OK
    rows = {line.split()[0]: line for line in out.splitlines()[2:]}
    assert "since row 231, not acknowledged  active      1   400  2026-03-03 09:00:00" in rows["m1"]
    assert rows["m2"].split()[1:3] == ["–", "paused"]
    assert "since row 231, seen" in rows["m3"]
    code, out, _ = run("list", "--state", "paused", "--json")
    assert [one["monitor_id"] for one in json.loads(out)["monitors"]] == ["m2"]
    assert "m3" not in run("list", "--limit", "2")[1]


def test_a_monitor_is_shown_beginning_with_its_alarm(run: Invoke, monitoring: Monitoring) -> None:
    monitoring.add()
    code, out, _ = run("show", "prostate-3t")
    assert code == exits.OK, "an alarm stops nothing unless it is asked to"
    first, second, third, fourth = out.splitlines()[:4]
    assert first.startswith("Alarm since row 231 of 400, 01 March 2026, 07:30 UTC, 169 rows ago:")
    assert second == "Nobody has acknowledged it yet."
    assert third.startswith("Strongest evidence now: rows, 1.1 × 10¹⁷ (threshold 313). Highest in this epoch: rows,")
    assert fourth.startswith("  • The share of scanner B has changed most: 50 % of the stream, 25 % of the reference")
    for words in (
        "Rows 291 to 390: MMD² 0.0500",
        "repeated patient",
        "stages.1",
        f"@{SHA256}",
        "Compared 03 March 2026",
        "if the studies of one scanner are exchangeable",
        "The mix raises no alarm.",
    ):
        assert words in out
    code, out, _ = run("show", "prostate-3t", "--require", "no_alarm", "--json")
    assert code == exits.GATE_FAILED
    document = json.loads(out)
    assert document["gate"] == {"no_alarm": "failed"}
    assert document["monitor"]["epoch"]["alarm"]["row"] == 231


def test_the_highest_evidence_of_the_epoch_is_shown_beside_the_current_one(run: Invoke, monitoring: Monitoring) -> None:
    monitoring.add(alarm=False, peak=EvidencePeak(row=217, component="channels", log_evidence=13.0))
    code, out, _ = run("show", "prostate-3t")
    assert code == exits.OK
    assert (
        "Strongest evidence now: blocks of 4, 1.0 (threshold 500). "
        "Highest in this epoch: channels, 4.4 × 10⁵ (threshold 9.6 × 10⁵), after row 217."
    ) in " ".join(out.split())
    document = json.loads(run("show", "prostate-3t", "--json")[1])
    assert document["monitor"]["peak"] == {"row": 217, "component": "EVIDENCE_COMPONENT_CHANNELS", "log_evidence": 13.0}
    monitoring.add("new", alarm=False, epoch=make_epoch(rows=0), peak=None)
    assert "Highest in this epoch" not in run("show", "new")[1]


def test_the_gate_passes_without_an_alarm_and_not_without_rows(run: Invoke, monitoring: Monitoring) -> None:
    monitoring.add("quiet", alarm=False)
    monitoring.add("empty", alarm=False, epoch=make_epoch(rows=0))
    assert run("show", "quiet", "--require", "no_alarm")[0] == exits.OK
    code, out, _ = run("show", "empty", "--require", "no_alarm")
    assert (code, "gate no_alarm: undecidable" in out) == (exits.GATE_FAILED, True)
    assert "No row has entered yet" in out
    monitoring.add("new", alarm=False, epoch=make_epoch(rows=0), outcomes={})
    assert "Observations" not in run("show", "new")[1]


def test_a_paused_monitor_with_epochs_says_so(run: Invoke, monitoring: Monitoring) -> None:
    alarm = make_alarm(acknowledge_time=NOW, note="coil replaced")
    monitoring.add(
        state="paused", epoch=make_epoch(alarm, number=2, has_guarantee=False), earlier_epochs=(make_epoch(alarm),)
    )
    _, out, _ = run("show", "prostate-3t")
    assert "Acknowledged 03 March 2026, 12:00 UTC: coil replaced." in out
    assert "! Paused. Observations are recorded and do not enter the evidence" in out
    assert "! No guarantee." in out
    assert "Earlier epochs" in out
    assert "Observations of all epochs" in " ".join(out.split())
    assert "row 231. Acknowledged 03 March 2026, 12:00 UTC: coil replaced." in out


def test_an_alarm_is_shown_before_it_is_acknowledged(run: Invoke, monitoring: Monitoring) -> None:
    monitoring.add()
    code, out, err = run("acknowledge", "prostate-3t", "--note", "coil replaced")
    assert code == exits.OK
    assert err.startswith("Alarm since row 231 of 400, 01 March 2026, 07:30 UTC")
    assert "monitor prostate-3t: Acknowledged 03 March 2026, 12:00 UTC: coil replaced" in out
    code, out, err = run("acknowledge", "prostate-3t", "--note", "again", "--json")
    assert json.loads(out)["monitor"]["epoch"]["alarm"]["note"] == "coil replaced"
    assert "the alarm was already acknowledged; the first acknowledgement is kept" in err
    monitoring.add("quiet", alarm=False)
    code, _, err = run("acknowledge", "quiet")
    assert (code, "quiet: epoch 1 has no alarm" in err) == (exits.BAD_INPUT, True)


@pytest.mark.parametrize(
    ("option", "start", "words"),
    [
        ("--fixed", "EPOCH_START_FIXED", "holds if time and reference were fixed without regard to the observations"),
        ("--unseen", "EPOCH_START_UNSEEN_REFERENCE", "holds: no patient of the reference was seen before"),
        ("--reset", "EPOCH_START_RESET", "does not hold for this epoch"),
    ],
)
def test_a_new_reference_says_whether_the_bound_holds(
    run: Invoke, monitoring: Monitoring, option: str, start: str, words: str
) -> None:
    monitoring.add()
    code, out, _ = run("replace-reference", "prostate-3t", f"{SET}@{SHA256}", option)
    assert code == exits.OK
    assert f"monitor prostate-3t: epoch 2 with the reference {SET}." in out
    assert words in " ".join(out.split())
    epoch = monitoring.monitors["prostate-3t"].epoch
    assert (epoch.start, epoch.reference.manifest_sha256) == (monitoring_pb2.EpochStart.Value(start), SHA256)


def test_a_reset_without_a_reference_keeps_the_current_one_and_has_no_bound(
    run: Invoke, monitoring: Monitoring
) -> None:
    monitoring.add()
    reference = monitoring_pb2.MonitorReference()
    reference.CopyFrom(monitoring.monitors["prostate-3t"].epoch.reference)
    code, out, err = run("replace-reference", "prostate-3t", "--reset")
    assert code == exits.OK, err
    line = f"monitor prostate-3t: epoch 2 with the reference {reference.feature_set_id}. The bound on false alarms does"
    assert line in " ".join(out.split())
    monitor = monitoring.monitors["prostate-3t"]
    assert (monitor.epoch.number, monitor.epoch.reference) == (2, reference)
    assert (monitor.epoch.start, monitor.epoch.has_guarantee) == (monitoring_pb2.EPOCH_START_RESET, False)
    assert not monitor.epoch.HasField("alarm"), "it watches again"
    assert monitor.earlier_epochs[0].HasField("alarm"), "an alarm that was raised stays raised"


@pytest.mark.parametrize("option", ["--fixed", "--unseen"])
def test_only_a_reset_may_leave_the_reference_out(run: Invoke, monitoring: Monitoring, option: str) -> None:
    monitoring.add()
    code, _, err = run("replace-reference", "prostate-3t", option)
    assert code == exits.BAD_INPUT
    assert "REFERENCE: required without --reset → name a feature set" in " ".join(err.split())
    assert monitoring.monitors["prostate-3t"].epoch.number == 1


def test_what_the_evidence_does_not_depend_on_is_updated_and_the_rest_stays(
    run: Invoke, monitoring: Monitoring
) -> None:
    monitoring.add("m1")
    spec = monitoring.monitors["m1"].spec
    title = spec.title
    code, out, _ = run("update", "m1", "--max-silence-hours", "72")
    assert (code, "monitor m1: alert after 72 h without an observation" in " ".join(out.split())) == (exits.OK, True)
    assert (spec.max_silence_hours, spec.title) == (72, title)
    assert "no alert without observations; title: m1" in " ".join(
        run("update", "m1", "--max-silence-hours", "0", "--title", "")[1].split()
    )
    assert (spec.max_silence_hours, spec.title) == (0, "")
    assert json.loads(run("update", "m1", "--title", "T", "--json")[1])["monitor"]["spec"]["title"] == "T"
    code, _, err = run("update", "m1")
    assert (code, "there is nothing to change → give it, or --title" in " ".join(err.split())) == (
        exits.BAD_INPUT,
        True,
    )


def test_a_monitor_is_paused_resumed_and_deleted(run: Invoke, monitoring: Monitoring) -> None:
    monitoring.add()
    assert run("pause", "prostate-3t")[1].strip() == "monitor prostate-3t: paused"
    assert run("resume", "prostate-3t")[1].strip() == "monitor prostate-3t: active"
    code, out, _ = run("delete", "prostate-3t", "--yes", "--json")
    assert (code, json.loads(out), monitoring.monitors) == (exits.OK, {"deleted": "prostate-3t"}, {})
    assert run("pause", "prostate-3t")[0] == exits.BAD_INPUT


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", exits.OK, 0), (b"n\n", exits.INTERRUPTED, 1)])
def test_somebody_at_a_terminal_is_asked_before_a_monitor_is_deleted(
    monitoring: Monitoring, address: str, tmp_path: Path, python: Python, answer: bytes, code: int, left: int
) -> None:
    monitoring.add()
    ours, theirs = pty.openpty()
    environment = {**os.environ, "VFMALIGN_MONITORING_ADDRESS": address, "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "vfmalign.cli", "monitors", "delete", "prostate-3t"]
    with python(command, stdin=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.write(ours, answer)
        _, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert b"Delete monitor prostate-3t with its observations and its evidence?" in err
    assert (process.returncode, len(monitoring.monitors)) == (code, left)
    assert (b"nothing is deleted" in err) == bool(left)


def test_a_report_is_written_as_a_page_or_as_json(run: Invoke, monitoring: Monitoring, tmp_path: Path) -> None:
    monitoring.add("m1")
    code, out, _ = run("report", "m1")
    assert (code, out.strip()) == (exits.OK, "m1.html")
    assert (tmp_path / "m1.html").read_bytes() == PAGE
    code, out, _ = run("report", "m1", "-o", "m1.json", "--json")
    assert (code, json.loads(out)) == (exits.OK, {"report": "m1.json"})
    assert json.loads((tmp_path / "m1.json").read_bytes()) == {"version": 1}


@pytest.mark.parametrize("as_json", [False, True], ids=["lines", "json"])
def test_a_watch_writes_a_line_at_every_change_until_ctrl_c(
    monitoring: Monitoring, address: str, tmp_path: Path, python: Python, as_json: bool
) -> None:
    monitoring.add("m1")
    environment = {**os.environ, "VFMALIGN_MONITORING_ADDRESS": address, "HOME": str(tmp_path)}
    # A shell without job control lets processes in its background ignore SIGINT, and so the tests' own.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from vfmalign.cli.__main__ import main; main()"
    )
    command = [sys.executable, "-c", program, "monitors", "watch", "m1", *(["--json"] if as_json else [])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with python(command, env=environment, **pipes) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        monitoring.change("m1", state=monitoring_pb2.MONITOR_STATE_PAUSED)
        lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    assert (process.returncode, rest, err) == (exits.INTERRUPTED, "", "")
    if as_json:
        assert [json.loads(line)["monitor"]["state"] for line in lines] == [
            "MONITOR_STATE_ACTIVE",
            "MONITOR_STATE_PAUSED",
        ]
    else:
        assert (
            "active  epoch 1      400 rows  rows 1.1 × 10¹⁷ of 313  ALARM since row 231, not acknowledged" in lines[0]
        )
        assert "paused  epoch 1" in lines[1]


def test_ctrl_c_ends_a_watch_whose_event_loop_has_just_gone_to_sleep(
    monitoring: Monitoring, address: str, tmp_path: Path, python: Python
) -> None:
    """Python handles a signal in its main thread, which does not wake by itself if the signal comes before it waits.

    Here another thread takes the signal while the main thread waits, which has the same effect whenever it happens.
    """
    monitoring.add("m1")
    environment = {**os.environ, "VFMALIGN_MONITORING_ADDRESS": address, "HOME": str(tmp_path)}
    program = (
        "import signal, threading, time; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start(); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}); "
        "from vfmalign.cli.__main__ import main; main()"
    )
    command = [sys.executable, "-c", program, "monitors", "watch", "m1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with python(command, env=environment, **pipes) as process:
        assert process.stdout is not None
        assert "active  epoch 1" in process.stdout.readline()
        while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        try:
            rest, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert (process.returncode, rest, err) == (exits.INTERRUPTED, "", "")


def test_a_watch_ends_with_its_monitor(run: Invoke, monitoring: Monitoring) -> None:
    code, _, err = run("watch", "absent")
    assert (code, "absent: there is no such monitor" in err) == (exits.BAD_INPUT, True)
