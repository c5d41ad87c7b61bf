"""`vfmalign monitors` with the service: the life of a monitor from a shell."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid

import numpy as np
import pytest
from tests.integration.cli.commands import Cli
from tests.integration.monitoring.conftest import CHANNELS, draw, store_set

from vfmalign.cli import exits
from vfmalign.core.domain.drift import DriftRequest
from vfmalign.core.domain.errors import DigestMismatch
from vfmalign.core.storage.feature_sets import read_committed
from vfmalign.monitoring.local.observer import observe
from vfmalign.reports.drift.document import DriftDocument


@pytest.fixture
def run(service, tmp_path, monkeypatch):
    """Runs a command on the service in an empty folder: its exit code, its output, and its progress and errors."""
    folder = tmp_path / "shell"
    folder.mkdir()
    monkeypatch.setenv("VFMALIGN_MONITORING_ADDRESS", service.address)
    monkeypatch.setenv("HOME", str(folder))
    cli = Cli(folder)

    async def call(*arguments, code=exits.OK):
        done = await asyncio.to_thread(cli.call, "monitors", *arguments, code=code)
        return done.out, " ".join(done.err.split())

    call.folder = folder
    return call


def name(prefix):
    return f"{prefix}{uuid.uuid4().hex[:6]}"


def write_array(folder, rows, prefix, shift=0.0):
    """Writes an array of the alarm's layer with its table; returns the arguments that name them."""
    np.save(folder / f"{prefix}.npy", draw(rows, seed=5, shift=shift)["stages.3"])
    lines = [f"{prefix}-{row},{prefix}-p{row},{'AB'[row % 2]},2026-03-01" for row in range(rows)]
    (folder / f"{prefix}.csv").write_text("\n".join(["observation,patient,scanner,day", *lines]))
    return f"{prefix}.npy", "--table", f"{prefix}.csv", "--same-model"


async def test_a_monitor_from_creation_to_its_new_reference(run, store, reference):
    same, moved = (
        store_set(store, draw(1_000, seed=2), name("same")),
        store_set(store, draw(60, 3, 3.0), name("moved")),
    )
    out, _ = await run(
        "create", "m1", reference, "--by", "scanner", "--set", "descriptive_layers=stages.2", "--set", "window_rows=20"
    )
    assert f"monitor m1: watches layer stages.3 of model vfm with the reference {reference}" in out
    again, _ = await run(
        "create",
        "m1",
        reference,
        "--by",
        "scanner",
        "--set",
        "descriptive_layers=stages.2",
        "--set",
        "window_rows=20",
        "--json",
    )
    spec = json.loads(again)["monitor"]["spec"]
    assert (spec["layer"], len(spec["reference"]["manifest_sha256"])) == ("stages.3", 64)

    out, _ = await run("observe", "m1", same, "--json")
    assert json.loads(out)["observed"]["outcomes"] == {"entered": 1_000}
    out, _ = await run("show", "m1", "--require", "no_alarm")
    assert out.startswith("No alarm in 1000 rows.")
    _, err = await run("observe", "m1", moved)
    assert "ALARM at row 1,00" in err
    out, _ = await run("show", "m1", "--require", "no_alarm", code=exits.GATE_FAILED)
    assert out.startswith("Alarm since row 1,00")
    assert "Nobody has acknowledged it yet." in out
    out, _ = await run("list")
    assert "not acknowledged" in out

    out, err = await run("acknowledge", "m1", "--note", "scanner B was updated")
    assert err.startswith("Alarm since row 1,00")
    assert "scanner B was updated" in out
    await run("report", "m1")
    page = (run.folder / "m1.html").read_text()
    assert "scanner B was updated" in page.partition("</main>")[0]
    (run.folder / "taken.html").mkdir()
    await run("report", "m1", "-o", "taken.html", code=exits.BAD_INPUT)
    assert not list(run.folder.glob(".taken*")), "what could not be written leaves no file behind"
    await run("report", "m1", "-o", "m1.json")
    document = DriftDocument.model_validate_json((run.folder / "m1.json").read_bytes())
    assert document.alarm.acknowledged.note == "scanner B was updated"
    assert document.history[-1].row == document.rows == 1_060
    assert document.reference_rows == 90

    new = store_set(store, draw(70, 4, 3.0), name("new"))
    _, err = await run("replace-reference", "m1", moved, "--unseen", code=exits.BAD_INPUT)
    assert "REFERENCE" in err
    out, _ = await run("replace-reference", "m1", new, "--unseen")
    assert "epoch 2" in out
    assert "The bound on false alarms holds" in out
    out, err = await run("replace-reference", "m1", new, "--unseen")
    assert "epoch 2" in out
    assert "nothing changes" in err
    out, _ = await run("show", "m1")
    assert "Earlier epochs" in out
    assert "scanner B was updated" in out
    out, _ = await run("replace-reference", "m1", new, "--fixed")
    assert "epoch 3" in out
    again, _ = await run("replace-reference", "m1", new, "--fixed")
    assert again == out


