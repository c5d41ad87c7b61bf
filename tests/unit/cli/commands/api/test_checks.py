"""`vfmalign check` and `vfmalign checks show`: what is refused before anything is created, controls, and gates."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import Invoke, answer_checks, with_changes

from vfmalign.cli import exits
from vfmalign.cli.commands.api import checks
from vfmalign.cli.commands.api.lifecycle import FinalReport
from vfmalign.cli.resources import ReportedResource, Resource
from vfmalign.cli.target import Target
from vfmalign.client.messages.checks import Check, CheckSpec, EarlierCheck, TrainingPlan

CHECK = ("check", "d1", "--model", "m1", "--task", "segmentation", "--id", "c1")
PLANS = (TrainingPlan(seeds=3, trainings=11, reused=2), TrainingPlan(seeds=1, trainings=5, reused=1))


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch, decided_check: Check) -> dict[str, CheckSpec]:
    """A deployment where every check succeeds at once; holds their specifications. No control gains by pretraining."""
    specs: dict[str, CheckSpec] = {}

    def create(check_id: str, spec: CheckSpec) -> tuple[Check, tuple[TrainingPlan, ...]]:
        specs[check_id] = spec
        return decided_check.model_copy(update={"check_id": check_id, "state": "queued"}), PLANS

    def follow(resource: object, target: object, check_id: str, output: object) -> Check:
        answer = "inconclusive" if specs[check_id].random_weights else "gain"
        return with_changes(decided_check, {"check_id": check_id, "result.pretraining": answer})

    answer_checks(monkeypatch, create)
    monkeypatch.setattr(Resource, "follow", follow)
    monkeypatch.setattr(checks, "download_final_report", lambda *_, **__: FinalReport({}, {}, exits.OK))
    return specs


def test_a_check_says_how_many_trainings_it_runs_and_reuses(invoke: Invoke, created: dict[str, CheckSpec]) -> None:
    code, _, err = invoke(*CHECK, "--no-wait")
    assert (code, list(created)) == (exits.OK, ["c1"])
    assert "check c1 is queued; with 3 seeds it runs 9 trainings of 10,000 steps and reuses 2; " in err
    assert "with 1 seed it runs 4 trainings of 10,000 steps and reuses 1;" in " ".join(err.split())


def test_a_control_is_a_second_check_that_is_shown_beside_the_first(
    invoke: Invoke, created: dict[str, CheckSpec]
) -> None:
    code, out, err = invoke(*CHECK, "--control", "random-weights", "--seeds", "4", "--json")
    first, control = created["c1"], created["c1-control"]
    assert (code, first.seeds, first.random_weights) == (exits.OK, 4, False)
    assert control == first.model_copy(update={"random_weights": True})
    document = json.loads(out)
    names = [(document[key]["check_id"], document[key]["result"]["pretraining"]) for key in ("check", "control")]
    assert names == [("c1", "VERDICT_GAIN"), ("c1-control", "VERDICT_INCONCLUSIVE")]
    assert "check c1-control is queued; it runs 5 trainings of the untrained copy; with the same recipe" in err
    text = invoke(*CHECK, "--control", "random-weights")[1]
    below = text.partition("Control, an untrained copy of the model:")[2]
    assert "Check c1-control (segmentation): verdict inconclusive, pretraining inconclusive" in below


def test_limits_are_named_once_beside_a_control(invoke: Invoke, created: dict[str, CheckSpec]) -> None:
    _, _, err = invoke(*CHECK, "--control", "random-weights", "--seeds", "1", "--no-wait")
    assert list(created) == ["c1", "c1-control"]
    assert err.count("a verdict needs 3") == 1


def test_an_unknown_control_is_refused_with_the_choices(invoke: Invoke, created: dict[str, CheckSpec]) -> None:
    code, _, err = invoke(*CHECK, "--control", "shuffled-labels")
    assert (code, created) == (exits.BAD_INPUT, {})
    assert "--control" in err
    assert "choose one of random-weights" in err


@pytest.mark.parametrize(
    "options",
    [
        ("--require", "gain", "--seeds", "2"),
        ("--require-pretraining", "gain", "--seeds", "1"),
        ("--gate", "difference_scratch.lower>=0", "--seeds", "1"),
    ],
)
def test_a_gate_that_too_few_seeds_keep_from_passing_is_refused_before_anything_is_created(
    invoke: Invoke, created: dict[str, CheckSpec], options: tuple[str, ...]
) -> None:
    code, out, _ = invoke(*CHECK, "--control", "random-weights", *options, "--json")
    assert (code, created) == (exits.BAD_INPUT, {})
    error = json.loads(out)["error"]
    assert error["reason"] == "GATE_CANNOT_PASS"
    assert error["subject"].startswith(" ".join(options[:2]))
    assert error["remedy"] == "leave out --seeds, or choose at least 3"


def test_a_gate_on_the_shift_needs_one_seed(invoke: Invoke, created: dict[str, CheckSpec]) -> None:
    assert invoke(*CHECK, "--gate", "mmd2.upper<=0.5", "--seeds", "1")[0] == exits.OK
    assert invoke(*CHECK, "--gate", "mmd2.upper<=0.01", "--seeds", "1")[0] == exits.GATE_FAILED


def test_the_answer_on_pretraining_decides_the_exit_code(invoke: Invoke, created: dict[str, CheckSpec]) -> None:
    code, out, _ = invoke(*CHECK, "--require-pretraining", "gain")
    assert code == exits.OK
    assert "Pretraining gain, must be gain: passed" in out
    code, out, _ = invoke(*CHECK, "--require-pretraining", "equivalent,harm", "--json")
    assert code == exits.GATE_FAILED
    gate = json.loads(out)["gate"]
    assert gate["pretraining"] == {"accepted": ["equivalent", "harm"], "observed": "gain", "outcome": "failed"}
    assert gate["verdict"] is None
    code, _, err = invoke(*CHECK, "--require-pretraining", "gain", "--no-wait")
    assert code == exits.BAD_INPUT
    assert "--require-pretraining: a gate needs a finished check" in err


@pytest.mark.usefixtures("created")
def test_an_old_result_keeps_its_label_and_decides_no_gate(
    invoke: Invoke, finished_check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = with_changes(finished_check, {"result.verdict": "gain"})
    monkeypatch.setattr(Resource, "get", lambda *_: stored)

    def run(*options: str) -> tuple[int, str, Any]:
        code, out, _ = invoke("checks", "show", "c1", *options)
        return code, out, json.loads(out)["gate"] if "--json" in options else None

    code, out, _ = run()
    assert code == exits.OK
    assert "verdict gain, pretraining not assessed (1 training of each network)" in out
    for option, question in (("--require", "verdict"), ("--require-pretraining", "pretraining")):
        code, _, gate = run(option, "gain", "--json")
        assert (code, gate[question]["outcome"]) == (exits.GATE_FAILED, "undecidable")
    code, _, gate = run("--gate", "difference_specialised.lower>=-1,mmd2.upper<=1", "--json")
    assert code == exits.GATE_FAILED
    assert [one["outcome"] for one in gate["conditions"]] == ["undecidable", "passed"]
    assert run("--gate", "mmd2.upper<=1")[0] == exits.OK


PLAN = f'''
metric = "lesion_dice"
smallest_difference = 0.02
seeds = 4
model_sha256 = "{"a" * 64}"
dataset_digest = "{"b" * 64}"
gate = ["difference_specialised.lower>=-0.02"]
'''


@pytest.mark.parametrize("outcome", ["passed", "warned", "failed"])
def test_a_plan_completes_the_request_and_a_failed_one_has_the_exit_code_of_a_gate(
    invoke: Invoke, created: dict[str, CheckSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: str
) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    follow = Resource.follow

    def follow_plan(*arguments: Any) -> Check:
        check = follow(*arguments)
        if created[check.check_id].plan is None:
            return check
        plan = {"outcome": outcome, "plan_sha256": "c" * 64, "declare_time": "2026-03-01T00:00:00Z"}
        return with_changes(check, {"result.plan": plan})

    monkeypatch.setattr(Resource, "follow", follow_plan)
    planned = *CHECK, "--plan", str(tmp_path / "plan.toml"), "--seeds", "4"
    code, out, _ = invoke(*planned, "--control", "random-weights")
    assert code == (exits.GATE_FAILED if outcome == "failed" else exits.OK)
    assert f"Plan: {outcome}" in out
    spec, control = created["c1"], created["c1-control"]
    assert (spec.model_sha256, spec.dataset_digest, spec.smallest_difference) == ("a" * 64, "b" * 64, 0.02)
    assert spec.plan is not None
    assert spec.plan.gate == ("difference_specialised.lower>=-0.02",)
    assert control == spec.model_copy(update={"random_weights": True, "plan": None})


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (PLAN, ("--gate", "mmd2.upper<=1"), "--gate: the plan declares the gate"),
        (PLAN + "p = 1", (), "--plan.p: there is no field of this name"),
        (PLAN.replace("seeds = 4", ""), (), "--plan.seeds: this field is required"),
        (PLAN.replace("-0.02", "x"), (), "plan.gate: the threshold of difference_specialised.lower is not a number"),
        ("=", (), "--plan: the file cannot be read"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_is_created(
    invoke: Invoke, created: dict[str, CheckSpec], tmp_path: Path, content: str, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "plan.toml").write_text(content)
    code, _, err = invoke(*CHECK, "--plan", str(tmp_path / "plan.toml"), *options)
    assert (code, dict(created)) == (exits.BAD_INPUT, {})
    assert message in " ".join(err.split())


STATED = {"outcome": "passed", "plan_sha256": "c" * 64, "declare_time": "2026-03-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({}, "the check has no plan"), ({"result": None, "state": "running"}, "the check is running")],
)
def test_there_is_no_statement_without_a_plan_or_a_result(
    invoke: Invoke, decided_check: Check, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr(Target, "find", lambda home: Target({}, None))
    monkeypatch.setattr(Resource, "get", lambda *_: with_changes(decided_check, changes))
    code, _, err = invoke("checks", "statement", "c1")
    assert code == exits.BAD_INPUT
    assert f"there is no statement, because {reason}" in err


def test_a_statement_is_downloaded_beside_its_report(
    invoke: Invoke, decided_check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    contents = {"html": b"page", "json": b"{}", "dsse": b"signed"}
    refs = {
        name: {"uri": f"s3://b/{name}", "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()
    }
    check = with_changes(
        decided_check,
        {
            "result.report_html": refs["html"],
            "result.report_json": refs["json"],
            "result.plan": STATED | {"statement": refs["dsse"]},
        },
    )
    monkeypatch.setattr(Target, "find", lambda home: Target({}, None))
    monkeypatch.setattr(Resource, "get", lambda *_: check)
    monkeypatch.setattr(ReportedResource, "get_report", lambda *_: contents)
    code, out, _ = invoke("checks", "statement", "c1", "--reports", str(tmp_path))
    assert (code, out.strip()) == (exits.OK, str(tmp_path / "c1.dsse"))
    assert {path.suffix[1:]: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_earlier_checks_are_named_before_the_first_training(
    invoke: Invoke, created: dict[str, CheckSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    planned = *CHECK, "--seeds", "4", "--plan", str(tmp_path / "plan.toml"), "--no-wait"
    assert "earlier check" not in invoke(*planned)[2]
    create = checks._create
    earlier = (EarlierCheck.model_validate({"check_id": "c0", "create_time": "2026-03-01T00:00:00Z"}),)
    monkeypatch.setattr(checks, "_create", lambda *arguments: (*create(*arguments)[:2], earlier))
    err = " ".join(invoke(*planned)[2].split())
    assert "1 earlier check of this model, dataset and task, such as c0: the plan is at best `warned`" in err
