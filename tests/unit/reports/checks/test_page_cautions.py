"""What the page of a check warns of: banners, cautions and marks."""

import re

import pytest
from tests.unit.reports.checks.outline import Outline, html_of

from vfmalign.analysis.checks.cautions import list_cautions
from vfmalign.analysis.checks.verdict import Verdict
from vfmalign.client.messages.common import Estimate
from vfmalign.client.recipes import TrainingBudget
from vfmalign.core.domain.field_of_view import CutStructure

pytestmark = pytest.mark.usefixtures("drawings")


def test_banners_show_exactly_where_true(make_report):
    many = make_report().result.rpg_specialised.model_copy(update={"groups": 64})
    assert 'class="banner"' not in html_of(make_report(rpg_specialised=many))
    assert "Not held out." in html_of(make_report(held_out=False))
    assert "Phantom rehearsal." in html_of(make_report(phantom=True))
    assert "Pretraining set unknown." in html_of(make_report(leakage_known=False))


@pytest.mark.parametrize(
    ("patients", "text"),
    [
        (7, ""),
        (8, "With 8 test patients, the chance that none of them belongs to a subgroup of one patient in ten is 43 %."),
        (16, "from 35 test patients on; below 17, no verdict is gain, equivalent or harm."),
        (17, "This chance is at most 2.5 % from 35 test patients on."),
        (34, "one patient in ten is 2.8 %."),
        (35, ""),
    ],
)
def test_few_test_patients_have_a_caution(make_report, patients, text):
    gain = make_report().result.rpg_specialised.model_copy(update={"groups": patients})
    report = make_report(rpg_specialised=gain)
    texts = [caution.text for caution in list_cautions(report.result) if caution.title == "Few test patients"]
    assert len(texts) == bool(text)
    assert text in " ".join(Outline(html_of(report)).text)
    assert ("below 17" in " ".join(texts)) == (8 <= patients < 17)


def test_few_training_patients_have_a_caution(make_report):
    for groups, text in ((2, "from 2 training patients, fewer than 8"), (1, "from 1 training patient, fewer than 8")):
        report = make_report(reference_groups=groups)
        assert "Few training patients" in [caution.title for caution in list_cautions(report.result)]
        assert text in " ".join(Outline(html_of(report)).text)
    for enough in (8, None):  # the published cells do not state the number
        assert "Few training patients" not in html_of(make_report(reference_groups=enough))


def cut_structures(count, structure="gland"):
    return tuple(
        CutStructure(
            case_id=f"c-{number:03d}", split="test" if number % 2 else "train", structure=structure, inside=0.5
        )
        for number in range(count)
    )


def test_cut_organs_have_a_caution_and_a_table(make_report):
    report = make_report(cut_structures=cut_structures(7))
    (caution,) = [one for one in list_cautions(report.result) if one.title == "Organs cut off"]
    assert "in 7 cases, 3 of them in test: c-000 (gland 50 %); c-001 (gland 50 %);" in caution.text
    assert "; and 2 more cases." in caution.text
    html = html_of(report)
    assert "<h2>Organs cut off</h2>" in html
    assert html.count('<td>gland</td><td class="n">50 %</td>') == 7
    assert "smallest shares of" not in html
    many = html_of(make_report(cut_structures=cut_structures(60)))
    assert many.count('<td>gland</td><td class="n">50 %</td>') == 50
    assert "These are the 50 smallest shares of 60;" in " ".join(many.split())


def test_a_check_whose_organs_lie_inside_has_them_neither_in_its_record_nor_on_its_page(make_report):
    report = make_report()
    assert b"cut_structures" not in report.result.to_json()
    assert "Organs cut off" not in html_of(report)


def test_mixed_diffusion_weightings_have_a_caution(make_report):
    assert b"mixed_series" not in make_report().result.to_json()
    mixed = ("dwi has 1000 s/mm², acquired in 3 cases; 1400 s/mm², calculated in 2 cases",)
    report = make_report(mixed_series=mixed)
    (caution,) = [one for one in list_cautions(report.result) if one.title == "Mixed diffusion weightings"]
    assert mixed[0] in caution.text
    assert "Mixed diffusion weightings" in html_of(report)


def test_marks_saturated_layers(make_report):
    similarity = make_report().result.paired_similarity | {"stages.3": Estimate(value=0.0123)}
    html = html_of(make_report(paired_similarity=similarity))
    assert "In stages.3 MMD² is saturated" in " ".join(Outline(html).text)
    assert re.search(r"0\.0123 †", html)
    assert re.findall(r"(\d\.\d+) †", html) == ["0.167", "0.0123"], "in the strip of layers and in their table"
    assert re.search(r"stages\.3: [\d.]+, saturated", html)
    assert not re.search(r"\d †|MMD² is saturated", html_of(make_report()))
    assert re.search(r"0\.900", html_of(make_report()))


def test_marks_where_the_naive_baseline_is_not_beaten(make_report):
    report = make_report()
    html = html_of(report)
    assert "each voxel's commonest class" in " ".join(Outline(html).text)
    assert "‡" not in html
    assert "not beaten" not in html
    naive_baseline = report.result.naive_baseline
    worse = naive_baseline.gain.model_copy(update={"absolute": Estimate(value=-0.01)})
    html = html_of(make_report(naive_baseline=naive_baseline.model_copy(update={"gain": worse})))
    assert re.search(
        r">your model minus the naive baseline</text><text[^>]*>not beaten: −0\.010 \(no interval\) in lesion Dice<",
        html,
    )
    assert "your model minus naive baseline ‡" in html
    assert "Naive baseline not beaten." in html
    cells = html.split("test gland Dice")[1].split("</tr>")[0]
    assert re.findall(r'class="n">([^<]*)<', cells)[3] == "0.660"


def test_marks_in_red_and_in_words_what_is_worse_than_the_naive_baseline(make_report):
    naive_baseline = make_report().result.naive_baseline
    assert "Worse than the naive baseline" not in html_of(make_report())
    means = naive_baseline.test_means | {"gland_dice": 0.874}
    html = html_of(make_report(naive_baseline=naive_baseline.model_copy(update={"test_means": means})))
    assert "▼ Worse than the naive baseline" in html
    assert "mean gland Dice 0.810 against 0.874." in html
    marked = re.findall(r'class="n bad">([^<]*)<', html)
    assert marked == ["0.810 ▼", "0.810 ▼"], "in the table of the first screen and in that of the numbers"


def test_a_shortened_training_has_a_badge_and_a_caution(make_report):
    html = html_of(make_report(shortened=TrainingBudget(network="scratch", steps=4, preset_steps=4_000)))
    assert '<span class="badge">4 of the recipe&#39;s 4,000 steps</span>' in html
    assert "The scratch network was trained for 4 of the recipe&#39;s 4,000 steps." in html
    assert "Shortened training" not in html_of(make_report())


def test_a_rehearsal_says_so_in_place_of_its_intervals(make_seeds_report):
    rehearsal = Verdict(label="insufficient_training", reason="4 of the recipe's 4,000 steps")
    html = html_of(make_seeds_report(verdict=rehearsal, pretraining=rehearsal))
    assert '<p class="verdict insufficient_training">No verdict: 4 of the recipe' in html
    assert "12 test patients are too few for" not in html
