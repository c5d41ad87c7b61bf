"""Answers that an experiment gives, in plain words, to three questions of an ML platform team.

The answers are derived from the verdicts on the claim about the gain, and from the tests behind these verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from vfmalign.analysis.experiments.averages import SeedAverage
from vfmalign.analysis.experiments.claims import Claim, ClaimVerdict
from vfmalign.analysis.experiments.points import ENERGY, SHIFT
from vfmalign.analysis.experiments.robustness import CommonBaselines
from vfmalign.analysis.experiments.strata import DESIGN_LABELS, MIN_UNITS, SIGNIFICANCE_LEVEL, Design
from vfmalign.client.formatting import format_correlation, format_p_value, to_sentence, to_text
from vfmalign.client.messages.checks import VerdictLabel
from vfmalign.core.domain.record import Record
from vfmalign.core.formats.documents import pluralise

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
    "no_clear_relation": "which is within what chance gives",
    "cannot support or contradict": "without a verdict",
}
VERDICT_TEXTS: Mapping[VerdictLabel, str] = {
    "gain": "gain",
    "equivalent": "equivalent",
    "inconclusive": "inconclusive",
    "harm": "harm",
    "insufficient_data": "without enough data",
    "insufficient_training": "without enough training",
}
"""Texts of the verdicts on pairs of model and task, from better to worse."""
FAMILY_LEVELS = "7 to 9 % where relatives share 80 % of what distinguishes a model, and 10 to 12 % at 95 %"
"""Measured by `python -m bench.statistics --only families` (docs/validation.md)."""
_UNITS: Mapping[Design, str] = {"within_task": "model", "within_model": "task"}


class Answer(Record):
    """A question with its answer in one or two short sentences, and the numbers that support the answer."""

    question: str
    answer: str
    details: str


class Answers(Record):
    """The three answers.

    Attributes:
        outcome: joint outcome of the comparison across models and the comparison across tasks; `mixed` if the two
            comparisons have opposite signs.
        verdicts: maps each verdict against the specialised network to the number of pairs of model and task with this
            verdict.
    """

    outcome: Outcome
    relation: Answer
    certainty: Answer
    recommendation: Answer
    verdicts: dict[VerdictLabel, int]

    @property
    def all(self) -> tuple[Answer, ...]:
        """The three answers in the order of the report."""
        return self.relation, self.certainty, self.recommendation


def answer_questions(averages: Sequence[SeedAverage], claims: Sequence[Claim], baselines: CommonBaselines) -> Answers:
    """Answers the questions from the claims about the gain.

    Args:
        averages: results of each pair of model and task.
        claims: all claims.
        baselines: whether all models of a task and seed were compared with the same specialised network.
    """
    shift = [claim for claim in claims if claim.shift_measure == SHIFT.name]
    gain = [claim for claim in shift if claim.claim == "gain"]
    outcome = get_outcome([claim.verdict for claim in gain if claim.verdict is not None])
    verdicts = Counter(average.verdict.label for average in averages)
    return Answers(
        outcome=outcome,
        relation=Answer(
            question="Did lower shift go with larger gain?",
            answer=_join(_describe_relation(outcome, gain), _describe_saturation(outcome, averages)),
            details=_join(
                _explain_relation(gain),
                _explain_flags(averages, shift),
                _explain_energy(claims),
            ),
        ),
        certainty=Answer(
            question="With what certainty?",
            answer=_describe_certainty(outcome, gain),
            details=_join(
                *map(_explain_test, gain),
                *map(_explain_reversal, gain),
                _explain_baselines(baselines, gain),
                _explain_exchangeability(averages, gain),
                _explain_scope(outcome, averages),
            ),
        ),
        recommendation=Answer(
            question="What should a platform team do with that?",
            answer=_RECOMMENDATIONS[outcome],
            details=_join(_explain_advice(outcome, gain), _explain_verdicts(averages, verdicts)),
        ),
        verdicts=dict(sorted(verdicts.items())),
    )


def get_outcome(verdicts: Sequence[ClaimVerdict]) -> Outcome:
    """Combines the verdicts of both designs on the claim into one outcome."""
    if {"supports", "contradicts"} <= set(verdicts):
        return "mixed"
    decided: tuple[ClaimVerdict, ...] = ("contradicts", "supports", "no_clear_relation")
    return next((verdict for verdict in decided if verdict in verdicts), "cannot support or contradict")


def _join(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _describe_relation(outcome: Outcome, claims: Sequence[Claim]) -> str:
    units = [_across(claim) for claim in claims if claim.verdict == outcome]
    others = [_across(claim) for claim in claims if claim.verdict != outcome]
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


def _describe_saturation(outcome: Outcome, averages: Sequence[SeedAverage]) -> str:
    saturated = sum(average.flags.saturated for average in averages)
    if not saturated or outcome == "cannot support or contradict":
        return ""
    return f"In {saturated} of {len(averages)} pairs of model and task the shift is saturated and cannot rank models."


def _explain_relation(claims: Sequence[Claim]) -> str:
    details = [
        f"{DESIGN_LABELS[claim.design]}, the mean rank correlation of shift and gain is "
        f"{format_correlation(claim.rho)}, {_JUDGEMENTS[claim.verdict]}"
        for claim in claims
        if claim.rho is not None and claim.verdict is not None
    ]
    scale = (
        ["\u22121 means that less shift always went with more gain, and 0 that neither direction prevails."]
        if details
        else []
    )
    return " ".join([*map(to_sentence, details), *scale])


def _explain_flags(averages: Sequence[SeedAverage], claims: Sequence[Claim]) -> str:
    """How the correlations change without points that are saturated or do not beat the naive baseline."""
    saturated = sum(average.flags.saturated for average in averages)
    not_beaten = sum(average.flags.not_beaten for average in averages)
    left = [average for average in averages if not (average.flags.saturated or average.flags.not_beaten)]
    either = len(averages) - len(left)
    correlations = [
        f"that of {outcome} is {' and '.join(parts)}"
        for name, outcome in (("gain", "shift and gain"), ("convergence", "shift and steps to 95 %"))
        if (
            parts := [
                f"{format_correlation(claim.rho_unflagged)} instead of {format_correlation(claim.rho)} {_across(claim)}"
                for claim in claims
                if claim.claim == name and claim.test is not None and claim.rho_unflagged is not None
            ]
        )
    ]
    if not either or not correlations:
        return ""
    return (
        f"{saturated} of {len(averages)} pairs of model and task are saturated (†: MMD² no longer grows with distance, "
        f"and values of two models cannot be ranked), and in {not_beaten} the model does not beat the naive baseline "
        f"(‡). Without these {either} pairs, the correlation changes: {', and '.join(correlations)}. "
        f"{_describe_rest(left)}"
    )


def _describe_rest(averages: Sequence[SeedAverage]) -> str:
    """How few pairs remain, and whether only two of them form a rank correlation somewhere."""
    sizes = [*Counter(average.task for average in averages).values()]
    sizes += Counter(average.model_id for average in averages).values()
    two = ", in some tasks or models only two, where ρ can only be +1 or \u22121" if 2 in sizes else ""
    return f"What is left: {pluralise(len(averages), 'pair')}{two}."


def _explain_energy(claims: Sequence[Claim]) -> str:
    """The correlations with the gain of a measure that does not saturate."""
    parts = [
        f"{format_correlation(claim.rho)} {_across(claim)} (p = {format_p_value(claim.test.p_two_sided)})"
        for claim in claims
        if (claim.claim, claim.shift_measure) == ("gain", ENERGY.name)
        and claim.rho is not None
        and claim.test is not None
    ]
    if not parts:
        return ""
    return (
        f"The {ENERGY.label}, a second measure of the shift, does not saturate and has no verdict; its correlation "
        f"with the gain is {' and '.join(parts)}."
    )


def _describe_certainty(outcome: Outcome, claims: Sequence[Claim]) -> str:
    """Text with the smallest p of the comparisons that decided the outcome."""
    decisive = {"supports", "contradicts"} if outcome == "mixed" else {outcome}
    tests = [
        (claim.test.p_two_sided, claim) for claim in claims if claim.test is not None and claim.verdict in decisive
    ]
    if outcome == "cannot support or contradict" or not tests:
        return "With none: there are too few comparable numbers for a verdict."
    p, claim = min(tests, key=lambda pair: pair[0])
    start = "With little" if outcome == "no_clear_relation" else "With some"
    return f"{start}: the comparison {_across(claim)} has the smaller p, {format_p_value(p)}."


def _explain_test(claim: Claim) -> str:
    """The p-value, and how strong a correlation must be for the test to distinguish it from chance."""
    if claim.test is None or claim.verdict == "cannot support or contradict":
        return f"{_across(claim).capitalize()} there is no verdict: {claim.sentence}."
    power = "" if claim.test.threshold is None else (
        f"; with these {claim.units} {_UNITS[claim.design]}s, p ≤ {SIGNIFICANCE_LEVEL} needs a mean of "
        f"±{claim.test.threshold:.2f} or beyond"
    )  # fmt: skip
    return f"{_across(claim).capitalize()}, p = {format_p_value(claim.test.p_two_sided)}{power}."


def _explain_reversal(claim: Claim) -> str:
    if claim.reversal is None:
        return ""
    names = claim.reversal.without if claim.design == "within_task" else map(to_text, claim.reversal.without)
    units = " and ".join(f"\u201c{name}\u201d" for name in names)
    return (
        f"{_across(claim).capitalize()}, the sign rests on few {_UNITS[claim.design]}s: without {units}, the "
        f"correlation is {format_correlation(claim.reversal.rho)}."
    )


def _explain_baselines(baselines: CommonBaselines, claims: Sequence[Claim]) -> str:
    parts = [
        f"{format_correlation(claim.rho_common_baselines)} {_across(claim)}"
        for claim in claims
        if claim.rho_common_baselines is not None
    ]
    if not baselines.several or not parts:
        return ""
    return (
        f"In {baselines.several} of {baselines.total} pairs of task and seed, models were compared with different "
        f"trainings of the specialised network; with one for all, the correlation is {' and '.join(parts)}."
    )


def _explain_exchangeability(averages: Sequence[SeedAverage], claims: Sequence[Claim]) -> str:
    """Caution about the test across models: it assumes exchangeable models, but related architectures are similar."""
    tested = any(claim.design == "within_task" and claim.test is not None for claim in claims)
    architectures = {average.model_id: average.architecture.partition(":")[0] for average in averages}
    sizes = Counter(architectures.values())
    related = sum(size for size in sizes.values() if size > 1)
    if not tested or not related:
        return ""
    return (
        f"The test across models assumes that they are exchangeable, but {related} of {len(architectures)} share their "
        "kind of architecture with another. In simulations with six models, its level of "
        f"{100 * SIGNIFICANCE_LEVEL:.0f} % is then {FAMILY_LEVELS}."
    )


def _explain_scope(outcome: Outcome, averages: Sequence[SeedAverage]) -> str:
    models, tasks = {average.model_id for average in averages}, {average.task for average in averages}
    seeds = max((average.seeds for average in averages), default=0)
    scope = (
        f"All of it rests on {pluralise(len(models), 'model')}, {pluralise(len(tasks), 'task')} and "
        f"{pluralise(seeds, 'training seed')}, and says nothing about others."
    )
    if outcome not in {"supports", "contradicts", "mixed"}:
        return scope
    level = f"{100 * SIGNIFICANCE_LEVEL:.0f} %"
    return f"{scope} With two comparisons at {level} each, up to 10 % of experiments find one by chance."


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


def _explain_verdicts(averages: Sequence[SeedAverage], verdicts: Mapping[VerdictLabel, int]) -> str:
    if not averages:
        return ""
    counts = [f"{verdicts.get(label, 0)} {text}" for label, text in VERDICT_TEXTS.items() if verdicts.get(label)]
    scope = "seeds and patients" if all(average.seeds > 1 for average in averages) else "patients"
    return (
        f"Of {len(averages)} pairs of model and task, compared with a network made for the task by intervals over "
        f"{scope}: {', '.join(counts)}."
    )


def _across(claim: Claim) -> str:
    return f"across {_UNITS[claim.design]}s"
