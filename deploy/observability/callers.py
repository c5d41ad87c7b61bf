"""The dashboard of who calls: by tenant and role, what they use of their quotas, and what they do wrong."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.observability.panels import (
    HALF,
    INTERVAL,
    NAMESPACE,
    NAMESPACES,
    TENANTS,
    choose,
    draw_board,
    limited,
    per_hour,
    plot,
    stacked,
)
from grafana_foundation_sdk.builders import dashboard, timeseries

_CALLS = f"vfmalign_calls_by_role_total{{{TENANTS}}}"


def draw() -> dashboard.Dashboard:
    """Returns the dashboard."""
    tenants = f"label_values(vfmalign_calls_by_role_total{{{NAMESPACES}}}, tenant)"
    return draw_board(
        "callers",
        "callers",
        "Who calls, by tenant and role, what they use of their quotas, and which calls fail by their own fault.",
        (NAMESPACE, choose("tenant", "Tenant", tenants)),
        {"Calls": _draw_calls(), "Quotas": _draw_quotas(), "Faults of callers": _draw_faults()},
    )


def _draw_calls() -> Sequence[timeseries.Panel]:
    by = {"role": "{{role}}", "tenant": "{{tenant}}", "grpc_service, grpc_method": "{{grpc_method}}"}
    titles = {
        "role": (
            "Calls by role",
            "By the role that allows them. Services call under roles of their own. Nothing is drawn without calls.",
        ),
        "tenant": ("Calls by tenant", "By the tenant that they act for. Nothing is drawn without calls."),
        "grpc_service, grpc_method": (
            "Calls by method",
            "Of the chosen tenants. Methods that nobody calls are left out.",
        ),
    }
    return tuple(
        stacked(
            plot(
                title,
                description,
                [(f"sum by ({labels}) (rate({_CALLS}[{INTERVAL}])) > 0", by[labels])],
                unit="reqps",
                section="who-is-admitted" if labels == "role" else "tenants",
            )
        )
        for labels, (title, description) in titles.items()
    )


def _draw_quotas() -> Sequence[timeseries.Panel]:
    used = plot(
        "Quotas used",
        "Of jobs, checks and experiments, by the caller who uses most; of monitors, storage and uploads, by the "
        "tenant. At 100 %, further requests are refused. `storage` and `uploads` are those of the last upload.",
        [(f"max by (tenant, quota) (vfmalign_quota_used_ratio{{{TENANTS}}})", "{{quota}} ({{tenant}})")],
        unit="percentunit",
        section="tenants",
        span=24,
    )
    return (limited(used, 1),)


def _draw_faults() -> Sequence[timeseries.Panel]:
    failed = f'vfmalign_calls_failed_total{{{NAMESPACES},fault="caller"}}'
    return (
        plot(
            "Denials per hour by reason",
            "Calls of all tenants whose caller could not be identified, or may not make them.",
            [(per_hour("reason", f"vfmalign_calls_denied_total{{{NAMESPACES}}}"), "{{reason}}")],
            unit="none",
            section="who-is-admitted",
            span=HALF,
        ),
        plot(
            "Failed calls per hour by reason",
            "Calls of all tenants that failed by the fault of their caller, such as an invalid request. Nothing is "
            "drawn without one.",
            [(per_hour("grpc_method, reason", failed) + " > 0", "{{reason}} ({{grpc_method}})")],
            unit="none",
            section="monitor",
            span=HALF,
        ),
    )
