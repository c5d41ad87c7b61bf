"""Where a command's words go: its result on stdout, as tables or as one JSON document; all else on stderr.

Knows consoles. Knows nothing of what is shown.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from vfmalign.core.domain.errors import VfmalignError

PIPE_WIDTH = 160
"""Columns where the output is no terminal: tables shall not be folded at 80 then."""


@dataclass(frozen=True)
class Output:
    """A command's two ends.

    Attributes:
        as_json: one JSON document on stdout instead of tables.
        out: stdout.
        err: stderr, for progress and remarks.
    """

    as_json: bool
    out: Console
    err: Console

    @classmethod
    def to_terminal(cls, *, as_json: bool = False) -> Output:
        """The process's own stdout and stderr as they are now."""
        return cls(as_json, _console(stderr=False), _console(stderr=True))

    def emit(self, document: Any, *shown: RenderableType) -> None:
        """Writes the result: `document` with `--json`, else `shown`."""
        if self.as_json:
            self.out.file.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            self.out.file.flush()
            return
        for part in shown:
            self.out.print(part)

    def say(self, text: RenderableType, style: str = "") -> None:
        """One remark for the person at the terminal."""
        self.err.print(Text(text, style=style) if isinstance(text, str) else text)

    def fail(self, error: VfmalignError) -> None:
        """One sentence on what went wrong and one on what to do; with `--json` also as the document."""
        subject = f"{error.subject}: " if error.subject else ""
        self.err.print(Text.assemble(("error: ", "bold red"), f"{subject}{error.message}"), soft_wrap=True)
        if error.remedy:
            self.err.print(Text.assemble(("  → ", "bold"), error.remedy), soft_wrap=True)
        if self.as_json:
            fields = {"reason": error.reason, "subject": error.subject, "message": error.message}
            self.emit({"error": {**fields, "remedy": error.remedy}})


def _console(*, stderr: bool) -> Console:
    file = sys.stderr if stderr else sys.stdout
    # No markup: what services say may hold brackets.
    width = None if file.isatty() else PIPE_WIDTH
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)
