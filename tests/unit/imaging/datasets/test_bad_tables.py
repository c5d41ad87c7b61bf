"""CSV files that cannot be imported: every problem is listed by its line, and no name is repeated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.imaging.datasets.brain_files import (
    BRAIN,
    lay_out_csv,
    list_rows,
    put,
    write_table,
)
from tests.unit.imaging.datasets.problems import CASES, NAME, TWO_CHANNELS, list_problems, run

from vfmalign.core.domain.declarations import CaseClass
from vfmalign.imaging.datasets.layouts import table


@given(text=st.text(alphabet=st.sampled_from('case,image:t1w\n";=@\r\0 \ufeffé'), max_size=60))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_csv_is_read_or_refused(tmp_path: Path, text: str) -> None:
    with (tmp_path / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        file.write("case,image:t1w\n" + text)
    list_problems(tmp_path / "cases.csv")


def rows_with(number: int, **cells: str) -> list[dict[str, str]]:
    columns = {
        "split": "train",
        "class:atrophy": "1",
        "grade:fazekas": "3",
        "number:age_years": "61.5",
        "stratum:scanner": "A 3T",
    }
    rows = [row | columns for row in list_rows(CASES)]
    rows[number] |= {name.replace("__", ":"): cell for name, cell in cells.items()}
    return rows


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"image__t1w": "files/surname.nii.gz"}, "line 3, c-.*: image:t1w: the file does not exist"),
        ({"image__t1w": ""}, "image:t1w: empty"),
        ({"image__t1w": "../secret.nii.gz"}, "image:t1w: the path leaves the folder"),
        ({"label__hippocampus": "/etc/passwd"}, "label:hippocampus: the path leaves the folder"),
        ({"case": "c0"}, "(?s)line 2, c-.*: another line has the same case.*line 3, c-.*: another line"),
        ({"case": ""}, "case: empty"),
        ({"case": "=SURNAME()"}, "case: begins like a spreadsheet formula"),
        ({"group": "@surname"}, "group: begins like a spreadsheet formula"),
        ({"group": "a\nb"}, "group: not printable"),
        ({"group": "a" * 2000}, "group: not printable, or longer than 1024"),
        ({"split": "holdout"}, "split: not one of pretrain, train, val, test"),
        ({"split": ""}, "split: empty, although other lines have one"),
        ({"group": f"{NAME}0", "split": "test"}, "one patient are in different splits .line 2, c-.*; line 3, c-"),
        ({"class__atrophy": "maybe"}, "class:atrophy: not 1, true, yes"),
        ({"grade__fazekas": "16"}, "grade:fazekas: not a whole number from 0 to 15"),
        ({"grade__fazekas": "1.5"}, "grade:fazekas: not a whole number from 0 to 15"),
        ({"grade__fazekas": "-1"}, "grade:fazekas: begins like a spreadsheet formula"),
        ({"number__age_years": "nan"}, "number:age_years: not a finite number"),
        ({"number__age_years": "inf"}, "number:age_years: not a finite number"),
        ({"number__age_years": "61,5"}, "number:age_years: not a finite number"),
        ({"number__age_years": "=1+1"}, "number:age_years: not a finite number"),
        ({"stratum__scanner": "a" * 65}, "stratum:scanner: not 1 to 64 printable"),
        ({"stratum__scanner": "-1+cmd|x"}, "stratum:scanner: begins like a spreadsheet formula"),
        ({"stratum__scanner": "(surname)"}, "stratum:scanner: not 1 to 64 printable"),
    ],
)
def test_bad_lines_of_a_csv(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    path = lay_out_csv(tmp_path / "d", CASES)
    write_table(path / "cases.csv", rows_with(1, **cells))
    text = list_problems(path)
    assert re.search(message, text), text


def test_a_line_without_a_split_is_the_only_problem(tmp_path: Path) -> None:
    path = lay_out_csv(tmp_path / "d", CASES)
    write_table(path / "cases.csv", rows_with(1, split=""))
    prepared = run(path)
    assert len(prepared.problems) == 1
    assert prepared.dataset.held_out, "no case is in two splits"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("case,image:T1w\n", "column 2 is unknown"),
        ("case,image:t1w,name\n", "column 3 is unknown"),
        ("case,image:t1w,image:t1w\n", "repeats a column"),
        ("group,image:t1w\n", "the column `case`"),
        ("case,label:x\n", "a column `image:ID` is missing"),
        ("case;image:t1w\n", "one column, which holds `;` or tabs; separate the cells by commas"),
        ("case\timage:t1w\n", "separate the cells by commas"),
        ("", "a column `image:ID` is missing"),
        ("case,image:t1w\n", "no case found"),
        ("case,image:t1w\na,x,y\n", "line 2, c-.*: 3 cells, expected 2"),
        ('case,image:t1w\n"a,x\n', "cannot be read as CSV"),
        (b"case,image:t1w\n\xff\xfe,x\n", "cannot be read as CSV"),
        ("case,image:t1w,label:t1w\n", "no case found"),
        ("case," + ",".join(f"stratum:s{i}" for i in range(300)) + "\n", "more than 256"),
    ],
)
def test_a_bad_csv(tmp_path: Path, content: str | bytes, message: str) -> None:
    text = list_problems(put(tmp_path / "cases.csv", content))
    assert re.search(message, text), text


def test_undeclared_columns_are_refused(tmp_path: Path) -> None:
    path = lay_out_csv(tmp_path / "d", CASES)
    assert "no column image:flair" in list_problems(path, declaration=TWO_CHANNELS)
    write_table(path / "cases.csv", rows_with(0))
    assert "class:atrophy is not declared" in list_problems(path, declaration=BRAIN)
    with_class = BRAIN.model_copy(update={"classes": (CaseClass(name="atrophy"),)})
    assert "grade:fazekas is not declared" in list_problems(path, declaration=with_class)


def test_a_csv_states_splits_classes_grades_numbers_and_strata(tmp_path: Path) -> None:
    path = lay_out_csv(tmp_path / "d", CASES)
    rows = rows_with(
        3, split="test", class__atrophy="no", grade__fazekas="", number__age_years="-1e1", stratum__scanner=""
    )
    write_table(path / "cases.csv", rows, encoding="utf-8-sig")  # with a byte order mark, as Excel writes
    prepared = run(path)
    assert prepared.problems == ()
    assert (len(prepared.dataset.train), len(prepared.dataset.test)) == (3, 1)
    (case,) = prepared.dataset.test
    assert (case.classes, case.numbers, case.strata) == ({"atrophy": False}, {"age_years": -10.0}, {})
    assert case.grades == {}
    assert prepared.dataset.train[0].strata == {"scanner": "A 3T"}
    assert prepared.dataset.train[0].grades == {"fazekas": 3}
    assert [entry.name for entry in prepared.dataset.declaration.grades] == ["fazekas"]
    # Shares that the user gives go before the splits of the file.
    shares = {"train": 0.5, "test": 0.5}
    assert len(run(path, shares=shares).dataset.test) == 2


def test_a_csv_has_at_most_100_000_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert table.MAX_CASES == 100_000
    monkeypatch.setattr(table, "MAX_CASES", 50)
    path = tmp_path / "cases.csv"
    lines = [f"c{number},x.nii.gz\n" for number in range(51)]
    put(path, "case,image:t1w\n" + "".join(lines))
    assert "more than 50 lines" in list_problems(path)
    put(path, "case,image:t1w\n" + "".join(lines[:-1]))
    assert len(table.read(path, BRAIN).cases) == 50
    monkeypatch.setattr(table, "MAX_BYTES", 100)
    assert "larger than" in list_problems(path)
