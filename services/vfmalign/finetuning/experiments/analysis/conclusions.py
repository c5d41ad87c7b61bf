"""What an experiment concludes: the record behind `experiments/<id>/report.json`.

Puts the analyses together and says in sentences what they come to. Knows nothing of HTML, S3 or gRPC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vfmalign.core.domain.artifacts import Objective, Record
from vfmalign.finetuning.analysis.estimates import Estimate, Interval, absent
from vfmalign.finetuning.experiments.analysis.bootstrap import Key, Resampled, resample
from vfmalign.finetuning.experiments.analysis.cells import Cell, Marks, Missing
from vfmalign.finetuning.experiments.analysis.claims import (
    EXPECTED,
    PLACE,
    STATEMENT,
    Claim,
    ClaimName,
    Pooled,
    Word,
    weigh_claims,
)
from vfmalign.finetuning.experiments.analysis.early_prediction import EarlyAnswer, look_early
from vfmalign.finetuning.experiments.analysis.objectives import ObjectivePair, compare_objectives
from vfmalign.finetuning.experiments.analysis.points import RATIO, SHIFT, Point, gain_of, points_of, share_of_steps
from vfmalign.finetuning.experiments.analysis.predictors import Prediction, compare_predictors

_SHORT: Mapping[Word, str] = {
    "supports": "as claimed",
    "contradicts": "the opposite",
    "no_clear_relation": "no clear relation",
    "cannot support or contradict": "cannot be told",
}
METHOD = "bootstrap over seeds and cases"


class Average(Record):
    """One model and task, averaged over seeds.

    Attributes:
        seeds: of which it is the mean.
        shift, shift_ratio, gain: with the interval of the experiment's bootstrap; absent with the reason.
        convergence: steps to 95 % of the own rise as a share of all steps; None where absent or censored.
        censored: the rise was not reached within the budget.
        without: seeds that lack a number, by its name.
    """

    model: str
    task: str
    architecture: str
    objective: Objective
    seeds: int
    patients: int
    marks: Marks
    shift: Estimate
    shift_ratio: Estimate
    gain: Estimate
    score: float | None
    baseline: float | None
    convergence: float | None
    convergence_reason: str
    censored: bool
    without: dict[str, int]


class ExperimentReport(Record):
    """Everything an experiment concludes; equal for equal cells and seed, in whatever order they come.

    Attributes:
        phantom: some cases are generated: a rehearsal, not evidence.
        headline: what the data say about each claim, in one sentence each.
        averages: cells averaged over seeds, which everything below compares.
    """

    experiment: str
    title: str
    seed: int
    resamples: int
    level: float
    phantom: bool
    headline: tuple[str, ...]
    claims: tuple[Claim, ...]
    pooled: tuple[Pooled, ...]
    objectives: tuple[ObjectivePair, ...]
    prediction: Prediction
    early: EarlyAnswer
    averages: tuple[Average, ...]
    cells: tuple[Cell, ...]
    missing: tuple[Missing, ...]


def conclude(
    experiment: str,
    title: str,
    cells: Sequence[Cell],
    missing: Sequence[Missing],
    *,
    seed: int,
    resamples: int,
    level: float,
) -> ExperimentReport:
    """What the cells say about the paper's claims.

    Args:
        experiment: its id.
        title: for readers.
        cells: those that have numbers.
        missing: those that have none, with the reason.
        seed: of permutations and resamples.
        resamples: of the bootstrap.
        level: nominal coverage of its intervals, in (0, 1).
    """
    points = points_of(cells)
    draws = resample(points, seed=seed, resamples=resamples)
    claims, pooled = weigh_claims(points, draws, seed=seed, level=level)
    return ExperimentReport(
        experiment=experiment,
        title=title,
        seed=seed,
        resamples=resamples,
        level=level,
        phantom=any(cell.phantom for cell in cells),
        headline=tuple(headline(name, claims) for name in EXPECTED),
        claims=claims,
        pooled=pooled,
        objectives=compare_objectives(points),
        prediction=compare_predictors(points, seed=seed),
        early=look_early(points, seed=seed),
        averages=tuple(_average(point, draws, level) for point in points),
        cells=tuple(cell for point in points for cell in point.cells),
        missing=tuple(sorted(missing, key=lambda one: (one.task, one.model, one.seed))),
    )


def headline(name: ClaimName, claims: Sequence[Claim]) -> str:
    """What the data say about one claim, over both designs."""
    mine = [claim for claim in claims if claim.claim == name and claim.verdict is not None]
    found: dict[Word, list[str]] = {}
    for claim in mine:
        found.setdefault(claim.verdict or "no_clear_relation", []).append(PLACE[claim.design])
    statement = f"the claim that {STATEMENT[name]}"
    if "contradicts" in found:
        first = f"These data do not support {statement}; they contradict it."
    elif "supports" in found:
        first = f"These data support {statement}{'' if len(found) == 1 else ' in one of two comparisons'}."
    elif "no_clear_relation" in found:
        first = f"These data do not support {statement}."
    else:
        return f"These data can neither support nor contradict {statement}."
    return " ".join(
        [first, *(f"{' and '.join(places).capitalize()}: {_SHORT[word]}." for word, places in found.items())]
    )


def _average(point: Point, draws: Mapping[Key, Resampled], level: float) -> Average:
    mine = draws[point.model, point.task]
    first = point.cells[0]
    share = point.mean(share_of_steps)
    ends: dict[str, Callable[[Cell], Estimate]] = {
        "mmd2_std": lambda cell: cell.shift,
        "shift_ratio": lambda cell: cell.shift_ratio,
        "gain": lambda cell: cell.gain,
    }
    quantities = {"mmd2_std": SHIFT.of, "shift_ratio": RATIO.of, "gain": gain_of, "convergence": share_of_steps}

    def estimate(name: str) -> Estimate:
        value = point.mean(quantities[name])
        if value is None:
            return absent("; ".join(dict.fromkeys(ends[name](cell).absent_reason for cell in point.cells)))
        draw_R = mine.of(name)
        if np.isnan(draw_R).any():
            return Estimate(value=value, absent_reason="in some resamples it has no value")
        if not draw_R.std():
            return Estimate(value=value, absent_reason="nothing varies from resample to resample")
        lower, upper = np.quantile(draw_R, [(1 - level) / 2, (1 + level) / 2])
        weak = bool(mine.weak) or (name != "gain" and point.marks.degenerate)
        interval = Interval(lower=float(lower), upper=float(upper), level=level, method=METHOD, degenerate=weak)
        return Estimate(value=value, interval=interval, absent_reason=mine.weak)

    return Average(
        model=point.model,
        task=point.task,
        architecture=first.architecture,
        objective=first.objective,
        seeds=len(point.cells),
        patients=first.patients,
        marks=point.marks,
        shift=estimate("mmd2_std"),
        shift_ratio=estimate("shift_ratio"),
        gain=estimate("gain"),
        score=point.mean(lambda cell: cell.score),
        baseline=point.mean(lambda cell: cell.baseline),
        convergence=None if share is None or np.isinf(share) else share,
        convergence_reason="; ".join(
            dict.fromkeys(c.steps_to_95.absent_reason for c in point.cells if c.steps_to_95.absent_reason)
        ),
        censored=share is not None and bool(np.isinf(share)),
        without={name: count for name, of in quantities.items() if (count := point.without(of))},
    )
