"""Trainings of a check: their names, which of them there are, and how many other checks have run.

Those of the first seed have no suffix.
"""

import pytest
import torch

from vfmalign.client.messages.checks import CheckSpec, TrainingPlan
from vfmalign.client.messages.jobs import Recipe
from vfmalign.client.recipes import get_recipe, get_second_recipe
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.models import ModelCard
from vfmalign.finetuning.checks.trainings import (
    Training,
    count_trainings,
    get_control_seed,
    list_trainings,
    list_trials,
    plan_job,
)
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.request import NETWORKS, check_job_id
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state


def spec(**fields):
    return CheckSpec(model_id="vfm", dataset_id="demo", task="segmentation", **fields)


def list_ids(check):
    return [training.job_id("c") for training in (*list_trials(check), *list_trainings(check))]


TRIALS = ["c-pretrained-r1", "c-scratch-r1", "c-pretrained-r2", "c-scratch-r2"]
FIRST, SECOND, THIRD = ([f"c-{network}{suffix}" for network in NETWORKS] for suffix in ("", "-s2", "-s3"))


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        ({"seeds": 1}, TRIALS + FIRST),
        ({}, TRIALS + FIRST + SECOND + THIRD),
        ({"seeds": 2, "recipe": Recipe(learning_rate=1e-3)}, FIRST + SECOND),
        ({"seeds": 2, "recipe": Recipe(preset="demo", warmup_fraction=0.0)}, FIRST + SECOND),
        ({"seeds": 1, "recipe": Recipe(preset="demo", epochs=3, batch_size=2)}, TRIALS + FIRST),
        ({"seeds": 1, "scratch_recipe": Recipe()}, FIRST),
        ({"seeds": 1, "frozen": True}, [*TRIALS, *FIRST, "c-scratch-frozen"]),
        (
            {"seeds": 2, "random_seeds": 3, "frozen": True},
            [*TRIALS, *FIRST, "c-scratch-frozen", *SECOND, "c-scratch-frozen-s2", "c-scratch-s3"],
        ),
        ({"random_seeds": 6}, TRIALS + FIRST + SECOND + THIRD + ["c-scratch-s4", "c-scratch-s5", "c-scratch-s6"]),
    ],
)
def test_jobs_queue_by_seed_and_then_by_network_after_the_trials_of_two_recipes(fields, ids):
    assert list_ids(spec(**fields)) == ids


def test_encoders_of_further_seeds_and_of_trials_have_names_of_their_own():
    check = spec(seeds=2, random_seeds=3)
    names = [training.encoder_id("c") for training in (*list_trials(check), *list_trainings(check))]
    assert names == [
        "c-encoder-r1", "c-scratch-encoder-r1", "c-encoder-r2", "c-scratch-encoder-r2", "c-encoder",
        "c-scratch-encoder", "", "c-encoder-s2", "c-scratch-encoder-s2", "", "c-scratch-encoder-s3",
    ]  # fmt: skip


LARGEST = spec(seeds=10, random_seeds=20, frozen=True)
EVERY = (*list_trials(LARGEST), *list_trainings(LARGEST))


def test_the_longest_names_are_valid_ids_of_jobs_and_models():
    assert max(len(training.job_id("c" * 80)) for training in EVERY) <= 100
    assert max(len(training.encoder_id("c" * 80)) for training in EVERY) <= 128


@pytest.mark.parametrize("training", EVERY)
def test_no_client_may_choose_the_id_of_a_checks_job(training):
    with pytest.raises(BadOption, match="belong to the jobs of checks") as caught:
        check_job_id(training.job_id("ada.check-1"))
    assert caught.value.field == "job_id"


@pytest.mark.parametrize(
    "job_id", ["pretrained", "pretrain-micro", "scratch-2", "c-pretrained-s", "c-scratch-r", "c-scratchy", "c-r1"]
)
def test_clients_may_choose_other_ids(job_id):
    check_job_id(job_id)


def test_seeds_follow_the_first():
    assert [Training("scratch", number).seed(spec(seed=7, seeds=3)) for number in (1, 2, 3)] == [7, 8, 9]


