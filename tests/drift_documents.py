"""Documents of drift monitors, for the tests of the page and of the command's tables."""

from __future__ import annotations

import math
from typing import Any

from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.reports.drift.document import (
    AlarmRecord,
    ChannelShift,
    Component,
    ComponentEvidence,
    DriftDocument,
    EvidencePoint,
    ExtremeRow,
    Peak,
    StratumMix,
    StratumRows,
    Window,
)

LOG_THRESHOLD: dict[Component, float] = {
    "rows": math.log(312.5),
    "blocks_of_4": math.log(500.0),
    "blocks_of_16": math.log(500.0),
    "channels": math.log(960_000.0),
}
"""Of the first epoch of a monitor of 768 channels with α = 0.01."""


def make_window(first: int, last: int, value: float, stratum: str = "", layer: str = "stages.3") -> Window:
    """A window with an interval of ±0.01, or without a value where it is NaN."""
    rows = {"first_row": first, "last_row": last, "rows": last - first + 1, "reference_rows": 133}
    if math.isnan(value):
        missing = absent("a comparison needs 8 rows on each side, and here the stream has 3 and the reference 40")
        return Window(layer=layer, stratum=stratum, mmd2=missing, p_value=missing, **rows)
    interval = Interval(lower=value - 0.01, upper=value + 0.01, level=0.95, method="", degenerate=value < 0.005)
    mmd2 = Estimate(value=value, interval=interval)
    return Window(layer=layer, stratum=stratum, mmd2=mmd2, p_value=Estimate(value=0.001), **rows)


def make_document(rows: int = 400, alarm_row: int | None = 231, **fields: Any) -> DriftDocument:
    """A stream of 400 rows with an alarm, or without one where `alarm_row` is None."""
    grown = 0.0 if alarm_row is None else 0.2
    history = tuple(
        EvidencePoint(
            row=row,
            log_evidence=(
                -0.002 * row + grown * max(0, row - 200),
                None if row < 4 else grown * max(0, row - 210),
                None if row < 16 else -0.001 * row,
                2.0 + 0.5 * grown * max(0, row - 205),
            ),
        )
        for row in range(1, rows + 1)
    )
    last = history[-1].log_evidence if history else (0.0, None, None, 0.0)
    # The evidence of rows is nearest to its threshold, at the end of a drift and at the beginning without one.
    highest = None if not history else history[-1 if grown else 0]
    content: dict[str, Any] = {
        "title": "february, test",
        "reference": "validated, test",
        "layer": "stages.3",
        "reference_rows": 200,
        "channels": 768,
        "alpha": 0.01,
        "seed": 0,
        "outcomes": {"entered": rows, "repeated_patient": 3, "reference_patient": 1, "not_finite": 0},
        "rows": rows,
        "alarm": None
        if alarm_row is None
        else AlarmRecord(row=alarm_row, observation="c-5f5b865d1efe1613", components=("rows",)),
        "components": tuple(
            ComponentEvidence(component=name, log_evidence=value, log_threshold=LOG_THRESHOLD[name])
            for name, value in zip(LOG_THRESHOLD, last, strict=True)
        ),
        "history": history,
        "peak": None
        if highest is None
        else Peak(row=highest.row, component="rows", log_evidence=highest.log_evidence[0] or 0.0),
        "mix": StratumMix(
            kind="scanner",
            strata=(
                StratumRows(name="A", reference=100, stream=200),
                StratumRows(name="B", reference=33, stream=200),
                StratumRows(name="", reference=0, stream=0),
            ),
        ),
        "window_rows": 100,
        "windows": (
            make_window(1, 100, -0.001),
            make_window(101, 200, 0.002),
            make_window(201, 300, 0.03),
            make_window(301, 400, 0.05),
            make_window(301, 400, 0.02, layer="stages.1"),
            make_window(150, 399, 0.004, "A"),
            make_window(201, 400, math.nan, "B"),
        ),
        "extreme_rows": tuple(
            ExtremeRow(row=300 + place, observation=f"c-5f5b865d1efe16{place:02}", p_value=0.002) for place in range(10)
        ),
        "moved_rows": 100,
        "channel_shifts": tuple(ChannelShift(channel=7 * n, shift_sd=1.0 - 0.1 * n, share=0.09) for n in range(10)),
        "notes": ("each row of the stream is assumed to be a patient of its own, because no table says otherwise",),
    }
    return DriftDocument(**(content | fields))
