"""The graph of a check: its stages in order, what each waits for, and what is invalid when an output differs.

And the stage that chooses between two recipes.
"""

import re
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.recipes import get_recipe, get_second_recipe
from vfmalign.core.domain.jobs import JobProgress, JobResult, MetricSpec
from vfmalign.finetuning.checks import stages as module
from vfmalign.finetuning.checks.artifacts import Outputs, get_readers
from vfmalign.finetuning.checks.reporting import all_stages
from vfmalign.finetuning.checks.stages import Validated
from vfmalign.finetuning.checks.trainings import list_trials
from vfmalign.finetuning.jobs.request import NETWORKS

SEEDS = (1, 2, 3)
EVERY_FEATURE = ("features_reference", "features_before", "features_random")
TRIALS = ["job_pretrained_r1", "job_scratch_r1", "job_pretrained_r2", "job_scratch_r2"]


def list_stages(seeds, *, trials=False, **fields):
    recipe = Recipe() if trials else Recipe(learning_rate=1e-3)
    return all_stages(
        CheckSpec(model_id="m", dataset_id="d", task="segmentation", seeds=seeds, recipe=recipe, **fields)
    )


def get_readers_of(name, seeds, **options):
    readers = get_readers(list_stages(seeds, **options), name)
    assert len(set(readers)) == len(readers)
    return set(readers)


def test_the_stages_of_a_check_with_one_seed():
    names = [stage.name for stage in list_stages(1)]
    assert names == [
        "validate", "features_reference", "features_before", "features_random", "recipe", "job_pretrained",
        "job_scratch", "job_specialised", "features_after", "mmd", "measures", "report",
    ]  # fmt: skip
    assert [stage.name for stage in list_stages(1, trials=True)] == names[:4] + TRIALS + names[4:]


def test_a_recipe_is_chosen_after_its_trials_and_before_the_trainings():
    stages = {stage.name: stage for stage in list_stages(1, trials=True)}
    assert stages["recipe"].reads == ("validate", *TRIALS)
    assert all(stages[name].reads == ("validate",) for name in TRIALS)
    assert stages["job_pretrained"].reads == ("validate", "recipe")
    everything_later = {"recipe", *(f"job_{network}" for network in NETWORKS), "report"}
    assert get_readers_of("job_scratch_r1", 1, trials=True) == everything_later | {"features_after", "mmd", "measures"}


def test_further_trainings_from_random_weights_have_no_features_and_the_report_reads_them():
    stages = list_stages(2, random_seeds=3)
    fewer = {stage.name for stage in list_stages(2)}
    assert [stage.name for stage in stages if stage.name not in fewer] == ["job_scratch_s3"]
    assert "job_scratch_s3" in stages[-1].reads


def test_every_seed_adds_jobs_features_after_and_mmd_and_the_report_reads_them_all():
    first, second = list_stages(1), list_stages(2)
    added = [stage.name for stage in second if stage.name not in {stage.name for stage in first}]
    assert added == ["job_pretrained_s2", "job_scratch_s2", "job_specialised_s2", "features_after_s2", "mmd_s2"]
    assert {"mmd", "mmd_s2", "job_scratch_s2", "job_specialised_s2"} <= set(second[-1].reads)
    stages = {stage.name: stage for stage in second}
    assert stages["features_after_s2"].reads == ("validate", "job_pretrained_s2")
    assert stages["mmd_s2"].artifact == "mmd_s2.json"


@pytest.mark.parametrize("trials", [False, True])
@pytest.mark.parametrize("seeds", SEEDS)
def test_every_stage_comes_after_those_that_it_names_and_only_the_report_is_last(seeds, trials):
    stages, earlier = list_stages(seeds, trials=trials), set()
    for stage in stages:
        assert {*stage.reads, *stage.after} <= earlier, stage.name
        earlier.add(stage.name)
    named = {name for stage in stages for name in (*stage.reads, *stage.after)}
    assert earlier - named == {"report"}, "a stage that nothing waits for would end after the check"


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_lost_output_invalidates_what_was_computed_from_it_alone(seeds):
    numbers = range(1, seeds + 1)
    suffixes = ["" if number == 1 else f"_s{number}" for number in numbers]
    every_mmd = {f"mmd{suffix}" for suffix in suffixes}
    for name in ("features_reference", "features_before"):
        assert get_readers_of(name, seeds) == every_mmd | {"measures", "report"}
    # Measures have the bandwidth of MMD², and so depend on all that it reads.
    assert get_readers_of("features_random", seeds) == every_mmd | {"measures", "report"}
    for suffix in suffixes:
        first = {"measures"} if not suffix else set()
        after, mmd = f"features_after{suffix}", f"mmd{suffix}"
        assert get_readers_of(f"job_pretrained{suffix}", seeds) == {after, mmd, "report"} | first
        assert get_readers_of(f"job_scratch{suffix}", seeds) == {"report"}
        assert get_readers_of(f"job_specialised{suffix}", seeds) == {"report"}
        assert get_readers_of(after, seeds) == {mmd, "report"} | first
        assert get_readers_of(mmd, seeds) == {"report"} | first
    assert get_readers_of("measures", seeds) == {"report"}
    assert get_readers_of("validate", seeds) == {stage.name for stage in list_stages(seeds)} - {"validate"}
    assert get_readers_of("report", seeds) == set()


