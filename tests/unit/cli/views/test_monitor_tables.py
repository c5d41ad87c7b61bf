"""Monitors as the command line lists them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from tests.monitor_records import make_monitor

from vfmalign.cli.views.monitor_tables import list_monitors

PARTS = ("since row", "acknowledged", "active", "2026-03-03")


@pytest.mark.parametrize("monitor_id", ["lesions", "prostate-3t-vida-north-wing-02", "m" * 80])
def test_a_list_shows_alarms_and_last_observations_on_a_narrow_terminal(monitor_id: str) -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(list_monitors([make_monitor(monitor_id=monitor_id), make_monitor(alarm=False)]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in text.splitlines())
    for part in PARTS:
        assert part in text
    assert monitor_id[:12] in text
    if len(monitor_id) <= 30:
        assert monitor_id in text, "an id can be copied"
