"""Write the dashboards of deploy/grafana for Grafana 11.6: `make docs`.

Usage: python deploy/generate_dashboards.py FOLDER
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
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
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
MONITORS = 'tenant=~"$tenant",monitor=~"$monitor"'
TENANTS = 'tenant=~"$tenant"'
LEGEND = "{{monitor}} ({{tenant}})"
HALF, THIRD, HEIGHT = 12, 8, 8
Queries = Sequence[tuple[str, str]]
"""Expressions, and the legends of their series."""


def draw_monitors() -> dashboard.Dashboard:
    """Returns the dashboard of drift monitors: alarms, evidence, windows, observations, and what features keeps."""
    board = (
        dashboard.Dashboard("vfmalign: drift monitors")
        .uid("vfmalign-monitors")
        .description("Whether the features of models in use still come from the distributions of their references.")
        .tags(["vfmalign"])
        .time("now-7d", "now")
        .refresh("1m")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_choose("tenant", "Tenant", "label_values(vfmalign_monitor_alarm, tenant)"))
        .with_variable(_choose("monitor", "Monitor", f"label_values(vfmalign_monitor_alarm{{{TENANTS}}}, monitor)"))
    )
    rows = {
        "State": _draw_state(),
        "Evidence": _draw_evidence(),
        "Windows": _draw_windows(),
        "Observations": _draw_observations(),
        "On the way to the monitors": _draw_outbox(),
        "Service": _draw_service(),
    }
    ids = itertools.count(1)
    for title, panels in rows.items():
        board.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            board.with_panel(panel.id(next(ids)))
    return board


def _draw_state() -> Sequence[stat.Panel]:
    alarm = (
        _count(
            "Alarm",
            "An alarm lasts until somebody acknowledges it: vfmalign monitors acknowledge MONITOR.",
            _read("alarm"),
            [(None, "green"), (1, "red")],
        )
        .mappings([_name(0, "no drift"), _name(1, "drift")])
        .span(HALF)
    )
    paused = (
        _count(
            "Paused",
            "Observations of a paused monitor are recorded and do not enter the evidence.",
            _read("paused"),
            [(None, "green"), (1, "yellow")],
        )
        .mappings([_name(0, "active"), _name(1, "paused")])
        .span(HALF)
    )
    return alarm, paused


def _draw_evidence() -> Sequence[timeseries.Panel]:
    panel = (
        _plot(
            "Evidence of $monitor",
            "Natural logarithm of the evidence of each component, and its threshold (dashed), above which there is an "
            "alarm. Nothing is drawn where the statistic is 0.",
            [
                (_read("log_evidence", "component"), "{{component}} ({{tenant}})"),
                (_read("log_threshold", "component"), "threshold, {{component}} ({{tenant}})"),
            ],
        )
        .override_by_regexp("^threshold.*", _dash())
        .repeat("monitor")
        .repeat_direction("h")
        .max_per_row(2)
        .span(HALF)
    )
    return (panel,)


def _draw_windows() -> Sequence[timeseries.Panel]:
    panel = _plot(
        "MMD² of the last window",
        "MMD² of the last window to the reference, of the layer that raises the alarm. It raises none itself.",
        [(_read("mmd2"), LEGEND)],
    ).span(24)
    return (panel,)


def _draw_observations() -> Sequence[timeseries.Panel]:
    observations = f"vfmalign_monitor_observations_total{{{MONITORS}}}"
    outcomes = (
        _plot(
            "Observations per hour by outcome",
            "Only `entered` changes the evidence. A `duplicate` was sent again, a `conflict` with other content.",
            [(f"3600 * sum by (outcome) (rate({observations}[$__rate_interval]))", "{{outcome}}")],
        )
        .stacking(common.StackingConfig().mode(StackingMode.NORMAL))
        .fill_opacity(40)
        .span(THIRD)
    )
    lag = (
        _plot(
            "Time from acquisition to arrival",
            "Of the last observation of each monitor, where its acquisition is known.",
            [(_read("lag_seconds"), LEGEND)],
        )
        .unit("s")
        .span(THIRD)
    )
    last = _read("last_observation_timestamp_seconds")
    silence = (
        _plot(
            "Time since the last observation",
            "And the time after which VfmalignMonitorSilent fires (dashed), where one is set.",
            [
                (f"time() - {last}", LEGEND),
                (_read("max_silence_seconds"), f"longest silence, {LEGEND}"),
            ],
        )
        .override_by_regexp("^longest silence.*", _dash())
        .unit("s")
        .span(THIRD)
    )
    return outcomes, lag, silence


def _draw_outbox() -> Sequence[timeseries.Panel]:
    waiting = _plot(
        "Observations in the outbox",
        "What features keeps in the object storage until monitoring takes it. Replicas share one outbox.",
        [(f"max by (tenant) (vfmalign_outbox_observations{{{TENANTS}}})", "{{tenant}}")],
    ).span(THIRD)
    size = (
        _plot(
            "Size of the outbox",
            "Beyond VFMALIGN_OUTBOX__MAX_BYTES or __MAX_OBSERVATIONS of a tenant, observations are dropped.",
            [(f"max by (tenant) (vfmalign_outbox_bytes{{{TENANTS}}})", "{{tenant}}")],
        )
        .unit("bytes")
        .span(THIRD)
    )
    oldest = f"min by (tenant) (vfmalign_outbox_oldest_timestamp_seconds{{{TENANTS}}} > 0)"
    age = (
        _plot(
            "Age of the oldest in the outbox",
            "VfmalignOutboxGrowing fires above a quarter of an hour.",
            [(f"time() - {oldest}", "{{tenant}}")],
        )
        .unit("s")
        .thresholds(_thresholds([(None, "transparent"), (900, "red")]))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
        .span(THIRD)
    )
    delivered = "vfmalign_observations_delivered_total"
    answers = (
        _plot(
            "Deliveries per hour",
            "What Extract answered about observations, and what became of those that were queued.",
            [(f"3600 * sum by (delivery) (rate({delivered}[$__rate_interval]))", "{{delivery}}")],
        )
        .stacking(common.StackingConfig().mode(StackingMode.NORMAL))
        .fill_opacity(40)
        .span(HALF)
    )
    drops = _plot(
        "Drops per hour by reason",
        "Lost observations; VfmalignObservationsDropped fires for each reason.",
        [(f'3600 * sum by (reason) (rate({delivered}{{delivery="dropped"}}[$__rate_interval]))', "{{reason}}")],
    ).span(HALF)
    return waiting, size, age, answers, drops


def _draw_service() -> Sequence[timeseries.Panel]:
    job = 'job="vfmalign-monitoring"'
    leaders = _plot(
        "Leaders",
        "Exactly one process leads: it computes windows and exports the metrics of monitors.",
        [(f"sum(vfmalign_orchestrator_leader{{{job}}})", "leaders")],
    ).span(THIRD)
    windows = _plot(
        "Windows without MMD² per hour",
        "By the reason of the error. They are tried again; evidence and alarms do not need them.",
        [("3600 * sum by (reason) (rate(vfmalign_monitor_window_failures_total[$__rate_interval]))", "{{reason}}")],
    ).span(THIRD)
    states = _plot(
        "States of monitors per hour",
        "States that could not be stored, and repetitions after a restart whose evidence has other last bits.",
        [
            ("3600 * sum(rate(vfmalign_monitor_snapshot_failures_total[$__rate_interval]))", "not stored"),
            ("3600 * sum(rate(vfmalign_monitor_replays_that_differ_total[$__rate_interval]))", "differ"),
        ],
    ).span(THIRD)
    return leaders, windows, states


def _read(metric: str, label: str = "monitor") -> str:
    return f"max by (tenant, {label}) (vfmalign_monitor_{metric}{{{MONITORS}}})"


def _choose(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
    )


def _plot(title: str, description: str, queries: Queries) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = timeseries.Panel().title(title).description(description).datasource(SOURCE).height(HEIGHT)
    panel.legend(legend.show_legend(True)).fill_opacity(0).line_width(2)
    for letter, (expression, series) in zip("AB", queries, strict=False):
        query = prometheus.Dataquery().ref_id(letter).datasource(SOURCE)
        panel.with_target(query.expr(expression).legend_format(series).range())
    return panel


def _count(title: str, description: str, expression: str, colours: Sequence[tuple[float | None, str]]) -> stat.Panel:
    query = prometheus.Dataquery().ref_id("A").datasource(SOURCE).expr(expression).legend_format(LEGEND).instant()
    panel = stat.Panel().title(title).description(description).datasource(SOURCE).height(HEIGHT).with_target(query)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).graph_mode(BigValueGraphMode.NONE)
    return panel.no_value("no monitors").color_mode(BigValueColorMode.BACKGROUND).thresholds(_thresholds(colours))


def _thresholds(colours: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=value, color=colour) for value, colour in colours]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _name(value: int, text: str) -> ValueMap:
    return ValueMap(options={str(value): ValueMappingResult(text=text, index=value)})


def _dash() -> list[DynamicConfigValue]:
    return [DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 8]})]


DASHBOARDS = {"monitors.json": draw_monitors}


def render(name: str) -> str:
    """Returns the JSON of a dashboard, which Grafana imports."""
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(DASHBOARDS[name]().build()) + "\n"


if __name__ == "__main__":
    for file in DASHBOARDS:
        (Path(sys.argv[1]) / file).write_text(render(file))
