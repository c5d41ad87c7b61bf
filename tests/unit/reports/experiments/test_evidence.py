"""The page of evidence shows the numbers of `report.json`, and none beside them."""

import importlib.util
import re
from datetime import timedelta
from pathlib import Path

import pytest
from bench.evidence.plans import EVIDENCE

from vfmalign.analysis.experiments.answers import VERDICT_TEXTS
from vfmalign.analysis.experiments.report import ExperimentReport
from vfmalign.client.formatting import ABSENT, format_correlation, format_interval, format_number, format_p_value
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.errors import InvalidInput
from vfmalign.core.domain.models import Layer, ModelCard, Preprocessing
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.finetuning.experiments.cell_results import CellResult
from vfmalign.finetuning.experiments.request import PinnedInputs, plan_cells

DOCS = Path(__file__).resolve().parents[4] / "docs"
_spec = importlib.util.spec_from_file_location("generate_evidence", DOCS / "generate_evidence.py")
generator = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generator)
BEGIN, END = generator.BEGIN, generator.END
main, render_results, update_page = generator.main, generator.render_results, generator.update_page
PAGE = f"# Evidence\n\n{BEGIN}\nold\n{END}\n\nAfter.\n"


@pytest.fixture
def folder(tmp_path, large):
    (tmp_path / "report.json").write_bytes(large.to_json())
    return tmp_path


def test_the_published_page_shows_the_published_report():
    """Fails after any change of a number in the page, of `report.json`, or of a finished cell: run `make evidence`."""
    page = (DOCS / "evidence.md").read_text()
    assert page == update_page(page, DOCS / "evidence")


def test_the_published_cells_are_those_that_the_experiment_asks_for():
    """Otherwise, `make evidence` would train them again."""
    finetuning, modality_map = EVIDENCE.finetuning, {"t1w": "input"}
    for file in sorted((DOCS / "evidence" / "cells").glob("*.json")):
        found = CellResult.model_validate_json(file.read_bytes())
        result, settings = found.report.result, found.report.result.settings
        shuffled = "shuffled_labels" in settings
        spec = ExperimentSpec(
            model_ids=(settings["model_id"],), dataset_id=settings["dataset_id"],
            tasks=(Task.parse(settings["task"]),), seeds=(2025, 2026, 2027), recipe=finetuning,
            modality_map=modality_map, shuffled_labels=shuffled,
        )  # fmt: skip
        pinned = PinnedInputs(
            dataset_digest=settings["dataset_digest"], model_sha256=(settings["model_sha256"],),
            primary_metrics=(result.primary_metric,), modality_maps=(modality_map,),
        )  # fmt: skip
        cells = plan_cells("x", spec, pinned)
        (cell,) = (one for one in cells if (one.seed, one.shuffled_labels) == (int(settings["seed"]), shuffled))
        assert cell.result_digest == found.cell, file.name


@pytest.fixture(scope="module")
def published():
    return ExperimentReport.model_validate_json((DOCS / "evidence" / "report.json").read_bytes())


@pytest.fixture(scope="module")
def claims(published):
    return {(one.claim, one.design): one for one in published.claims if one.shift_measure == "mmd2_std"}


def read_prose(name):
    """A page in one line, so that sentences are found across its line breaks."""
    return " ".join((DOCS.parent / name).read_text().split())


def test_the_prose_of_the_page_follows_from_the_report(published, claims):
    page = read_prose("docs/evidence.md").split(END)[1]
    averages, cells = published.averages, published.cells
    saturated = sum(one.flags.saturated for one in averages)
    flagged = sum(one.flags.saturated or one.flags.not_beaten for one in averages)
    across_models, across_tasks = claims["gain", "within_task"], claims["gain", "within_model"]
    assert (across_models.units, across_tasks.units) == (6, 5)
    assert f"MMD² and gain must reach ±{across_models.test.threshold:.2f} across the six models" in page
    assert f"or ±{across_tasks.test.threshold:.2f} across the five tasks" in page
    of_cells = f"{sum(cell.flags.saturated for cell in cells)} of the {len(cells)} cells"
    assert f"The {saturated} saturated pairs (†) contain {of_cells}" in page
    assert f"Without the {flagged} pairs" in page
    for claim in (across_models, across_tasks):
        assert claim.rho * claim.rho_unflagged < 0, "both correlations with the gain change their sign"
    assert f"They are then based on only {len(averages) - flagged} pairs" in page
    autoencoders = {"sae-big-robust-tissue", "sae-robust-tissue"}
    assert set(across_models.reversal.without) == autoencoders
    assert f"Without the autoencoders, the correlation is {format_correlation(across_models.reversal.rho)}." in page
    assert set(across_tasks.reversal.without) == {one.task for one in averages if one.task.startswith("segmentation")}
    assert f"the correlation is {format_correlation(across_tasks.reversal.rho)} without the two segmentations." in page
    gaining = [one.model_id for one in averages if one.verdict.label == "gain"]
    assert (len(gaining), set(gaining)) == (4, autoencoders), "all four verdicts gain are theirs"
    energy = next(one for one in published.claims if one.shift_measure == "energy")
    assert (energy.claim, energy.design, energy.reversal) == ("gain", "within_task", None), "it keeps its sign"
    assert max(published.answers.verdicts, key=published.answers.verdicts.get) == "inconclusive"
    classification = [one for one in averages if one.task.startswith("classification")]
    assert {(one.smallest_difference, one.patients) for one in classification} == {(0.01, 64)}
    assert "equivalent" not in {one.verdict.label for one in classification}
    (needed,) = {
        re.search(r"`equivalent` within ±0.01 needs about (\d+)", one.verdict.reason)[1]
        for one in classification
        if one.verdict.label == "inconclusive"
    }
    assert f"this verdict needs about {needed} test patients of each class" in page


