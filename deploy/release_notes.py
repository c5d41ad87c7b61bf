"""Print the notes of a release: `python deploy/release_notes.py v0.1.0`.

They are the section of CHANGELOG.md for the version. The command fails unless the tag names the version in
pyproject.toml and the section has the date of the release, as in `## 0.1.0 (2026-12-01)`.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def get_notes(tag: str, version: str, changelog: str) -> str:
    """Returns the section of a version.

    Args:
        tag: tag of the release.
        version: version of the project.
        changelog: text of CHANGELOG.md.

    Raises:
        ValueError: the tag is another one, or the changelog has no dated section.
    """
    if tag != f"v{version}":
        raise ValueError(f"The tag {tag} is not v{version}. Set the version in pyproject.toml, or push the other tag.")
    section = re.search(
        rf"^## {re.escape(version)} \(([^)\n]+)\)\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    if section is None:
        raise ValueError(f"CHANGELOG.md has no section for {version}. Add one.")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", section[1]):
        raise ValueError(f"The section for {version} is {section[1]}. Replace this by the date of the release.")
    return section[2].strip()


def main() -> None:
    """Prints the notes for the tag on the command line, or ends with one sentence and exit code 1."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    try:
        print(get_notes(sys.argv[1], version, (ROOT / "CHANGELOG.md").read_text()))
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
