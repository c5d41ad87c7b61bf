"""Levels of the tests of an experiment: how often they reject where shift and gain are unrelated.

Models and tasks have effects on shift and gain, so that models keep their order from task to task and tasks theirs from
model to model. Axes: N units, S strata, K predictors.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from bench.statistics.simulations import LEVEL, map_seeds
from bench.statistics.size import binomial_range
from bench.tables import Section, Table
from vfmalign.analysis.experiments.joint_permutations import JointPermutations, run_test
from vfmalign.analysis.experiments.points import PREDICTORS
from vfmalign.analysis.experiments.predictors import find_largest_correlation
from vfmalign.analysis.experiments.strata import MIN_UNITS

Array = NDArray[np.float64]
MODELS = (5, 6, 8)
TASKS = (4, 5)
EFFECTS = (0.0, 0.3, 0.5, 0.7)
ENUMERATED_UNITS = 6  # more are drawn here, to save time; (1 + #)/(1 + P) has the same level
DRAWS = 999
HEADINGS = {
    "within_task": "verdict, across models",
    "within_model": "verdict, across tasks",
    "p_best": "`p_best`",
}


@dataclass(frozen=True)
class NullExperiment:
    """An experiment in which nothing is related to the gain.

    Attributes:
        effect: share of the variance within a task that models keep from task to task, and share of the variance
            within a model that tasks keep from model to model.
    """

    models: int
    tasks: int
    effect: float

    def draw(self, rng: np.random.Generator, *shape: int) -> Array:
        """Draws numbers of every model in every task: (…, models, tasks)."""
        model = rng.standard_normal((*shape, self.models, 1))
        task = rng.standard_normal((*shape, 1, self.tasks))
        own = rng.standard_normal((*shape, self.models, self.tasks))
        return np.asarray(np.sqrt(self.effect) * (model + task) + np.sqrt(1.0 - self.effect) * own)


@dataclass(frozen=True)
class PValues:
    """P-values of one experiment; NaN where there are too few units for a test."""

    within_task: float
    within_model: float
    p_best: float


def make_joint_orders(units: int, strata: int, rng: np.random.Generator) -> JointPermutations:
    """Enumerates or draws the orders that all strata share."""
    if units <= ENUMERATED_UNITS:
        return JointPermutations.create(units, seed=0)
    return JointPermutations.draw(units, DRAWS, rng)


def simulate_experiments(simulations: int, seed: int, processes: int) -> Section:
    """Counts how often each test rejects, beside the binomial range of the level.

    Args:
        simulations: simulated experiments per row.
        seed: of the first experiment; the others follow.
        processes: to share the experiments among.
    """
    most = binomial_range(simulations, LEVEL)[1]
    title = f"Levels of an experiment's tests at {LEVEL:.0%}: {simulations} experiments per row"
    section = Section("experiments", title)
    rows = []
    experiments = list_null_experiments()
    results = map_seeds(run_all, experiments, range(seed, seed + simulations), processes, report=_print_progress)
    print(file=sys.stderr)
    for experiment, p_values in zip(experiments, zip(*results, strict=True), strict=True):
        rejected = count_rejections(p_values)
        rows.append(_row(experiment, rejected, simulations, most))
        section.records.append({**vars(experiment), "simulations": simulations, **rejected})
    section.tables.append(Table("", ("models", "tasks", "effect", *HEADINGS.values()), rows))
    section.sentences.append(
        f"Effect: the share of the variance that models keep from task to task, and tasks from model to model. A test "
        f"exceeds the level (bold) if it rejects more than {most} of {simulations} ({most / simulations:.2%}), the "
        f"upper end of the 99.9 % binomial range. Fewer than {MIN_UNITS} units get no verdict. `p_best` is over "
        f"{len(PREDICTORS)} predictors. More than {ENUMERATED_UNITS} units are permuted by {DRAWS} draws here."
    )
    return section


def list_null_experiments() -> list[NullExperiment]:
    """Returns the rows of the table."""
    return [
        NullExperiment(models, tasks, effect) for models, tasks, effect in itertools.product(MODELS, TASKS, EFFECTS)
    ]


def run_all(experiments: Sequence[NullExperiment], seed: int) -> list[PValues]:
    """Draws every experiment once, and tests it."""
    return [get_p_values(experiment, np.random.default_rng([seed, row])) for row, experiment in enumerate(experiments)]


def get_p_values(experiment: NullExperiment, rng: np.random.Generator) -> PValues:
    """Draws one experiment and tests it.

    Args:
        experiment: the population.
        rng: generator of the numbers, which are drawn first, and of the orders.
    """
    shift, gain, _ = experiment.draw(rng, 3)  # the third keeps the published numbers: a test that is gone used it
    predictors = experiment.draw(rng, len(PREDICTORS))
    orders = make_joint_orders(experiment.models, experiment.tasks, rng)
    across_tasks = np.nan
    if experiment.tasks >= MIN_UNITS:
        task_orders = make_joint_orders(experiment.tasks, experiment.models, rng)
        across_tasks = run_test(shift.T, gain.T, task_orders, sign=-1).p_two_sided
    return PValues(
        within_task=run_test(shift, gain, orders, sign=-1).p_two_sided,
        within_model=across_tasks,
        p_best=find_largest_correlation(predictors, gain, orders).p_best,
    )


def count_rejections(results: Sequence[PValues]) -> dict[str, int | None]:
    """Returns how many experiments each test rejects; None where it has too few units."""
    counts: dict[str, int | None] = {}
    for field in fields(PValues):
        p_values = np.array([getattr(result, field.name) for result in results])
        counts[field.name] = None if np.isnan(p_values).any() else int((p_values <= LEVEL + 1e-12).sum())
    return counts


def _print_progress(done: int, total: int) -> None:
    """Shows how many experiments of each row are done; only on a terminal, for the line overwrites itself."""
    if sys.stderr.isatty():
        print(f"\r{done} of {total} experiments per row", end="", file=sys.stderr, flush=True)


def _row(experiment: NullExperiment, rejected: dict[str, int | None], simulations: int, most: int) -> tuple[str, ...]:
    """Returns the cells of one experiment."""
    cells = []
    for name in HEADINGS:
        count = rejected[name]
        text = "–" if count is None else f"{count / simulations:.1%}"
        cells.append(f"**{text}**" if count is not None and count > most else text)
    return (str(experiment.models), str(experiment.tasks), str(experiment.effect), *cells)
