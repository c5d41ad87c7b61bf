"""What the dashboards share: panels with a unit, a description and a link to their runbook, variables, and rows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.observability.settings import SETTINGS
from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WHOLE, HALF, THIRD, QUARTER, HEIGHT = 24, 12, 8, 6, 8
NAMESPACES = 'namespace=~"$namespace"'
JOBS = f'{NAMESPACES},job=~"$job"'
TENANTS = f'{NAMESPACES},tenant=~"$tenant"'
INTERVAL = "$__rate_interval"
Queries = Sequence[tuple[str, str]]
"""Expressions, and the legends of their series."""
Colours = Sequence[tuple[float | None, str]]
"""Colours from these values on; None is the lowest."""
Rows = Mapping[str, Sequence[stat.Panel | timeseries.Panel]]


def draw_board(name: str, title: str, description: str, choices: Sequence[Any], rows: Rows) -> dashboard.Dashboard:
    """Returns a dashboard for a Prometheus that its reader chooses.

    Args:
        name: of the file, and in the uid `vfmalign-NAME`.
        title: of the dashboard.
        description: the question that it answers.
        choices: variables beside the Prometheus and the address of the documentation.
        rows: panels by the title of their row. A panel's number, which alerts link to, is its place.
    """
    docs = dashboard.TextBoxVariable("docs").label("Address of docs/").default_value(SETTINGS.docs)
    others = dashboard.DashboardLink("Other dashboards").type(DashboardLinkType.DASHBOARDS).tags(["vfmalign"])
    board = (
        dashboard.Dashboard(f"vfmalign: {title}")
        .uid(f"vfmalign-{name}")
        .description(description)
        .tags(["vfmalign"])
        .refresh("1m")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(others.as_dropdown(True).keep_time(True))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for choice in (*choices, docs):
        board.with_variable(choice)
    ids = itertools.count(1)
    for row, panels in rows.items():
        board.with_row(dashboard.Row(row).id(next(ids)))
        for panel in panels:
            board.with_panel(panel.id(next(ids)))
    return board


def choose(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Returns a variable of which all values are shown at first, also where the series lack the label."""
    variable = dashboard.QueryVariable(name).label(label).datasource(SOURCE).query(query)
    variable.multi(True).include_all(True).all_value(".*").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    return variable.current(VariableOption(selected=True, text="All", value="$__all"))


NAMESPACE = choose("namespace", "Namespace", "label_values(vfmalign_build_info, namespace)")
JOB = choose("job", "Service", f"label_values(vfmalign_build_info{{{NAMESPACES}}}, job)")


def plot(
    title: str, description: str, queries: Queries, *, unit: str, section: str, span: int = THIRD
) -> timeseries.Panel:
    """Returns a plot over time.

    Args:
        title: of the panel.
        description: what it shows.
        queries: at most 26, each by namespace, since a Prometheus may read several installations.
        unit: of all series, by Grafana's name.
        section: anchor of the section that says what to do: docs/runbooks.md for an alert, else docs/operations.md.
        span: width in columns, of 24.
    """
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = timeseries.Panel().title(title).description(description).datasource(SOURCE).height(HEIGHT).span(span)
    panel.legend(legend.show_legend(True)).fill_opacity(0).line_width(2).unit(unit).links([_link(section)])
    for number, (expression, series) in enumerate(queries):
        query = prometheus.Dataquery().ref_id(chr(ord("A") + number)).datasource(SOURCE)
        panel.with_target(query.expr(expression).legend_format(_name(expression, series)).range())
    return panel


def stacked(panel: timeseries.Panel) -> timeseries.Panel:
    """Returns a plot whose series add up."""
    return panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(40)


def limited(panel: timeseries.Panel, value: float) -> timeseries.Panel:
    """Returns a plot with a dashed line at a value beyond which an alert fires."""
    dashed = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
    return panel.thresholds(thresholds([(None, "transparent"), (value, "red")])).thresholds_style(dashed)


def number(
    title: str, description: str, query: tuple[str, str], colours: Colours, *, unit: str, section: str, span: int = HALF
) -> stat.Panel:
    """Returns the last value of every series, on a background of its colour; see `plot`."""
    expression, legend = query
    asked = prometheus.Dataquery().ref_id("A").datasource(SOURCE).expr(expression)
    asked.legend_format(_name(expression, legend)).instant()
    panel = stat.Panel().title(title).description(description).datasource(SOURCE).height(HEIGHT).with_target(asked)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).graph_mode(BigValueGraphMode.NONE)
    panel.color_mode(BigValueColorMode.BACKGROUND).thresholds(thresholds(colours)).no_value("nothing")
    return panel.unit(unit).links([_link(section)]).span(span)


def thresholds(colours: Colours) -> dashboard.ThresholdsConfig:
    """Returns thresholds at absolute values."""
    steps = [Threshold(value=value, color=colour) for value, colour in colours]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def name_value(value: int, text: str) -> ValueMap:
    """Returns what is shown in place of a value."""
    return ValueMap(options={str(value): ValueMappingResult(text=text, index=value)})


def dash() -> list[DynamicConfigValue]:
    """Returns the style of a series that shows a limit."""
    return [DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 8]})]


def add(labels: str, series: str) -> str:
    """Returns the expression of the sums of series by namespace and labels."""
    return f"sum by ({', '.join(filter(None, ('namespace', labels)))}) ({series})"


def per_hour(labels: str, counter: str, *, from_zero: bool = True) -> str:
    """Returns the expression of the events within the last hour by namespace and labels.

    A rate over a shorter time, multiplied up to an hour, would show one failure as a hundred.

    Args:
        labels: may be empty.
        counter: name and selector.
        from_zero: whether all of its series are exported with 0 before their first event. An increase does not see
            the first event of the others, which begin with it: they count from their first value.
    """
    events = f"increase({counter}[1h])"
    if not from_zero:
        events = f"{events} + (min_over_time({counter}[1h]) unless {counter} offset 1h) or {events}"
    return add(labels, events)


def quantile(share: float, labels: str, histogram: str, selector: str) -> str:
    """Returns the expression of a quantile of a histogram by namespace and labels."""
    by = ", ".join(filter(None, (labels, "le")))
    return f"histogram_quantile({share}, {add(by, f'rate({histogram}_bucket{{{selector}}}[{INTERVAL}])')})"


def mean(labels: str, histogram: str, selector: str) -> str:
    """Returns the expression of the mean of a histogram by namespace and labels, without a value for no event."""
    total, count = (add(labels, f"rate({histogram}_{part}{{{selector}}}[{INTERVAL}])") for part in ("sum", "count"))
    return f"{total} / ({count} > 0)"


def _name(expression: str, legend: str) -> str:
    """Returns a legend that begins with the namespace, which an installation without Kubernetes lacks."""
    return f"{{{{namespace}}}} {legend}" if "namespace" in expression else legend


def _link(section: str) -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("What to do").type(DashboardLinkType.LINK).target_blank(True)
    page = "runbooks" if section.startswith("vfmalign") else "operations"
    return link.url(f"${{docs}}/{page}.md#{section}")
