"""The page and the table of an experiment: complete, self-contained, and explicit about their limits."""

import base64
import csv
import io
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from vfmalign.analysis.experiments.answers import VERDICT_TEXTS
from vfmalign.analysis.experiments.report import ExperimentReport, analyse_cells
from vfmalign.client.formatting import format_correlation, format_number, format_p_value
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.reports.experiments.cells_table import to_csv
from vfmalign.reports.experiments.page import render

pytestmark = pytest.mark.usefixtures("drawings")


class Outline(HTMLParser):
    """Collects tags, headings, pictures and text; complains about nesting."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.pictures, self.stack, self.text, self.levels = [], [], [], [], []
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not {name for name, _ in attrs} & {"href", "srcset", "action", "onload", "onerror"}
        if tag == "img":
            self.pictures.append(dict(attrs))
        if re.fullmatch(r"h\d", tag):
            self.levels.append(int(tag[1]))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not self.stack or self.stack[-1] != "style":
            self.text.append(data)

    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


def test_a_report_survives_its_own_json_and_is_reproducible(small, large, make_cells, missing):
    for report in (small, large):
        assert ExperimentReport.model_validate_json(report.to_json()) == report
    again = analyse_cells(
        "s-1",
        "Two families, five tasks",
        make_cells(3, 5, phantom=True)[::-1],
        [missing],
        seed=1,
        level=0.95,
    )
    assert again.to_json() == small.to_json()


def test_the_page_is_self_contained(pages):
    for html in pages.values():
        outline = Outline(html)
        assert not {"script", "link", "iframe", "object", "form"} & set(outline.tags)
        assert not re.search(r"@import|url\(|https?:", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
        for picture in outline.pictures:
            assert picture["src"].startswith("data:image/svg+xml;base64,")
            body = base64.b64decode(picture["src"].split(",", 1)[1])
            assert body.startswith(b"<svg")
            assert all(url.startswith(b"http://www.w3.org/") for url in re.findall(rb"https?://[^\"\s]+", body))


def test_every_model_is_named_with_its_licence(small):
    first = small.cells[0].model_id
    cells = tuple(c.model_copy(update={"licence": "MIT" if c.model_id == first else ""}) for c in small.cells)
    words = Outline(render(small.model_copy(update={"cells": cells})).decode()).words()
    assert f"{first} (MIT)" in words
    assert f"{small.cells[-1].model_id} (licence unknown)" in words


def test_every_figure_has_alternative_text(pages):
    for html, models in ((pages["small"], 3), (pages["large"], 5)):
        alts = [picture["alt"] for picture in Outline(html).pictures]
        assert sum("gain against shift" in alt for alt in alts) == 5 + models
        assert sum("steps to 95 % against shift" in alt for alt in alts) == 5 + models
        assert sum("validation score of the three networks" in alt for alt in alts) == 5 * models
        assert sum("of every model in every task" in alt for alt in alts) == 2
        assert sum("Mean rank correlation with the gain" in alt for alt in alts) == 1


def test_headings_are_in_order_and_the_page_has_a_title(pages):
    for html in pages.values():
        levels = Outline(html).levels
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert "<title>Experiment " in html


def test_phantoms_head_the_page(pages):
    first = Outline(pages["small"]).words()
    assert "Rehearsal on phantoms: not evidence" in first
    assert first.index("not evidence") < first.index("lower shift goes with")
    assert "phantoms" not in Outline(pages["large"]).words()


def test_the_page_states_the_conclusions(pages, small):
    words = Outline(pages["small"]).words()
    assert "3 models have both numbers in every task, and a verdict needs 5" in words
    assert "cannot support or contradict" in words
    for line in small.headline:
        assert line in words
    assert words.index(small.headline[0]) < words.index("Verdicts")
    assert "arXiv 2601.15888" in words
    assert "quoted as published" in words
    assert "descriptive" in words


def test_the_answers_come_before_everything_but_warnings(pages, small, large):
    for size, report in (("small", small), ("large", large)):
        words = Outline(pages[size]).words()
        for one in report.answers.all:
            assert f"{one.question} {one.answer}" in words
            assert words.index(one.question) < words.index(report.headline[0])
            assert one.details in words
    words = Outline(pages["small"]).words()
    assert words.index("not evidence") < words.index("Did lower shift go with larger gain?")


def test_the_smallest_relevant_difference_stands_beside_every_difference(large, pages):
    words = Outline(pages["large"]).words()
    for task, delta in {average.task: average.smallest_difference for average in large.averages}.items():
        assert delta > 0, task
        assert f"smallest relevant difference δ {format_number(delta)}; 16 test patients" in words
    table = pages["large"].split("<h2>Every model in every task</h2>")[1].split("</tbody>")[0]
    shown = Counter(re.findall(rf"<td>({'|'.join(VERDICT_TEXTS.values())})</td>", table))
    assert shown == {VERDICT_TEXTS[label]: count for label, count in large.answers.verdicts.items()}
    for average in large.averages:
        assert f"{VERDICT_TEXTS[average.verdict.label]}: {average.verdict.reason}." in words


def test_the_page_shows_sensitivity(large, pages):
    words = Outline(pages["large"]).words()
    for variant in large.sensitivity.variants:
        assert f"{variant.label} {format_correlation(variant.tau)}" in words


def test_frozen_and_fine_tuned_scores_stand_side_by_side(pages, large):
    assert "Frozen encoder and fine-tuning" not in Outline(pages["large"]).words()
    metric = large.cells[0].metric
    cells = [
        cell.model_copy(
            update={
                "frozen_scores": tuple(
                    score.model_copy(update={"values": {metric.name: score.values[metric.name] - 0.0625}})
                    for score in cell.scores["pretrained"]
                )
            }
        )
        for cell in large.cells
        if (cell.model_id, cell.task) == (large.cells[0].model_id, large.cells[0].task)
    ]
    report = analyse_cells("s", "S", cells, [], seed=1, level=0.95)
    (average,) = report.averages
    if metric.of_set == "mean":
        assert average.frozen_difference.value == pytest.approx(-0.0625)
    shown = [format_number(one) for one in (average.score, average.frozen_score, average.frozen_difference.value)]
    assert f"{average.model_id} {' '.join(shown)} " in Outline(render(report).decode()).words()
    rows = list(csv.DictReader(io.StringIO(to_csv(report).decode())))
    assert [float(row["frozen_score"]) for row in rows] == [cell.frozen_score for cell in report.cells]
    incomplete = analyse_cells("s", "S", [cells[0], *large.cells[1 : len(cells)]], [], seed=1, level=0.95)
    assert all(one.frozen_score is None for one in incomplete.averages if one.seeds > 1)
    alone = analyse_cells("s", "S", cells[:1], [], seed=1, level=0.95).averages[0]
    assert (alone.frozen_score, alone.frozen_difference) == (cells[0].frozen_score, None)


def test_controls_are_shown_where_a_cell_has_them(pages, large):
    assert "A scale for the shift" not in Outline(pages["large"]).words()
    controls = {"shuffled_labels": Estimate(value=0.03125), "between_seeds": absent("one seed")}
    cells = [cell.model_copy(update={"controls": controls if cell.seed == 1 else {}}) for cell in large.cells[:4]]
    report = analyse_cells("s", "S", cells, [], seed=1, level=0.95)
    assert report.averages[0].controls == {"shuffled_labels": 0.03125}
    words = Outline(render(report).decode()).words()
    shift = format_number(report.averages[0].shift.value)
    assert f"{report.averages[0].model_id} {shift} 0.0312 – " in words
    row = next(csv.DictReader(io.StringIO(to_csv(report).decode())))
    assert (row["control_shuffled_labels"], row["control_between_seeds"]) == ("0.03125", "")


def test_it_never_calls_a_model_aligned_or_safe(pages):
    for html in pages.values():
        assert not re.search(r"\b(aligned|safe)\b", Outline(html).words(), re.IGNORECASE)


def test_an_unknown_pretraining_set_is_stated(pages, make_cells):
    assert "may include test cases" not in Outline(pages["large"]).words()
    cells = [c.model_copy(update={"leakage_known": c.model_id != "profound-tiny-mae"}) for c in make_cells(2, 1)]
    words = Outline(render(analyse_cells("s", "S", cells, [], seed=1, level=0.95)).decode()).words()
    assert "The pretraining data of profound-tiny-mae is unknown" in words


def test_the_table_of_claims_shows_the_units_and_the_test_of_each(small, large, pages):
    claim = next(one for one in large.claims if (one.claim, one.design) == ("convergence", "within_task"))
    assert claim.verdict == "supports"
    p_two_sided = format_p_value(claim.test.p_two_sided)
    words = Outline(pages["large"]).words()
    assert f"Mean ρ {format_correlation(claim.rho)}, two-sided p = {p_two_sided}: models that moved less" in words
    assert re.search(rf"{p_two_sided} \(≥ [\d.]+\) 5 models 120 ", words)
    untested = next(one for one in small.claims if (one.claim, one.design) == ("convergence", "within_task"))
    assert untested.test is None
    assert "– – 3 models – " in Outline(pages["small"]).words()


def test_flags_are_shown_in_every_table_of_cells(pages, large):
    words = Outline(pages["large"]).words()
    assert any(cell.flags.not_beaten for cell in large.cells)
    assert "‡ does not beat the naive baseline" in words
    for heading in ("Every model in every task", "Every cell"):
        assert "‡" in pages["large"].split(f"<h2>{heading}</h2>")[1].split("</section>")[0]
    assert "Not held out" not in words
    unheld = [c.model_copy(update={"flags": c.flags.model_copy(update={"not_held_out": True})}) for c in large.cells]
    html = render(analyse_cells("s", "S", unheld[:6], [], seed=1, level=0.95)).decode()
    assert "Not held out" in Outline(html).words()


def test_absent_numbers_are_listed_with_their_reason(pages, make_cells, with_numbers):
    assert "Exit code 3: bad data, x" in Outline(pages["small"]).words()
    cells = make_cells(4, 2)
    cells[0] = with_numbers(cells[0], gain=None, share=None)
    words = Outline(render(analyse_cells("s", "S", cells, [], seed=1, level=0.95)).decode()).words()
    assert "no gain: under the floor" in words
    assert "no steps to 95 %: within noise" in words


def test_an_experiment_without_any_cell_still_has_a_page(missing):
    report = analyse_cells("s", "S", [], [missing], seed=1, level=0.95)
    words = Outline(render(report).decode()).words()
    assert "can neither support nor contradict" in words
    assert "bad data" in words
    assert to_csv(report).decode().splitlines()[1:] == [f'provicnet-small,distortion,9,c-9,all,"{missing.reason}"']


def test_text_is_escaped(make_cells):
    html = render(analyse_cells("s", "<script>alert(1)</script>", make_cells(2, 1), [], seed=1, level=0.95)).decode()
    assert "<script>" not in html


def test_the_table_has_one_row_per_cell(small):
    rows = list(csv.DictReader(io.StringIO(to_csv(small).decode())))
    assert len(rows) == 16
    assert [row["missing"] for row in rows].count("") == 15
    first = next(cell for cell in small.cells if cell.check_id == rows[0]["check_id"])
    assert float(rows[0]["mmd2_std"]) == first.shift.value
    assert float(rows[0]["rpg_specialised"]) == first.gain.value
    assert float(rows[0]["mmd2_raw"]) == first.shift_variants["raw"].value
    assert float(rows[0]["smallest_difference"]) == first.metric.smallest_difference
    assert rows[0]["not_beaten"] == str(first.flags.not_beaten)
    assert rows[-1]["missing"].startswith("exit code 3: bad data, x")


def test_the_page_shows_the_score_of_every_network_against_the_number_of_training_cases(labels, pages, large):
    outline = Outline(pages["labels"])
    words = outline.words()
    drawn = [picture["alt"] for picture in outline.pictures if "against the number of training cases" in picture["alt"]]
    assert len(drawn) == 3 * 2, "one figure per task and model"
    assert "val keeps its size, and the number of optimiser steps is the same for every number" in words
    assert "recipes with all cases of train : the axis does not count these labels" in words
    assert "Answers, verdicts and correlations use only the cells with all 40 training cases." in words
    assert "× 3 numbers of training cases" in words
    for point in labels.label_efficiency.points:
        assert format_number(point.score.value) in words
        assert point.score.interval is not None
    assert "8 to 9" in words
    assert "40 (all)" in words
    assert "Without interval" not in words
    assert "Score against number" not in pages["large"], "experiments without such numbers are as before"


def test_the_table_has_the_number_and_the_subset_of_every_cell(labels, small):
    rows = list(csv.DictReader(io.StringIO(to_csv(labels).decode())))
    assert {(row["train_cases"], row["subset_size"]) for row in rows} == {
        ("8", "8"), ("8", "9"), ("16", "16"), ("16", "17"), ("all", ""),
    }  # fmt: skip
    assert {row["subset_sha256"] for row in rows if row["train_cases"] == "8"} == {"a" * 64}
    assert {row["train_cases"] for row in csv.DictReader(io.StringIO(to_csv(small).decode()))} == {"all"}


def test_a_metric_s_name_has_its_usual_letters(pages):
    words = Outline(pages["large"]).words()
    assert "lesion Dice, higher is better" in words
    assert "PSNR in dB, higher is better" in words


def test_what_does_not_beat_the_naive_baseline_is_red_and_marked_in_words(pages, large):
    table = pages["large"].split("<h2>Every model in every task</h2>")[1].split("</tbody>")[0]
    flagged = sum(average.flags.not_beaten for average in large.averages)
    assert flagged
    assert len(re.findall(r'class="n bad">[\d.]+ ‡<', table)) == flagged
    assert f"Naive baseline not beaten in {flagged} of 25 pairs" in Outline(pages["large"]).words()
