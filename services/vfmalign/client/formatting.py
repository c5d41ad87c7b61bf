"""Formats numbers for reports and terminals: digits, signs, intervals, and a dash for absent values."""

from __future__ import annotations

import math
import re

from vfmalign.client.messages.checks import Steps
from vfmalign.client.messages.common import Estimate

ABSENT = "–"


def format_number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """Formats a number with significant digits and a true minus sign. Extreme values are written as powers of ten."""
    if value is None or not math.isfinite(value):
        return ABSENT
    sign = "+" if signed else ""
    if value != 0 and not 1e-4 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:{sign}.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "\u2212")
    decimals = digits - 1 if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:{sign}.{decimals}f}".replace("-", "\u2212")


def to_natural_order(name: str) -> list[str | int]:
    """Returns a sort key that compares the numbers in names as numbers: `stages.2` comes before `stages.10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def format_correlation(value: float | None, digits: int = 2) -> str:
    """Formats a number of a known range, such as a correlation, with a sign and a fixed number of decimals."""
    if value is None:
        return ABSENT
    return f"{round(value, digits) + 0.0:{'+' if round(value, digits) else ''}.{digits}f}".replace("-", "\u2212")


def format_p_value(value: float | None) -> str:
    """Formats a p-value with two significant digits. Very small values are written as powers of ten."""
    if value is None:
        return ABSENT
    mantissa, _, exponent = f"{value:#.2g}".partition("e")
    return mantissa + (f"e\u2212{-int(exponent)}" if exponent else "")


def format_value(estimate: Estimate) -> str:
    """Formats the value of an estimate."""
    return format_number(estimate.value)


def format_interval(estimate: Estimate) -> str:
    """Formats the interval of an estimate."""
    interval = estimate.interval
    return ABSENT if interval is None else f"{format_number(interval.lower)} to {format_number(interval.upper)}"


def format_steps(steps: Steps | None) -> str:
    """Formats a number of steps; puts `>` before a censored number."""
    if steps is None or steps.value is None:
        return ABSENT
    return f"> {steps.value}" if steps.censored else str(steps.value)


def format_duration(seconds: float) -> str:
    """Formats a duration in its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def name_difference(other: str, *, higher_is_better: bool) -> str:
    """Names the difference of your model's score and another score, in the order in which above 0 is better."""
    return f"your model minus {other}" if higher_is_better else f"{other} minus your model"


def to_text(name: str) -> str:
    """Converts an identifier to text: replaces underscores by spaces, and removes the names of a task's parameters.

    Only the name of `at_least` is kept, because its value is a number.
    """
    kind, separator, parameters = name.replace("_", " ").partition(":")
    if not separator:
        return kind
    named = [part if part.startswith("at least") else part.partition("=")[2] or part for part in parameters.split(",")]
    return f"{kind}: {', '.join(named)}".replace("=", " ")


def to_sentence(text: str) -> str:
    """Converts a text to a sentence, with an initial capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")


def join_notes(*notes: str) -> str:
    """Joins notes, but omits empty and repeated notes."""
    return "; ".join(dict.fromkeys(filter(None, notes)))
