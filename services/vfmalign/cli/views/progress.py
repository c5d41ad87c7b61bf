"""Progress of commands that process many files or cases: bars on a terminal, lines without a terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vfmalign.cli.views.output import Output

LINE_S = 30.0
"""Seconds between two lines of progress if the output is not a terminal."""
_UNITS = {"scan": "files", "download": "studies", "copy": "objects", "verify": "files", "restore": "files"}


@contextmanager
def progress_bar(output: Output) -> Iterator[Callable[[str, int, int], None]]:
    """Shows a progress bar for `progress(stage, done, total)`, or a line every `LINE_S` seconds without a terminal.

    The bar counts cases, unless `_UNITS` defines another unit. The bar of the stage `receive` counts bytes and is shown
    beside the bar of the downloaded studies. If a stage begins without a total, only its name is shown.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=output.err, transient=True, disable=not output.err.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show_progress(stage: str, done: int, total: int) -> None:
            name = "download" if stage == "receive" else stage
            if name not in tasks:
                label = f"{name} {_UNITS.get(name, 'cases')}" if total or name in _UNITS else name
                tasks[name] = bars.add_task(label, total=None)
            if stage == "receive":
                bars.update(tasks[name], description=f"download studies, {done / 2**20:,.0f} MiB")
            else:
                bars.update(tasks[name], completed=done, total=total or None)

        with _printing_lines(bars, output):
            yield show_progress


@contextmanager
def _printing_lines(bars: Progress, output: Output) -> Iterator[None]:
    """Prints how far the last stage is while the block runs, also while nothing is reported; nothing on a terminal."""
    ended = threading.Event()

    def print_lines() -> None:
        while not ended.wait(LINE_S):
            for task in bars.tasks[-1:]:
                count = f": {task.completed:,.0f} of {task.total:,.0f}" if task.total else ""
                output.note(f"{task.description}{count}, after {task.elapsed or 0:,.0f} s")

    thread = threading.Thread(target=print_lines, daemon=True)
    if bars.disable:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if bars.disable:
            thread.join()
