"""Progress bars of commands that work through many files or cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vfmalign.cli.views.output import Output

_UNITS = {"scan": "files", "download": "studies"}


@contextmanager
def progress_bar(output: Output) -> Iterator[Callable[[str, int, int], None]]:
    """Shows a progress bar for `progress(stage, done, total)`.

    It counts files where they are scanned, studies where they are downloaded, and cases otherwise. The stage `receive`,
    in bytes, is shown beside the downloaded studies. A stage that begins without a total is shown by its name alone.
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

        yield show_progress