def test_the_prose_on_label_efficiency_follows_from_its_report():
    page = read_prose("docs/evidence.md").split(END)[1]
    report = ExperimentReport.model_validate_json((DOCS / "evidence" / "labels.json").read_bytes())
    curve, segmentation = report.label_efficiency, "segmentation:label=hippocampus,structure=anterior"
    assert (curve.counts, curve.train_size) == ((8, 16, 32, 0), 100)
    scores = {
        (one.model_id, one.network, one.train_cases): one.score.value
        for one in curve.points
        if one.task == segmentation
    }
    assert "every network with 8 cases is within 0.02 of its score with 100" in page
    assert all(abs(scores[model, network, 0] - score) < 0.02 for (model, network, n), score in scores.items() if n == 8)
    over_random = {
        model: [scores[model, "pretrained", count] - scores[model, "scratch", count] for count in curve.counts]
        for model in {key[0] for key in scores}
    }
    assert "0.01 to 0.04 above random weights with every number of cases" in page
    assert all(0.01 <= one <= 0.04 for model in over_random if "conv" in model for one in over_random[model])
    assert all(one < 0 for one in over_random["vit-masked-evidence-2025"])
    assert "all six intervals include 0" in page
    frozen = [one.frozen_difference.interval for one in report.averages]
    assert len(frozen) == 6
    assert all(one.lower < 0 < one.upper for one in frozen)


def test_the_baselines_are_described_as_they_were(published):
    before = read_prose("docs/evidence.md").split(BEGIN)[0]
    assert f"in {published.baselines.several} of {published.baselines.total} pairs of task and seed" in before


def test_the_first_answers_say_what_changes_the_reading(published, claims):
    answers = published.answers
    for design in ("within_task", "within_model"):
        gain = claims["gain", design]
        changed = f"{format_correlation(gain.rho_unflagged)} instead of {format_correlation(gain.rho)}"
        assert changed in answers.relation.details
        assert format_p_value(gain.test.p_two_sided) in answers.certainty.details
        assert f"±{gain.test.threshold:.2f}" in answers.certainty.details
        assert format_correlation(gain.rho_common_baselines) in answers.certainty.details
    reversal = claims["gain", "within_task"].reversal
    without = " and ".join(f"“{name}”" for name in reversal.without)
    assert f"{without}, the correlation is {format_correlation(reversal.rho)}" in answers.certainty.details
    for label, count in answers.verdicts.items():
        assert f"{count} {label}" in answers.recommendation.details
    assert "%" not in answers.certainty.answer, "a p-value is printed in one way"


def test_the_readme_says_the_same(published):
    saturated = sum(one.flags.saturated for one in published.averages)
    assert published.answers.outcome == "no_clear_relation"
    readme = read_prose("README.md")
    assert "shift and gain had no clear relation" in readme
    assert f"In {saturated} of {len(published.averages)} pairs of a model and a task, the shift was saturated" in readme


def test_no_result_stands_outside_of_the_generated_part():
    page = (DOCS / "evidence.md").read_text()
    by_hand = page.split(BEGIN)[0] + page.split(END)[1]
    assert not re.findall(r"ρ\s*=?\s*[+−-]?\d|\bp\s*=\s*\d|MMD² (?:of|is|=) \d", by_hand)


