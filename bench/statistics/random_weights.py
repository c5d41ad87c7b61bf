"""Does the answer on pretraining stay silent for random weights, and speak for pretrained ones?

`pretraining` simulates scores. `controls` trains real networks: in the negative control every initial state takes the
place of the model once, and its trainings are compared with those of other initial states, as a check compares a model
with random weights. In the positive control, encoders that were fine-tuned for the same task on other patients take the
model's place.

Legend: S seeds of the model, R of random weights, G patients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.monitoring.jobs import Job, Jobs
from bench.statistics.trainings import ANATOMIES, CELLS, RESNET_CELLS, get_metric, train
from bench.tables import Section, Table
from vfmalign.analysis.checks.verdict import SCRATCH, decide_verdict
from vfmalign.analysis.gains.crossed import analyse_crossed
from vfmalign.analysis.gains.crossed_gain import estimate_crossed_gain
from vfmalign.analysis.gains.paired_scores import CrossedScores
from vfmalign.client.messages.checks import Gain, VerdictLabel
from vfmalign.core.domain.jobs import MetricSpec

LEVEL = 0.95
TRAININGS = ((3, 3), (5, 5), (3, 6))
PATIENTS = (20, 64)
EFFECTS = (0.02, 0.03, 0.04, 0.05)
SEED_SD, PATIENT_SD, RESIDUAL_SD = 0.008, 0.03, 0.02
"""SDs of Dice: between initial weights, of the patients' differences, and of the rest."""

STATES = tuple(range(20))
"""Seeds of the initial weights, fixed before anything was trained."""
SEEDS = (0, 1, 2)
RECIPES = ("pretrained", "scratch")
CONTROL_EPOCHS = {"ConvNeXt micro": 4, "SegResNet-8": 2, "ResNet-10": 2, "ResNet-18": 2}
"""Epochs of 16 steps in the negative control: half of the recipe `demo`, or a quarter, the least that has a verdict."""
FULL_EPOCHS = 8
"""Epochs of the recipe `demo`, for the positive control."""
ENCODERS = (100, 101, 102, 103, 104, 105, 106, 107)
"""Seeds of the encoders of the positive control."""
POSITIVE = ("ConvNeXt micro", "hippocampus")
"""Their cell. On the phantoms, encoders that were fine-tuned on other cases gain about 0.02 alone."""
RANDOM_SEEDS = (3, 6, 20)
"""Trainings of random weights with which the encoders are compared."""
DRAWS = 2_000
MIN_EFFECT = 0.05
"""Mean difference to random weights from which an encoder belongs to the positive control."""

Cell = tuple[str, str]
Array = NDArray[np.float64]


def simulate_pretraining(datasets: int, seed: int) -> Section:
    """Simulates checks of an untrained model and of better ones, where all variation between seeds is in the weights.

    Args:
        datasets: per cell of the table.
        seed: of all of them.
    """
    section = Section("pretraining", f"Answer on pretraining: {datasets} simulated checks per cell")
    columns = (
        "S", "R", "G", "untrained: gain without another draw", "untrained: gain", "untrained: harm",
        *(f"+{effect:g}: gain" for effect in EFFECTS),
    )  # fmt: skip
    rows = []
    for (n_seeds, n_random), n_groups in product(TRAININGS, PATIENTS):
        shape = (n_seeds, n_random, n_groups)
        narrow = _count_signs(seed, datasets, shape, 0.0, another_draw=False)[0]
        gain, harm = _count_signs(seed, datasets, shape, 0.0, another_draw=True)
        power = [_count_signs(seed, datasets, shape, effect, another_draw=True)[0] for effect in EFFECTS]
        rows.append((*map(str, shape), *(f"{share:.1%}" for share in (narrow, gain, harm, *power))))
        record = {"seeds": n_seeds, "random_seeds": n_random, "patients": n_groups, "gain": gain, "harm": harm}
        section.records.append({**record, "gain_without": narrow, **dict(zip(map(str, EFFECTS), power, strict=True))})
    section.tables.append(Table("", columns, rows))
    section.sentences.append(
        f"Dice with an SD of {SEED_SD:g} between initial weights, {PATIENT_SD:g} between the patients' differences and "
        f"{RESIDUAL_SD:g} for the rest. An untrained model is one more draw of the weights."
    )
    return section


