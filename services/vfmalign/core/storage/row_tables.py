"""Users' tables about the rows of .npy files: patients, observations, days and strata.

Errors never quote these tables, because the tables may contain patients' names.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from vfmalign.core.domain.errors import BadOption, InvalidInput
from vfmalign.core.formats.untrusted import describe_failure, read_regular_file

MAX_TABLE_BYTES = 256 * 2**20
MAX_NAME_LENGTH = 128
PATIENT, OBSERVATION, DAY = "patient", "observation", "day"


def read_table(path: Path, rows: int, field: str) -> dict[str, list[str]]:
    """Returns the columns of a CSV file with a header and one line for each row.

    Args:
        path: the file.
        rows: number of rows that the table must describe.
        field: its name in errors.

    Raises:
        BadOption: the file cannot be read.
        InvalidInput: the file is not a CSV file with these rows, a cell is too long, or a required cell is empty.
    """
    remedy = f"write a header with `{PATIENT}`, and a line for each row in the same order"
    try:
        text = read_regular_file(path, MAX_TABLE_BYTES).decode("utf-8-sig")
        header, *lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except FileNotFoundError:
        raise BadOption("there is no such file", field=field, remedy="check the path") from None
    except OSError as error:
        raise BadOption(describe_failure(error), field=field, remedy="check the file") from None
    except (ValueError, csv.Error):
        raise InvalidInput("it is not a CSV file in UTF-8", field=field, remedy=remedy) from None
    lines = [line for line in lines if line]
    if len(set(header)) != len(header) or PATIENT not in header:
        raise InvalidInput(f"its header lacks `{PATIENT}`, or has a name twice", field=field, remedy=remedy)
    if len(lines) != rows:
        raise InvalidInput(f"it has {len(lines):,} lines for {rows:,} rows", field=field, remedy=remedy)
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header) or max(map(len, line)) > MAX_NAME_LENGTH:
            problem = f"line {number} has another number of cells than the header, or one of more than 128 characters"
            raise InvalidInput(problem, field=field, remedy="correct this line")
    columns = {name: [line[place].strip() for line in lines] for place, name in enumerate(header)}
    for name in (PATIENT, OBSERVATION):
        if "" in columns.get(name, ()):
            place = columns[name].index("") + 2
            raise InvalidInput(f"line {place} has no {name}", field=field, remedy=f"give the {name} of every row")
    return columns


def parse_days(texts: Sequence[str], field: str) -> list[int]:
    """Converts ISO dates such as 2026-03-01 to numbers of days.

    Raises:
        InvalidInput: a text is not an ISO date.
    """
    days = []
    for number, text in enumerate(texts, start=2):
        try:
            days.append(date.fromisoformat(text).toordinal())
        except ValueError:
            raise InvalidInput(
                f"line {number} has no date in `{DAY}`", field=field, remedy="write dates as 2026-03-01"
            ) from None
    return days
