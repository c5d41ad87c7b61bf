"""What the commands that jobs, checks and experiments share write."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer
from tests.unit.cli.conftest import TIME, Invoke, answer_checks, with_changes

from vfmalign.analysis.checks.gates import Gate
from vfmalign.cli import exits
from vfmalign.cli.commands.api.checks import finish_check
from vfmalign.cli.commands.api.experiments import finish_experiment
from vfmalign.cli.commands.api.lifecycle import download_report, no_report
from vfmalign.cli.resources import CHECKS, Resource
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.checks import Check
from vfmalign.client.messages.common import ObjectRef, Progress
from vfmalign.client.messages.experiments import Experiment, ExperimentSpec
from vfmalign.client.messages.jobs import Job, JobSpec
from vfmalign.core.domain.errors import BadOption, DigestMismatch, NotFound

SPEC = JobSpec(kind="finetune", dataset_id="d1", task="segmentation")


@pytest.fixture
def retried(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A deployment that queues every job again; returns the ids of those that were retried."""
    ids: list[str] = []

    def retry(resource: object, target: object, job_id: str) -> Job:
        ids.append(job_id)
        return Job(job_id=job_id, spec=SPEC, state="queued", create_time=TIME)

    monkeypatch.setattr(Target, "find", lambda directory: Target({}, None, directory=directory))
    monkeypatch.setattr(Resource, "retry", retry)
    return lambda: ids


def test_a_retried_job_is_shown_with_the_command_that_follows_it(
    invoke: Invoke, retried: Callable[[], list[str]]
) -> None:
    code, out, _ = invoke("jobs", "retry", "j1")
    assert (code, out.strip()) == (0, "job j1: queued; follow it with `vfmalign watch j1`")
    code, out, _ = invoke("jobs", "retry", "j2", "--json")
    assert (code, json.loads(out)["job"]["job_id"]) == (0, "j2")
    assert retried() == ["j1", "j2"]


def test_a_printed_command_works_on_the_folder_of_the_command(
    invoke: Invoke, retried: Callable[[], list[str]], tmp_path: Path
) -> None:
    code, out, _ = invoke("jobs", "retry", "j1", "--home", "my stack")
    assert (code, out.strip()) == (
        0,
        f"job j1: queued; follow it with `vfmalign watch j1 --home '{tmp_path}/my stack'`",
    )


