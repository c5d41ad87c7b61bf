"""SVG elements in a page: escaped, accessible, and placed by percentages."""

import pytest
from markupsafe import Markup

from vfmalign.reports.drawing.inline_svg import Axis, make_element, make_figure


def test_children_and_values_are_escaped_but_elements_are_not():
    inner = make_element("text", "<b>", x="1%")
    assert inner == '<text x="1%">&lt;b&gt;</text>'
    assert make_element("g", inner, class_='"x"') == f'<g class="&#34;x&#34;">{inner}</g>'
    assert isinstance(inner, Markup)


def test_attributes_without_a_value_are_left_out():
    assert make_element("line", stroke_dasharray=None, y1=0, r=4.5) == '<line y1="0" r="4.5"></line>'


def test_a_figure_has_a_title_and_a_description_for_screen_readers():
    figure = make_figure("f", "what & why", "a: 1", 40, [make_element("line", x1="0%")])
    assert figure.startswith('<svg id="f" class="chart" role="img" height="40" aria-labelledby="f-title"')
    assert 'aria-describedby="f-desc"><title id="f-title">what &amp; why</title><desc id="f-desc">a: 1</desc>' in figure


@pytest.mark.parametrize(("value", "place"), [(-1.0, "2.00%"), (0.0, "50.00%"), (1.0, "98.00%"), (9.0, "98.00%")])
def test_values_lie_between_the_margins(value, place):
    assert Axis(-1.0, 1.0).place(value) == place


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (-0.33, 0.2, [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2]),
        (-1.0, 1.0, [-1.0, -0.5, 0.0, 0.5, 1.0]),
        (-0.004, 0.011, [0.0, 0.005, 0.01]),
    ],
)
def test_ticks_are_round(low, high, ticks):
    assert Axis(low, high).ticks() == ticks