@pytest.mark.parametrize("trials", [False, True])
@pytest.mark.parametrize("seeds", SEEDS)
def test_jobs_wait_for_features(seeds, trials):
    for stage in list_stages(seeds, trials=trials):
        if stage.training is not None:
            assert stage.after == EVERY_FEATURE


def test_the_drawing_shows_each_stage_in_the_column_in_which_it_can_begin():
    drawing = re.search(r"^ {4}(validate .*?)\n\n", module.__doc__, re.MULTILINE | re.DOTALL)[1]
    patterns = [re.findall(r"[\w*]+", column) for column in drawing.split("→")]
    levels = {}
    for stage in list_stages(1, trials=True):
        levels[stage.name] = 1 + max((levels[name] for name in (*stage.reads, *stage.after)), default=-1)
    drawn = {
        name: next(level for level, column in enumerate(patterns) if any(fnmatch(name, one) for one in column))
        for name in levels
    }
    assert levels == drawn
    assert all(any(fnmatch(name, one) for name in levels) for column in patterns for one in column)


SPEC = CheckSpec(model_id="m", dataset_id="d", task="segmentation", recipe=Recipe(preset="demo"))


def make_trial(trial, score, metric):
    """The result of a trial whose best validation score is not that of the last epoch."""
    scores = (0.0, score, 0.5)
    curve = tuple(
        JobProgress(
            epoch=epoch, epochs=2, step=epoch, steps=2, train_loss=None, validation_score=one, elapsed_seconds=1.0
        )
        for epoch, one in enumerate(scores)
    )
    return JobResult(
        job_id=trial.job_id("c"), metrics=(metric,), primary_metric="m", curve=curve, selected_epoch=1, selected_step=1,
        test_scores=(), weight_change=None, parameters=1, device="cpu", stage_seconds={}, processor_seconds=0.0,
        software={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "higher_is_better", "chosen"),
    [
        ((0.6, 0.2, 0.5, 0.4), True, 2),
        ((0.6, 0.2, 0.5, 0.4), False, 1),
        ((0.7, 0.4, 0.8, 0.2), True, 1),
        ((0.7, 0.4, 0.8, 0.2), False, 2),
        ((0.5, 0.25, 0.25, 0.5), True, 1),
        ((0.5, 0.25, 0.25, 0.5), False, 1),
    ],
)
async def test_the_recipe_with_the_better_mean_of_both_arms_is_chosen_and_a_tie_keeps_the_first(
    scores, higher_is_better, chosen
):
    metric = MetricSpec(name="m", unit="", higher_is_better=higher_is_better, floor=0.1)
    recipes = {network: get_recipe(SPEC, network) for network in NETWORKS}
    second = get_second_recipe(SPEC)
    valid = Validated.model_construct(recipes=recipes, second_recipe=second)
    trials = list_trials(SPEC)
    results = {trial.stage: make_trial(trial, score, metric) for trial, score in zip(trials, scores, strict=True)}
    context = SimpleNamespace(check=SimpleNamespace(request=SPEC))
    found = await module._choose_recipe(context, Outputs({"validate": valid, **results}))
    assert found.recipes["scratch"] == (second if chosen == 2 else recipes["scratch"])
    assert found.recipes["pretrained"] == found.recipes["scratch"]
    assert found.recipes["specialised"] == recipes["specialised"]
    assert found.trials == {trial.stage: score for trial, score in zip(trials, scores, strict=True)}


async def test_without_trials_the_recipes_of_the_request_are_used():
    check = SPEC.model_copy(update={"scratch_recipe": Recipe(preset="demo")})
    recipes = {network: get_recipe(check, network) for network in NETWORKS}
    context = SimpleNamespace(check=SimpleNamespace(request=check))
    found = await module._choose_recipe(context, Outputs({"validate": Validated.model_construct(recipes=recipes)}))
    assert (found.recipes, found.trials) == (recipes, {})
    assert found.recipes["scratch"].learning_rate != found.recipes["pretrained"].learning_rate
