"""The dashboard of callers by tenant and role: their calls, their use of quotas, and their faults."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.observability.panels import (
    HALF,
    INTERVAL,
    NAMESPACE,
    NAMESPACES,
    TENANTS,
    add,
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
        "Calls by tenant and role, the use of quotas by callers, and calls that fail by a fault of the caller.",
        (NAMESPACE, choose("tenant", "Tenant", tenants)),
        {"Calls": _draw_calls(), "Quotas": _draw_quotas(), "Faults of callers": _draw_faults()},
    )


def _draw_calls() -> Sequence[timeseries.Panel]:
    by = {"role": "{{role}}", "tenant": "{{tenant}}", "grpc_service, grpc_method": "{{grpc_method}}"}
    titles = {
        "role": (
            "Calls by role",
            "Calls by the role that permits them. Services have roles of their own. Nothing is drawn without calls.",
        ),
        "tenant": ("Calls by tenant", "Calls by the tenant for which they act. Nothing is drawn without calls."),
        "grpc_service, grpc_method": (
            "Calls by method",
            "Calls of the chosen tenants. Methods that nobody calls are left out.",
        ),
    }
    return tuple(
        stacked(
            plot(
                title,
                description,
                [(add(labels, f"rate({_CALLS}[{INTERVAL}])") + " > 0", by[labels])],
                unit="reqps",
                section="refused-callers" if labels == "role" else "callers-and-tenants",
            )
        )
        for labels, (title, description) in titles.items()
    )


def _draw_quotas() -> Sequence[timeseries.Panel]:
    used = plot(
        "Quotas used",
        "Used share of each quota. For jobs, checks and experiments, it is the share of the caller who uses most; for "
        "monitors, storage and uploads, the share of the tenant. VfmalignQuotaNearlyUsed fires above 90 %. `storage` "
        "and `uploads` were measured at the last upload, or above 90 % within three minutes.",
        [(f"max by (namespace, tenant, quota) (vfmalign_quota_used_ratio{{{TENANTS}}})", "{{quota}} ({{tenant}})")],
        unit="percentunit",
        section="vfmalignquotanearlyused",
        span=24,
    )
    return (limited(used, 0.9),)


def _draw_faults() -> Sequence[timeseries.Panel]:
    failed = f'vfmalign_calls_failed_total{{{NAMESPACES},fault="caller"}}'
    return (
        plot(
            "Denials per hour by reason",
            "Calls of all tenants whose caller could not be identified, or has no right to make the call.",
            [(per_hour("reason", f"vfmalign_calls_denied_total{{{NAMESPACES}}}"), "{{reason}}")],
            unit="none",
            section="vfmaligncallsdenied",
            span=HALF,
        ),
        plot(
            "Failed calls per hour by reason",
            "Calls of all tenants that failed by a fault of their caller, such as an invalid request. Nothing is drawn "
            "without failures.",
            [(per_hour("grpc_method, reason", failed, from_zero=False) + " > 0", "{{reason}} ({{grpc_method}})")],
            unit="none",
            section="metrics-and-alerts",
            span=HALF,
        ),
    )
