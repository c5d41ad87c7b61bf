"""The dashboard of training jobs, checks and experiments: where they stand, what they wait for, how they end."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.observability.panels import (
    HALF,
    NAMESPACE,
    NAMESPACES,
    QUARTER,
    dash,
    draw_board,
    per_hour,
    plot,
    quantile,
    stacked,
)
from grafana_foundation_sdk.builders import dashboard, timeseries

_GPU = 'resource=~"nvidia_com_(gpu|mig_.+)"'
"""Whole GPUs, and slices of them (MIG), by their names in kube-state-metrics."""
_ENDED = 'state=~"succeeded|failed|cancelled"'


def draw() -> dashboard.Dashboard:
    """Returns the dashboard."""
    return draw_board(
        "jobs",
        "jobs and checks",
        "Where training jobs, checks and experiments stand, what they wait for, and how they end.",
        (NAMESPACE,),
        {
            "States": _draw_states(),
            "Waiting": _draw_waiting(),
            "Ends": _draw_ends(),
            "GPUs": _draw_gpus(),
        },
    )


def _draw_states() -> Sequence[timeseries.Panel]:
    cells = f"vfmalign_experiment_cells{{{NAMESPACES}"
    live = f'{NAMESPACES},state!~"succeeded|failed|cancelled"'
    jobs, checks, experiments = (
        stacked(
            plot(
                f"{title} in progress",
                description,
                [(f"sum by (state) ({metric}{{{live}}})", "{{state}}")],
                unit="none",
                section=section,
                span=QUARTER,
            )
        )
        for title, description, metric, section in (
            ("Jobs", "`pending` is launched and waits for its processes.", "vfmalign_jobs", "vfmalignjobswait"),
            (
                "Checks",
                "`queued` waits for a place among the checks that run.",
                "vfmalign_checks",
                "vfmaligncheckswait",
            ),
            ("Experiments", "Those that have not ended.", "vfmalign_experiments", "monitor"),
        )
    )
    progress = plot(
        "Progress of the experiments",
        "Share of the cells that have ended, of all unfinished experiments together. Nothing is drawn without one.",
        [(f"sum ({cells},{_ENDED}}}) / (sum ({cells}}}) > 0)", "ended")],
        unit="percentunit",
        section="monitor",
        span=QUARTER,
    )
    return jobs, checks, experiments, progress


def _draw_waiting() -> Sequence[timeseries.Panel]:
    waits = "vfmalign_job_queue_wait_seconds"
    return (
        plot(
            "Time until jobs start",
            "From creation until all processes have first started: median and 95th percentile. Dashed: the longest "
            "wait of a job that has not started yet. VfmalignJobDoesNotStart fires after a day.",
            [
                (quantile(0.5, "", waits, NAMESPACES), "median"),
                (quantile(0.95, "", waits, NAMESPACES), "95 %"),
                (f"time() - min (vfmalign_jobs_longest_wait_timestamp_seconds{{{NAMESPACES}}} > 0)", "not started yet"),
            ],
            unit="s",
            section="vfmalignjobsstart",
        ).override_by_regexp("^not started yet$", dash()),
        stacked(
            plot(
                "Jobs that wait, by reason",
                "`vfmalign jobs show ID` says the same in a sentence, with what to do. Nothing is drawn if none waits.",
                [(f"sum by (reason) (vfmalign_jobs_waiting{{{NAMESPACES}}}) > 0", "{{reason}}")],
                unit="none",
                section="vfmalignjobswait",
            )
        ),
        stacked(
            plot(
                "Checks that repeat a call, by reason",
                "VfmalignChecksWait fires after a quarter of an hour.",
                [(f"sum by (reason) (vfmalign_checks_waiting{{{NAMESPACES}}})", "{{reason}}")],
                unit="none",
                section="vfmaligncheckswait",
            )
        ),
    )


def _draw_ends() -> Sequence[timeseries.Panel]:
    ended = f"vfmalign_operations_ended_total{{{NAMESPACES}"
    return (
        stacked(
            plot(
                "Jobs, checks and experiments that ended, per hour",
                "By their last state.",
                [(per_hour("kind, state", f"{ended}}}"), "{{kind}} {{state}}")],
                unit="none",
                section="vfmaligncheckssuccess",
            )
        ),
        plot(
            "Failures per hour by the side that has to act",
            "Operators mend the `system`; people who ask correct the `request`.",
            [(per_hour("kind, fault", f'{ended},state="failed"}}'), "{{kind}}: {{fault}}")],
            unit="none",
            section="vfmaligncheckssuccess",
        ),
        stacked(
            plot(
                "Attempts of jobs that ended, per hour",
                "An `interrupted` attempt ended from outside and counts as no failure.",
                [(per_hour("outcome", f"vfmalign_job_attempts_ended_total{{{NAMESPACES}}}"), "{{outcome}}")],
                unit="none",
                section="what-retries-and-what-you-retry",
            )
        ),
    )


def _draw_gpus() -> Sequence[timeseries.Panel]:
    # Jobs have a namespace of their own, which no service is in.
    namespaces = 'namespace=~"($namespace)(-jobs)?"'
    requested = f'kube_pod_container_resource_requests{{{namespaces},{_GPU},node!=""}}'
    # Pods that have ended keep their requests until they are deleted.
    ended = 'kube_pod_status_phase{phase=~"Succeeded|Failed"} == 1'
    busy = plot(
        "Use of the GPUs",
        "By node and GPU, from NVIDIA's DCGM exporter. Nothing is drawn without it.",
        [("avg by (Hostname, gpu) (DCGM_FI_DEV_GPU_UTIL) / 100", "{{Hostname}}, GPU {{gpu}}")],
        unit="percentunit",
        section="resources",
        span=HALF,
    )
    taken = plot(
        "GPUs that pods hold",
        "GPUs and slices of pods that are on a node and have not ended, and those of all nodes (dashed), from "
        "kube-state-metrics. "
        "Nothing is drawn without it.",
        [
            (f"sum by (namespace) ({requested} unless on (namespace, pod) ({ended}))", "{{namespace}}"),
            (f"sum (kube_node_status_allocatable{{{_GPU}}})", "of all nodes"),
        ],
        unit="none",
        section="resources",
        span=HALF,
    ).override_by_regexp("^of all nodes$", dash())
    return busy, taken
