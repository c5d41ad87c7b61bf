"""Checks with two recipes, which both arms try before one is used, controls, and further trainings of random weights.

The program of the tests scores both recipes alike, except that with seed 12 the second one is better.
"""

from __future__ import annotations

import pytest

from vfmalign.analysis.checks.records import CheckReport
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.recipes import get_second_recipe
from vfmalign.core.domain.jobs import TrainingRecipe, TrainingSpec
from vfmalign.core.storage.keys import job_key
from vfmalign.finetuning.checks.trainings import get_control_seed
from vfmalign.v1 import alignment_pb2, finetuning_pb2

SUCCEEDED = alignment_pb2.CHECK_STATE_SUCCEEDED
TRIALS = ["pretrained-r1", "scratch-r1", "pretrained-r2", "scratch-r2"]
FIRST = ["pretrained", "scratch", "specialised"]


def read_report(store, check):
    return CheckReport.model_validate_json(store.get(store.key(check.result.report_json.uri)))


def read_spec(store, job):
    return store.read(job_key(job, "spec.json"), TrainingSpec)


async def get_jobs(service, check):
    """The jobs of a check by the end of their ids."""
    found = {}
    for job_id in check.job_ids:
        job = (await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=job_id))).job
        found[job_id.removeprefix(f"{check.check_id}-")] = job
    return found


async def ask(service, name, dataset):
    """Creates a check and returns its plans: seeds, trainings, and those of them that are reused."""
    recipe = finetuning_pb2.Recipe(preset="demo", epochs=6, steps_per_epoch=10)
    spec = alignment_pb2.CheckSpec(
        model_id="vfm", dataset_id=dataset, task={"name": "segmentation"}, seed=1, recipe=recipe
    )
    request = alignment_pb2.CreateCheckRequest(check_id=f"{service.prefix}-{name}", spec=spec)
    plans = (await service.checks.CreateCheck(request)).plans
    return [(plan.seeds, plan.trainings, plan.reused) for plan in plans]


async def test_both_arms_try_both_recipes_and_the_first_trainings_take_the_results(service, store):
    name = await service.create("tried", seed=1, learning_rate=None)
    check = await service.finish(name)
    assert check.state == SUCCEEDED, check.progress.detail
    jobs = await get_jobs(service, check)
    assert list(jobs) == TRIALS + FIRST
    assert {end: job.attempts for end, job in jobs.items()} == {
        **dict.fromkeys(TRIALS, 1), "pretrained": 0, "scratch": 0, "specialised": 1,
    }  # fmt: skip
    assert sorted(service.starts()) == sorted(f"{name}-{end}" for end in (*TRIALS, "specialised"))
    for network in ("pretrained", "scratch"):
        assert jobs[network].progress.detail.startswith(f"taken from job {name}-{network}-r1")
        assert jobs[network].encoder_model_id == "", "what it took is published under the name of the trial"
    stages = [stage.name for stage in check.stages]
    assert stages[4:9] == [*(f"job_{trial.replace('-', '_')}" for trial in TRIALS), "recipe"]
    assert all(stage.attempts == 1 and stage.HasField("end_time") for stage in check.stages)

    report = read_report(store, check)
    assert report.run.trained_by == {
        "pretrained": f"{name}-pretrained-r1", "scratch": f"{name}-scratch-r1", "specialised": f"{name}-specialised",
    }  # fmt: skip
    assert set(report.run.job_attempts) == set(check.job_ids)
    settings = report.result.settings
    assert settings["encoder_after"].startswith(f"{name}-encoder-r1")
    assert settings["recipe_pretrained"] == settings["recipe_scratch"]
    assert {key: value for key, value in settings.items() if key.startswith("validation_")} == {
        "validation_pretrained_r1": "0.590625", "validation_scratch_r1": "0.39375",
        "validation_pretrained_r2": "0.590625", "validation_scratch_r2": "0.39375",
    }  # fmt: skip
    assert not any(caution.startswith("Different recipes") for caution in check.result.cautions)
    assert check.result.pretraining == alignment_pb2.VERDICT_INCONCLUSIVE
    assert "need 3 training seeds" in check.result.pretraining_reason
    assert check.result.summary.startswith("1 training decides nothing")

    assert await ask(service, "another", "slow") == [(3, 11, 0), (1, 5, 0)]
    assert await ask(service, "another", "slow") == [], "it is there already"
    assert await ask(service, "third", "demo") == [(3, 11, 3), (1, 5, 3)], "the first check has trained the first seed"


async def test_the_better_recipe_trains_every_seed(service, store):
    name = await service.create("second", seed=12, seeds=2, learning_rate=None)
    check = await service.finish(name)
    assert check.state == SUCCEEDED, check.progress.detail
    jobs = await get_jobs(service, check)
    not_trained = [end for end, job in jobs.items() if not job.attempts]
    assert not_trained == ["pretrained", "scratch"], "they take the results of their trials"
    assert jobs["scratch"].progress.detail.startswith(f"taken from job {name}-scratch-r2")
    spec = CheckSpec.from_proto(check.spec)
    second = get_second_recipe(spec)
    for network in ("pretrained", "scratch"):
        for end in (network, f"{network}-s2"):
            assert read_spec(store, f"{name}-{end}{'' if end.endswith('-s2') else '-r2'}").recipe == second, end
    report = read_report(store, check)
    assert report.run.trained_by["pretrained"] == f"{name}-pretrained-r2"
    assert TrainingRecipe.model_validate_json(report.result.settings["recipe_pretrained"]) == second


async def test_further_trainings_of_random_weights_enter_the_answer_on_pretraining(service):
    name = await service.create("further", seed=7, seeds=2, random_seeds=3)
    check = await service.finish(name)
    assert check.state == SUCCEEDED, check.progress.detail
    assert list(check.job_ids)[-1] == f"{name}-scratch-s3"
    assert len(check.job_ids) == 7
    specialised, scratch = check.result.rpg_specialised, check.result.rpg_scratch
    assert (scratch.variance.seeds, scratch.variance.baseline_seeds) == (2, 3)
    assert (specialised.variance.seeds, specialised.variance.baseline_seeds) == (2, 2)
    assert scratch.variance.another_draw > 0
    assert specialised.variance.another_draw == 0
    # Its scores with the seeds 7, 8 and 9 are 0, 0.01 and 0.02 above the first.
    first = check.result.seeds[0].rpg_scratch
    assert scratch.baseline == pytest.approx(first.baseline + 0.01)
    assert scratch.score == pytest.approx(first.score + 0.005)


async def test_a_control_begins_with_the_same_drawn_weights_in_every_seed(service, store, peers):
    name = await service.create("control", seed=7, seeds=2, random_weights=True)
    check = await service.finish(name)
    assert check.state == SUCCEEDED, check.progress.detail
    drawn = get_control_seed(CheckSpec.from_proto(check.spec))
    seeds = {end: read_spec(store, f"{name}-{end}").initial_seed for end in ("pretrained", "pretrained-s2", "scratch")}
    assert seeds == {"pretrained": drawn, "pretrained-s2": drawn, "scratch": None}
    asked = [committed.manifest.request for committed in peers.features.committed]
    of_model = [(one.split, one.initialisation, one.init_seed) for one in asked if one.model_id == "vfm"]
    assert sorted(of_model) == [("test", "random", 7), ("test", "random", drawn), ("train", "random", drawn)]
    assert check.result.shifts[0].mmd.standardised.mmd2.HasField("value")
    assert read_report(store, check).result.settings["random_weights"] == str(drawn)
    assert any(caution.startswith("Control. In place of the model's weights") for caution in check.result.cautions)
