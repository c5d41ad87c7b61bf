"""The report of a check: self-contained, complete, and explicit about its limits."""

import base64
import json
import re
from itertools import pairwise
from typing import get_args

import pytest
from tests.unit.reports.checks.outline import Outline, html_of

from vfmalign.analysis.checks.cautions import list_cautions
from vfmalign.analysis.checks.records import CheckReport
from vfmalign.analysis.checks.shift import FROZEN_SHIFT, make_frozen_shift, shift_ratio
from vfmalign.analysis.checks.verdict import Verdict
from vfmalign.client.messages.checks import CheckSpec, VerdictLabel
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.reports.checks.number_rows import list_numbers
from vfmalign.reports.checks.page import ExampleSlice, PageSources, render
from vfmalign.reports.checks.plots import draw_shift

pytestmark = pytest.mark.usefixtures("drawings")


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


def test_shows_the_encoder_s_share_of_the_rate_of_each_network(make_report):
    cells = html_of(make_report()).split("encoder's share of that rate")[1].split("</tr>")[0]
    assert re.findall(r'class="n">([^<]*)<', cells)[:3] == ["0.0625", "1.00", "–"]


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


def test_the_licence_and_the_tensors_of_the_model_are_stated(make_report):
    assert "licence unknown" in html_of(make_report())
    stated = {"licence": "MIT", "model_source": "hf://a/b@1", "tensors": "60 loaded, 8 dropped, 0 initialised"}
    html = html_of(make_report(settings=make_report().result.settings | stated))
    assert "licence MIT; from hf://a/b@1; tensors: 60 loaded, 8 dropped, 0 initialised" in html


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


def test_the_page_names_the_command_that_repeats_the_check(make_report):
    spec = CheckSpec(model_id="m", dataset_id="d", task="segmentation", seed=7)
    html = render(make_report(), PageSources(spec=spec)).decode()
    assert "vfmalign check d --task segmentation --model m --seed 7" in html
    control = spec.model_copy(update={"shuffled_labels": True})
    html = render(make_report(), PageSources(spec=control)).decode()
    assert "vfmalign check d" not in html
    assert "checks/check-7f3a/spec.json" in html
