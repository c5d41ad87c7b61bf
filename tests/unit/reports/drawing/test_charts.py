"""Charts of the first screen: positions, bands, arrows, and their numbers in words."""

import re

import pytest

from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.reports.drawing.charts import (
    ForestRow,
    LayerCell,
    SharePart,
    draw_forest,
    draw_layer_strip,
    draw_shares,
    draw_shift_scale,
    shorten_names,
)


def estimate(value, lower, upper, degenerate=False):
    return Estimate(
        value=value, interval=Interval(lower=lower, upper=upper, level=0.95, method="", degenerate=degenerate)
    )


def forest(*rows, **fields):
    return str(draw_forest(rows, identifier="f", title="t", ends=("worse", "better"), format_tick=str, **fields))


def read(svg, name, style, attribute):
    """Percentages of an attribute of all elements of a class, in order."""
    elements = re.findall(rf"<{name} [^>]*>", svg)
    return [
        float(re.search(rf' {attribute}="([\d.]+)%"', element)[1])
        for element in elements
        if f'class="{style}"' in element
    ]


def test_a_forest_plot_draws_every_difference_about_zero():
    svg = forest(
        ForestRow("specialised", estimate(0.02, -0.01, 0.05), "+0.02"),
        ForestRow("random", estimate(0.04, 0.03, 0.06, degenerate=True), "+0.04"),
        band=0.01,
    )
    zero, _ = read(svg, "line", "zero", "x1")
    main, other = read(svg, "circle", "mark main", "cx")[0], read(svg, "circle", "mark", "cx")[0]
    assert zero < main < other
    start, width = read(svg, "rect", "band", "x")[0], read(svg, "rect", "band", "width")[0]
    assert start + width / 2 == pytest.approx(zero, abs=0.02)
    assert read(svg, "line", "interval main", "x1")[0] == pytest.approx(start, abs=0.02)
    assert svg.count("stroke-dasharray") == 1
    assert '<desc id="f-desc">specialised: +0.02; random: +0.04</desc>' in svg
    assert "← worse" in svg
    assert "better →" in svg


def test_a_difference_that_dwarfs_the_first_is_cut_off_with_an_arrow():
    near, far = ForestRow("near", estimate(0.0, -0.02, 0.02), ""), ForestRow("far", estimate(0.5, 0.4, 0.6), "")
    svg = forest(near, far)
    assert svg.count("▸") == 1
    assert read(svg, "circle", "mark", "cx") == []
    assert read(svg, "line", "interval main", "x2")[0] > 80
    assert "▸" not in forest(far, near)


def test_an_absent_difference_has_its_text_alone():
    svg = forest(ForestRow("random weights", absent("no scores"), "absent"))
    assert "<circle" not in svg
    assert ">absent</text>" in svg


def test_a_row_that_is_worse_than_no_network_is_marked():
    svg = forest(
        ForestRow("a", Estimate(value=1.0), ""), ForestRow("naive, not beaten", Estimate(value=-1.0), "", True)
    )
    assert 'class="bad">naive, not beaten' in svg


def test_the_scale_of_a_shift_ends_at_random_weights():
    svg = str(draw_shift_scale(estimate(0.3, 0.15, 0.45), 0.6, "half"))
    assert read(svg, "circle", "mark main", "cx") == [50.0]
    assert read(svg, "line", "interval main", "x1") == [26.0]
    assert read(svg, "line", "interval main", "x2") == [74.0]
    assert '<desc id="shift-scale-desc">half</desc>' in svg


def test_a_shift_beyond_random_weights_widens_the_scale():
    svg = str(draw_shift_scale(estimate(1.5, 1.0, 2.0), 1.0, ""))
    assert read(svg, "circle", "mark main", "cx") == [74.0]
    assert re.search(r'x="50.00%"[^>]*>random weights', svg)


def test_features_that_did_not_move_lie_at_zero():
    svg = str(draw_shift_scale(estimate(0.0, 0.0, 0.0), None, ""))
    assert read(svg, "circle", "mark main", "cx") == [2.0]
    assert "interval main" not in svg


def test_the_strip_orders_layers_by_number_and_shades_them_by_their_shift():
    cells = [LayerCell("layers.10", 0.5, primary=True), LayerCell("layers.2", 1.7, primary=False, saturated=True)]
    svg = str(draw_layer_strip([*cells, LayerCell("layers.4", None, primary=False)]))
    assert re.findall(r'fill-opacity="([\d.]+)"', svg) == ["1", "0", "0.5"]
    assert re.findall(r">([^<>]+)</text>", svg) == ["1.70 †", "2", "–", "4", "0.500", "10"]
    assert "layers.2: 1.70, saturated; layers.4: –; layers.10: 0.500, primary layer</desc>" in svg


def test_a_long_strip_names_its_first_and_last_layer():
    svg = str(draw_layer_strip([LayerCell(f"blocks.{place}", 0.1, primary=False) for place in range(64)]))
    assert svg.count("<rect") == 64
    assert re.findall(r">([^<>]+)</text>", svg) == ["0.100", "0", "0.100", "63"]


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["encoder.stages.0", "encoder.stages.1"], ["0", "1"]),
        (["stem", "stages.0"], ["stem", "stages.0"]),
        (["layers.24"], ["layers.24"]),
    ],
)
def test_names_lose_what_all_begin_with(names, short):
    assert shorten_names(names) == short


def test_a_bar_has_a_segment_for_each_part_of_the_whole():
    parts = [
        SharePart("▲", "better", 3, "better"),
        SharePart("", "equal", 1, "equal"),
        SharePart("▼", "worse", 0, "worse"),
    ]
    svg = str(draw_shares(parts, identifier="s", title="t"))
    assert re.findall(r'<rect x="([\d.]+)%" y="20" width="([\d.]+)%"', svg) == [
        ("0.00", "75.00"), ("75.00", "25.00"), ("100.00", "0.00"),
    ]  # fmt: skip
    assert re.findall(r">([^<>]+)</text>", svg) == ["▲ 3 better", "1 equal", "▼ 0 worse"]
    assert "3 of 4 better, 1 of 4 equal, 0 of 4 worse</desc>" in svg
