"""Progress bars of commands that work through many files or cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vfmalign.cli.views.output import Output


@contextmanager
def progress_bar(output: Output) -> Iterator[Callable[[str, int, int], None]]:
    """Shows a progress bar for `progress(stage, done, total)`, in files where they are scanned, and in cases."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=output.err, transient=True, disable=not output.err.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show_progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(f"{stage} {'files' if stage == 'scan' else 'cases'}", total=total)
            bars.update(tasks[stage], completed=done)

        yield show_progress
