"""What an experiment says to the team of an ML platform: three questions, answered in plain words.

The answers follow from the verdicts on the claim about the gain and the tests behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from vfmalign.core.domain.documents import pluralise
from vfmalign.core.domain.record import Record
from vfmalign.finetuning.experiments.analysis.claims import Claim, ClaimVerdict
from vfmalign.finetuning.experiments.analysis.points import SHIFT, Point, get_gain_difference
from vfmalign.finetuning.experiments.analysis.strata import DESIGN_LABELS, MIN_UNITS, SIGNIFICANCE_LEVEL, Design
from vfmalign.finetuning.reports.formatting import format_correlation, format_p_value, to_sentence

Outcome = Literal["supports", "contradicts", "mixed", "no_clear_relation", "cannot support or contradict"]

_RECOMMENDATIONS: Mapping[Outcome, str] = {
    "supports": "Use the shift as one hint, and decide by the measured gain.",
    "contradicts": "Do not prefer models for low shift. Decide by the measured gain.",
    "mixed": "Do not gate on shift. Decide by the measured gain.",
    "no_clear_relation": "Do not gate on shift. Decide by the measured gain.",
    "cannot support or contradict": "Base no decision on these numbers.",
}
_JUDGEMENTS: Mapping[ClaimVerdict, str] = {
    "supports": "more than chance explains",
    "contradicts": "more than chance explains, and opposite to the claim",
    "no_clear_relation": "which chance explains as well",
    "cannot support or contradict": "without a verdict",
}
_UNITS: Mapping[Design, str] = {"within_task": "model", "within_model": "task"}


class Answer(Record):
    """A question with its answer in one or two short sentences, and the numbers behind it."""

    question: str
    answer: str
    details: str


class GainCounts(Record):
    """Models, counted in every task, by how they compare with the specialised network.

    Attributes:
        better, worse: differences beyond the smallest relevant one.
        trainings: all models with a difference.
    """

    better: int
    worse: int
    trainings: int


class Answers(Record):
    """The three answers.

    Attributes:
        outcome: of both comparisons, across models and across tasks; `mixed` if they have opposite signs.
    """

    outcome: Outcome
    relation: Answer
    certainty: Answer
    recommendation: Answer
    gains: GainCounts

    @property
    def all(self) -> tuple[Answer, ...]:
        """The answers, in order."""
        return self.relation, self.certainty, self.recommendation


def answer_questions(points: Sequence[Point], claims: Sequence[Claim]) -> Answers:
    """Answers the questions from the claims about the gain.

    Args:
        points: the points.
        claims: all claims.
    """
    gain = [claim for claim in claims if claim.claim == "gain" and claim.shift_measure == SHIFT.name]
    outcome = get_outcome([claim.verdict for claim in gain if claim.verdict is not None])
    counts = count_gains(points)
    return Answers(
        outcome=outcome,
        relation=Answer(
            question="Did lower shift go with larger gain?",
            answer=_describe_relation(outcome, gain),
            details=_explain_relation(gain),
        ),
        certainty=Answer(
            question="With what certainty?",
            answer=_describe_certainty(outcome, gain),
            details=_explain_certainty(outcome, gain, points),
        ),
        recommendation=Answer(
            question="What should a platform team do with that?",
            answer=_RECOMMENDATIONS[outcome],
            details=" ".join(
                filter(None, (_explain_advice(outcome, gain), _explain_gains(counts)))
            ),
        ),
        gains=counts,
    )


def get_outcome(verdicts: Sequence[ClaimVerdict]) -> Outcome:
    """Joins the verdicts of both comparisons."""
    if {"supports", "contradicts"} <= set(verdicts):
        return "mixed"
    decided: tuple[ClaimVerdict, ...] = ("contradicts", "supports", "no_clear_relation")
    return next((verdict for verdict in decided if verdict in verdicts), "cannot support or contradict")


def count_gains(points: Sequence[Point]) -> GainCounts:
    """Counts the points that differ from the specialised network by more than the smallest relevant difference."""
    pairs = [
        (difference, point.cells[0].metric.smallest_difference)
        for point in points
        if (difference := point.mean(get_gain_difference)) is not None
    ]
    return GainCounts(
        better=sum(difference > smallest for difference, smallest in pairs),
        worse=sum(difference < -smallest for difference, smallest in pairs),
        trainings=len(pairs),
    )


def _describe_relation(outcome: Outcome, claims: Sequence[Claim]) -> str:
    units = [f"across {_UNITS[claim.design]}s" for claim in claims if claim.verdict == outcome]
    others = [f"across {_UNITS[claim.design]}s" for claim in claims if claim.verdict != outcome]
    match outcome:
        case "supports" if others:
            return f"Yes {units[0]}; not clearly {others[0]}."
        case "supports":
            return f"Yes, {' and '.join(units)}."
        case "contradicts":
            return f"No: {' and '.join(units)}, less shift went with less gain."
        case "mixed":
            return "It depends: the comparisons across models and across tasks disagree."
        case "no_clear_relation":
            return "Not visibly: there is no clear relation."
    return "This experiment cannot tell."


def _explain_relation(claims: Sequence[Claim]) -> str:
    details = [
        f"{DESIGN_LABELS[claim.design]}, the mean rank correlation of shift and gain is "
        f"{format_correlation(claim.rho.value)}, {_JUDGEMENTS[claim.verdict]}"
        for claim in claims
        if claim.rho.value is not None and claim.verdict is not None
    ]
    scale = (
        ["\u22121 means that less shift always went with more gain, and 0 that they are unrelated."] if details else []
    )
    return " ".join([*map(to_sentence, details), *scale])


def _describe_certainty(outcome: Outcome, claims: Sequence[Claim]) -> str:
    """The smallest p of the comparisons that decided, in words."""
    decisive = {"supports", "contradicts"} if outcome == "mixed" else {outcome}
    tests = [
        (claim.test.p_two_sided, claim) for claim in claims if claim.test is not None and claim.verdict in decisive
    ]
    if outcome == "cannot support or contradict" or not tests:
        return "With none: there are too few comparable numbers for a verdict."
    p, claim = min(tests, key=lambda pair: pair[0])
    start = "With little" if outcome == "no_clear_relation" else "With some"
    return (
        f"{start}: chance alone gives as strong a correlation in {100 * p:.2g} % of the orders of the {claim.units} "
        f"{_UNITS[claim.design]}s."
    )


def _explain_certainty(outcome: Outcome, claims: Sequence[Claim], points: Sequence[Point]) -> str:
    models, tasks = {point.model for point in points}, {point.task for point in points}
    seeds = {cell.seed for point in points for cell in point.cells}
    sentences = [
        *(_explain_test(claim) for claim in claims),
        f"All of it rests on {pluralise(len(models), 'model')}, {pluralise(len(tasks), 'task')} and "
        f"{pluralise(len(seeds), 'training seed')}, and says nothing about others.",
    ]
    if outcome in {"supports", "contradicts", "mixed"}:
        level = f"{100 * SIGNIFICANCE_LEVEL:.0f} %"
        sentences.append(f"With two comparisons at {level} each, up to 10 % of experiments find one by chance.")
    return " ".join(sentences)


def _explain_test(claim: Claim) -> str:
    unit = _UNITS[claim.design]
    if claim.test is None or claim.verdict == "cannot support or contradict":
        return f"Across {unit}s there is no verdict: {claim.sentence}."
    interval = claim.rho.interval
    ends = "" if interval is None else (
        f"; {100 * interval.level:.0f} % interval of the correlation over seeds and patients "
        f"{format_correlation(interval.lower)} to {format_correlation(interval.upper)}"
    )  # fmt: skip
    return f"Across {unit}s, p = {format_p_value(claim.test.p_two_sided)}{ends}."


def _explain_advice(outcome: Outcome, claims: Sequence[Claim]) -> str:
    across_models = any(claim.design == "within_task" and claim.verdict == "supports" for claim in claims)
    if outcome == "supports" and not across_models:
        return "The relation was found across tasks alone and does not help to choose between models."
    if outcome == "contradicts":
        return "A gate on low shift would have favoured the smaller gain."
    if outcome == "no_clear_relation":
        return "The shift describes what fine-tuning changed; it did not show which model gains."
    if outcome == "cannot support or contradict":
        return (
            f"A verdict needs at least {MIN_UNITS} models with shift and gain in every task, or {MIN_UNITS} tasks with "
            "both for every model."
        )
    return ""


def _explain_gains(counts: GainCounts) -> str:
    if not counts.trainings:
        return ""
    return (
        "Fine-tuning beat a network made for the task by more than the smallest relevant difference in "
        f"{counts.better} of {counts.trainings} pairs of model and task, and fell behind by as much in {counts.worse}."
    )
