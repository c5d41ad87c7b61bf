"""Gates on a finished check, by the commands as one would call them from a script."""

from __future__ import annotations

from typing import Any

from tests.integration.cli.commands import call

PASSES = "mmd2_std.lower>=-10,mmd2.upper<=10"
FAILS = "mmd2_std.upper<=-10,mmd2.upper<=10"


def test_a_finished_check_is_gated(world: Any, undisturbed: Any) -> None:
    command = ("checks", "show", "undisturbed", "--home", str(world.home.path), "--gate")
    gate = call(*command, PASSES, "--json").document["gate"]
    assert gate["passed"] is True
    interval = undisturbed.result.shifts[0].mmd.standardised.mmd2.interval
    assert gate["conditions"][0]["observed"] == interval.lower
    assert gate["conditions"][0]["level"] == interval.level
    assert any(caution.startswith("Phantom rehearsal") for caution in gate["cautions"])

    done = call(*command, FAILS, code=5)
    assert "The gate failed (ends of 95 % intervals)." in done.out
    note = done.out.splitlines()[-1]
    assert note.startswith("! Phantom rehearsal")
    assert note.endswith(": see above.")


def test_the_command_that_runs_a_check_ends_with_its_gate(world: Any, undisturbed: Any) -> None:
    """The same id and body: the check that is there already, so that nothing is run again."""
    spec = undisturbed.spec
    options = {
        "--model": spec.model_id,
        "--task": spec.task.name,
        "--id": undisturbed.check_id,
        "--preset": spec.recipe.preset,
        "--epochs": spec.recipe.epochs,
        "--steps-per-epoch": spec.recipe.steps_per_epoch,
        "--seed": spec.seed,
        "--seeds": spec.seeds,
        "--permutations": spec.permutations,
        "--bootstrap": spec.bootstrap_resamples,
        "--reports": world.home.path / "reports",
        "--home": world.home.path,
    }
    pairs = [*options.items()]
    for field, value in spec.recipe.ListFields():
        if f"--{field.name.replace('_', '-')}" not in options:
            text = ",".join(map(str, value)) if field.is_repeated else value
            pairs.append(("--set", f"recipe.{field.name}={text}"))
    check = ("check", spec.dataset_id, *(str(word) for pair in pairs for word in pair))
    document = call(*check, "--gate", FAILS, "--json", code=5).document
    assert [condition["outcome"] for condition in document["gate"]["conditions"]] == ["failed", "passed"]
    assert document["check"]["end_time"] == undisturbed.end_time.ToJsonString()
    assert document["report"]["html"]
