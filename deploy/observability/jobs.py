"""The dashboard of training jobs, checks and experiments: their states, what they wait for, and how they end."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.observability.panels import (
    HALF,
    NAMESPACE,
    NAMESPACES,
    QUARTER,
    add,
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
        "States of training jobs, checks and experiments, what they wait for, and how they end.",
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
                [(add("state", f"{metric}{{{live}}}"), "{{state}}")],
                unit="none",
                section=section,
                span=QUARTER,
            )
        )
        for title, description, metric, section in (
            (
                "Jobs",
                "A `pending` job was launched, and waits for its processes to start.",
                "vfmalign_jobs",
                "vfmalignjobswait",
            ),
            (
                "Checks",
                "A `queued` check waits until fewer checks run.",
                "vfmalign_checks",
                "vfmaligncheckswait",
            ),
            ("Experiments", "Experiments that have not ended.", "vfmalign_experiments", "metrics-and-alerts"),
        )
    )
    progress = plot(
        "Progress of the experiments",
        "Share of the cells of all unfinished experiments that have ended. Nothing is drawn without experiments.",
        [(f"{add('', f'{cells},{_ENDED}}}')} / ({add('', f'{cells}}}')} > 0)", "ended")],
        unit="percentunit",
        section="metrics-and-alerts",
        span=QUARTER,
    )
    return jobs, checks, experiments, progress


def _draw_waiting() -> Sequence[timeseries.Panel]:
    waits = "vfmalign_job_queue_wait_seconds"
    oldest = f"vfmalign_jobs_longest_wait_timestamp_seconds{{{NAMESPACES}}}"
    return (
        plot(
            "Time until jobs start",
            "Time from the creation of a job until all of its processes have started: median and 95th percentile. "
            "Dashed: the longest wait of a job that has not started yet. VfmalignJobDoesNotStart fires after a day.",
            [
                (quantile(0.5, "", waits, NAMESPACES), "median"),
                (quantile(0.95, "", waits, NAMESPACES), "95 %"),
                (f"time() - min by (namespace) ({oldest} > 0)", "not started yet"),
            ],
            unit="s",
            section="vfmalignjobsstart",
        ).override_by_regexp("not started yet$", dash()),
        stacked(
            plot(
                "Jobs that wait, by reason",
                "`vfmalign jobs show ID` explains the reason and the remedy. Nothing is drawn if no job waits.",
                [(add("reason", f"vfmalign_jobs_waiting{{{NAMESPACES}}}") + " > 0", "{{reason}}")],
                unit="none",
                section="vfmalignjobswait",
            )
        ),
        stacked(
            plot(
                "Checks that repeat a call, by reason",
                "VfmalignChecksWait fires after a quarter of an hour.",
                [(add("reason", f"vfmalign_checks_waiting{{{NAMESPACES}}}"), "{{reason}}")],
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
                "Number by final state.",
                [(per_hour("kind, state", f"{ended}}}"), "{{kind}} {{state}}")],
                unit="none",
                section="vfmaligncheckssuccess",
            )
        ),
        plot(
            "Failures per hour by the side at fault",
            "A fault of the `system` is corrected by operators, a fault of the `request` by the person who sent it.",
            [(per_hour("kind, fault", f'{ended},state="failed"}}'), "{{kind}}: {{fault}}")],
            unit="none",
            section="vfmaligncheckssuccess",
        ),
        stacked(
            plot(
                "Attempts of jobs that ended, per hour",
                "An `interrupted` attempt was ended from outside, and does not count as a failure.",
                [(per_hour("outcome", f"vfmalign_job_attempts_ended_total{{{NAMESPACES}}}"), "{{outcome}}")],
                unit="none",
                section="failures-and-retries",
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
        "Use by node and GPU, from NVIDIA's DCGM exporter. Nothing is drawn without this exporter.",
        [("avg by (Hostname, gpu) (DCGM_FI_DEV_GPU_UTIL) / 100", "{{Hostname}}, GPU {{gpu}}")],
        unit="percentunit",
        section="resources",
        span=HALF,
    )
    taken = plot(
        "GPUs assigned to pods",
        "GPUs and slices that are assigned to pods which have not ended, and the number on all nodes (dashed), from "
        "kube-state-metrics. Nothing is drawn without kube-state-metrics.",
        [
            (add("", f"{requested} unless on (namespace, pod) ({ended})"), ""),
            (f"sum (kube_node_status_allocatable{{{_GPU}}})", "of all nodes"),
        ],
        unit="none",
        section="resources",
        span=HALF,
    ).override_by_regexp("^of all nodes$", dash())
    return busy, taken
