"""Trainings of a check (three networks per seed), and the names of their jobs, encoders and stages.

The first training of a network has the check's `seed`. Further trainings have the seeds that follow. Only the names of
further trainings have a suffix, such as `check-pretrained-s2`. If the preset has two recipes, each recipe is first
tried with the pretrained network and with random weights: `check-pretrained-r1` and so on. The first training with the
chosen recipe reuses the result of its trial. Trials always use all training cases, so that the checks of an experiment
choose the same recipe for every number of training cases.

If a check freezes the encoder, it trains the head of random weights as a fourth network for each seed, such as
`check-scratch-frozen-s2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vfmalign.client.messages.checks import CheckSpec, TrainingPlan
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.client.recipes import get_random_seeds, get_recipe_seed, get_second_recipe, make_request
from vfmalign.core.domain.jobs import Network, TrainingRecipe, TrainingSpec
from vfmalign.core.domain.models import ModelCard
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.request import NETWORKS, baseline_digest, finetuning_spec

_CONTROL = 2**31
"""Offset from the check's seed to the seed of a control's random weights, far from the seeds of the trainings.

On CPUs, torch uses only the low 32 bits of a seed. Multiples of 2³² would draw the same weights.
"""


@dataclass(frozen=True)
class Training:
    """One network, trained with one of the check's seeds.

    Attributes:
        network: the network that is trained.
        number: position of the seed in the list of seeds, starting at 1.
        trial: number of the recipe that is tried, starting at 1; 0 for a training with the recipe of the check.
        frozen: whether only the head of the network from random weights is trained. For the pretrained network, the
            check decides.
    """

    network: Network
    number: int = 1
    trial: int = 0
    frozen: bool = False

    @property
    def name(self) -> str:
        """Name of the network with its seed, as in stages and reports."""
        return name_stage(self.network + ("_frozen" if self.frozen else ""), self.number)

    @property
    def stage(self) -> str:
        """Name of the stage that waits for the job of this training."""
        return f"job_{self.name}" + (f"_r{self.trial}" if self.trial else "")

    def job_id(self, check_id: str) -> str:
        """Returns the id of the training's job."""
        return self._add_suffix(f"{check_id}-{self.network}{'-frozen' if self.frozen else ''}")

    def encoder_id(self, check_id: str) -> str:
        """Returns the id under which the training's job publishes the encoder; empty for the specialised network."""
        if self.network == "specialised":
            return ""
        kind = "" if self.network == "pretrained" else "-scratch-frozen" if self.frozen else "-scratch"
        return self._add_suffix(f"{check_id}{kind}-encoder")

    def seed(self, spec: CheckSpec) -> int:
        """Returns the seed of the training's random numbers."""
        return get_recipe_seed(spec) if self.trial else spec.seed + self.number - 1

    def describe(self, spec: CheckSpec) -> str:
        """Returns the training's name for messages, including the recipe of a trial or one of several seeds."""
        name = f"the {'frozen ' if self.frozen else ''}{self.network} network"
        if self.trial:
            return f"{name} (recipe {self.trial} of 2)"
        if spec.train_cases:
            name += f" on {spec.train_cases} cases"
        return name + (f" (seed {self.seed(spec)})" if get_random_seeds(spec) > 1 else "")

    def _add_suffix(self, name: str) -> str:
        name = f"{name}-r{self.trial}" if self.trial else name
        return name if self.number == 1 else f"{name}-s{self.number}"


MAIN = Training("pretrained")
"""The pretrained network with the first seed."""


def list_trials(spec: CheckSpec) -> tuple[Training, ...]:
    """Returns the trainings by which a check chooses between two recipes. Empty if the check has one recipe."""
    if get_second_recipe(spec) is None:
        return ()
    return tuple(Training(network, trial=trial) for trial in (1, 2) for network in NETWORKS[:2])


def list_trainings(spec: CheckSpec) -> tuple[Training, ...]:
    """Returns the trainings with a check's recipe, in the order in which their jobs queue: by seed, then by network."""
    networks: list[tuple[Network, bool]] = [(network, False) for network in NETWORKS]
    if spec.frozen:
        networks.append(("scratch", True))
    return tuple(
        Training(network, number, frozen=frozen)
        for number in range(1, get_random_seeds(spec) + 1)
        for network, frozen in networks
        if number <= spec.seeds or (network == "scratch" and not frozen)
    )


