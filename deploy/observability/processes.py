"""Rows of the dashboard of operations about the services themselves: their work and their processes."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.observability.panels import INTERVAL, JOBS, add, dash, limited, mean, per_hour, plot, stacked
from grafana_foundation_sdk.builders import timeseries


def draw_work() -> Sequence[timeseries.Panel]:
    """Returns the row about the stages of calls."""
    mmd = f'{JOBS},job="vfmalign-mmd"'
    return (
        plot(
            "Duration of stages of work, mean",
            "Stages of Extract, Compute and ExtractDataset.",
            [(mean("stage", "vfmalign_stage_seconds", JOBS), "{{stage}}")],
            unit="s",
            section="vfmalignextractlatency",
        ),
        plot(
            "Volumes in one forward pass, mean",
            "Mean for `features`. The device is used best if several studies arrive at once.",
            [(mean("job", "vfmalign_batch_size", JOBS), "{{job}}")],
            unit="none",
            section="vfmalignextractlatency",
        ),
        plot(
            "CPU of mmd",
            "CPU time of each process of `mmd`, in cores. If it is about 0 while calls are queued and the GPU is idle, "
            "the device hangs.",
            [(add("instance", _rate_cpu(mmd)), "{{instance}}")],
            unit="none",
            section="vfmaligncomputeavailability",
        ),
    )


def draw_processes() -> Sequence[timeseries.Panel]:
    """Returns the row about processes, their memory and their CPU time."""
    answering = add("job", f'up{{{JOBS},job=~"vfmalign-.*"}}')
    starts = f"changes(process_start_time_seconds{{{JOBS}}}[30m])"
    return (
        plot(
            "Processes that answer",
            "Number of processes of each service from which Prometheus gets metrics, and the largest number within a "
            "day (dashed). The DICOM gateway is included.",
            [(answering, "{{job}}"), (f"max_over_time(({answering})[1d:1m])", "most, {{job}}")],
            unit="none",
            section="vfmalignservicedown",
        ).override_by_regexp("most.*", dash()),
        limited(
            plot(
                "Starts of processes in half an hour",
                "VfmalignRestarts fires above 3.",
                [(add("job", starts), "{{job}}")],
                unit="none",
                section="vfmalignrestarts",
            ),
            3,
        ),
        plot(
            "Lost log lines per hour",
            "Lines of the log and of the audit log that could not be written, for example because the disk was full.",
            [
                (per_hour("job", f"vfmalign_log_lines_lost_total{{{JOBS}}}"), "{{job}}"),
                (per_hour("job", f"vfmalign_audit_lines_lost_total{{{JOBS}}}"), "{{job}}: audit"),
            ],
            unit="none",
            section="vfmalignloglineslost",
        ),
        plot(
            "Memory",
            "Resident memory of each process.",
            [(add("job, instance", f"process_resident_memory_bytes{{{JOBS}}}"), "{{job}} ({{instance}})")],
            unit="bytes",
            section="resources",
        ),
        plot(
            "Memory of accelerators",
            "Memory that each process uses. Nothing is drawn without an accelerator.",
            [(add("job, device", f"vfmalign_gpu_memory_used_bytes{{{JOBS}}}"), "{{device}} ({{job}})")],
            unit="bytes",
            section="resources",
        ),
        stacked(
            plot(
                "CPU",
                "CPU time in cores.",
                [(add("job", _rate_cpu(JOBS)), "{{job}}")],
                unit="none",
                section="resources",
            )
        ),
        plot(
            "Failed probes per hour",
            "Once a minute, the leader of finetuning calls each service and writes to the object storage (`store`). "
            "VfmalignProbeFails and VfmalignStoreWritesFail fire if all probes fail for six minutes.",
            [(per_hour("service", f'vfmalign_probes_total{{{JOBS},outcome="failed"}}'), "{{service}}")],
            unit="none",
            section="vfmalignprobefails",
        ),
        plot(
            "Time since the last sweep",
            "Once an hour, services delete what is due. VfmalignSweepLate fires after a day.",
            [
                (
                    f"time() - max by (namespace, job, kind) (vfmalign_last_sweep_timestamp_seconds{{{JOBS}}})",
                    "{{job}} {{kind}}",
                )
            ],
            unit="s",
            section="vfmalignsweeplate",
        ),
    )


def _rate_cpu(selector: str) -> str:
    return f"rate(process_cpu_seconds_total{{{selector}}}[{INTERVAL}])"
