"""Gates on a finished check, by the commands as one would call them from a script."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PASSES = "mmd2_std.lower>=-10,mmd2.upper<=10"
FAILS = "mmd2_std.upper<=-10,mmd2.upper<=10"


def run(world: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vfmalign.cli", *arguments, "--home", str(world.home.path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_finished_check_is_gated(world: Any, undisturbed: Any) -> None:
    done = run(world, "checks", "show", "undisturbed", "--gate", PASSES, "--json")
    assert done.returncode == 0, done.stderr
    gate = json.loads(done.stdout)["gate"]
    assert gate["passed"] is True
    interval = undisturbed.result.shifts[0].mmd.standardised.mmd2.interval
    assert gate["conditions"][0]["observed"] == interval.lower
    assert gate["conditions"][0]["level"] == interval.level
    assert any(caution.startswith("Phantom rehearsal") for caution in gate["cautions"])

    done = run(world, "checks", "show", "undisturbed", "--gate", FAILS)
    assert done.returncode == 5, done.stderr
    assert "The gate failed (ends of 95 % intervals)." in done.stdout
    assert "Phantom rehearsal: see above" in done.stdout


def test_the_command_that_runs_a_check_ends_with_its_gate(world: Any, undisturbed: Any) -> None:
    """The same id and body: the check that is there already, so that nothing is run again."""
    spec = undisturbed.spec
    options = {
        "--model": spec.model_id,
        "--task": spec.task,
        "--id": undisturbed.check_id,
        "--preset": spec.recipe.preset,
        "--epochs": spec.recipe.epochs,
        "--steps-per-epoch": spec.recipe.steps_per_epoch,
        "--seed": spec.seed,
        "--permutations": spec.permutations,
        "--bootstrap": spec.bootstrap_resamples,
        "--reports": world.home.path / "reports",
    }
    pairs = [*options.items(), *(("--probe-step", step) for step in reversed(spec.recipe.probe_steps))]
    check = ("check", spec.dataset_id, *(str(word) for pair in pairs for word in pair))
    done = run(world, *check, "--gate", FAILS, "--json")
    assert done.returncode == 5, done.stderr
    document = json.loads(done.stdout)
    assert [condition["outcome"] for condition in document["gate"]["conditions"]] == ["failed", "passed"]
    assert document["check"]["end_time"] == undisturbed.end_time.ToJsonString()
    assert document["report"]["html"]