@pytest.mark.parametrize(
    ("command", "noun", "state", "said", "next_step"),
    [
        ("check", "check", "running", "", "follow it with `vfmalign watch x1`"),
        ("check", "check", "succeeded", "check x1 has succeeded", "see it with `vfmalign checks show x1`"),
        (
            "experiment",
            "experiment",
            "failed",
            "experiment x1 has failed",
            "see it with `vfmalign experiments show x1`",
        ),
        ("finetune", "job", "cancelled", "", "job x1: cancelled; see it with `vfmalign jobs show x1`"),
    ],
)
def test_who_does_not_wait_reads_how_to_go_on(
    invoke: Invoke, command: str, noun: str, state: str, said: str, next_step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = SimpleNamespace(check_id="x1", state=state, cells=(), to_json_dict=dict)
    monkeypatch.setattr(Resource, "create", lambda *_: created)
    answer_checks(monkeypatch, lambda *_: (created, ()))
    option = "--job" if noun == "job" else "--id"
    arguments = (command, "d1", "--model", "m1", "--task", "segmentation", option, "x1", "--no-wait")
    code, out, err = invoke(*arguments)
    assert (code, out) == (0, f"{next_step}\n")
    assert said in err


def test_an_unknown_id_is_of_no_kind_that_can_be_watched(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(resource: Resource[Any, Any], target: object, resource_id: str) -> None:
        raise NotFound(f"no such {resource.noun}", subject=resource_id)

    monkeypatch.setattr(Target, "find", lambda directory: Target({}, None))
    monkeypatch.setattr(Resource, "get", get)
    code, _, err = invoke("watch", "x9")
    assert (code, err.splitlines()) == (
        exits.BAD_INPUT,
        [
            "error: x9: no experiment, check or job has this id",
            "  → see `vfmalign experiments list`, `vfmalign checks list`, `vfmalign jobs list`",
        ],
    )


def test_a_report_that_is_written_again_names_what_was_lost() -> None:
    lost = Progress(phase="report", detail="s3://b/checks/c/report.json: missing", reason="ARTIFACT_LOST")
    message = str(no_report(Target({}, None), "check", "c", "running", lost))
    assert message == (
        "c: there is no report, because the check is running again: s3://b/checks/c/report.json: missing; "
        "see `vfmalign checks show c`"
    )
    training = Progress(phase="training", detail="training", reason="")
    message = no_report(Target({}, None), "check", "c", "running", training).message
    assert message == "there is no report, because the check is running"


class Reports:
    """A deployment whose checks have a report."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    async def get_report(self, operation_id: str, report_format: str) -> bytes:
        return self.files[report_format]


def deploy(files: dict[str, bytes]) -> Target:
    """A deployment whose reports have these files."""
    client = SimpleNamespace(checks=Reports(files), experiments=Reports(files))
    target = SimpleNamespace(run=lambda work: asyncio.run(work(client)), get_command=lambda words: f"vfmalign {words}")
    return cast(Target, target)


def refer(name: str, data: bytes) -> ObjectRef:
    return ObjectRef(uri=f"s3://b/checks/c/report.{name}", sha256=hashlib.sha256(data).hexdigest())


def download(files: dict[str, bytes], expected: dict[str, bytes], folder: Path) -> dict[str, str]:
    refs: Any = {name: refer(name, data) for name, data in expected.items()}
    return download_report(deploy(files), CHECKS, "c", refs, folder)


def test_a_report_is_fetched_from_the_service(tmp_path: Path) -> None:
    files = {"html": b"page", "json": b"{}"}
    places = download(files, files, tmp_path / "reports")
    assert places["uri"] == "s3://b/checks/c/report.html"
    assert {name: Path(places[name]).read_bytes() for name in files} == files
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == ["c.html", "c.json"]


def test_a_report_that_was_written_anew_is_not_mixed_with_the_result(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch, match="run the command again"):
        download({"html": b"newer"}, {"html": b"page"}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/reports", Path("/proc/reports")):
        with pytest.raises(BadOption, match="cannot be written") as caught:
            download({"html": b"page"}, {"html": b"page"}, folder)
        assert caught.value.field == "--reports"


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "d1", "--model", "m1", "--task", "segmentation"),
        ("experiment", "d1", "--model", "m1", "--task", "segmentation"),
        ("watch", "c1"),
        ("demo",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_work_begins_whose_report_cannot_be_written(
    invoke: Invoke, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[object] = []
    monkeypatch.setattr(Target, "find", lambda home: object())
    monkeypatch.setattr(Resource, "get", lambda *_: None)
    monkeypatch.setattr(Resource, "create", lambda *_: begun.append(arguments))
    monkeypatch.setattr("vfmalign.cli.demo.check_demo.running_stack", lambda *_, **__: begun.append(arguments))
    (tmp_path / "file").touch()
    code, _, err = invoke(*arguments, "--reports", "file")
    assert (code, begun) == (exits.BAD_INPUT, [])
    assert "--reports: the folder cannot be written" in err


@pytest.mark.parametrize(
    ("accepted", "code"), [((), exits.BAD_INPUT), (("inconclusive",), exits.BAD_INPUT), (("gain",), exits.GATE_FAILED)]
)
def test_a_result_and_its_gate_are_written_even_where_the_report_cannot_be(
    accepted: tuple[str, ...], code: int, decided_check: Check, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    check = with_changes(
        decided_check,
        {f"result.report_{name}": refer(name, b"").model_dump(mode="json") for name in ("html", "json")},
    )
    gate = Gate.parse(None, accepted, None)
    with pytest.raises(typer.Exit) as caught:
        finish_check(
            deploy({"html": b"", "json": b""}), check, Output.to_terminal(as_json=True), tmp_path / "file", gate
        )
    out, err = capfd.readouterr()
    assert caught.value.exit_code == code
    document = json.loads(out)
    assert document["check"]["result"]["verdict"] == "VERDICT_INCONCLUSIVE"
    assert ("gate" in document) == bool(accepted)
    assert document["error"]["subject"] == "--reports"
    assert "cannot be written" in err


def test_an_experiment_is_written_even_where_its_report_cannot_be(output: Output, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spec = ExperimentSpec(model_ids=("m1",), dataset_id="d1", tasks=("segmentation",), seeds=(0,))
    experiment = Experiment(
        experiment_id="s1",
        spec=spec,
        state="succeeded",
        create_time=TIME,
        progress=Progress(),
        report_html=refer("html", b""),
    )
    with pytest.raises(typer.Exit) as caught:
        finish_experiment(deploy({"html": b""}), experiment, output, tmp_path / "file")
    assert caught.value.exit_code == exits.BAD_INPUT
    assert "Experiment s1: succeeded" in output.out.file.getvalue()  # type: ignore[attr-defined]
