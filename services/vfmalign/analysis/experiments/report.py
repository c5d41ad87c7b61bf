"""Result of an experiment: the record stored as `experiments/<id>/report.json`, and its headline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import Field

from vfmalign.analysis.experiments.answers import Answers, answer_questions
from vfmalign.analysis.experiments.averages import SeedAverage, average_seeds
from vfmalign.analysis.experiments.cells import Cell, MissingCell
from vfmalign.analysis.experiments.claims import (
    CLAIM_STATEMENTS,
    EXPECTED_SIGNS,
    Claim,
    ClaimName,
    ClaimVerdict,
    PooledCorrelation,
    evaluate_claims,
)
from vfmalign.analysis.experiments.label_efficiency import LabelEfficiency, measure_label_efficiency
from vfmalign.analysis.experiments.objectives import ObjectivePair, compare_objectives
from vfmalign.analysis.experiments.points import make_points
from vfmalign.analysis.experiments.predictors import PredictorComparison, compare_predictors
from vfmalign.analysis.experiments.robustness import CommonBaselines, count_baselines
from vfmalign.analysis.experiments.sensitivity import Sensitivity, compare_variants
from vfmalign.analysis.experiments.strata import DESIGN_LABELS
from vfmalign.core.domain.record import Record

_SHORT_VERDICTS: Mapping[ClaimVerdict, str] = {
    "supports": "as claimed",
    "contradicts": "the opposite",
    "no_clear_relation": "no clear relation",
    "cannot support or contradict": "cannot support or contradict",
}


class ExperimentReport(Record):
    """Results of an experiment. The results depend on the cells and the seed, but not on the order of the cells.

    Attributes:
        phantom: True if some cases are generated. An experiment with generated cases is a rehearsal and not evidence.
        answers: answers for a platform team, in plain words.
        headline: one sentence with the result for each claim.
        sensitivity: rankings of the models with other layers, bandwidths and scalings.
        averages: cells averaged over seeds; all comparisons use these averages.
        baselines: whether all models of a task and seed were compared with the same specialised network.
        missing: cells without results.
        label_efficiency: scores against the number of training cases, if the experiment limits this number. All other
            results, apart from `cells` and `missing`, are about the cells with the number `label_efficiency.main`.
    """

    experiment_id: str
    title: str
    seed: int
    level: float
    phantom: bool
    answers: Answers
    headline: tuple[str, ...]
    claims: tuple[Claim, ...]
    pooled: tuple[PooledCorrelation, ...]
    objectives: tuple[ObjectivePair, ...]
    prediction: PredictorComparison
    sensitivity: Sensitivity
    averages: tuple[SeedAverage, ...]
    baselines: CommonBaselines
    cells: tuple[Cell, ...]
    missing: tuple[MissingCell, ...]
    label_efficiency: LabelEfficiency | None = Field(default=None, exclude_if=lambda curve: curve is None)

    @property
    def main_cells(self) -> tuple[Cell, ...]:
        """The cells from which the answers are computed."""
        return _select_main(self.cells, self.label_efficiency)


def analyse_cells(
    experiment: str,
    title: str,
    cells: Sequence[Cell],
    missing: Sequence[MissingCell],
    *,
    seed: int,
    level: float,
    train_cases: Sequence[int] = (),
    train_size: int = 0,
) -> ExperimentReport:
    """Analyses the cells of an experiment.

    Args:
        experiment: id of the experiment.
        title: title of the report.
        cells: cells with results.
        missing: cells without results.
        seed: seed of the permutations.
        level: nominal coverage of the intervals, in (0, 1).
        train_cases: requested numbers of training cases, with 0 for all; empty without such a request.
        train_size: number of cases of `train`, if numbers are requested.
    """
    curve = measure_label_efficiency(cells, train_cases, train_size, level) if train_cases else None
    main = _select_main(cells, curve)
    points = make_points(main)
    claims, pooled = evaluate_claims(points, seed=seed)
    averages = tuple(average_seeds(point, level) for point in points)
    baselines = count_baselines(main)
    return ExperimentReport(
        experiment_id=experiment,
        title=title,
        seed=seed,
        level=level,
        phantom=any(cell.phantom for cell in cells),
        answers=answer_questions(averages, claims, baselines),
        headline=tuple(write_headline(name, claims) for name in EXPECTED_SIGNS),
        claims=claims,
        pooled=pooled,
        objectives=compare_objectives(points),
        prediction=compare_predictors(points, seed=seed),
        sensitivity=compare_variants(points),
        averages=averages,
        baselines=baselines,
        cells=tuple(sorted(cells, key=_get_order)),
        missing=tuple(sorted(missing, key=_get_order)),
        label_efficiency=curve,
    )


def _select_main(cells: Sequence[Cell], curve: LabelEfficiency | None) -> tuple[Cell, ...]:
    return tuple(cell for cell in cells if curve is None or cell.train_cases == curve.main)


def _get_order(cell: Cell | MissingCell) -> tuple[str, str, int, float]:
    return cell.task, cell.model_id, cell.seed, cell.train_cases or math.inf


def write_headline(name: ClaimName, claims: Sequence[Claim]) -> str:
    """Summarises the results of both designs for one claim."""
    designs: dict[ClaimVerdict, list[str]] = {}
    for claim in claims:
        if claim.claim == name and claim.verdict is not None:
            designs.setdefault(claim.verdict, []).append(DESIGN_LABELS[claim.design])
    statement = f"the claim that {CLAIM_STATEMENTS[name]}"
    if "supports" in designs and "contradicts" in designs:
        summary = f"The two comparisons of these data disagree about {statement}."
    elif "contradicts" in designs:
        summary = f"These data do not support {statement}; they contradict it."
    elif "supports" in designs:
        summary = f"These data support {statement}{'' if len(designs) == 1 else ' in one of two comparisons'}."
    elif "no_clear_relation" in designs:
        summary = f"These data do not support {statement}."
    else:
        return f"These data can neither support nor contradict {statement}."
    details = [
        f"{' and '.join(labels).capitalize()}: {_SHORT_VERDICTS[verdict]}." for verdict, labels in designs.items()
    ]
    return " ".join([summary, *details])