def test_sentences_name_the_seed_where_there_are_several_and_the_recipe_that_is_tried():
    assert Training("scratch").describe(spec(seed=7, seeds=1)) == "the scratch network"
    assert Training("scratch", trial=2).describe(spec(seed=7)) == "the scratch network (recipe 2 of 2)"
    assert Training("scratch").describe(spec(seed=7, seeds=1, random_seeds=2)) == "the scratch network (seed 7)"
    assert Training("scratch", 2).describe(spec(seed=7, seeds=2)) == "the scratch network (seed 8)"
    assert Training("scratch", 2, frozen=True).describe(spec(seed=7, seeds=2)) == "the frozen scratch network (seed 8)"


def test_sentences_name_the_number_of_training_cases():
    assert Training("scratch").describe(spec(seeds=1, train_cases=8)) == "the scratch network on 8 cases"


CARD = ModelCard.model_validate(
    {
        "id": "vfm", "architecture": "profound_conv_micro", "objective": "masked_reconstruction",
        "checkpoint": {"key": "models/vfm/w", "sha256": "c" * 64},
        "preprocessing": {"modalities": ("t2w", "dwi", "adc"), "spacing_mm": None, "shape_dhw": (16, 64, 64)},
        "layers": [{"name": "stages.3", "channels": 4}], "primary_layer": "stages.3",
    }
)  # fmt: skip
WEIGHTS = CARD.checkpoint.model_copy(update={"sha256": "e" * 64})
OTHER = CARD.model_copy(update={"id": "other", "checkpoint": WEIGHTS})
LARGER = OTHER.model_copy(update={"architecture": "profound_conv_tiny"})


def plan(check, training, card=CARD, check_id="c", recipe=None):
    recipe = recipe or get_recipe(check, training.network, card.preprocessing)
    return plan_job(check_id, check, card, dataset_digest="d" * 64, recipe=recipe, training=training)


def test_the_first_training_by_a_recipe_equals_its_trial():
    check = spec()
    first, trial = Training("pretrained"), Training("pretrained", trial=1)
    assert plan(check, first).shared == plan(check, trial).shared
    assert plan(check, first).shared != plan(check, first, check_id="another").shared, "no other check shares it"
    assert plan(check, Training("scratch")).shared == plan(check, Training("scratch"), check_id="another").shared
    assert plan(check, first).shared != plan(check, trial, recipe=get_second_recipe(check)).shared


def test_checks_with_one_recipe_seed_share_the_trainings_that_choose_the_recipe():
    trial, first = Training("pretrained", trial=1), Training("pretrained")
    one, further = (spec(seed=seed, recipe_seed=7) for seed in (7, 8))
    assert [training.seed(further) for training in (trial, first)] == [7, 8]
    shared = plan(one, trial, check_id="one").shared
    assert {plan(one, first).shared, plan(further, trial).shared} == {shared}
    assert plan(further, first).shared != plan(further, first, check_id="another").shared
    assert plan(one, trial, card=OTHER).shared != shared, "its weights are others"
    shuffled = spec(seed=7, recipe_seed=7, shuffled_labels=True)
    assert plan(shuffled, trial).shared == shared, "recipes are tried on true labels"
    assert plan(shuffled, first).shared != shared


def test_recipes_are_tried_on_all_cases_and_every_other_training_has_the_number_of_the_check():
    every, few, fewer = (spec(seed=7, recipe_seed=7, train_cases=count) for count in (0, 16, 8))
    for network in ("pretrained", "scratch"):
        trial, first = Training(network, trial=1), Training(network)
        assert plan(few, trial).shared == plan(fewer, trial, check_id="another").shared == plan(every, trial).shared
        assert len({plan(check, first).shared for check in (every, few, fewer)}) == 3
    assert plan(few, Training("specialised")).spec.train_cases == 16
    assert plan(few, Training("pretrained", trial=1)).spec.train_cases == 0


