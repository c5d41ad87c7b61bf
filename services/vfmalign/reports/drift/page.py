"""HTML page of a monitor: a single self-contained file without scripts or links."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vfmalign.reports.drift import figures, wording
from vfmalign.reports.drift.document import COMPONENT_LABELS, DriftDocument
from vfmalign.reports.templating import load_template

_FILTERS: dict[str, Callable[..., Any]] = {
    "acknowledgement": wording.describe_acknowledgement,
    "moment": wording.format_moment,
    "power": wording.format_power,
    "stratum": wording.name_stratum,
}


def render(document: DriftDocument) -> bytes:
    """Renders the page as UTF-8 HTML."""
    html = load_template("drift.html.j2", _FILTERS).render(
        d=document,
        cautions=wording.list_cautions(document),
        arrivals=wording.describe_arrivals(document),
        starts=wording.EPOCH_STARTS,
        verdict=wording.write_verdict(document),
        strength=wording.describe_strength(document),
        changes=wording.list_changes(document),
        limit=wording.describe_limit(document),
        assumption=wording.describe_assumption(document),
        reached=wording.list_reached(document),
        labels=COMPONENT_LABELS,
        evidence=figures.draw_evidence(document) if document.history else None,
        moved=wording.describe_moved_rows(document),
        windows=figures.draw_windows(document),
        windows_note=wording.WINDOWS_NOTE,
        first_note=wording.FIRST_NOTE,
        windows_age=wording.describe_windows_age(document),
    )
    return html.encode()