def test_every_number_of_the_report_stands_in_its_table(folder, large):
    text = render_results(folder)
    for average in large.averages:
        begin = f"| `{average.task}` | `{average.model_id}` "
        row, shift_row = (line for line in text.splitlines() if line.startswith(begin))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[2:10] == [
            format_number(average.score),
            format_number(average.baseline),
            with_interval(average.gain_difference),
            format_number(average.smallest_difference),
            VERDICT_TEXTS[average.verdict.label],
            format_number(average.gain.value),
            with_interval(average.scratch_difference),
            VERDICT_TEXTS[average.pretraining.label],
        ]
        shift = [cell.strip() for cell in shift_row.strip("|").split("|")]
        assert shift[2:4] == [with_interval(average.shift), format_number(average.shift_ratio.value)]
    for variant in large.sensitivity.variants:
        assert f"| {variant.label} | {format_correlation(variant.tau)} | " in text
    for one in large.answers.all:
        assert f"**{one.question}** {one.answer}" in text
    assert text.count(" | supports |") == sum(claim.verdict == "supports" for claim in large.claims)
    assert "on shuffled labels" not in text
    assert "### Cells without results" not in text


def with_interval(estimate):
    interval = format_interval(estimate)
    return format_number(estimate.value) + ("" if interval == ABSENT else f" ({interval})")


def test_averages_of_an_earlier_version_were_not_assessed_on_pretraining(tmp_path, large):
    old = [one.model_copy(update={"pretraining": None, "scratch_difference": None}) for one in large.averages]
    (tmp_path / "report.json").write_bytes(large.model_copy(update={"averages": tuple(old)}).to_json())
    assert render_results(tmp_path).count("| – | not assessed | ") == len(old)


def test_controls_are_counted_beside_the_shifts(tmp_path, large):
    first, second, *others = large.averages
    shift = first.shift.value
    averages = (
        first.model_copy(update={"controls": {"shuffled_labels": shift, "between_seeds": shift / 2}}),
        second.model_copy(update={"controls": {"shuffled_labels": second.shift.value / 2}}),
        *others,
    )
    (tmp_path / "report.json").write_bytes(large.model_copy(update={"averages": averages}).to_json())
    text = render_results(tmp_path)
    assert "at least as far as the task does in 1 of 2 pairs, and in 1 of the 2 that are not" in text
    assert "seed is at least the shift of the task in 0 of 1 pairs, and in 0 of the 1 that are not saturated." in text


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


COST = {"pretrained": 600.0, "scratch": 300.0, "specialised": 3600.0}


@pytest.fixture
def write_cell(tmp_path, make_report):
    def write(number, minutes, model="m", **fields):
        settings = make_report().result.settings | fields.pop("settings", {})
        report = make_report(settings=settings)
        trained_by = {"pretrained": f"p-{number}", "scratch": f"s-{number}", "specialised": "of-another-check"}
        end = report.run.created_at + timedelta(minutes=minutes)
        report = report.model_copy(
            update={"run": report.run.model_copy(update={"finished_at": end, "trained_by": trained_by})}
        )
        card = ModelCard(
            id=model, architecture="profound_conv_micro", objective="contrastive",
            checkpoint=StoredObject(key="x", sha256="0" * 64), layers=(Layer(name="stages.3", channels=128),),
            preprocessing=Preprocessing(modalities=("t2w",), spacing_mm=None, shape_dhw=(8, 8, 8)),
            primary_layer="stages.3",
        )  # fmt: skip
        fields = {"scores": {}, "features": None, "processor_seconds": COST} | fields
        result = CellResult(cell=f"{number:064x}", check_id=f"c-{number}", card=card, report=report, **fields)
        (tmp_path / "cells").mkdir(exist_ok=True)
        (tmp_path / "cells" / f"{number}.json").write_bytes(result.to_json())

    return write


def test_an_experiment_that_has_not_finished_says_how_far_it_is(tmp_path, write_cell):
    assert "0 of 90 cells" in render_results(tmp_path)
    for number in range(3):
        write_cell(number, 10.0)
    write_cell(3, 10.0, settings={"shuffled_labels": "true"})
    text = render_results(tmp_path)
    assert text.startswith("**The experiment has not finished.** 3 of 90 cells"), "a control is not a cell"
    assert "supports" not in text


def test_the_cost_is_that_of_the_cells_with_shared_trainings_once(tmp_path, write_cell, large):
    write_cell(1, 10.0)
    write_cell(2, 30.0, processor_seconds=COST | {"pretrained": 1200.0})
    write_cell(3, 4.0, model="other")
    for name in ("", "report.json"):
        if name:
            (tmp_path / name).write_bytes(large.to_json())
        text = render_results(tmp_path)
        assert "All trainings took 1.9 hours of processor time" in text, "2 · 600 + 1200 + 3 · 300 + 3600 s"
        assert "| `m` | 2 | 20.0 | 15.0 | 5.0 | 60.0 |" in text
        assert "| `other` | 1 | 4.0 | 10.0 | 5.0 | 60.0 |" in text


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
