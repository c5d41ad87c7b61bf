"""The first screen of an experiment: cautions, and the figures beside the answers."""

import re

from vfmalign.analysis.experiments.answers import VERDICT_TEXTS
from vfmalign.analysis.experiments.report import analyse_cells
from vfmalign.client.formatting import format_correlation, format_p_value
from vfmalign.reports.experiments.first_screen import list_cautions, make_first_screen


def analyse(cells, missing=()):
    return analyse_cells("s", "S", cells, missing, seed=1, level=0.95)


def test_the_rest_of_the_page_is_folded(pages):
    for html in pages.values():
        first = html.split("<details>")[0]
        assert re.findall(r"<h2>([^<]+)</h2>", first)[:3] == [
            "Did lower shift go with larger gain?", "With what certainty?", "What should a platform team do with that?",
        ]  # fmt: skip
        assert first.index('id="gain-forest"') < first.index('id="convergence-forest"') < first.index("<dt>Models")
        assert "<table" not in first
        assert "<img" not in first


def test_the_figure_shows_the_correlation_of_both_comparisons_and_its_test(large):
    figure = str(make_first_screen(large).gain)
    claims = [claim for claim in large.claims if (claim.claim, claim.shift_measure) == ("gain", "mmd2_std")]
    texts = re.findall(r">([^<>]+)</text>", figure)
    for claim, comparison in zip(claims, ("across models", "across tasks"), strict=True):
        expected = f"{format_correlation(claim.rho)}, p = {format_p_value(claim.test.p_two_sided)}"
        assert texts[texts.index(comparison) + 1] == expected
    assert {"\u22121.0", "0", "+1.0", "← less shift, more gain", "less shift, less gain →"} <= set(texts)


def test_too_few_models_have_no_test(small):
    texts = re.findall(r">([^<>]+)</text>", str(make_first_screen(small).gain))
    assert texts[texts.index("across models") + 1].endswith(", no test")


def test_the_bar_counts_the_verdicts(large):
    verdicts = large.answers.verdicts
    assert sum(verdicts.values()) == len(large.averages)
    counts = ", ".join(
        f"{verdicts.get(label, 0)} of {len(large.averages)} {text}"
        for label, text in VERDICT_TEXTS.items()
        if label in verdicts or not label.startswith("insufficient_")
    )
    assert f"{counts}</desc>" in make_first_screen(large).shares


def test_an_experiment_without_numbers_has_no_bar(missing):
    first = make_first_screen(analyse([], [missing]))
    assert first.shares is None
    assert first.not_beaten == ""
    assert "<circle" not in first.gain


def test_every_limit_has_its_caution(make_cells, missing):
    assert list_cautions(analyse(make_cells(2, 1))) == ()
    cells = [
        cell.model_copy(update={"leakage_known": False, "flags": cell.flags.model_copy(update={"not_held_out": True})})
        for cell in make_cells(2, 1, phantom=True)
    ]
    cautions = list_cautions(analyse(cells, [missing]))
    assert [caution.title for caution in cautions] == [
        "Rehearsal on phantoms: not evidence", "Not held out", "Pretraining set unknown", "Incomplete",
    ]  # fmt: skip
    assert "are unknown" in cautions[2].text
    assert cautions[3].text.startswith("1 of 3 cells ended without a result")
