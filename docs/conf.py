"""Sphinx configuration of the documentation site: `make site`.

Pages are plain Markdown without directives, so that they also read well on a code host, and another theme is one line
here. Their links become the navigation. The source folder is the root of the repository, because pages link to files
outside docs/. docs/api-reference.md is not committed: `make site` generates it from the protos before it runs Sphinx.

Sphinx builds without network, and CPython and the Linux kernel depend on it. The last stable release of MkDocs, on
which Material for MkDocs builds, is of August 2024; Docusaurus and VitePress need Node.js.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONTENTS = ("docs/index", "docs/adr/README")
"""Pages whose links are the navigation: one group for each heading of level 2, and one for those before the first."""

project = "vfmalign"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "k8s/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
# Folders without pages. Sphinx would search the environment as well.
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in {"docs", "k8s"}]
myst_heading_anchors = 4
highlight_language = "text"

html_theme = "furo"
html_title = f"vfmalign {release}"
html_extra_path = ["site_root"]  # redirects / to the contents
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_use_index = False

_LINK = re.compile(r"\]\((?!https?:)([^)#]+\.md)\)")


def add_navigation(app: Any, page: str, source: list[str]) -> None:
    """Appends a table of contents for each group of links."""
    if page not in CONTENTS:
        return
    parts = re.split(r"^## (.+)$", source[0], flags=re.MULTILINE)
    for caption, text in zip(["", *parts[1::2]], parts[0::2], strict=True):
        if links := dict.fromkeys(_LINK.findall(text)):
            options = f":hidden:\n:caption: {caption}" if caption else ":hidden:"
            source[0] += "\n".join(["\n", "```{toctree}", options, "", *links, "```"])


def setup(app: Any) -> dict[str, bool]:
    """Registers the navigation with Sphinx."""
    app.connect("source-read", add_navigation)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
