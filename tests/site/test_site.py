"""The documentation site, as `make site` built it, holds every page and needs neither network nor missing files."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build/site"
INDEX = (ROOT / "docs/index.md").read_text()
GROUPS = ["Tutorial", "How-to guides", "Reference", "Explanation", "Project"]


class Page(HTMLParser):
    """What a page refers to, and what others can refer to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag != "a":
            self.resources += [values[name] for name in ("src", "href") if name in values]


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    return {path: Page(path) for path in SITE.rglob("*.html")}


def test_the_contents_list_every_page_of_docs() -> None:
    listed = set(re.findall(r"\]\(([^)]+\.md)\)", INDEX))
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").glob("*.md")}
    assert written - {"index.md"} <= listed
    decisions = set(re.findall(r"\]\(([^)]+\.md)\)", (ROOT / "docs/adr/README.md").read_text()))
    assert {path.name for path in (ROOT / "docs/adr").glob("*.md")} - {"README.md"} <= decisions


def test_the_contents_run_from_tutorial_to_explanation() -> None:
    assert re.findall(r"^## (.+)$", INDEX, re.MULTILINE) == GROUPS


def test_the_navigation_has_the_groups_of_the_contents() -> None:
    captions = re.findall(r'class="caption-text">([^<]+)<', (SITE / "docs/numbers.html").read_text())
    assert captions == GROUPS


def test_the_root_leads_to_the_contents(pages: dict[Path, Page]) -> None:
    assert pages[SITE / "index.html"].links == ["docs/index.html"]


def test_every_link_leads_to_a_file_and_an_element_of_the_site(pages: dict[Path, Page]) -> None:
    missing = []
    for path, page in pages.items():
        for link in (*page.links, *page.resources):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            fragment = unquote(parts.fragment)
            if not target.is_file() or (fragment and target.suffix == ".html" and fragment not in pages[target].ids):
                missing.append(f"{path.name}: {link}")
    assert len(pages) > 50
    assert missing == []


def test_pages_load_nothing_from_elsewhere(pages: dict[Path, Page]) -> None:
    elsewhere = [link for page in pages.values() for link in page.resources if urlsplit(link).netloc]
    assert elsewhere == []


def test_every_decision_has_a_number_of_its_own_and_a_row() -> None:
    pages = sorted(path.name for path in (ROOT / "docs/adr").glob("[0-9]*.md"))
    numbers = [name[:4] for name in pages]
    assert len(set(numbers)) == len(numbers)
    rows = re.findall(r"\[(\d{4})\]\((\S+)\)", (ROOT / "docs/adr/README.md").read_text())
    assert sorted(name for _, name in rows) == pages
    for number, name in rows:
        assert name.startswith(number)
        assert (ROOT / "docs/adr" / name).read_text().startswith(f"# {number}. ")


def test_code_has_copy_buttons_and_the_first_page_a_picture() -> None:
    tutorial, index = Page(SITE / "docs/tutorial.html"), Page(SITE / "docs/index.html")
    assert any("copybutton.js" in name for name in tutorial.resources)
    assert any(name.split("?")[0].endswith("report.png") for name in index.resources)