def _count_signs(
    seed: int, datasets: int, shape: tuple[int, int, int], effect: float, *, another_draw: bool
) -> tuple[float, float]:
    """Shares of checks whose interval lies above 0, and below."""
    rng = np.random.default_rng([seed, *shape, round(1e3 * effect)])
    n_seeds, n_random, n_groups = shape
    above = below = 0
    for _ in range(datasets):
        model_G, random_G = rng.normal(0.0, PATIENT_SD / np.sqrt(2.0), (2, n_groups))
        score_SG = effect + rng.normal(0.0, SEED_SD) + model_G + rng.normal(0.0, RESIDUAL_SD, (n_seeds, n_groups))
        random_SG = (
            random_G + rng.normal(0.0, SEED_SD, (n_random, 1)) + rng.normal(0.0, RESIDUAL_SD, (n_random, n_groups))
        )
        result = analyse_crossed([score_SG, -random_SG], correct_skewness=True, another_draw=another_draw)
        interval = result.get_interval(float(score_SG.mean() - random_SG.mean()), LEVEL)
        above, below = above + (interval.lower > 0.0), below + (interval.upper < 0.0)
    return above / datasets, below / datasets


def run_controls(
    folder: Path, processes: int, seed: int, *, architectures: Sequence[str], states: int = len(STATES)
) -> Section:
    """Trains and compares both controls. A run that was interrupted goes on where it was.

    Args:
        folder: of the results of all trainings.
        processes: trainings that run at once, of one thread each.
        seed: of the draws.
        architectures: names in `CONTROL_EPOCHS`. The positive control runs if they include its own.
        states: number of initial states per cell of the negative control. With fewer than four, there is no answer.
    """
    cells = [(architecture, anatomy) for anatomy in ANATOMIES for architecture in architectures]
    jobs = Jobs(folder, processes, seed, 1.0, None)
    section = Section("controls", "Controls of the answer on pretraining: real trainings")
    rows, pooled = [], Counter[VerdictLabel]()
    for cell in cells:
        recipe = _choose_recipe(
            jobs, [_make_job(cell, state, SEEDS[0], CONTROL_EPOCHS[cell[0]]) for state in STATES[:2]]
        )
        labels, row = _count_negative(jobs, cell, recipe, seed, STATES[:states])
        pooled += labels
        rows.append(row)
    rows.append(("all", "", "", "", "", *_to_shares(pooled)))
    columns = (
        "architecture, anatomy",
        "patients",
        "SD of states",
        "SD of seeds",
        "one training: gain or harm",
        "gain",
        "equivalent",
        "inconclusive",
        "harm",
    )
    section.tables.append(Table("Negative control: untrained weights in the model's place", columns, rows))
    positive = _list_positive(jobs, POSITIVE) if POSITIVE[0] in architectures else []
    compared = [f"{name}, R = {n_random}" for n_random in RANDOM_SEEDS for name in ("difference", "interval", "answer")]
    columns = ("architecture, anatomy", "encoder", *compared)
    if positive:
        section.tables.append(Table("Positive control: encoders fine-tuned on other patients", columns, positive))
    section.records.append({"negative": dict(pooled), "positive": positive})
    steps = {architecture: 16 * CONTROL_EPOCHS[architecture] for architecture in architectures}
    section.sentences.append(
        f"{states} initial states × {len(SEEDS)} training seeds per cell. Steps: "
        f"{', '.join(f'{count} of {architecture}' for architecture, count in steps.items())}. {DRAWS:,} draws per cell "
        f"of one state and of three others. Positive control: {16 * FULL_EPOCHS} steps."
    )
    return section


def _make_job(
    cell: Cell, initial: int, seed: int, epochs: int, *, recipe: str = "", encoders: Path | None = None
) -> Job:
    job: Job = {"architecture": cell[0], "anatomy": cell[1], "initial": initial, "seed": seed, "epochs": epochs}
    return job | {"recipe": recipe} | ({"encoder": str(encoders)} if encoders else {})


def _run(jobs: Jobs, wanted: Sequence[Job], recipe: str) -> list[Job]:
    return jobs.run("trainings", train, [job | {"recipe": recipe} for job in wanted])


def _choose_recipe(jobs: Jobs, arms: Sequence[Job]) -> str:
    """Returns the recipe by which both arms of a check have the higher mean on `val` with the first seed."""
    means = {recipe: np.mean([result["val"] for result in _run(jobs, arms, recipe)]) for recipe in RECIPES}
    return max(RECIPES, key=lambda recipe: means[recipe])


