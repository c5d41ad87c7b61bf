"""Shell commands of the documentation: the fenced blocks and the code spans of a page.

Commands run as a reader would type them, with these programs replaced (`programs`): `make` only prints what
it would do, `vfmalign` only parses its arguments, and `docker` does all that it does before it calls its daemon.
`kubectl` is the real program, on an emulated cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt
from tests.k8s.rendering import ROOT

PAGES = ("docs/operations.md", "docs/runbooks.md", "k8s/README.md")
PROGRAMS = ("docker", "export", "k8s/overlays/local/credentials.sh", "kind", "kubectl", "make", "python", "vfmalign")
"""What a command may begin with."""

_SHELLS = {"", "bash", "sh", "shell", "console"}
_NAMES_A_PROGRAM = re.compile(r"(docker|kubectl)( [a-z]+)?")


@dataclass(frozen=True)
class Block:
    """Commands that are run together.

    Attributes:
        page: path of the page in the repository.
        line: number of its first line there; of its paragraph's for a code span.
        script: the commands.
    """

    page: str
    line: int
    script: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def list_blocks(page: str, text: str | None = None) -> list[Block]:
    """Returns the commands of a page, in order."""
    text = (ROOT / page).read_text() if text is None else text
    return [Block(page, line, script) for line, script in _find_scripts(text)]


def list_comments() -> list[Block]:
    """Returns the commands in comments of the manifests."""
    blocks = []
    for path in sorted((ROOT / "k8s").rglob("*.yaml")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if found := re.match(r"#(?:.*:)?\s+((?:kubectl|k8s/)\S*\s.*)", line):
                blocks.append(Block(str(path.relative_to(ROOT)), number, found[1]))
    return blocks


def _find_scripts(text: str) -> Iterator[tuple[int, str]]:
    for token in MarkdownIt().enable("table").parse(text):
        if token.type == "fence" and token.info.strip() in _SHELLS:
            yield (token.map or [0])[0] + 1, token.content
        for child in token.children or ():
            if child.type == "code_inline" and (script := _to_command(child.content)):
                yield (token.map or [0])[0] + 1, script


def _to_command(span: str) -> str:
    """Returns the command in a code span; a span that only names a program or its subcommand asks for its help."""
    if _NAMES_A_PROGRAM.fullmatch(span):
        return f"{span} --help"
    return span if span.startswith(tuple(f"{program} " for program in PROGRAMS)) else ""
