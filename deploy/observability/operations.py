"""The dashboard of whoever keeps the services running: objectives, calls, refusals, storage, databases, processes."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.observability import dependencies, processes
from deploy.observability.panels import (
    HALF,
    INTERVAL,
    JOB,
    JOBS,
    NAMESPACE,
    NAMESPACES,
    QUARTER,
    WHOLE,
    dash,
    draw_board,
    limited,
    number,
    per_hour,
    plot,
    quantile,
)
from deploy.observability.settings import FASTEST_BURN
from grafana_foundation_sdk.builders import dashboard, stat, timeseries

_METHOD = "{{grpc_method}} ({{job}})"
_BY_METHOD = "job, grpc_method"
_FAILED = f"vfmalign_calls_failed_total{{{JOBS}"


def draw() -> dashboard.Dashboard:
    """Returns the dashboard."""
    return draw_board(
        "operations",
        "operations",
        "Whether callers get answers in time, and what keeps the services from giving them.",
        (NAMESPACE, JOB),
        {
            "Objectives": _draw_objectives(),
            "Calls": _draw_calls(),
            "Queues and refusals": _draw_refusals(),
            "Object storage": dependencies.draw_store(),
            "Databases and leaders": dependencies.draw_databases(),
            "PACS": dependencies.draw_pacs(),
            "Work": processes.draw_work(),
            "Processes": processes.draw_processes(),
        },
    )


def _draw_objectives() -> Sequence[stat.Panel | timeseries.Panel]:
    colours = [(None, "red"), (0, "yellow"), (0.25, "green")]
    budget = number(
        "Error budget left",
        "Share of the errors that the objective allows and that may still happen, over its period. Below 0, the "
        "objective is missed.",
        (f"slo:period_error_budget_remaining:ratio{{{NAMESPACES}}}", "{{sloth_id}}"),
        colours,
        unit="percentunit",
        section="objectives",
    )
    rates = (
        (f"slo:sli_error:ratio_rate{window}{{{NAMESPACES}}}", f"{{{{sloth_id}}}}, {window}") for window in ("1h", "3d")
    )
    burn = plot(
        "Burn rate",
        "Errors as a multiple of what uses up the budget within its period, over an hour and over three days (dashed). "
        f"Somebody is paged above {FASTEST_BURN} in an hour, and there is a ticket above 1 in three days.",
        [(f"{rate} / on (sloth_id) group_left () slo:error_budget:ratio", legend) for rate, legend in rates],
        unit="none",
        section="objectives",
        span=HALF,
    ).override_by_regexp(".*3d$", dash())
    errors = plot(
        "Share of bad events",
        "Within the last hour, and what the objective allows (dashed). Nothing is drawn without events.",
        [
            (f"slo:sli_error:ratio_rate1h{{{NAMESPACES}}}", "{{sloth_id}}"),
            ("slo:error_budget:ratio", "allowed, {{sloth_id}}"),
        ],
        unit="percentunit",
        section="objectives",
        span=WHOLE,
    ).override_by_regexp("^allowed.*", dash())
    return budget, limited(burn, 1), errors


def _draw_calls() -> Sequence[timeseries.Panel]:
    handled = f"grpc_server_handled_total{{{JOBS}"
    ended = f"vfmalign_calls_ended_total{{{JOBS}"
    reads = f'{JOBS},grpc_type="unary",grpc_method=~"(Get|List).+"'
    return (
        plot(
            "Calls by method",
            "Calls that ended, per second. Methods that nobody calls are left out.",
            [(f"sum by ({_BY_METHOD}) (rate({handled}}}[{INTERVAL}])) > 0", _METHOD)],
            unit="reqps",
            section="monitor",
        ),
        plot(
            "Failed calls by the side that has to act",
            "Share of the calls of a service that fail: `server`, the `pacs` that the call names, or the `caller`. "
            "Nothing is drawn without calls.",
            [
                (
                    f'sum by (job, fault) (rate({ended},fault!="none"}}[{INTERVAL}]))'
                    f" / on (job) group_left () (sum by (job) (rate({ended}}}[{INTERVAL}])) > 0)",
                    "{{fault}} ({{job}})",
                )
            ],
            unit="percentunit",
            section="monitor",
        ),
        plot(
            "Failures of the server by reason",
            "The log line `call` has the reason and the request id. Nothing is drawn without failures.",
            [(f'sum by (job, reason) (rate({_FAILED},fault="server"}}[{INTERVAL}])) > 0', "{{reason}} ({{job}})")],
            unit="reqps",
            section="vfmaligncomputeavailability",
        ),
        plot(
            "Duration of unary calls, 95th percentile",
            "Compute and Extract take as long as their requests need.",
            [(quantile(0.95, _BY_METHOD, "grpc_server_handling_seconds", f'{JOBS},grpc_type="unary"'), _METHOD)],
            unit="s",
            section="vfmaligncomputelatency",
        ),
        limited(
            plot(
                "Duration of calls that read records, 95th percentile",
                "VfmalignCallsSlow fires above 5 s.",
                [(quantile(0.95, _BY_METHOD, "grpc_server_handling_seconds", reads), _METHOD)],
                unit="s",
                section="vfmaligncallsslow",
            ),
            5,
        ),
        plot(
            "Internal errors per hour",
            "Each one is a bug.",
            [(per_hour(_BY_METHOD, f'{handled},grpc_code="INTERNAL"}}'), _METHOD)],
            unit="none",
            section="vfmaligninternalerrors",
        ),
    )


def _draw_refusals() -> Sequence[timeseries.Panel]:
    refused = f'grpc_server_handled_total{{{JOBS},grpc_code="RESOURCE_EXHAUSTED"}}'
    return (
        plot(
            "Calls in work queues",
            "Calls that run or wait for the device or the readers.",
            [(f"sum by (job, queue) (vfmalign_queue_depth{{{JOBS}}})", "{{queue}} ({{job}})")],
            unit="none",
            section="vfmalignextractavailability",
            span=QUARTER,
        ),
        plot(
            "Refusals per hour",
            "Calls that ended with RESOURCE_EXHAUSTED: a full queue or memory, a quota, or too large a request. "
            "Nothing is drawn without one.",
            [(per_hour(_BY_METHOD, refused) + " > 0", _METHOD)],
            unit="none",
            section="vfmalignextractavailability",
            span=QUARTER,
        ),
        plot(
            "Denials per hour by reason",
            "Calls whose caller could not be identified, or may not make them.",
            [(per_hour("job, reason", f"vfmalign_calls_denied_total{{{JOBS}}}"), "{{reason}} ({{job}})")],
            unit="none",
            section="who-is-admitted",
            span=QUARTER,
        ),
        plot(
            "Answers not taken per hour",
            "Messages of answers that callers did not read in time. They hold memory until they are read.",
            [(per_hour("job", f"vfmalign_answers_not_taken_total{{{JOBS}}}"), "{{job}}")],
            unit="none",
            section="vfmalignextractavailability",
            span=QUARTER,
        ),
    )
