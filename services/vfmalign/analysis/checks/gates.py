"""Parses and evaluates gates: conditions on a check's verdict and on the ends of its intervals (docs/gates.md)."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, get_args

from vfmalign.client.messages.checks import VerdictLabel
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.patients import MIN_SEEDS

QUANTITIES: dict[str, str] = {
    "rpg_specialised": "relative gain over the specialised network, in per cent",
    "rpg_scratch": "relative gain over the same architecture with random weights, in per cent",
    "difference_specialised": "s · (score − specialised network's), in the metric's unit; above 0 is better",
    "difference_scratch": "s · (score − random weights'), in the metric's unit; above 0 is better",
    "mmd2": "raw MMD² of the primary layer",
    "mmd2_std": "MMD² of the primary layer on standardised features",
}
"""Quantities that a condition may name, with their meaning."""

VERDICTS: tuple[VerdictLabel, ...] = tuple(
    label for label in get_args(VerdictLabel) if label != "insufficient_training"
)
"""Verdicts that a gate may accept: `insufficient_training` is excluded, because it supports no conclusion."""
Question = Literal["verdict", "pretraining"]
QUESTIONS: dict[Question, str] = {"verdict": "--require", "pretraining": "--require-pretraining"}
"""Option for each verdict of a check: `verdict` on the specialised network, `pretraining` on pretraining."""
ENDS = ("lower", "upper")
OPERATORS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}
EXAMPLE = "difference_specialised.lower>=-0.01,difference_scratch.lower>=0"

_SIGN = re.compile(r"([<>=!≤≥]+)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_P_VALUE = re.compile(r"(^|[._])p([._]|$)|p[-_ ]?val", re.IGNORECASE)


class Outcome(StrEnum):
    """Outcome of a condition. A gate passes if all of its conditions pass."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDABLE = "undecidable"


@dataclass(frozen=True)
class Condition:
    """One comparison, such as `difference_specialised.lower>=0`.

    Attributes:
        quantity: a key of `QUANTITIES`.
        end: `lower` or `upper`.
        operator: a key of `OPERATORS`.
        threshold: finite number in the unit of the quantity.
    """

    quantity: str
    end: str
    operator: str
    threshold: float

    @property
    def name(self) -> str:
        """The compared end of the interval, such as `difference_specialised.lower`."""
        return f"{self.quantity}.{self.end}"

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.threshold!r}"


@dataclass(frozen=True)
class ObservedInterval:
    """The interval of one quantity in a check.

    Attributes:
        lower, upper: ends of the interval; None if there is no interval.
        level: nominal coverage of the interval.
        absent_reason: reason why there is no interval.
        remarks: what the interval does not show.
    """

    lower: float | None = None
    upper: float | None = None
    level: float | None = None
    absent_reason: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """A condition with its outcome.

    Attributes:
        condition: the condition.
        outcome: its outcome.
        observed: value of the compared end; None if there is no interval.
        level: nominal coverage of the interval; None if there is no interval.
        remarks: reason why the condition is undecidable, or what the outcome does not show.
    """

    condition: Condition
    outcome: Outcome
    observed: float | None
    level: float | None
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class VerdictDecision:
    """The verdicts that a gate accepts, the verdict of the check, and the outcome of their comparison.

    Attributes:
        question: the question that the verdict answers, a key of `QUESTIONS`.
        accepted: the verdicts that the option names. There is at least one.
        observed: the verdict of the check; None if the check has no verdict.
        outcome: undecidable if there are too few trainings or no verdict. The outcome is also undecidable if the
            verdict is `insufficient_data` or `insufficient_training` and the gate does not accept this verdict.
    """

    question: Question
    accepted: tuple[VerdictLabel, ...]
    observed: VerdictLabel | None
    outcome: Outcome


@dataclass(frozen=True)
class Gate:
    """Requirements for a check: the accepted verdicts for each question, and conditions.

    An empty gate accepts any check.
    """

    accepted: Mapping[Question, tuple[VerdictLabel, ...]] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()

    @classmethod
    def parse(
        cls, conditions: Sequence[str] | None, require: Sequence[str] | None, require_pretraining: Sequence[str] | None
    ) -> Gate:
        """Parses the options `--gate`, `--require` and `--require-pretraining`.

        Raises:
            BadOption: see `parse_gate` and `parse_verdicts`.
        """
        options: dict[Question, Sequence[str] | None] = {"verdict": require, "pretraining": require_pretraining}
        accepted = {question: parse_verdicts(texts, question) for question, texts in options.items() if texts}
        return cls(accepted, parse_gate(conditions or ()))

    def __bool__(self) -> bool:
        return bool(self.accepted or self.conditions)


NO_GATE = Gate()


