"""A search for values that identify, in whatever a program leaves behind."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_ENCODINGS = ("utf-8", "latin-1", "iso2022_jp", "gb18030", "shift_jis", "utf-16-le")


def read_audit_events(logs: Path) -> dict[str, str]:
    """Returns the audit events in the logs of a stack, as text by the name of the method."""
    events: dict[str, str] = {}
    for line in (line for path in logs.glob("*.log") for line in path.read_text(errors="replace").splitlines()):
        if line.startswith('{"event":"audit"'):
            name = json.loads(line)["method"].rpartition("/")[2]
            events[name] = events.get(name, "") + line + "\n"
    return events


def find_marks(data: bytes, marks: Iterable[str]) -> set[str]:
    """Returns the marks that data hold, in any encoding that DICOM or a program would write, compressed or not."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    lower = data.lower()
    return {mark for mark in marks if any(form in lower for form in _encode(mark))}


def find_marks_in_files(folder: Path, marks: Iterable[str]) -> dict[str, set[str]]:
    """Returns the files below a folder whose name or content holds marks, with these; sockets are left out."""
    marks = tuple(marks)
    found = {}
    for path in folder.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        if here := find_marks(path.name.encode() + b"\n", marks) | find_marks(data, marks):
            found[path.relative_to(folder).as_posix()] = here
    return found


@cache
def _encode(mark: str) -> set[bytes]:
    forms = set()
    for encoding in _ENCODINGS:
        try:
            forms.add(mark.lower().encode(encoding).lower())
        except UnicodeEncodeError:
            continue
    return forms
