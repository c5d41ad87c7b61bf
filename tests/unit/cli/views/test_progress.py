"""Progress bars: what a terminal shows while nothing is counted yet."""

from __future__ import annotations

import io

from rich.console import Console

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
