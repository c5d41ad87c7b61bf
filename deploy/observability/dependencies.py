"""Rows of the dashboard of operations about what the services need: object storage, databases, PACS."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.observability.panels import HALF, JOBS, QUARTER, add, limited, mean, per_hour, plot, quantile
from grafana_foundation_sdk.builders import timeseries


def draw_store() -> Sequence[timeseries.Panel]:
    """Returns the row about the object storage."""
    seconds, probe = "vfmalign_store_seconds", f'{JOBS},operation="probe"'
    last = f"vfmalign_store_last_success_timestamp_seconds{{{JOBS}}}"
    failed = f'vfmalign_store_attempts_total{{{JOBS},outcome="failed"}}'
    return (
        limited(
            plot(
                "Time since the storage last answered the probe",
                "VfmalignStoreLost fires above 90 s.",
                [(f"max by (namespace, job) (time() - {last})", "{{job}}")],
                unit="s",
                section="vfmalignstorelost",
                span=QUARTER,
            ),
            90,
        ),
        limited(
            plot(
                "Duration of a probe, mean",
                "A probe lists an empty prefix. VfmalignStoreSlow fires above 1 s.",
                [(mean("job", seconds, probe), "{{job}}")],
                unit="s",
                section="vfmalignstoreslow",
                span=QUARTER,
            ),
            1,
        ),
        plot(
            "Failed calls per hour",
            "Calls that failed in all attempts, by operation. VfmalignStoreFails fires unless only probes fail.",
            [(per_hour("job, operation", f"vfmalign_store_failures_total{{{JOBS}}}"), "{{operation}} ({{job}})")],
            unit="none",
            section="vfmalignstorefails",
            span=QUARTER,
        ),
        plot(
            "Failed attempts per hour",
            "Attempts that failed, by operation. A failed attempt is repeated.",
            [(per_hour("job, operation", failed), "{{operation}} ({{job}})")],
            unit="none",
            section="vfmalignstorefails",
            span=QUARTER,
        ),
        plot(
            "Duration of an attempt, 95th percentile",
            "Duration by operation, including the transfer of the object.",
            [(quantile(0.95, "job, operation", seconds, JOBS), "{{operation}} ({{job}})")],
            unit="s",
            section="vfmalignstoreslow",
            span=HALF,
        ),
        plot(
            "Lost objects that were created again, per hour",
            "Objects by kind. Each object was missing or damaged.",
            [(per_hour("kind", f"vfmalign_artifacts_recomputed_total{{{JOBS}}}"), "{{kind}}")],
            unit="none",
            section="when-objects-are-lost",
            span=HALF,
        ),
    )


def draw_databases() -> Sequence[timeseries.Panel]:
    """Returns the row about databases, and about the processes that lead by them."""
    takeovers = f"vfmalign_orchestrator_takeovers_total{{{JOBS}}}"  # which may precede the first scrape
    return (
        plot(
            "Leaders",
            "Number of a service's processes that lead. It should be 1; the other processes stand by.",
            [(add("job", f"vfmalign_orchestrator_leader{{{JOBS}}}"), "{{job}}")],
            unit="none",
            section="vfmalignnoleader",
            span=QUARTER,
        ),
        plot(
            "Takeovers per hour",
            "Times that a standby process began to lead. The panel `Starts of processes in half an hour` shows leaders "
            "that were started again.",
            [(per_hour("job", takeovers, from_zero=False), "{{job}}")],
            unit="none",
            section="leader-and-standby",
            span=QUARTER,
        ),
        limited(
            plot(
                "Duration of a transaction, mean",
                "Duration including the wait for locks. VfmalignDatabaseSlow fires above 1 s.",
                [(mean("job, access", "vfmalign_database_seconds", JOBS), "{{access}} ({{job}})")],
                unit="s",
                section="vfmaligndatabaseslow",
                span=QUARTER,
            ),
            1,
        ),
        plot(
            "Failed transactions per hour",
            "A transaction fails if the database cannot be reached, is damaged or rejects a statement.",
            [(per_hour("job", f"vfmalign_database_errors_total{{{JOBS}}}"), "{{job}}")],
            unit="none",
            section="vfmaligndatabasefails",
            span=QUARTER,
        ),
    )


def draw_pacs() -> Sequence[timeseries.Panel]:
    """Returns the row about the PACS that studies are read from."""
    failures = f"vfmalign_pacs_failures_total{{{JOBS}}}"
    return (
        plot(
            "Duration of a search or download, 95th percentile",
            "Duration by the configured name of the PACS.",
            [
                (
                    quantile(0.95, "server, operation", "vfmalign_pacs_call_seconds", JOBS),
                    "{{operation}} ({{server}})",
                )
            ],
            unit="s",
            section="vfmalignpacsfails",
            span=HALF,
        ),
        plot(
            "Failed searches and downloads per hour",
            "Calls that failed in all attempts, by reason. VfmalignPacsFails fires if one call in five fails.",
            [(per_hour("server, reason", failures, from_zero=False), "{{reason}} ({{server}})")],
            unit="none",
            section="vfmalignpacsfails",
            span=HALF,
        ),
    )
