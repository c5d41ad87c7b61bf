"""The dashboard for operators of the services: objectives, calls, refusals, storage, databases, processes."""

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
    add,
    choose,
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
_METHODS = 'grpc_method=~"$method"'
_FAILED = f"vfmalign_calls_failed_total{{{JOBS}"


def draw() -> dashboard.Dashboard:
    """Returns the dashboard."""
    methods = f"label_values(grpc_server_handled_total{{{JOBS}}}, grpc_method)"
    return draw_board(
        "operations",
        "operations",
        "Whether callers get answers in time, and if not, what delays or prevents the answers.",
        (NAMESPACE, JOB, choose("method", "Method", methods)),
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
        "Share of the errors allowed in the objective's period that is not used up yet. Below 0, the objective is "
        "missed.",
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
        "Rate of errors over an hour and over three days (dashed), as a multiple of the rate that uses up the error "
        f"budget exactly at the end of the period. A rate above {FASTEST_BURN} for an hour pages somebody; a rate "
        "above 1 for three days opens a ticket.",
        [(f"{rate} / on (sloth_id) group_left () slo:error_budget:ratio", legend) for rate, legend in rates],
        unit="none",
        section="objectives",
        span=HALF,
    ).override_by_regexp(".*3d$", dash())
    errors = plot(
        "Share of failed or slow events",
        "Share of the last hour's events that failed or were too slow, and the share that the objective allows "
        "(dashed). Nothing is drawn without events.",
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
    unary = f'{JOBS},{_METHODS},grpc_type="unary"'
    reads = f'{JOBS},grpc_type="unary",grpc_method=~"(Get|List).+"'
    return (
        plot(
            "Calls by method",
            "Calls of the chosen methods that ended, per second. Methods that nobody calls are left out.",
            [(add(_BY_METHOD, f"rate({handled},{_METHODS}}}[{INTERVAL}])") + " > 0", _METHOD)],
            unit="reqps",
            section="metrics-and-alerts",
        ),
        plot(
            "Failed calls by the side at fault",
            "Share of a service's calls that fail by a fault of the `server`, of the `pacs`, or of the `caller`. "
            "Nothing is drawn without calls.",
            [
                (
                    add("job, fault", f'rate({ended},fault!="none"}}[{INTERVAL}])')
                    + f" / on (namespace, job) group_left () ({add('job', f'rate({ended}}}[{INTERVAL}])')} > 0)",
                    "{{fault}} ({{job}})",
                )
            ],
            unit="percentunit",
            section="metrics-and-alerts",
        ),
        plot(
            "Failures of the server by reason",
            "The log line `call` of each failure shows its reason and request id. Nothing is drawn without failures.",
            [(add("job, reason", f'rate({_FAILED},fault="server"}}[{INTERVAL}])') + " > 0", "{{reason}} ({{job}})")],
            unit="reqps",
            section="vfmaligncomputeavailability",
        ),
        plot(
            "Duration of unary calls, 95th percentile",
            "The duration of Compute and Extract depends on the size of the request. Methods that nobody calls are "
            "left out.",
            [(quantile(0.95, _BY_METHOD, "grpc_server_handling_seconds", unary) + " > 0", _METHOD)],
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
            "Each internal error is a bug in vfmalign.",
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
            [(add("job, queue", f"vfmalign_queue_depth{{{JOBS}}}"), "{{queue}} ({{job}})")],
            unit="none",
            section="vfmalignextractavailability",
            span=QUARTER,
        ),
        plot(
            "Refusals per hour",
            "Calls that ended with RESOURCE_EXHAUSTED, because a queue, the memory or a quota was full, or because the "
            "request was too large. VfmalignCallsRefused fires above ten in four minutes. Nothing is drawn without "
            "refusals.",
            [(per_hour(_BY_METHOD, refused) + " > 0", _METHOD)],
            unit="none",
            section="vfmaligncallsrefused",
            span=QUARTER,
        ),
        plot(
            "Denials per hour by reason",
            "Calls whose caller could not be identified, or has no right to make the call. VfmalignCallsDenied fires "
            "above 50 in four minutes.",
            [(per_hour("job, reason", f"vfmalign_calls_denied_total{{{JOBS}}}"), "{{reason}} ({{job}})")],
            unit="none",
            section="vfmaligncallsdenied",
            span=QUARTER,
        ),
        plot(
            "Answers not read per hour",
            "Answers that callers did not read in time. An answer occupies memory until it is read.",
            [(per_hour("job", f"vfmalign_answers_not_taken_total{{{JOBS}}}"), "{{job}}")],
            unit="none",
            section="vfmalignextractavailability",
            span=QUARTER,
        ),
    )
