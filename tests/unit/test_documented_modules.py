"""Modules, folders and imports that the pages of the documentation name exist in the repository."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "services/vfmalign"
BASES = (ROOT, ROOT / "services", PACKAGE)
"""Folders that a page may leave out of a path: `mmd/api.py` is `services/vfmalign/mmd/api.py`."""
FILES = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
FOLDERS = {path.split("/")[0] for path in FILES if "/" in path} | {
    one.name for one in PACKAGE.iterdir() if one.is_dir()
}
PROTOS = "\n".join(path.read_text() for path in (ROOT / "proto").rglob("*.proto"))
# `make site` generates the API reference, and the changelog names modules that a version removed.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "k8s/*.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name not in {"api-reference.md", "CHANGELOG.md"}
)


def list_unknown(page: str) -> list[str]:
    """Returns the modules that a page names in code spans, or imports in blocks of Python, and that do not exist."""
    unknown = []
    for token in MarkdownIt().enable("table").parse(page):
        if token.type == "fence" and token.info.strip() == "python":
            unknown += [name for name in _list_imports(token.content) if not _has_object(name)]
        spans = [child.content for child in token.children or () if child.type == "code_inline"]
        unknown += [word for span in spans for word in span.split() if not _exists(word)]
    return unknown


def _exists(word: str) -> bool:
    """Returns whether a word names something that exists, or is neither a path nor a module."""
    if found := re.fullmatch(r"\(?(vfmalign(?:\.\w+)+)[():,]*", word):
        return _has_object(found[1])
    if not re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", word) or "/" not in word:
        return True
    first, last = word.split("/", 1)[0], word.rstrip("/").rpartition("/")[2]
    is_folder_or_module = first in FOLDERS and "." not in last
    if not (last.endswith(".py") or is_folder_or_module):
        return True
    return any([*base.glob(word.rstrip("/")), *base.glob(f"{word}.py")] for base in BASES)


def _list_imports(code: str) -> Iterator[str]:
    """Yields the dotted names that a block imports from this package."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("vfmalign."))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vfmalign":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _has_object(name: str) -> bool:
    """Returns whether a dotted name is a module, an object in a module, or a name of the protos."""
    module, _, attribute = name.rpartition(".")
    if module == "vfmalign.v1" and re.search(rf"\b{attribute}\b", PROTOS):
        return True
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:  # its parent is no package
        pass
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_names_exists(page: str) -> None:
    assert list_unknown((ROOT / page).read_text()) == []


def test_paths_modules_and_imports_that_do_not_exist_are_found() -> None:
    page = """
`core/domain/tasks.py`, `services/vfmalign/core/domain/tasks.py`, `mmd/statistics/`, `mmd/api` and `tests/unit/*.py`,
`vfmalign.mmd.api`, `vfmalign.mmd.mmd_test()`, `(vfmalign.v1.bounds)`, `checks/<check>/report.json`, `reports/x.html`,
`core/domain/gone.py`, `services/vfmalign/gone.py`, `mmd/gone/`, `mmd/gone`, `tests/unit/*_gone.py`, `gone/module.py`,
`vfmalign.mmd.gone`, `vfmalign.gone.mmd` and `vfmalign.v1.Gone`.

```python
import vfmalign.gone
from vfmalign.client import Client, Gone
```
"""
    assert list_unknown(page) == [
        "core/domain/gone.py", "services/vfmalign/gone.py", "mmd/gone/", "mmd/gone", "tests/unit/*_gone.py",
        "gone/module.py", "vfmalign.mmd.gone", "vfmalign.gone.mmd", "vfmalign.v1.Gone",
        "vfmalign.gone", "vfmalign.client.Gone",
    ]  # fmt: skip