def _count_negative(
    jobs: Jobs, cell: Cell, recipe: str, seed: int, states: Sequence[int]
) -> tuple[Counter[VerdictLabel], tuple[str, ...]]:
    """Counts the answers on random weights over draws of one state and of the others that it is compared with."""
    wanted = [_make_job(cell, state, training, CONTROL_EPOCHS[cell[0]]) for state in states for training in SEEDS]
    score_JG = _to_array([result["scores"] for result in _run(jobs, wanted, recipe)])
    score_ISG = score_JG.reshape(len(states), len(SEEDS), -1)
    metric, rng = get_metric(cell[1]), np.random.default_rng([seed, (*CELLS, *RESNET_CELLS).index(cell)])
    labels = Counter[VerdictLabel]()
    for _ in range(DRAWS if len(states) > len(SEEDS) else 0):
        model, *others = rng.permutation(len(states))[: 1 + len(SEEDS)]
        random_SG = score_ISG[others, np.arange(len(SEEDS))]  # a training of its own for every state and seed
        gain = _compare(score_ISG[model], random_SG, metric)
        labels[decide_verdict(gain, metric, held_out=True, seeds=len(SEEDS), baseline=SCRATCH).label] += 1
    mean_IS = score_ISG.mean(axis=2)
    spreads = (mean_IS.mean(axis=1).std(ddof=1), np.sqrt(mean_IS.var(axis=1, ddof=1).mean()))
    once = _count_once(score_ISG, metric, rng) if len(states) > 1 else 0.0
    texts = (f"{', '.join(cell)}; recipe of `{recipe}`", str(score_ISG.shape[2]), *(f"{sd:.3f}" for sd in spreads))
    return labels, (*texts, f"{once:.1%}", *_to_shares(labels))


def _count_once(score_ISG: Array, metric: MetricSpec, rng: np.random.Generator) -> float:
    """Share of comparisons of two states by one training each whose interval, over patients alone, excludes 0."""
    excluded = 0
    for _ in range(DRAWS):
        model, other = rng.permutation(len(score_ISG))[:2]
        training = rng.integers(len(SEEDS))
        interval = _compare(score_ISG[model, [training]], score_ISG[other, [training]], metric).absolute.interval
        excluded += interval is not None and (interval.lower > 0.0 or interval.upper < 0.0)
    return excluded / DRAWS


def _list_positive(jobs: Jobs, cell: Cell) -> list[tuple[str, ...]]:
    """Rows of the encoders of a cell, compared as in a check with trainings of `RANDOM_SEEDS` random weights."""
    folder, rows = jobs.folder / "encoders", []
    first = [_make_job(cell, encoder, SEEDS[0], FULL_EPOCHS, encoders=folder) for encoder in ENCODERS]
    _run(jobs, first, RECIPES[1])  # creates every encoder once
    random = [_make_job(cell, training, training, FULL_EPOCHS) for training in range(max(RANDOM_SEEDS))]
    for encoder in ENCODERS:
        models = [_make_job(cell, encoder, training, FULL_EPOCHS, encoders=folder) for training in SEEDS]
        recipe, metric = _choose_recipe(jobs, [models[0], random[0]]), get_metric(cell[1])
        score_JG = _to_array([result["scores"] for result in _run(jobs, [*models, *random], recipe)])
        row: tuple[str, ...] = (", ".join(cell), f"{encoder}, recipe of `{recipe}`")
        for n_random in RANDOM_SEEDS:
            gain = _compare(score_JG[: len(SEEDS)], score_JG[len(SEEDS) :][:n_random], metric)
            label = decide_verdict(gain, metric, held_out=True, seeds=len(SEEDS), baseline=SCRATCH).label
            value, interval = gain.absolute.value or 0.0, gain.absolute.interval
            ends = "–" if interval is None else f"{interval.lower:+.3f} to {interval.upper:+.3f}"
            row += (f"{value:+.3f}" + ("" if value >= MIN_EFFECT else f" (below {MIN_EFFECT:g})"), ends, label)
        rows.append(row)
    return rows


def _compare(score_SG: Array, random_SG: Array, metric: MetricSpec) -> Gain:
    groups = tuple(f"{number:03d}" for number in range(score_SG.shape[1]))
    pairs = CrossedScores(score_SG, random_SG, groups, 0, np.zeros(len(groups), dtype=np.bool_))
    return estimate_crossed_gain(pairs, metric, level=LEVEL, another_draw=True)


def _to_array(scores: Sequence[Sequence[float | None]]) -> Array:
    """Returns the scores [trainings, patients] of the patients for whom the metric is defined."""
    score_JG = np.array(scores, dtype=np.float64)
    return score_JG[:, ~np.isnan(score_JG).any(axis=0)]


def _to_shares(labels: Counter[VerdictLabel]) -> tuple[str, ...]:
    shown: tuple[VerdictLabel, ...] = ("gain", "equivalent", "inconclusive", "harm")
    return tuple(f"{labels[label] / labels.total():.1%}" if labels else "–" for label in shown)
