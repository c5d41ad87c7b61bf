"""Finds ids of patients in the logs of services that a test run has started."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

MADE_IDS = re.compile(r"\b(?:case|patient|group)-\d+|\bphantom-\d+-\d+")
"""Ids of cases and groups that tests and phantoms make. Imports draw ids; the mapping files list them."""
_HEX_ID = re.compile(r"\b[0-9a-f]{16}\b")


def find_patient_lines(folder: Path) -> list[str]:
    """Returns the log lines of services below the folder that contain the id of a case or a group."""
    imported = _list_imported_ids(folder)
    lines = ((path, line) for path in folder.rglob("*.log") for line in path.read_text(errors="replace").splitlines())
    return [
        f"{path.relative_to(folder)}: {line}"
        for path, line in lines
        if (MADE_IDS.search(line) or not imported.isdisjoint(_HEX_ID.findall(line))) and _is_of_service(line)
    ]


def _list_imported_ids(folder: Path) -> set[str]:
    """Returns the ids in the mapping files of all imports below the folder."""
    ids = set()
    for path in folder.rglob("private/mapping.csv"):
        with path.open(newline="", errors="surrogateescape") as file:
            for row in csv.DictReader(file):
                ids |= {row["case"], row["group"]}
    return ids - {"", None}


def _is_of_service(line: str) -> bool:
    """Whether a line is a service's JSON object, and not output of the S3 server or of a command."""
    try:
        return line.startswith("{") and "service" in json.loads(line)
    except ValueError:
        return False
