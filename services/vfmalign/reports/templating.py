"""The Jinja environment of all HTML reports, with the filters that format numbers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import jinja2

from vfmalign.client.formatting import (
    ABSENT,
    format_correlation,
    format_interval,
    format_number,
    format_p_value,
    format_steps,
    format_value,
    to_sentence,
    to_text,
)
from vfmalign.core.formats.untrusted import to_printable

_FILTERS: Mapping[str, Callable[..., Any]] = {
    "architecture": lambda text: text.partition(":")[0],  # its description may be pages of JSON
    "grouped": lambda value: f"{value:,}".replace(",", "\u202f") if value < 1e12 else f"{value:.2g}",
    "interval": format_interval,
    "moment": lambda value: value.strftime("%d %B %Y, %H:%M UTC"),
    "number": format_number,
    "p": format_p_value,
    "rho": format_correlation,
    "seconds": lambda value: ABSENT if value is None else f"{value:.1f}",
    "sentence": to_sentence,
    "steps": format_steps,
    "text": to_text,
    "upper_first": lambda text: f"{text[:1].upper()}{text[1:]}",
    "value": format_value,
}


def _clean(value: Any) -> Any:
    """Escapes characters that could reorder or hide text; leaves markup unchanged."""
    return type(value)(to_printable(value)) if isinstance(value, str) else value


def load_template(name: str, filters: Mapping[str, Callable[..., Any]] | None = None) -> jinja2.Template:
    """Loads a report's template.

    Undefined variables raise an error. All values are escaped, so that they cannot reorder or hide text.

    Args:
        name: file in `reports/templates`.
        filters: filters that only this report needs. These filters are added to the common filters.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vfmalign.reports"),
        autoescape=True,
        finalize=_clean,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {**_FILTERS, **(filters or {})}
    return environment.get_template(name)


def to_data_url(media_type: str, data: bytes) -> str:
    """Returns the data as a `data:` URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
