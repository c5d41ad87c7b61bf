"""A gate: conditions on the ends of a check's intervals, parsed and decided.

Knows names, numbers and text. Knows nothing of the API's messages, of options or of how an outcome is shown.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from vfmalign.core.domain.errors import BadOption

QUANTITIES: dict[str, str] = {
    "rpg_specialised": "relative gain over the specialised network, in per cent",
    "rpg_scratch": "relative gain over the same architecture with random weights, in per cent",
    "difference_specialised": "s · (score − specialised network's), in the metric's unit; above 0 is better",
    "difference_scratch": "s · (score − random weights'), in the metric's unit; above 0 is better",
    "mmd2": "raw MMD² of the primary layer",
    "mmd2_std": "MMD² of the primary layer on standardised features",
}
"""What a condition may name."""

ENDS = ("lower", "upper")
OPERATORS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}
EXAMPLE = "rpg_specialised.lower>=0,mmd2_std.upper<=0.10"

_SIGN = re.compile(r"([<>=!≤≥]+)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_P_VALUE = re.compile(r"(^|[._])p([._]|$)|p[-_ ]?val", re.IGNORECASE)


class Outcome(StrEnum):
    """What became of a condition; a gate passes where all of its conditions passed."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDABLE = "undecidable"


@dataclass(frozen=True)
class Condition:
    """One comparison, such as `mmd2_std.upper<=0.1`.

    Attributes:
        quantity: a key of `QUANTITIES`.
        end: `lower` or `upper`.
        operator: a key of `OPERATORS`.
        threshold: finite, in the quantity's unit.
    """

    quantity: str
    end: str
    operator: str
    threshold: float

    @property
    def name(self) -> str:
        """What is compared, such as `mmd2_std.upper`."""
        return f"{self.quantity}.{self.end}"

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.threshold!r}"


@dataclass(frozen=True)
class Observed:
    """The interval of one quantity in a check.

    Attributes:
        lower, upper: its ends; None where there is none.
        level: its nominal coverage.
        absent_reason: why there is no interval.
        remarks: what limits its meaning.
    """

    lower: float | None = None
    upper: float | None = None
    level: float | None = None
    absent_reason: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """A condition and what became of it.

    Attributes:
        condition: what was asked.
        outcome: what became of it.
        observed: the end of the interval; None where it is absent.
        level: the interval's nominal coverage; None where it is absent.
        remarks: why it is undecidable, and what limits its meaning.
    """

    condition: Condition
    outcome: Outcome
    observed: float | None
    level: float | None
    remarks: tuple[str, ...]


def parse_gate(texts: Sequence[str]) -> tuple[Condition, ...]:
    """The conditions of a gate: `NAME.END>=NUMBER` or `NAME.END<=NUMBER`, separated by commas.

    Args:
        texts: every `--gate` of a command; none of them gives no condition.

    Raises:
        BadOption: a text that is no gate, a p-value, or the same comparison twice.
    """
    found: dict[tuple[str, str], Condition] = {}
    for text in texts:
        for part in text.split(","):
            condition = _parse(part.strip())
            if (condition.name, condition.operator) in found:
                raise _refused(f"{condition.name}{condition.operator} is there twice", "keep one of the two thresholds")
            found[condition.name, condition.operator] = condition
    return tuple(found.values())


def decide(conditions: Sequence[Condition], observed: Mapping[str, Observed]) -> tuple[Decision, ...]:
    """What became of each condition; an end that is absent or not finite leaves it undecidable."""
    return tuple(_decide(c, observed.get(c.quantity, Observed())) for c in conditions)


def passed(decisions: Sequence[Decision]) -> bool:
    """Whether a gate holds: every condition passed, and there is one."""
    return bool(decisions) and all(decision.outcome is Outcome.PASSED for decision in decisions)


def _decide(condition: Condition, observed: Observed) -> Decision:
    end = observed.lower if condition.end == "lower" else observed.upper
    if end is None or not math.isfinite(end):
        missing = observed.absent_reason or "the check gives no interval of it"
        reason = missing if end is None else "the end of the interval is not a finite number"
        return Decision(condition, Outcome.UNDECIDABLE, None, None, (reason, *observed.remarks))
    holds = OPERATORS[condition.operator](end, condition.threshold)
    outcome = Outcome.PASSED if holds else Outcome.FAILED
    return Decision(condition, outcome, end, observed.level, observed.remarks)


def _parse(text: str) -> Condition:
    name, sign, number = (part.strip() for part in (*_SIGN.split(text, maxsplit=1), "", "")[:3])
    _refuse_p_value(name)
    if not name or not sign:
        raise _refused(
            f"{text[:64]!r} is no condition",
            f"write conditions with commas between them, in quotes and with a decimal point, such as '{EXAMPLE}'",
        )
    quantity, end = _quantity_and_end(name)
    if sign not in OPERATORS:
        raise _refused(f"{name} is compared by {sign[:8]!r}", "compare by >= or <=, in quotes")
    if not _NUMBER.fullmatch(number) or not math.isfinite(float(number)):
        raise _refused(f"the threshold of {name} is {number[:64]!r}, no number", "write a number without unit, as 0.10")
    return Condition(quantity, end, sign, float(number))


def _refuse_p_value(name: str) -> None:
    if _P_VALUE.search(name):
        raise _refused(
            f"{name[:64]!r} is a p-value: it says only that a change between before and after can be detected, and "
            "almost any fine-tuning can be; it enters no gate",
            f"compare the end of an interval, such as '{EXAMPLE}'",
        )


def _quantity_and_end(name: str) -> tuple[str, str]:
    quantity, _, end = name.partition(".")
    if quantity not in QUANTITIES:
        raise _refused(f"{quantity[:64]!r} is unknown", f"choose one of {', '.join(QUANTITIES)}, each .lower or .upper")
    if not end:
        raise _refused(
            f"{quantity} is a value without its uncertainty, and a gate compares the ends of intervals alone",
            f"write {quantity}.lower or {quantity}.upper",
        )
    if end not in ENDS:
        raise _refused(f"{quantity} has no end {end[:64]!r}", f"write {quantity}.lower or {quantity}.upper")
    return quantity, end


def _refused(message: str, remedy: str) -> BadOption:
    return BadOption(message, field="--gate", remedy=remedy, reason="BAD_GATE")