async def test_an_array_is_observed_once_and_a_pause_keeps_it_out(run, reference):
    await run("create", "m1", reference, "--by", "scanner", "--set", "run_length=5000")
    arguments = write_array(run.folder, 100, "march")
    out, _ = await run("observe", "m1", *arguments, "--json")
    assert json.loads(out)["observed"]["outcomes"] == {"entered": 100}
    out, _ = await run("observe", "m1", *arguments, "--json")
    assert json.loads(out)["observed"]["duplicates"] == 100
    array = np.load(run.folder / "march.npy")
    array[[3, 99]] = np.nan
    np.save(run.folder / "march.npy", array)
    out, err = await run("observe", "m1", *arguments, "--json", code=exits.BAD_INPUT)
    assert json.loads(out)["observed"]["conflicts"] == [4, 100]
    assert "march-3" not in err
    await run("pause", "m1")
    out, _ = await run("observe", "m1", *write_array(run.folder, 5, "april"), "--json")
    assert json.loads(out)["observed"]["outcomes"] == {"paused": 5}
    out, _ = await run("show", "m1")
    assert "! Paused." in out
    assert "at most T/5,000" in out
    await run("resume", "m1")
    out, _ = await run("observe", "m1", *write_array(run.folder, 5, "may"), "--json")
    assert json.loads(out)["observed"]["outcomes"] == {"entered": 5}
    assert np.load(run.folder / "may.npy").shape[1] == CHANNELS


async def test_a_reset_without_a_reference_watches_on_after_an_alarm_and_says_that_no_bound_holds(run, reference):
    await run("create", "m1", reference, "--by", "scanner")
    _, err = await run("observe", "m1", *write_array(run.folder, 100, "march", 3.0))
    assert "ALARM at row" in err
    out, _ = await run("show", "m1")
    assert "Highest in this epoch:" in out
    for start in ("--fixed", "--unseen"):
        _, err = await run("replace-reference", "m1", start, code=exits.BAD_INPUT)
        assert "REFERENCE: required without --reset" in err
    out, _ = await run("replace-reference", "m1", "--reset")
    assert f"epoch 2 with the reference {reference}" in out
    assert "The bound on false alarms does not hold for this epoch." in out
    again, err = await run("replace-reference", "m1", "--reset")
    assert again == out
    assert "nothing changes" in err

    out, _ = await run("observe", "m1", *write_array(run.folder, 100, "march", 3.0), "--json")
    assert json.loads(out)["observed"]["duplicates"] == 100
    arguments = write_array(run.folder, 40, "april", 3.0)
    table = run.folder / "april.csv"
    table.write_text(table.read_text().replace(",A,", ",C,"))
    _, err = await run("observe", "m1", *arguments)
    assert "ALARM at row" in err
    out, _ = await run("show", "m1")
    assert "The reference has no rows of scanner C (20 rows)" in out
    assert "no bound on false alarms in this epoch" in out
    shown = json.loads((await run("show", "m1", "--json"))[0])["monitor"]
    assert shown["mix"]["rows"] == {"A": 0, "B": 20, "C": 20}
    assert (shown["epoch"]["rows"], shown["epoch"]["has_guarantee"]) == (40, False)
    await run("replace-reference", "m1", "--reset")
    assert json.loads((await run("show", "m1", "--json"))[0])["monitor"]["epoch"]["number"] == 3


async def test_the_same_fixed_reference_again_spends_no_further_share_of_alpha(run, store, reference):
    new = store_set(store, draw(70, 4), name("new"))
    await run("create", "m1", reference)
    for _ in range(2):
        out, _ = await run("replace-reference", "m1", new, "--fixed")
        assert "epoch 2" in out
    await run("observe", "m1", store_set(store, draw(5, 6), name("row")))
    out, _ = await run("replace-reference", "m1", new, "--fixed")
    assert "epoch 3" in out, "after a row, it is another change"


async def test_a_reference_of_another_model_is_accepted_and_said_to_be_one(run, store, reference):
    same, other = (
        store_set(store, draw(70, seed), name("new"), sha256=sha256) for seed, sha256 in ((4, "0" * 64), (5, "7" * 64))
    )
    await run("create", "m1", reference)
    _, err = await run("replace-reference", "m1", same, "--fixed")
    assert err == ""
    _, err = await run("replace-reference", "m1", other, "--fixed")
    words = "watches features of model vfm from now on (other weights), and refuses features of the earlier origin"
    assert words in err


