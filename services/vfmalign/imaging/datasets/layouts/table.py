"""Layout of a CSV file that lists the cases: one line per case, with paths relative to the file's folder.

Columns: `case` (required), `group` (the patient; by default the case), `split`, `image:ID` (one per modality, at least
one), `label:ID`, `class:ID`, `grade:ID`, `number:ID` and `stratum:ID`. In the last five columns, an empty cell means
that the value is unknown. Errors state the line.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from vfmalign.core.domain.datasets import MAX_CASES, Split, StratumValue
from vfmalign.core.domain.declarations import MAX_GRADE, DatasetDeclaration, VolumeKind
from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.datasets.layouts.derivation import declare, derive_label_maps
from vfmalign.imaging.datasets.layouts.sources import OUTSIDE, CaseSource, SourceDataset, VolumeFile, resolve_below

MAX_BYTES = 256 * 2**20
MAX_COLUMNS = 256
MAX_CELL = 1_024
_PLAIN = ("case", "group", "split")
_PREFIXES = ("image", "label", "class", "grade", "number", "stratum")
_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_GRADES = {str(grade): grade for grade in range(MAX_GRADE + 1)}
_FORMULA = ("=", "+", "-", "@")
_SPLITS: Mapping[str, Split] = {str(name): name for name in get_args(Split)}
_STRATUM: TypeAdapter[str] = TypeAdapter(StratumValue)
_ID: TypeAdapter[str] = TypeAdapter(VolumeKind)
_FIELD = "the CSV"


@dataclass(frozen=True)
class _Header:
    """Columns of a table: the name of each, and the ids of each kind in order."""

    names: Sequence[str]
    ids: Mapping[str, Sequence[VolumeKind]]


def matches(path: Path) -> bool:
    """Returns whether a path is a CSV file, or a folder with one CSV file with the columns `case` and `image:ID`."""
    return path.suffix.lower() == ".csv" if path.is_file() else bool(_find_tables(path))


def read(path: Path, declaration: DatasetDeclaration | None) -> SourceDataset:
    """Finds the cases.

    Without a declaration, the column headers define the modalities, label maps, classes and grades.

    Raises:
        BadDataset: the file is too large, is not CSV, or has an invalid header.
        OSError: it cannot be read.
    """
    if not path.is_file():
        tables = _find_tables(path)
        if len(tables) != 1:
            raise BadDataset(
                f"there are {len(tables)} CSV files with the columns case and image:ID",
                field="directory",
                remedy="name the CSV file itself",
            )
        path = tables[0]
    lines = _read_lines(path)
    header = _parse_header(next(lines, (0, []))[1])
    if declaration is not None:
        _check_columns(header, declaration)
    cases: list[CaseSource] = []
    for number, cells in lines:
        if len(cases) == MAX_CASES:
            raise BadDataset(f"more than {MAX_CASES} lines", subject=_FIELD, remedy="import several datasets")
        cases.append(_to_case(path.parent, number, cells, header))
    cases = _check_repeated(cases)
    if declaration is not None:
        return SourceDataset(declaration, cases)
    derived = derive_label_maps(cases, header.ids["label"])
    declaration = declare("dataset", header.ids["image"], derived.maps, header.ids["class"], header.ids["grade"])
    return SourceDataset(declaration, cases, derived.notes)


def _find_tables(folder: Path) -> list[Path]:
    tables = []
    for path in sorted(path for path in folder.iterdir() if path.suffix == ".csv" and path.is_file()):
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                names = next(csv.reader([file.readline(MAX_COLUMNS * MAX_CELL)]), [])
        except (ValueError, csv.Error):
            continue
        if "case" in names and any(name.startswith("image:") for name in names):
            tables.append(path)
    return tables


def _read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Lines with their numbers, without empty ones. A byte order mark is skipped."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadDataset(f"larger than {MAX_BYTES // 2**20} MiB", subject=_FIELD, remedy="import several datasets")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
    except (UnicodeError, csv.Error):
        raise BadDataset("it cannot be read as CSV in UTF-8", subject=_FIELD, remedy="export it again") from None


def _parse_header(names: Sequence[str]) -> _Header:
    remedy = "name the columns case, group, split, image:ID, label:ID, class:ID, grade:ID, number:ID or stratum:ID"
    ids: dict[str, list[VolumeKind]] = {prefix: [] for prefix in _PREFIXES}
    if len(names) > MAX_COLUMNS or len(set(names)) != len(names):
        raise BadDataset(
            f"the header repeats a column, or has more than {MAX_COLUMNS}", subject=_FIELD, remedy="correct the header"
        )
    if len(names) == 1 and any(mark in names[0] for mark in (";", "\t")):
        raise BadDataset(
            "the header has one column, which holds `;` or tabs", subject=_FIELD, remedy="separate the cells by commas"
        )
    for place, name in enumerate(names, start=1):
        prefix, _, text = name.partition(":")
        if name in _PLAIN:
            continue
        try:
            ids[prefix].append(_ID.validate_python(text))
        except (KeyError, ValidationError):
            raise BadDataset(f"column {place} is unknown", subject=_FIELD, remedy=remedy) from None
    if "case" not in names or not ids["image"]:
        raise BadDataset("the column `case` or a column `image:ID` is missing", subject=_FIELD, remedy=remedy)
    return _Header(names, ids)


def _check_columns(header: _Header, declaration: DatasetDeclaration) -> None:
    stated = tuple(entry.name for entry in declaration.classes if not entry.label)
    graded = tuple(entry.name for entry in declaration.grades)
    columns = {"image": declaration.modalities, "label": declaration.label_names, "class": stated, "grade": graded}
    for prefix, declared in columns.items():
        if undeclared := [name for name in header.ids[prefix] if name not in declared]:
            raise BadDataset(
                f"the column {prefix}:{undeclared[0]} is not declared",
                subject=_FIELD,
                remedy="declare it, or remove the column",
            )
    if missing := [kind for kind in declaration.modalities if kind not in header.ids["image"]]:
        raise BadDataset(f"there is no column image:{missing[0]}", subject=_FIELD, remedy="add it")


def _to_case(root: Path, number: int, cells: Sequence[str], header: _Header) -> CaseSource:
    place = f"line {number}"
    if len(cells) != len(header.names):
        return CaseSource("", "", {}, problems=(f"{len(cells)} cells, expected {len(header.names)}",), place=place)
    row = dict(zip(header.names, cells, strict=True))
    problems = [f"{name}: {problem}" for name, cell in row.items() if (problem := _check_cell(name, cell))]
    if problems:
        return CaseSource("", "", {}, problems=tuple(problems), place=place)
    files: dict[VolumeKind, VolumeFile] = {}
    for prefix in ("image", "label"):
        for kind in header.ids[prefix]:
            path, problem = _find_file(root, row[f"{prefix}:{kind}"], required=prefix == "image")
            if path is not None:
                files[kind] = VolumeFile(path)
            if problem:
                problems.append(f"{prefix}:{kind}: {problem}")
    return CaseSource(
        row["case"],
        row.get("group") or row["case"],
        files,
        split=_SPLITS.get(row.get("split", "")),
        classes={name: _TRUTH[cell.lower()] for name in header.ids["class"] if (cell := row[f"class:{name}"])},
        grades={name: _GRADES[cell] for name in header.ids["grade"] if (cell := row[f"grade:{name}"])},
        numbers={name: float(cell) for name in header.ids["number"] if (cell := row[f"number:{name}"])},
        strata={name: cell for name in header.ids["stratum"] if (cell := row[f"stratum:{name}"])},
        problems=tuple(problems),
        place=place,
    )


def _check_cell(name: str, cell: str) -> str | None:
    """Returns the problem of a cell; None if it is valid."""
    prefix = name.partition(":")[0]
    if len(cell) > MAX_CELL or not cell.isprintable():
        return f"not printable, or longer than {MAX_CELL} characters"
    if not cell:
        return "empty" if prefix in {"case", "image"} else None
    if prefix == "number":
        return None if _is_number(cell) else "not a finite number"
    if cell.startswith(_FORMULA):
        return f"begins like a spreadsheet formula ({' '.join(_FORMULA)})"
    if prefix == "class" and cell.lower() not in _TRUTH:
        return "not 1, true, yes, 0, false or no"
    if prefix == "grade" and cell not in _GRADES:
        return f"not a whole number from 0 to {MAX_GRADE}"
    if name == "split" and cell not in _SPLITS:
        return f"not one of {', '.join(_SPLITS)}"
    return _check_stratum(cell) if prefix == "stratum" else None


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _check_stratum(cell: str) -> str | None:
    try:
        _STRATUM.validate_python(cell)
    except ValidationError:
        return "not 1 to 64 printable characters that begin with a letter or digit"
    return None


def _find_file(root: Path, cell: str, *, required: bool) -> tuple[Path | None, str | None]:
    """The file of a cell, or the problem of the cell."""
    if not cell and not required:
        return None, None
    path = resolve_below(root, cell)
    if path is None:
        return None, OUTSIDE
    return (path, None) if path.is_file() else (None, "the file does not exist")


def _check_repeated(cases: Sequence[CaseSource]) -> list[CaseSource]:
    """Adds a problem to lines that repeat a case, and to lines without a split if other lines have one."""
    counts = Counter(case.name for case in cases if case.name)
    stated = any(case.split is not None for case in cases)
    result = []
    for case in cases:
        problems = list(case.problems)
        if counts[case.name] > 1:
            problems.append("another line has the same case")
        if stated and case.split is None and not case.problems:
            problems.append("split: empty, although other lines have one")
        result.append(replace(case, problems=tuple(problems)))
    return result
