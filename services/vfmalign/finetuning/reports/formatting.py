"""How numbers are printed in a report: digits, signs, intervals, and a dash where there is none.

Knows estimates and steps. Knows nothing of HTML beyond addresses that hold their own data.
"""

from __future__ import annotations

import base64
import math

from vfmalign.finetuning.analysis.convergence import Steps
from vfmalign.finetuning.analysis.estimates import Estimate

ABSENT = "–"


def number(value: float | None) -> str:
    """Three significant digits, with a true minus sign; powers of ten where zeros would hide them."""
    if value is None:
        return ABSENT
    if value != 0 and not 1e-4 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "\u2212")
    digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}".replace("-", "\u2212")


def fixed(value: float | None, digits: int = 2) -> str:
    """A number of a known range with a fixed number of digits and a sign, such as a correlation."""
    if value is None:
        return ABSENT
    return f"{round(value, digits) + 0.0:{'+' if round(value, digits) else ''}.{digits}f}".replace("-", "\u2212")


def p_value(value: float | None) -> str:
    """Two significant digits; powers of ten where zeros would hide them."""
    if value is None:
        return ABSENT
    mantissa, _, exponent = f"{value:.2g}".partition("e")
    return mantissa + (f"e\u2212{-int(exponent)}" if exponent else "")


def value_of(estimate: Estimate) -> str:
    """An estimate's value."""
    return number(estimate.value)


def span(estimate: Estimate) -> str:
    """An estimate's interval."""
    interval = estimate.interval
    return ABSENT if interval is None else f"{number(interval.lower)} to {number(interval.upper)}"


def steps(found: Steps | None) -> str:
    """Steps, or that there were more."""
    if found is None or found.value is None:
        return ABSENT
    return f"> {found.value}" if found.censored else str(found.value)


def words(text: str) -> str:
    """A name in print."""
    return text.replace("_", " ")


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")


def data_url(kind: str, data: bytes) -> str:
    """An address that holds its own data."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
