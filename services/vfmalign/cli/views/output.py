"""Output of a command. The result goes to stdout, as tables or as one JSON document. All other text goes to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.formats.untrusted import to_printable

PIPE_WIDTH = 160
"""Columns if the output is not a terminal, where tables would otherwise be folded at 80."""


@dataclass(frozen=True)
class Output:
    """The two streams of a command.

    Attributes:
        as_json: whether stdout gets one JSON document instead of tables.
        out: stdout.
        err: stderr, for progress and notes.
        brief: leave out learning curves and the shorter stages, which reports also show.
    """

    as_json: bool
    out: Console
    err: Console
    brief: bool = False

    @classmethod
    def to_terminal(cls, *, as_json: bool = False, brief: bool = False) -> Output:
        """Returns an output that writes to stdout and stderr of the process."""
        return cls(as_json, _console(stderr=False), _console(stderr=True), brief)

    def emit(self, document: object, *renderables: RenderableType) -> None:
        """Writes the result: `document` with `--json`, else `renderables`."""
        if self.as_json:
            text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
            self.out.file.write(to_printable(text) + "\n")
            self.out.file.flush()
            return
        for part in renderables:
            self.out.print(part)

    def note(self, text: RenderableType, style: str = "") -> None:
        """Writes a note to stderr."""
        self.err.print(Text(to_printable(text), style=style) if isinstance(text, str) else text)

    def fail(
        self, error: VfmalignError, document: Mapping[str, object] | None = None, *renderables: RenderableType
    ) -> None:
        """Writes an error as two sentences: the cause and the remedy.

        With `--json`, the document also has a field `error`.

        Args:
            error: the error.
            document: partial result, which is written with `--json`.
            renderables: the same as tables.
        """
        self.emit({**(document or {}), **_to_document(error)}, *renderables)
        self.explain(error)

    def explain(self, error: VfmalignError) -> dict[str, object]:
        """Writes an error to stderr. Returns the error as a field of the document."""
        subject = f"{error.subject}: " if error.subject else ""
        message = to_printable(f"{subject}{error.message}")
        self.err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
        if error.remedy:
            self.err.print(Text.assemble(("  → ", "bold"), to_printable(error.remedy)), soft_wrap=True)
        return _to_document(error)


class _PrintableConsole(Console):
    """A console that escapes control characters in foreign text, which could send commands or reorder a line."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Converts a string to a text. Escapes the string before its width is measured."""
        return super().render_str(to_printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Renders an object, and escapes the terminal control characters in its texts."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else to_printable(text), style, control)


def _to_document(error: VfmalignError) -> dict[str, object]:
    fields = {"reason": error.reason, "subject": error.subject, "message": error.message, "remedy": error.remedy}
    return {"error": fields}


def _console(*, stderr: bool) -> Console:
    file = sys.stderr if stderr else sys.stdout
    # No markup: messages of services may contain brackets.
    width = None if file.isatty() else PIPE_WIDTH
    return _PrintableConsole(file=file, width=width, highlight=False, markup=False, emoji=False)
