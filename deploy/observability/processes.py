"""Rows of the dashboard of operations about the services themselves: their work and their processes."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.observability.panels import INTERVAL, JOBS, dash, limited, mean, per_hour, plot, stacked
from grafana_foundation_sdk.builders import timeseries


def draw_work() -> Sequence[timeseries.Panel]:
    """Returns the row about what calls spend their time with."""
    mmd = f'{JOBS},job="vfmalign-mmd"'
    return (
        plot(
            "Duration of stages of work, mean",
            "What Extract, Compute and ExtractDataset spend their time with.",
            [(mean("stage", "vfmalign_stage_seconds", JOBS), "{{stage}}")],
            unit="s",
            section="vfmalignextractlatency",
        ),
        plot(
            "Volumes in one forward pass, mean",
            "Of `features`. A device is used well where several studies arrive at once.",
            [(mean("job", "vfmalign_batch_size", JOBS), "{{job}}")],
            unit="none",
            section="vfmalignextractlatency",
        ),
        plot(
            "CPU of mmd",
            "Of each process of `mmd`, in cores. About 0 while calls are queued and the GPU is idle: the device hangs.",
            [(f"sum by (instance) ({_rate_cpu(mmd)})", "{{instance}}")],
            unit="none",
            section="vfmaligncomputeavailability",
        ),
    )


def draw_processes() -> Sequence[timeseries.Panel]:
    """Returns the row about processes, their memory and their CPU time."""
    answering = f'sum by (job) (up{{{JOBS},job=~"vfmalign-.*"}})'
    starts = f"changes(process_start_time_seconds{{{JOBS}}}[30m])"
    return (
        plot(
            "Processes that answer",
            "Processes of each service that Prometheus reads, and the most within a day (dashed). The DICOM "
            "gateway counts as well.",
            [(answering, "{{job}}"), (f"max_over_time(({answering})[1d:1m])", "most, {{job}}")],
            unit="none",
            section="vfmalignservicedown",
        ).override_by_regexp("^most.*", dash()),
        limited(
            plot(
                "Starts within half an hour",
                "VfmalignRestarts fires above 3.",
                [(f"sum by (job) ({starts})", "{{job}}")],
                unit="none",
                section="vfmalignrestarts",
            ),
            3,
        ),
        plot(
            "Lost log lines per hour",
            "Lines that could not be written, such as to a full disk.",
            [(per_hour("job", f"vfmalign_log_lines_lost_total{{{JOBS}}}"), "{{job}}")],
            unit="none",
            section="vfmalignloglineslost",
        ),
        plot(
            "Memory",
            "Resident memory of each process.",
            [(f"sum by (job, instance) (process_resident_memory_bytes{{{JOBS}}})", "{{job}} ({{instance}})")],
            unit="bytes",
            section="resources",
        ),
        plot(
            "Memory of accelerators",
            "What each process holds. Nothing is drawn without an accelerator.",
            [(f"sum by (job, device) (vfmalign_gpu_memory_used_bytes{{{JOBS}}})", "{{device}} ({{job}})")],
            unit="bytes",
            section="resources",
        ),
        stacked(
            plot(
                "CPU",
                "In cores.",
                [(f"sum by (job) ({_rate_cpu(JOBS)})", "{{job}}")],
                unit="none",
                section="resources",
            )
        ),
    )


def _rate_cpu(selector: str) -> str:
    return f"rate(process_cpu_seconds_total{{{selector}}}[{INTERVAL}])"