def parse_verdicts(texts: Sequence[str], question: Question = "verdict") -> tuple[VerdictLabel, ...]:
    """Parses the verdicts that a gate accepts, separated by commas.

    Args:
        texts: values of the question's option; may be empty.
        question: the question that the verdicts answer.

    Raises:
        BadOption: a verdict is unknown.
    """
    names = [part.strip() for text in texts for part in text.split(",")]
    for name in names:
        if name not in VERDICTS:
            raise BadOption(
                f"{name[:64]!r} is not a verdict",
                field=QUESTIONS[question],
                remedy=f"choose from {', '.join(VERDICTS)}",
                reason="BAD_GATE",
            )
    return tuple(label for label in VERDICTS if label in names)


def evaluate_verdict(
    accepted: Sequence[VerdictLabel], observed: VerdictLabel | None, *, seeds: int, question: Question = "verdict"
) -> VerdictDecision:
    """Compares a verdict with the verdicts that a gate accepts.

    With too few training seeds, the outcome is undecidable.
    """
    unknown = {None, "insufficient_data", "insufficient_training"}
    if seeds < MIN_SEEDS:
        outcome = Outcome.UNDECIDABLE
    elif observed in accepted:
        outcome = Outcome.PASSED
    else:
        outcome = Outcome.UNDECIDABLE if observed in unknown else Outcome.FAILED
    return VerdictDecision(question, tuple(accepted), observed, outcome)


def parse_gate(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Parses the conditions of a gate.

    Each condition has the form `NAME.END>=NUMBER` or `NAME.END<=NUMBER`. Commas separate conditions.

    Args:
        texts: values of the option `--gate`; may be empty.

    Raises:
        BadOption: a condition is malformed, compares a p-value, or occurs twice.
    """
    conditions: dict[tuple[str, str], Condition] = {}
    for text in texts:
        for part in text.split(","):
            condition = _parse(part.strip())
            if (condition.name, condition.operator) in conditions:
                raise _bad_gate(f"{condition.name}{condition.operator} occurs twice", "keep one of the two thresholds")
            conditions[condition.name, condition.operator] = condition
    return tuple(conditions.values())


def evaluate_gate(conditions: Sequence[Condition], observed: Mapping[str, ObservedInterval]) -> tuple[Decision, ...]:
    """Evaluates each condition. A condition is undecidable if the end that it compares is absent or not finite."""
    return tuple(_evaluate(c, observed.get(c.quantity, ObservedInterval())) for c in conditions)


def passed(decisions: Sequence[Decision | VerdictDecision]) -> bool:
    """Returns whether all decisions of a gate pass. Returns False if there are no decisions."""
    return bool(decisions) and all(decision.outcome is Outcome.PASSED for decision in decisions)


def _evaluate(condition: Condition, observed: ObservedInterval) -> Decision:
    end = observed.lower if condition.end == "lower" else observed.upper
    if end is None or not math.isfinite(end):
        missing = observed.absent_reason or "the check has no interval for it"
        reason = missing if end is None else "the end of the interval is not a finite number"
        return Decision(condition, Outcome.UNDECIDABLE, None, None, (reason, *observed.remarks))
    satisfied = OPERATORS[condition.operator](end, condition.threshold)
    outcome = Outcome.PASSED if satisfied else Outcome.FAILED
    return Decision(condition, outcome, end, observed.level, observed.remarks)


def _parse(text: str) -> Condition:
    name, sign, number = (part.strip() for part in (*_SIGN.split(text, maxsplit=1), "", "")[:3])
    _refuse_p_value(name)
    if not name or not sign:
        raise _bad_gate(
            f"{text[:64]!r} is not a condition",
            f"separate conditions by commas, use a decimal point, and quote the whole gate, such as '{EXAMPLE}'",
        )
    quantity, end = _quantity_and_end(name)
    if sign not in OPERATORS:
        raise _bad_gate(f"{name} is compared by {sign[:8]!r}", "use >= or <=, and quote the whole gate")
    if not _NUMBER.fullmatch(number) or not math.isfinite(float(number)):
        raise _bad_gate(
            f"the threshold of {name} is not a number: {number[:64]!r}", "use a number without unit, such as 0.10"
        )
    return Condition(quantity, end, sign, float(number))


def _refuse_p_value(name: str) -> None:
    if _P_VALUE.search(name):
        raise _bad_gate(
            f"{name[:64]!r} is a p-value, which cannot be gated: it only shows a detectable change, and almost every "
            "fine-tuning causes one",
            f"compare the end of an interval instead, such as '{EXAMPLE}'",
        )


def _quantity_and_end(name: str) -> tuple[str, str]:
    quantity, _, end = name.partition(".")
    if quantity not in QUANTITIES:
        raise _bad_gate(
            f"{quantity[:64]!r} is not a known quantity",
            f"choose one of {', '.join(QUANTITIES)}, each .lower or .upper",
        )
    if not end:
        raise _bad_gate(
            f"{quantity} has no uncertainty, but a gate compares only the ends of intervals",
            f"use {quantity}.lower or {quantity}.upper",
        )
    if end not in ENDS:
        raise _bad_gate(f"{quantity} has no end {end[:64]!r}", f"use {quantity}.lower or {quantity}.upper")
    return quantity, end


def _bad_gate(message: str, remedy: str) -> BadOption:
    return BadOption(message, field="--gate", remedy=remedy, reason="BAD_GATE")