def test_a_control_draws_the_weights_of_the_pretrained_network_once_for_all_seeds():
    control, check = spec(seeds=3, random_weights=True), spec(seeds=3)
    assert get_control_seed(check) is None
    drawn = {
        training.network: {plan(control, one).spec.initial_seed for one in EVERY if one.network == training.network}
        for training in EVERY
    }
    assert drawn == {"pretrained": {get_control_seed(control)}, "scratch": {None}, "specialised": {None}}
    # Seeds with the same low 32 bits draw the same weights.
    assert get_control_seed(control) % 2**32 not in {training.seed(control) % 2**32 for training in EVERY}
    architecture = ARCHITECTURES["profound_conv_micro"]
    states = (random_state(architecture, seed).values() for seed in (control.seed, get_control_seed(control)))
    assert not all(torch.equal(*tensors) for tensors in zip(*states, strict=True))
    first = Training("pretrained")
    assert plan(control, first).request.initial_seed == get_control_seed(control)
    assert plan(control, first).shared != plan(check, first).shared
    assert plan(control, Training("scratch")).shared == plan(check, Training("scratch")).shared
    assert 0 <= get_control_seed(spec(seed=2**63 - 1, seeds=1, random_weights=True)) < 2**63


@pytest.fixture
def jobs(database):
    return JobRepository(database)


def count(jobs, check, card=CARD, check_id="new"):
    recipes = {network: get_recipe(check, network, card.preprocessing) for network in NETWORKS}
    return count_trainings(jobs, check_id, check, card, dataset_digest="d" * 64, recipes=recipes)


def create_jobs(jobs, check_id, check, *, chosen=1):
    """Creates the jobs of a check that has chosen one of two recipes."""
    second = get_second_recipe(check)
    for training in (*list_trials(check), *list_trainings(check)):
        by_second = training.network != "specialised" and (training.trial or chosen) == 2
        planned = plan(check, training, check_id=check_id, recipe=second if by_second else None)
        jobs.create(planned.request, planned.spec, check_id, planned.shared)


RATED = Recipe(preset="demo", learning_rate=8e-3)


@pytest.mark.parametrize(
    ("fields", "first", "second"),
    [
        ({}, (11, 0), (11, 7)),
        ({"seeds": 1}, (5, 0), (5, 3)),
        # The network that is trained on shuffled labels is trained beside its trial.
        ({"shuffled_labels": True}, (12, 0), (12, 7)),
        ({"shuffled_labels": True, "seeds": 1}, (6, 0), (6, 3)),
        ({"recipe": RATED}, (9, 0), (9, 6)),
        ({"random_seeds": 6}, (14, 0), (14, 10)),
        # Trials with another seed than the first train for themselves.
        ({"seed": 8, "recipe_seed": 7}, (13, 0), (13, 8)),
    ],
)
@pytest.mark.parametrize("chosen", [1, 2])
def test_a_second_model_of_the_same_architecture_reuses_the_baselines(jobs, fields, first, second, chosen):
    check = spec(**fields)
    seeds = check.seeds
    assert count(jobs, check) == TrainingPlan(seeds=seeds, trainings=first[0], reused=first[1])
    create_jobs(jobs, "old", check, chosen=chosen)
    assert count(jobs, check, OTHER) == TrainingPlan(seeds=seeds, trainings=second[0], reused=second[1])


def test_what_another_architecture_or_a_failed_job_has_trained_is_not_reused(jobs):
    check = spec(seeds=1)
    create_jobs(jobs, "old", check)
    assert count(jobs, check, LARGER).reused == 1, "the specialised network has none of the model's architecture"
    jobs.fail("old-scratch-r1", "not a volume", "BAD_VOLUME")
    jobs.cancel("old-specialised")
    assert count(jobs, check, OTHER).reused == 2, "old-scratch trains the same as old-scratch-r1"
    jobs.fail("old-scratch", "not a volume", "BAD_VOLUME")
    assert count(jobs, check, OTHER).reused == 1


def test_trainings_on_a_subset_do_not_take_the_results_of_the_trials(jobs):
    every, few = (count(jobs, spec(seeds=1, train_cases=number)).trainings for number in (0, 8))
    assert few == every + 2
