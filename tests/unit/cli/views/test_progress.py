"""Progress: what a terminal shows while nothing is counted yet, and what a log has."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from vfmalign.cli.views import progress as module
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.progress import progress_bar


def test_a_stage_without_a_total_is_shown_by_its_name() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100)
    with progress_bar(Output(False, console, console)) as progress:
        progress("searching PACS hospital", 0, 0)
        progress("searching PACS hospital", 40, 40)
        progress("download", 1, 40)
    assert "searching PACS hospital " in text.getvalue()
    assert "hospital cases" not in text.getvalue()
    assert "download studies" in text.getvalue()


class Log(io.StringIO):
    """A file that says when it has two lines."""

    def __init__(self) -> None:
        super().__init__()
        self.has_lines = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.getvalue().count("\n") >= 2:
            self.has_lines.set()
        return written


def test_a_log_has_lines_also_while_nothing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_S", 0.01)
    log = Log()
    console = Console(file=log, width=100)
    with progress_bar(Output(False, console, console)) as progress:
        progress("scan", 100, 100)
        progress("validate", 12, 36)
        assert log.has_lines.wait(60)
    lines = log.getvalue().splitlines()
    assert lines[-1].startswith("validate cases: 12 of 36, after ")


def test_a_short_command_leaves_nothing_in_a_log() -> None:
    log = io.StringIO()
    console = Console(file=log, width=100)
    with progress_bar(Output(False, console, console)) as progress:
        progress("scan", 100, 100)
    assert not log.getvalue()
