"""The commands of docs/tutorial-drift.md run in order, and what command and service say of feature sets besides."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.documented_pages import GATE_FAILED, read_blocks, run_block
from tests.integration.cli.commands import Cli

from vfmalign.cli import exits

pytestmark = pytest.mark.e2e

PAGE = "tutorial-drift.md"
OPTIONS = ("--by", "scanner", "--set", "window_rows=30", "--json")
PROGRAMS = ("make_phantoms.py", "observe_study.py")
WATCHED = ("validated", "january", "february")
REFERENCE_ROWS, ROWS = 99, 81
CALIBRATION_ROWS = REFERENCE_ROWS * 2 // 3
Codes = dict[str, int]


@pytest.fixture(scope="module")
def codes(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cli, Codes]]:
    """The reader's folder after all commands of the page but the last, and their exit codes."""
    folder = tmp_path_factory.mktemp("drift")
    for name, program in zip(PROGRAMS, read_blocks(PAGE, "python"), strict=True):
        (folder / name).write_text(program)
    *blocks, last = read_blocks(PAGE, "bash")
    assert last == "vfmalign down\n"
    try:
        yield Cli(folder), {block: run_block(block, folder, environment) for block in blocks}
    finally:
        subprocess.run([sys.executable, "-m", "vfmalign.cli", "down"], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def cli(codes: tuple[Cli, Codes]) -> Cli:
    return codes[0]


@pytest.fixture(scope="module")
def sets(cli: Cli) -> dict[str, str]:
    """The feature set of every dataset."""
    names = (*WATCHED, "march")
    read = {name: json.loads((cli.folder / f"{name}.json").read_text())["feature_set"] for name in names}
    return {name: one["feature_set_id"] for name, one in read.items()}


@pytest.fixture(scope="module")
def both_months(cli: Cli, sets: dict[str, str]) -> dict[str, Any]:
    """The document of both months, observed at once."""
    document: dict[str, Any] = cli.call("drift", *(sets[name] for name in WATCHED), *OPTIONS).document
    return document


def test_the_page_leads_to_an_alarm_in_february(codes: tuple[Cli, Codes], both_months: dict[str, Any]) -> None:
    cli, ended = codes
    gates = {block: code for block, code in ended.items() if "--require no_alarm" in block}
    assert [code for block, code in ended.items() if block not in gates] == [0] * (len(ended) - len(gates))
    assert list(gates.values()) == [0, GATE_FAILED] * 2, "January passes the gate, by command and by service"
    assert both_months["outcomes"] == {"entered": ROWS, "repeated_patient": 0, "reference_patient": 0, "not_finite": 0}
    row = both_months["alarm"]["row"]
    assert 30 < row <= ROWS
    page = (cli.folder / "drift.html").read_text()
    assert f"Alarm since row {row} of {ROWS}" in page
    assert "The mix raises no alarm." in page


def test_the_scanner_that_changed_is_told_from_the_other(both_months: dict[str, Any]) -> None:
    layer = both_months["layer"]
    lower = {
        one["stratum"]: one["mmd2"]["interval"]["lower"]
        for one in both_months["windows"]
        if one["layer"] == layer and one["stratum"]
    }
    assert lower["A"] > 0 > lower["B"]
    shares = {
        one["name"]: (one["reference"] / CALIBRATION_ROWS, one["stream"] / ROWS) for one in both_months["mix"]["strata"]
    }
    assert {name: stream for name, (_, stream) in shares.items()} == {"A": 2 / 3, "B": 1 / 3}
    assert all(abs(stream - reference) < 0.03 for reference, stream in shares.values()), "as many studies as before"
    assert len({one["layer"] for one in both_months["windows"]}) == 4, "other layers are described"


def test_month_after_month_gives_the_same_evidence(cli: Cli, sets: dict[str, str], both_months: dict[str, Any]) -> None:
    for month in ("january", "february"):
        document = cli.call("drift", sets["validated"], sets[month], *OPTIONS, "--state", "months.drift").document
    for part in ("history", "components", "alarm", "outcomes", "mix", "extreme_rows"):
        assert document[part] == both_months[part]


def test_windows_are_the_same_from_a_service_and_from_a_subprocess(
    cli: Cli, sets: dict[str, str], both_months: dict[str, Any]
) -> None:
    local = cli.call("drift", *(sets[name] for name in WATCHED), *OPTIONS, "--local").document
    for one, other in zip(local["windows"], both_months["windows"], strict=True):
        assert {**one, "mmd2": 0} == {**other, "mmd2": 0}
        assert one["mmd2"]["value"] == pytest.approx(other["mmd2"]["value"], abs=1e-6)


def get_monitor(cli: Cli) -> dict[str, Any]:
    shown: dict[str, Any] = cli.call("monitors", "show", "small-model", "--json").document["monitor"]
    return shown


def wait_for_monitor(cli: Cli, condition: Callable[..., bool]) -> dict[str, Any]:
    """Returns the monitor once it meets a condition: observations of Extract are recorded after its answer."""
    for _ in range(120):
        if condition(monitor := get_monitor(cli)):
            return monitor
        time.sleep(0.25)
    raise AssertionError(monitor)


def test_the_service_finds_what_the_command_finds_and_goes_on_with_a_new_reference(
    cli: Cli, sets: dict[str, str], both_months: dict[str, Any]
) -> None:
    monitor = get_monitor(cli)
    (ended,) = monitor["earlier_epochs"]
    alarm = ended["alarm"]
    assert (alarm["row"], alarm["observation_id"]) == (
        both_months["alarm"]["row"],
        both_months["alarm"]["observation"],
    )
    assert alarm["note"] == "software of scanner A was updated on 1 February"
    assert ended["rows"] == ROWS
    page = (cli.folder / "monitor.html").read_text()
    assert f"Alarm since row {alarm['row']} of {ROWS}" in page
    assert "Nobody has acknowledged it yet" in page
    epoch = monitor["epoch"]
    assert epoch["reference"]["feature_set_id"] == sets["march"]
    assert (epoch["start"], epoch["has_guarantee"]) == ("EPOCH_START_UNSEEN_REFERENCE", True)
    assert "alarm" not in epoch


def test_extract_tells_the_monitor_of_patients_as_imports_name_them(cli: Cli, environment: dict[str, str]) -> None:
    before = wait_for_monitor(cli, lambda monitor: monitor["epoch"].get("rows") == 1)  # the study of April
    (block,) = (one for one in read_blocks(PAGE, "bash") if "observe_study.py" in one)
    line = "python observe_study.py patient-500 april/p500.nii.gz\n"
    assert line in block
    for patient, outcome in (("patient-200", "repeated_patient"), ("patient-400", "reference_patient")):
        study = (
            f"{patient} {'january' if patient == 'patient-200' else 'march'}/{patient.replace('atient-', '')}.nii.gz"
        )
        assert run_block(block.replace(line, f"python observe_study.py {study}\n"), cli.folder, environment) == 0
        wait_for_monitor(cli, lambda monitor, outcome=outcome: monitor["outcomes"].get(outcome) == 1)
    after = get_monitor(cli)
    assert after["epoch"]["rows"] == before["epoch"]["rows"]
    assert after["late_observations"] == before["late_observations"] == 0


def test_patients_of_the_reference_do_not_enter(cli: Cli, sets: dict[str, str]) -> None:
    document = cli.call("drift", sets["validated"], sets["validated"], "--json").document
    assert document["outcomes"]["reference_patient"] == REFERENCE_ROWS
    assert document["rows"] == 0


def test_wrong_feature_sets_and_strata_are_named(cli: Cli, sets: dict[str, str]) -> None:
    pair = sets["validated"], sets["january"]
    random = cli.call("extract", "january", "--model", "small", "--map", "t2w=input", "--random", "--json").document
    for arguments, words in (
        ((*pair, "--by", "site"), "--by: no case of dataset validated has this stratum\n  → choose one of scanner"),
        ((*pair, "--layer", "stages.9"), "REFERENCE: it has no layer `stages.9`\n  → choose one of stages.3, "),
        ((sets["january"], sets["validated"]), "REFERENCE: the reference has rows of 30 patients"),
        ((pair[0], random["feature_set"]["feature_set_id"]), "STREAM: features of different models, weights or"),
        ((pair[0], "0" * 32), f"feature set {'0' * 32}: there is no such feature set"),
        ((*pair, "--set", "patient_window_days=9"), "patient_window_days: feature sets do not contain days"),
        ((*pair, "--stream-table", "validated/cases.csv"), "--stream-table: feature sets define their own"),
        ((pair[0], "x.npy"), "no such file"),
    ):
        done = cli.call("drift", *arguments, "--local", code=exits.BAD_INPUT)
        assert words in done.err
        assert not re.search(r"patient-\d|Traceback", done.err)
