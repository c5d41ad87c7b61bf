"""HTML page of a monitor: a single self-contained file without scripts or links."""

from __future__ import annotations

from vfmalign.reports.drift import figures, wording
from vfmalign.reports.drift.document import COMPONENT_LABELS, DriftDocument
from vfmalign.reports.templating import load_template


def render(document: DriftDocument) -> bytes:
    """Renders the page as UTF-8 HTML."""
    html = load_template("drift.html.j2", {"power": wording.format_power, "stratum": wording.name_stratum}).render(
        d=document,
        verdict=wording.write_verdict(document),
        strength=wording.describe_strength(document),
        changes=wording.list_changes(document),
        limit=wording.describe_limit(document),
        reached=wording.list_reached(document),
        labels=COMPONENT_LABELS,
        evidence=figures.draw_evidence(document) if document.history else None,
        windows=figures.draw_windows(document),
        windows_note=wording.WINDOWS_NOTE,
    )
    return html.encode()
