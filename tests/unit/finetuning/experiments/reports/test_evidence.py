"""The page of evidence shows the numbers of `report.json`, and none beside them."""

import re
from pathlib import Path

import pytest

from vfmalign.core.domain.errors import InvalidInput
from vfmalign.finetuning.experiments.reports.evidence import BEGIN, END, main, render_results, update_page
from vfmalign.finetuning.reports.formatting import format_correlation, format_number

DOCS = Path(__file__).resolve().parents[5] / "docs"
PAGE = f"# Evidence\n\n{BEGIN}\nold\n{END}\n\nAfter.\n"


@pytest.fixture
def folder(tmp_path, large):
    (tmp_path / "report.json").write_bytes(large.to_json())
    return tmp_path


def test_the_published_page_shows_the_published_report():
    """Fails after any change of a number in the page, of `report.json`, or of a finished cell: run `make evidence`."""
    page = (DOCS / "evidence.md").read_text()
    assert page == update_page(page, DOCS / "evidence")


def test_no_result_stands_outside_of_the_generated_part():
    page = (DOCS / "evidence.md").read_text()
    by_hand = page.split(BEGIN)[0] + page.split(END)[1]
    assert not re.findall(r"ρ\s*=?\s*[+−-]?\d|\bp\s*=\s*\d|MMD² (?:of|is|=) \d", by_hand)


def test_every_number_of_the_report_stands_in_its_table(folder, large):
    text = render_results(folder)
    for average in large.averages:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{average.task}` | `{average.model}` "))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[4] == format_number(average.shift.value)
        assert cells[7:11] == [
            format_number(number)
            for number in (average.score, average.baseline, average.gain_difference, average.smallest_difference)
        ]
        assert cells[11] == format_number(average.gain.value)
    for variant in large.sensitivity.variants:
        assert f"| {variant.label} | {format_correlation(variant.tau)} | " in text
    for one in large.answers.all:
        assert f"**{one.question}** {one.answer}" in text
    assert text.count(" | supports |") == sum(claim.verdict == "supports" for claim in large.claims)
    assert "### Controls" not in text
    assert "### Cells without results" not in text


def test_an_edited_number_is_found_and_the_command_restores_it(folder, tmp_path, capsys):
    page = tmp_path / "evidence.md"
    page.write_text(PAGE)
    assert main([str(page), str(folder)]) == 0
    assert main(["--check", str(page), str(folder)]) == 0
    correct = page.read_text()
    assert correct.endswith(f"{END}\n\nAfter.\n")
    number = re.search(r"\| \d\.\d+ \|", correct)[0]
    page.write_text(correct.replace(number, "| 0.999 |", 1))
    assert main(["--check", str(page), str(folder)]) == 1
    assert "make evidence" in capsys.readouterr().err
    assert main([str(page), str(folder)]) == 0
    assert page.read_text() == correct


def test_an_experiment_that_has_not_finished_says_how_far_it_is(tmp_path):
    assert "0 of 90 cells" in render_results(tmp_path)
    (tmp_path / "cells").mkdir()
    for number in range(3):
        (tmp_path / "cells" / f"{number}.json").write_text("{}")
    text = render_results(tmp_path)
    assert text.startswith("**The experiment has not finished.** 3 of 90 cells")
    assert "supports" not in text


def test_missing_cells_and_phantoms_are_stated(tmp_path, small):
    (tmp_path / "report.json").write_bytes(small.to_json())
    text = render_results(tmp_path)
    assert "not evidence" in text
    assert "1 of 16 cells have no result" in text


@pytest.mark.parametrize(
    "page", ["# Evidence\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n", f"{BEGIN}\n"]
)
def test_a_page_without_its_markers_is_refused(tmp_path, page):
    with pytest.raises(InvalidInput, match="the page needs"):
        update_page(page, tmp_path)
