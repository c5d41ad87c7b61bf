"""The dashboard of drift monitors: alarms, evidence, windows, observations, and the outbox of `features`."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.observability.panels import (
    HALF,
    NAMESPACE,
    NAMESPACES,
    TENANTS,
    WHOLE,
    add,
    choose,
    dash,
    draw_board,
    limited,
    name_value,
    number,
    per_hour,
    plot,
    stacked,
)
from grafana_foundation_sdk.builders import dashboard, stat, timeseries

MONITORS = f'{TENANTS},monitor=~"$monitor"'
LEGEND = "{{monitor}} ({{tenant}})"


def draw() -> dashboard.Dashboard:
    """Returns the dashboard."""
    tenants = f"label_values(vfmalign_monitor_alarm{{{NAMESPACES}}}, tenant)"
    monitors = f"label_values(vfmalign_monitor_alarm{{{TENANTS}}}, monitor)"
    board = draw_board(
        "monitors",
        "drift monitors",
        "Whether the features of models in use still come from the distributions of their references.",
        (NAMESPACE, choose("tenant", "Tenant", tenants), choose("monitor", "Monitor", monitors)),
        {
            "State": _draw_state(),
            "Evidence": _draw_evidence(),
            "Windows": _draw_windows(),
            "Observations": _draw_observations(),
            "Outbox of observations": _draw_outbox(),
            "Service": _draw_service(),
        },
    )
    return board.time("now-7d", "now")


def _draw_state() -> Sequence[stat.Panel]:
    alarm = number(
        "Alarm",
        "An alarm ends when somebody acknowledges it (vfmalign monitors acknowledge MONITOR) or a new epoch begins.",
        (_read("alarm"), LEGEND),
        [(None, "green"), (1, "red")],
        unit="none",
        section="vfmaligndriftalarm",
    ).mappings([name_value(0, "no drift"), name_value(1, "drift")])
    paused = number(
        "Paused",
        "The observations of a paused monitor are recorded, but do not change its evidence.",
        (_read("paused"), LEGEND),
        [(None, "green"), (1, "yellow")],
        unit="none",
        section="vfmalignmonitorsilent",
    ).mappings([name_value(0, "active"), name_value(1, "paused")])
    return alarm, paused


def _draw_evidence() -> Sequence[timeseries.Panel]:
    panel = plot(
        "Evidence of $monitor",
        "Natural logarithm of the evidence of each component. Above the threshold (dashed), there is an alarm. Nothing "
        "is drawn where the evidence is 0.",
        [
            (_read("log_evidence", "component"), "{{component}} ({{tenant}})"),
            (_read("log_threshold", "component"), "threshold, {{component}} ({{tenant}})"),
        ],
        unit="none",
        section="vfmaligndriftalarm",
        span=HALF,
    )
    return (panel.override_by_regexp("threshold.*", dash()).repeat("monitor").repeat_direction("h").max_per_row(2),)


def _draw_windows() -> Sequence[timeseries.Panel]:
    panel = plot(
        "MMD² of the last window",
        "MMD² between the last window and the reference, for the layer that the evidence uses. MMD² raises no alarm.",
        [(_read("mmd2"), LEGEND)],
        unit="none",
        section="vfmaligndriftalarm",
        span=WHOLE,
    )
    return (panel,)


def _draw_observations() -> Sequence[timeseries.Panel]:
    observations = f"vfmalign_monitor_observations_total{{{MONITORS}}}"
    outcomes = stacked(
        plot(
            "Observations per hour by outcome",
            "Only observations with the outcome `entered` change the evidence. A `duplicate` was sent again; a "
            "`conflict` was sent again with different content.",
            [(per_hour("outcome", observations, from_zero=False), "{{outcome}}")],
            unit="none",
            section="vfmalignmonitorsilent",
        )
    )
    lag = plot(
        "Time from acquisition to arrival",
        "Time for the last observation of each monitor, if its time of acquisition is known.",
        [(_read("lag_seconds"), LEGEND)],
        unit="s",
        section="vfmalignmonitorsilent",
    )
    silence = plot(
        "Time since the last observation",
        "VfmalignMonitorSilent fires above the monitor's longest silence (dashed), if the monitor sets one.",
        [
            (f"time() - {_read('last_observation_timestamp_seconds')}", LEGEND),
            (_read("max_silence_seconds"), f"longest silence, {LEGEND}"),
        ],
        unit="s",
        section="vfmalignmonitorsilent",
    )
    return outcomes, lag, silence.override_by_regexp("longest silence.*", dash())


def _draw_outbox() -> Sequence[timeseries.Panel]:
    waiting = plot(
        "Observations in the outbox",
        "Observations that features keeps in the object storage until monitoring has recorded them. All replicas share "
        "one outbox.",
        [(f"max by (namespace, tenant) (vfmalign_outbox_observations{{{TENANTS}}})", "{{tenant}}")],
        unit="none",
        section="vfmalignoutboxgrowing",
    )
    size = plot(
        "Size of the outbox",
        "If a tenant's outbox exceeds VFMALIGN_OUTBOX__MAX_BYTES or __MAX_OBSERVATIONS, new observations are dropped.",
        [(f"max by (namespace, tenant) (vfmalign_outbox_bytes{{{TENANTS}}})", "{{tenant}}")],
        unit="bytes",
        section="vfmalignoutboxgrowing",
    )
    oldest = f"min by (namespace, tenant) (vfmalign_outbox_oldest_timestamp_seconds{{{TENANTS}}} > 0)"
    age = plot(
        "Age of the oldest observation in the outbox",
        "VfmalignOutboxGrowing fires above a quarter of an hour. Nothing is drawn while the outbox is empty.",
        [(f"time() - {oldest}", "{{tenant}}")],
        unit="s",
        section="vfmalignoutboxgrowing",
    )
    delivered = f"vfmalign_observations_delivered_total{{{NAMESPACES}"
    answers = stacked(
        plot(
            "Deliveries per hour",
            "Answers of Extract about observations, and outcomes of the queued observations.",
            [(per_hour("delivery", f"{delivered}}}", from_zero=False), "{{delivery}}")],
            unit="none",
            section="vfmalignoutboxgrowing",
            span=HALF,
        )
    )
    drops = plot(
        "Drops per hour by reason",
        "Observations that were lost. VfmalignObservationsDropped fires for each reason.",
        [(per_hour("reason", f'{delivered},delivery="dropped"}}', from_zero=False), "{{reason}}")],
        unit="none",
        section="vfmalignobservationsdropped",
        span=HALF,
    )
    return waiting, size, limited(age, 900), answers, drops


def _draw_service() -> Sequence[timeseries.Panel]:
    leaders = plot(
        "Leaders",
        "The one process that leads computes windows and exports the metrics of monitors.",
        [(add("", f'vfmalign_orchestrator_leader{{{NAMESPACES},job="vfmalign-monitoring"}}'), "leaders")],
        unit="none",
        section="vfmalignnoleader",
    )
    failures = f"vfmalign_monitor_window_failures_total{{{NAMESPACES}}}"
    windows = plot(
        "Windows without MMD² per hour",
        "Windows by the reason of the error. They are tried again; evidence and alarms do not depend on windows.",
        [(per_hour("reason", failures, from_zero=False), "{{reason}}")],
        unit="none",
        section="failures-and-retries",
    )
    states = plot(
        "Faults of monitor states per hour",
        "States that could not be stored, and states whose evidence differed in the last bits after a restart.",
        [
            (per_hour("", f"vfmalign_monitor_snapshot_failures_total{{{NAMESPACES}}}"), "not stored"),
            (per_hour("", f"vfmalign_monitor_replays_that_differ_total{{{NAMESPACES}}}"), "differ"),
        ],
        unit="none",
        section="failures-and-retries",
    )
    return leaders, windows, states


def _read(metric: str, label: str = "monitor") -> str:
    return f"max by (namespace, tenant, {label}) (vfmalign_monitor_{metric}{{{MONITORS}}})"