async def test_a_stratum_that_is_too_long_is_named_by_its_line_before_a_row_is_sent(run, reference):
    await run("create", "m1", reference, "--by", "scanner")
    arguments = write_array(run.folder, 100, "march")
    table = run.folder / "march.csv"
    table.write_text(table.read_text().replace("march-99,march-p99,B", f"march-99,march-p99,{'B' * 65}"))
    _, err = await run("observe", "m1", *arguments, code=exits.BAD_INPUT)
    assert "--table: line 101 has more than 64 or unprintable characters in `scanner`" in err
    out, _ = await run("show", "m1", "--json")
    assert json.loads(out)["monitor"]["epoch"]["rows"] == 0


async def test_a_set_that_ends_with_a_slice_is_observed_to_its_end(run, store, reference):
    feature_set = store_set(store, draw(1_000, seed=2), name("slice"))
    await run("create", "m1", reference)
    out, _ = await run("observe", "m1", feature_set, "--start", "5", "--json")
    assert json.loads(out)["observed"]["rows"] == 995
    _, err = await run("observe", "m1", feature_set, "--start", "1001", code=exits.BAD_INPUT)
    assert "--start: the feature set has 1,000 rows" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--layer", "gone"), "--layer: the feature set has no layer `gone`"),
        (("--set", "descriptive_layers=gone"), "descriptive_layers: the feature set has no layer `gone`"),
        (("--by", "vendor"), "--by: no case of dataset"),
    ],
)
async def test_what_a_reference_lacks_is_named_by_its_option(run, reference, arguments, words):
    _, err = await run("create", "m1", reference, *arguments, code=exits.BAD_INPUT)
    assert words in err
    _, err = await run("create", "m1", "0" * 32, code=exits.BAD_INPUT)
    assert "0" * 32 in err


async def test_a_mistyped_digest_is_an_error_of_the_caller_and_changes_nothing(run, store, reference):
    sha256 = read_committed(store, reference).sha256
    wrong = sha256[:-1] + ("0" if sha256[-1] != "0" else "1")
    words = (
        f"feature set {reference}: its manifest has the SHA-256 {sha256}, but {wrong} was requested "
        "→ correct the digest"
    )
    _, err = await run("create", "m1", f"{reference}@{wrong}", code=exits.BAD_INPUT)
    assert words in err
    await run("create", "m1", f"{reference}@{sha256}")
    _, err = await run("replace-reference", "m1", f"{reference}@{wrong}", "--reset", code=exits.BAD_INPUT)
    assert words in err
    _, err = await run("observe", "m1", f"{reference}@{wrong}", code=exits.BAD_INPUT)
    assert words in err
    out, _ = await run("show", "m1", "--json")
    shown = json.loads(out)["monitor"]
    assert (shown["epoch"]["number"], shown["epoch"]["rows"]) == (1, 0)


def test_a_mistyped_digest_of_a_stored_stream_is_an_error_of_the_caller(
    store, store_environment, reference, monkeypatch
):
    for name, value in store_environment.items():
        monkeypatch.setenv(name, value)
    sha256 = read_committed(store, reference).sha256
    wrong = f"{reference}@{sha256[::-1]}"
    for names in ((reference, wrong), (wrong, reference)):
        request = DriftRequest(reference=names[0], streams=names[1:], window_rows=0)
        with pytest.raises(DigestMismatch, match=f"SHA-256 {sha256}, but {sha256[::-1]} was requested") as caught:
            observe(request, lambda *_: None, lambda *_: None)
        assert exits.get_exit_code(caught.value) == exits.BAD_INPUT


async def watch(service, *options):
    environment = {**os.environ, "VFMALIGN_MONITORING_ADDRESS": service.address}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vfmalign.cli", "monitors", "watch", "m1", *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip


async def test_a_watch_shows_changes_and_ends_with_the_monitor(run, service, reference):
    await run("watch", "m1", code=exits.BAD_INPUT)
    await run("create", "m1", reference)
    lines, documents = await watch(service), await watch(service, "--json")
    assert b"active  epoch 1" in await lines.stdout.readline()
    assert json.loads(await documents.stdout.readline())["monitor"]["state"] == "MONITOR_STATE_ACTIVE"
    await service.monitors.pause("m1")
    assert b"paused  epoch 1" in await lines.stdout.readline()
    assert json.loads(await documents.stdout.readline())["monitor"]["state"] == "MONITOR_STATE_PAUSED"
    await service.monitors.delete("m1")
    out, err = await lines.communicate()
    assert (lines.returncode, out, err) == (exits.OK, b"monitor m1: deleted\n", b"")
    out, err = await documents.communicate()
    assert (documents.returncode, json.loads(out), err) == (exits.OK, {"deleted": "m1"}, b"")