def name_stage(name: str, number: int) -> str:
    """Returns the name of a stage that runs once for each seed."""
    return name if number == 1 else f"{name}_s{number}"


def get_control_seed(spec: CheckSpec) -> int | None:
    """Returns the seed of the random weights that replace the model's weights in a control; None for other checks."""
    return (spec.seed + _CONTROL) % 2**63 if spec.random_weights else None


@dataclass(frozen=True)
class PlannedJob:
    """A job of a check.

    Attributes:
        request: the requested job.
        spec: specification that the process of the job reads.
        shared: digest of the training. Jobs with equal digests would train the same network.
    """

    request: JobSpec
    spec: TrainingSpec
    shared: str


def plan_job(
    check_id: str,
    check: CheckSpec,
    card: ModelCard,
    *,
    dataset_digest: str,
    recipe: TrainingRecipe,
    training: Training,
) -> PlannedJob:
    """Plans the job of a training.

    Args:
        check_id: the check.
        check: its specification.
        card: card of its model.
        dataset_digest: digest of its dataset.
        recipe: recipe of the training.
        training: the training.
    """
    pretrained, seed = training.network == "pretrained", training.seed(check)
    request = JobSpec(
        kind="finetune",
        dataset_id=check.dataset_id,
        dataset_digest=dataset_digest,
        network=training.network,
        model_id=card.id,
        model_sha256=card.checkpoint.sha256,
        task=check.task,
        recipe=make_request(recipe, check.recipe.preset),
        seed=seed,
        publish_as=training.encoder_id(check_id),
        modality_map=check.modality_map,
        shuffled_labels=check.shuffled_labels and pretrained and not training.trial,
        allow_cut_organs=check.allow_cut_organs,
        train_cases=0 if training.trial else check.train_cases,
        initial_seed=get_control_seed(check) if pretrained else None,
        frozen=training.frozen or (check.frozen and pretrained),
    )
    spec = finetuning_spec(training.job_id(check_id), request, card, dataset_digest, recipe)
    # The checks of an experiment share all trainings that choose the recipe, including the pretrained network's.
    of_check = pretrained and seed != check.recipe_seed
    return PlannedJob(request, spec, baseline_digest(spec, card, check_id if of_check else ""))


def count_trainings(
    jobs: JobRepository,
    check_id: str,
    check: CheckSpec,
    card: ModelCard,
    *,
    dataset_digest: str,
    recipes: Mapping[Network, TrainingRecipe],
) -> TrainingPlan:
    """Counts the trainings of a check, and how many of these trainings other checks have run or will run.

    It is not known yet which of two recipes is chosen. A training therefore counts as run if it was run with either
    recipe.

    Args:
        jobs: all jobs of the tenant.
        check_id: the check.
        check: its specification.
        card: card of its model.
        dataset_digest: digest of its dataset.
        recipes: recipes of the three networks, as `get_recipe` returns them.
    """
    trials, trainings = list_trials(check), list_trainings(check)
    second = get_second_recipe(check, card.preprocessing)
    tried = [recipes["scratch"], *([] if second is None else [second])]
    # The first trainings with the chosen recipe reuse the results of its trial, unless their cases or labels differ.
    taken = set()
    if trials and get_recipe_seed(check) == check.seed and not check.train_cases:
        taken = {Training("scratch"), *([] if check.shuffled_labels else [MAIN])}
    planned = [training for training in (*trials, *trainings) if training not in taken]

    def get_digests(training: Training) -> set[str]:
        candidates = [tried[training.trial - 1]] if training.trial else tried
        if training.network == "specialised":
            candidates = [recipes["specialised"]]
        plans = (
            plan_job(check_id, check, card, dataset_digest=dataset_digest, recipe=recipe, training=training)
            for recipe in candidates
        )
        return {plan.shared for plan in plans}

    digests = [get_digests(training) for training in planned]
    trained = jobs.find_trained(set().union(*digests))
    reused = sum(not trained.isdisjoint(either) for either in digests)
    return TrainingPlan(seeds=check.seeds, trainings=len(planned), reused=reused)
