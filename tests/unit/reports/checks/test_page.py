"""The report of a check: self-contained, complete, and explicit about its limits."""

import base64
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import get_args

import pytest

from vfmalign.analysis.checks.cautions import list_cautions
from vfmalign.analysis.checks.records import CheckReport
from vfmalign.analysis.checks.shift import FROZEN_SHIFT, make_frozen_shift, shift_ratio
from vfmalign.analysis.checks.verdict import Verdict
from vfmalign.client.messages.checks import CheckSpec, VerdictLabel
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.recipes import TrainingBudget
from vfmalign.core.domain.field_of_view import CutStructure
from vfmalign.reports.checks.number_rows import list_numbers
from vfmalign.reports.checks.page import ExampleSlice, PageSources, render
from vfmalign.reports.checks.plots import draw_shift

pytestmark = pytest.mark.usefixtures("drawings")


class Outline(HTMLParser):
    """Collects tags, addresses and text; complains about nesting."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.addresses, self.stack, self.text = [], [], [], []
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "srcset", "action", "data"}]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def html_of(report, pictures=()):
    return render(report, PageSources(examples=pictures)).decode()


def test_report_is_self_contained(make_report, make_png):
    html = html_of(make_report(), [ExampleSlice("pretrained", make_png(), "case c-01, slice 8")])
    outline = Outline(html)
    assert not {"script", "link", "iframe", "object", "form"} & set(outline.tags)
    assert "default-src 'none'" in html
    assert outline.addresses
    assert all(address.startswith("data:image/") for address in outline.addresses)
    assert not re.search(r"@import|url\(|https?:", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    for address in outline.addresses:
        body = base64.b64decode(address.split(",", 1)[1])
        if address.startswith("data:image/svg"):
            assert body.startswith(b"<svg")
            addresses = re.findall(rb"https?://[^\"\s]+", body)
            assert all(address.startswith(b"http://www.w3.org/") for address in addresses), "only XML namespaces"


def test_has_every_section(make_report, make_png):
    html = html_of(make_report(), [ExampleSlice("scratch", make_png(), "case c-02")])
    for heading in (
        "Numbers", "Shift per layer", "Learning curves", "Features before and after", "Example slices",
        "Time per stage", "Settings and digests",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in html
    assert "says only that a change is detectable" in html
    assert "ab" * 32 in html


def test_an_architecture_is_named_without_its_description(make_report):
    description = json.dumps({"layers": [{"kind": "convolution"}] * 100})
    networks = [
        network.model_copy(update={"architecture": f"dilated_stack:{description}"})
        for network in make_report().result.networks
    ]
    text = html_of(make_report(networks=tuple(networks)))
    assert text.count("dilated_stack") == 3
    assert "specialised network (dilated stack)" in text
    assert "convolution" not in text


def test_the_figure_of_layers_orders_them_by_number(make_report):
    shift = make_report().result.shift
    names = ["stages.10", "stages.2", "stages.1", "stages.3"]
    layers = [layer.model_copy(update={"layer": name}) for layer, name in zip(shift.layers, names, strict=True)]
    svg = draw_shift(shift.model_copy(update={"layers": tuple(layers), "primary_layer": "stages.10"})).decode()
    shown = re.findall(r"<!-- (stages\.\d+) -->", svg)
    assert shown == ["stages.10", "stages.3", "stages.2", "stages.1"], "from the bottom to the top"


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


def test_shows_the_encoder_s_share_of_the_rate_of_each_network(make_report):
    cells = html_of(make_report()).split("encoder's share of that rate")[1].split("</tr>")[0]
    assert re.findall(r'class="n">([^<]*)<', cells)[:3] == ["0.0625", "1.00", "–"]


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


def test_shows_measures_beside_mmd_with_their_meaning_or_why_they_are_absent(make_report):
    assert "beside MMD²" not in html_of(make_report())
    measures = {"cka": Estimate(value=0.9123, absent_reason="no interval"), "h_score": absent("no classes")}
    html = html_of(make_report(measures=measures))
    table = html.split("stages.3, beside MMD²")[1].split("</tbody>")[0]
    cells = [re.findall(r"<td[^>]*>([^<]*)<", row) for row in table.split("<tr>")[2:]]
    assert [row[:3] for row in cells] == [
        ["CKA", "0.912", "0 unrelated, 1 unchanged"],
        ["H-score", "–", "0 classes not separated, 1 fully separated"],
    ]
    assert cells[0][3].startswith("similarity of the features before and after: 1 if")
    assert "no interval" not in cells[0][3]
    assert cells[1][3].endswith("unrelated to shift; no classes")


def test_measures_without_a_scale_are_named_but_show_no_number(make_report):
    measures = {"frechet": Estimate(value=312.5), "energy": Estimate(value=23.4)}
    html = html_of(make_report(measures=measures))
    assert "For Fréchet distance, energy distance, no scale tells" in html
    assert "312" not in html
    assert "23.4" not in html


def test_every_row_of_the_networks_has_a_cell_for_every_column(make_report):
    table = html_of(make_report()).split('<table class="even">')[1].split("</table>")[0]
    columns = table.split("</thead>")[0].count("<th")
    assert columns == 6  # <thead> and one for each
    assert {row.count("<td") for row in table.split("<tr")[2:]} == {columns - 1}


def test_never_calls_a_model_aligned_or_safe(make_report):
    for label in get_args(VerdictLabel):
        html = html_of(make_report(verdict=Verdict(label=label, reason="why")))
        text = " ".join(Outline(html).text)
        assert not re.search(r"\baligned\b|\bsafe\b", text, re.IGNORECASE)
        assert label.replace("_", " ") in text


def test_absent_numbers_show_their_reason(make_report):
    report = make_report()
    below_floor = absent("the baseline is under the floor")
    gain = report.result.rpg_specialised.model_copy(update={"relative_percent": below_floor})
    result = report.result.model_copy(update={"rpg_specialised": gain})
    rows = {row.name: row for row in list_numbers(result)}
    assert rows["relative gain over the specialised network"].value == "–"
    assert rows["relative gain over the specialised network"].note.endswith(
        "12 patients, 1 left out; the baseline is under the floor"
    )
    assert "under the floor" in html_of(CheckReport(result_digest="x", result=result, run=report.run))


def test_the_verdict_and_the_numbers_name_the_smallest_relevant_difference(make_report):
    report = make_report()
    text = " ".join(Outline(html_of(report)).text)
    assert re.search(
        r"Test lesion Dice 0\.\d{3} against 0\.\d{3} of the specialised network: difference \+0\.\d{3} "
        r"\(95 % interval \+0\.\d{3} to \+0\.\d{3}\), smallest relevant difference 0\.01: ",
        text,
    )
    notes = {row.name: row.note for row in list_numbers(report.result)}
    expected = "above zero is better; smallest relevant difference 0.01"
    assert (
        notes["your model minus the specialised network"]
        == notes["your model minus the same network without pretraining"]
        == expected
    )


def test_the_page_answers_both_questions(make_seeds_report):
    gain, harm = Verdict(label="gain", reason="the first reason"), Verdict(label="harm", reason="the second reason")
    html = html_of(make_seeds_report(verdict=gain, pretraining=harm))
    text = " ".join(" ".join(Outline(html).text).split())
    assert '<p class="verdict gain">Better than the specialised network (' in html
    assert ", but worse than the same network without pretraining (" in text
    assert "Verdict: gain. Pretraining: harm." in text
    assert "Verdict, against the specialised network: gain. The first reason." in text
    assert "Does pretraining help: harm. The second reason." in text


def test_the_page_of_an_old_result_says_that_pretraining_was_not_assessed(make_seeds_report):
    report = make_seeds_report(verdict=Verdict(label="gain", reason="why"), pretraining=None)
    assert b"pretraining" not in report.result.to_json(), "so that its digest stays"
    text = " ".join(" ".join(Outline(html_of(report)).text).split())
    assert "; whether pretraining helps was not assessed." in text
    assert "Verdict: gain. Pretraining: not assessed." in text
    assert "Does pretraining help: not assessed." in text


def test_an_old_gain_of_one_training_does_not_look_like_one(make_report):
    html = html_of(make_report(verdict=Verdict(label="gain", reason="why"), pretraining=None))
    assert '<p class="verdict undecided">1 training decides nothing:' in html
    assert "Verdict: gain. Pretraining: not assessed." in html
    assert "each network was trained once" in html


def test_text_is_escaped(make_report):
    html = html_of(make_report(settings=make_report().result.settings | {"model_id": "<script>alert(1)</script>"}))
    assert "<script>" not in html


def test_one_case_without_projection_renders(make_report):
    report = make_report(held_out=False)
    shift = report.result.shift.model_copy(update={"projection": None})
    html = html_of(report.model_copy(update={"result": report.result.model_copy(update={"shift": shift})}))
    assert "Features before and after" not in html


def test_equal_reports_render_to_equal_bytes(make_report, drawings):
    first = html_of(make_report())
    drawings.clear()
    assert html_of(make_report()) == first
    assert drawings


def test_report_survives_its_own_json(make_report):
    report = make_report()
    assert CheckReport.model_validate_json(report.to_json()) == report


def test_shift_ratio_is_absent_where_random_weights_do_not_shift(make_report):
    layer = make_report().result.shift.layers[0]
    still = layer.standardised.model_copy(update={"mmd2": Estimate(value=0.0)})
    ratio = shift_ratio(layer, layer.model_copy(update={"standardised": still}))
    assert ratio.value is None
    assert ratio.absent_reason
    assert shift_ratio(layer, layer).value == pytest.approx(1.0)


def test_marks_in_red_and_in_words_what_is_worse_than_the_naive_baseline(make_report):
    naive_baseline = make_report().result.naive_baseline
    assert "Worse than the naive baseline" not in html_of(make_report())
    means = naive_baseline.test_means | {"gland_dice": 0.874}
    html = html_of(make_report(naive_baseline=naive_baseline.model_copy(update={"test_means": means})))
    assert "▼ Worse than the naive baseline" in html
    assert "mean gland Dice 0.810 against 0.874." in html
    marked = re.findall(r'class="n bad">([^<]*)<', html)
    assert marked == ["0.810 ▼", "0.810 ▼"], "in the table of the first screen and in that of the numbers"


def test_the_verdict_and_the_facts_come_first_and_the_rest_is_folded(make_report, make_png):
    html = html_of(make_report(phantom=True, leakage_known=False), [ExampleSlice("scratch", make_png(), "case c-02")])
    first, *folded = html.split("<details>")
    assert [part.split("</h2>")[0].rpartition(">")[2] for part in folded] == [
        "Numbers", "Shift per layer", "Learning curves", "Features before and after", "Example slices",
        "Time per stage", "Settings and digests",
    ]  # fmt: skip
    order = [
        "<h1>Segmentation", "PHANTOM", "12 test patients", "Check check-7f3a", "Phantom rehearsal.",
        "Pretraining set unknown.", "Few test patients.",
        '<p class="verdict undecided">1 training on phantoms decides nothing:',
        "12 test patients are too few for `gain`, which needs at least 17", 'id="forest"', ">mean lesion Dice<",
        "--require-pretraining gain", "--require gain",
        "<dt>Digests", "<dt>Duration", "<dt>Device", "torch 2.13.0", "checks show check-7f3a --json", "<dt>Repeat",
        'id="shift-scale"', 'id="layer-strip"',
    ]  # fmt: skip
    assert all(first.index(before) < first.index(after) for before, after in pairwise(order))
    assert "PHANTOM" not in html_of(make_report())
    assert first.count('role="img"') == 3


def test_a_frozen_encoder_has_a_further_bar_and_no_shift(make_report, make_seeds_report):
    plain = make_report().result
    layers = {layer.layer: layer.channels for layer in plain.shift.layers}
    fields = {
        "shift": make_frozen_shift(layers),
        "shift_ratio": dict.fromkeys(layers, FROZEN_SHIFT),
        "paired_similarity": dict.fromkeys(layers, FROZEN_SHIFT),
        "shift_by_bandwidth": dict.fromkeys(("0.5", "2"), FROZEN_SHIFT),
        "gain_frozen_random": plain.naive_baseline.gain,
        "reference_groups": 2,
        "settings": plain.settings | {"frozen": "true"},
    }
    for report in (make_report(**fields), make_seeds_report(**fields)):
        titles = [caution.title for caution in list_cautions(report.result)]
        assert "Frozen encoder" in titles
        assert "Few training patients" not in titles, "the scale of MMD² does not matter"
        html = html_of(report)
        words = " ".join("".join(Outline(html).text).split())
        assert words.count("Not applicable (frozen): the encoder has the same weights") == 2
        assert "Shift of each layer" not in words
        assert "your model minus frozen random weights" in words
        assert "foundation model, frozen" in words
        assert "fine-tuned, against" not in words
        rows = {row.name: row for row in list_numbers(report.result)}
        assert rows["your model minus frozen random weights"].value
        assert rows["shift, MMD² of stages.3"].note.endswith("not applicable (frozen)")
    assert "frozen" not in html_of(make_report())


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


def test_the_page_names_the_command_that_repeats_the_check(make_report):
    spec = CheckSpec(model_id="m", dataset_id="d", task="segmentation", seed=7)
    html = render(make_report(), PageSources(spec=spec)).decode()
    assert "vfmalign check d --task segmentation --model m --seed 7" in html
    control = spec.model_copy(update={"shuffled_labels": True})
    html = render(make_report(), PageSources(spec=control)).decode()
    assert "vfmalign check d" not in html
    assert "checks/check-7f3a/spec.json" in html
