"""Formatting of numbers for people, in reports and on terminals: digits, signs, intervals, a dash for absent values."""

from __future__ import annotations

import math
import re

from vfmalign.client.messages.checks import Steps
from vfmalign.client.messages.common import Estimate

ABSENT = "–"


def format_number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """Significant digits with a true minus sign; powers of ten for very small and very large values."""
    if value is None or not math.isfinite(value):
        return ABSENT
    sign = "+" if signed else ""
    if value != 0 and not 1e-4 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:{sign}.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "\u2212")
    decimals = digits - 1 if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:{sign}.{decimals}f}".replace("-", "\u2212")


def to_natural_order(name: str) -> list[str | int]:
    """Returns a key by which names sort with their numbers in order: `stages.2` before `stages.10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def format_correlation(value: float | None, digits: int = 2) -> str:
    """A number of a known range, such as a correlation, with a sign and a fixed number of decimals."""
    if value is None:
        return ABSENT
    return f"{round(value, digits) + 0.0:{'+' if round(value, digits) else ''}.{digits}f}".replace("-", "\u2212")


def format_p_value(value: float | None) -> str:
    """Two significant digits; powers of ten for very small values."""
    if value is None:
        return ABSENT
    mantissa, _, exponent = f"{value:#.2g}".partition("e")
    return mantissa + (f"e\u2212{-int(exponent)}" if exponent else "")


def format_value(estimate: Estimate) -> str:
    """The value of an estimate."""
    return format_number(estimate.value)


def format_interval(estimate: Estimate) -> str:
    """The interval of an estimate."""
    interval = estimate.interval
    return ABSENT if interval is None else f"{format_number(interval.lower)} to {format_number(interval.upper)}"


def format_steps(steps: Steps | None) -> str:
    """A number of steps, preceded by `>` where it is censored."""
    if steps is None or steps.value is None:
        return ABSENT
    return f"> {steps.value}" if steps.censored else str(steps.value)


def format_duration(seconds: float) -> str:
    """A duration in its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def to_text(name: str) -> str:
    """An identifier as text, with spaces in place of underscores; of a task's short form, the values of parameters."""
    kind, separator, parameters = name.replace("_", " ").partition(":")
    if not separator:
        return kind
    return f"{kind}: {', '.join(part.partition('=')[2] or part for part in parameters.split(','))}"


def to_sentence(text: str) -> str:
    """Text with an initial capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")


def join_notes(*notes: str) -> str:
    """Notes that are not empty, each once."""
    return "; ".join(dict.fromkeys(filter(None, notes)))
