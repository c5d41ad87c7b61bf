"""Compares the size of the repository with the ceilings in budget.toml: `make check`.

Usage: python -m tests.budget [--write]

`--write` sets every ceiling to the present size. A ceiling may rise only in the commit that adds a capability, whose
message names it.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.command_options import count_options

ROOT = Path(__file__).parents[1]
BUDGET = ROOT / "budget.toml"
_HEADER = """# Ceilings of the size of the repository, which `make check` compares with it (CONTRIBUTING.md).
# code: lines with code by package, without docstrings, comments, blank lines and generated files.
# words: of the documents that are written by hand.
# `python -m tests.budget --write` sets every ceiling to the present size.
"""
_GENERATED = ("v1", "generated")
# `make site` generates the first one, which is not committed.
_REFERENCES = ("api-reference.md", "settings-reference.md", "metrics-reference.md", "audit-reference.md")
_NO_CODE = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.COMMENT}

Sizes = dict[str, dict[str, int]]


def measure() -> Sizes:
    """Returns every size, by section and name."""
    code = Counter[str]()
    for package, path in _list_modules():
        code[package] += count_code_lines(path.read_text())
    interface = {
        "options": count_options(),
        "settings": (ROOT / "docs/settings-reference.md").read_text().count("\n| `VFMALIGN_"),
    }
    pages = {path: len(path.read_text().split()) for path in (ROOT / "docs").rglob("*.md")}
    records = sum(words for path, words in pages.items() if path.parent.name == "adr")
    words = {
        "guides": sum(words for path, words in pages.items() if path.name not in _REFERENCES) - records,
        "records": records,
        "longest_page": max(words for path, words in pages.items() if path.name not in _REFERENCES),
    }
    return {"code": dict(sorted(code.items())), "interface": interface, "words": words}


def _list_modules() -> Iterator[tuple[str, Path]]:
    """Yields the package and path of every module that is written by hand."""
    services = ROOT / "services/vfmalign"
    for path in services.rglob("*.py"):
        parts = path.relative_to(services).parts
        if len(parts) > 1 and not set(parts).intersection(_GENERATED):
            yield parts[0], path
    for path in (ROOT / "bench").rglob("*.py"):
        yield "bench", path


def count_code_lines(source: str) -> int:
    """Returns the number of lines that hold code."""
    strings = (
        node.body[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    )
    described = {line for one in strings for line in range(one.lineno, (one.end_lineno or one.lineno) + 1)}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    held = {
        line for one in tokens if one.type not in _NO_CODE for line in range(one.start[0], one.end[0] + 1)
    }  # fmt: skip
    return len(held - described)


def compare(sizes: Sizes, ceilings: Sizes) -> list[str]:
    """Returns a sentence for each size that is above its ceiling, or that has none."""
    names = sorted({(section, name) for kind in (sizes, ceilings) for section in kind for name in kind[section]})
    problems = []
    for section, name in names:
        size, ceiling = sizes.get(section, {}).get(name), ceilings.get(section, {}).get(name)
        if size is None:
            problems.append(f"budget.toml: [{section}] {name} is no longer there: remove the line")
        elif ceiling is None:
            problems.append(f"budget.toml: [{section}] has no line for {name}, which has {size:,}")
        elif size > ceiling:
            problems.append(
                f"budget.toml: [{section}] {name} is {size:,}, and its ceiling is {ceiling:,}: remove something, or "
                "raise the ceiling in the commit that adds the capability, and name it there"
            )
    return problems


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.budget", description="Compare sizes with budget.toml.")
    parser.add_argument("--write", action="store_true", help="set every ceiling to the present size")
    sizes = measure()
    if parser.parse_args().write:
        tables = ("\n".join([f"[{section}]", *(f"{n} = {v}" for n, v in sizes[section].items())]) for section in sizes)
        BUDGET.write_text(_HEADER + "\n" + "\n\n".join(tables) + "\n")
        return 0
    problems = compare(sizes, tomllib.loads(BUDGET.read_text()))
    for sentence in problems or ["sizes are within budget.toml"]:
        print(sentence)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
