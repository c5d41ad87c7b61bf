"""The diagrams of the documentation are those that this version draws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("architecture.svg", "check.svg", "experiment.svg")
SVG = "{http://www.w3.org/2000/svg}"


def test_the_diagrams_are_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "docs/pictures/diagrams.py"), str(tmp_path)], check=True)
    drawn = sorted(tmp_path.iterdir())
    assert [path.name for path in drawn] == list(NAMES)
    for path in drawn:
        assert path.read_text() == (ROOT / "docs/images" / path.name).read_text(), "run `make diagrams`"


def test_a_diagram_says_in_words_what_it_shows() -> None:
    for name in NAMES:
        root = ElementTree.parse(ROOT / "docs/images" / name).getroot()
        assert root.attrib["role"] == "img"
        named = {root.find(f"{SVG}{tag}").attrib["id"]: root.find(f"{SVG}{tag}").text for tag in ("title", "desc")}
        assert set(root.attrib["aria-labelledby"].split()) == set(named)
        assert all(named.values())
        width, height = (int(root.attrib[side]) for side in ("width", "height"))
        for box in root.iter(f"{SVG}rect"):
            right = int(box.attrib.get("x", 0)) + int(box.attrib["width"])
            bottom = int(box.attrib.get("y", 0)) + int(box.attrib["height"])
            assert right <= width, box.attrib
            assert bottom <= height, box.attrib
