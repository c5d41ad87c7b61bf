"""Lists and records as tables for a terminal, and the format of their values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vfmalign.cli.views.enum_labels import label
from vfmalign.client.messages.common import Estimate
from vfmalign.client.messages.features import Model
from vfmalign.client.messages.mmd import ShiftResult
from vfmalign.core.domain.documents import pluralise
from vfmalign.v1 import alignment_pb2, common_pb2, experiment_pb2, finetuning_pb2, mmd_pb2

ABSENT = "—"
DEGENERATE = "† degenerate interval: the test does not reject, and the coverage is unreliable."
BELOW_ERROR_BOUND = "‡ below the error bound: MMD² is smaller than its rounding error."
SATURATED = "§ saturated: MMD² no longer grows with the distance. Features moved far; MMD² does not say how far."
_STYLES = {
    "succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "pending": "magenta",
    "queued": "dim",
}  # fmt: skip


def new_table(title: str, *columns: str, numbers: Iterable[str] = ()) -> Table:
    """Returns an empty table; the columns named in `numbers` are right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    right = set(numbers)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def number(value: float, digits: int = 3) -> str:
    """Formats a number to significant digits; a dash if it is not finite."""
    return f"{value:.{digits}g}" if math.isfinite(value) else ABSENT


def to_text(estimate: Estimate | common_pb2.Estimate, *, digits: int = 3, signed: bool = False, unit: str = "") -> str:
    """Formats a value with its interval, or a dash; † marks an interval with unreliable coverage."""
    record = to_record(estimate)
    if record.value is None:
        return ABSENT
    sign = "+" if signed else ""
    text = f"{record.value:{sign}.{digits}g}{unit}"
    if record.interval is not None:
        interval = record.interval
        mark = "†" if interval.degenerate else ""
        text += f" [{interval.lower:{sign}.{digits}g}, {interval.upper:{sign}.{digits}g}]{mark}"
    return text


def to_record(estimate: Estimate | common_pb2.Estimate) -> Estimate:
    """Returns an estimate as a record, whichever form the client returned it in."""
    return estimate if isinstance(estimate, Estimate) else Estimate.from_proto(estimate)


def format_mmd2(shift: ShiftResult | mmd_pb2.ShiftResult) -> str:
    """Formats MMD² with its interval; ‡ marks a value below its error bound."""
    return to_text(shift.mmd2) + ("‡" if shift.below_error_bound else "")


def format_steps(steps: alignment_pb2.Steps) -> str:
    """Formats a number of optimiser steps, or a dash."""
    if not steps.HasField("value"):
        return ABSENT
    return f"more than {steps.value}" if steps.censored else str(steps.value)


def format_field(message: Message, field: str, digits: int = 3) -> str:
    """Formats an optional number of a message, or a dash."""
    return number(getattr(message, field), digits) if message.HasField(field) else ABSENT


def styled_state(state: str) -> Text:
    """Returns a state in its colour."""
    return Text(state, style=_STYLES.get(state, ""))


def format_time(stamp: Timestamp) -> str:
    """Formats a time in UTC; a dash for none."""
    if not stamp.seconds:
        return ABSENT
    return f"{stamp.ToDatetime(tzinfo=UTC):%Y-%m-%d %H:%M:%S}"


def list_fields(title: str, pairs: Mapping[str, Any] | Sequence[tuple[str, Any]]) -> Table:
    """Returns a record as a table, one field per line."""
    table = new_table(title, "field", "value")
    table.show_header = False
    for name, value in dict(pairs).items():
        table.add_row(Text(name, style="dim"), value if isinstance(value, Text) else str(value))
    return table


def separate_tables(parts: Sequence[RenderableType]) -> list[RenderableType]:
    """Puts a blank line before every table but the first part."""
    lines: list[RenderableType] = []
    for part in parts:
        if isinstance(part, Table) and lines:
            lines.append("")
        lines.append(part)
    return lines


def list_absent_reasons(estimates: Iterable[Estimate | common_pb2.Estimate]) -> list[RenderableType]:
    """Returns every distinct reason for a missing value or interval once."""
    records = [to_record(estimate) for estimate in estimates]
    reasons = {
        record.absent_reason: None
        for record in records
        if record.absent_reason and (record.value is None or record.interval is None)
    }
    return [Text(f"{ABSENT} {reason}", style="dim") for reason in reasons]


def primary_shift(result: alignment_pb2.CheckResult) -> common_pb2.Estimate:
    """Returns MMD² of the primary layer, on standardised features if there are any."""
    mmd = result.shifts[0].mmd
    return mmd.standardised.mmd2 if mmd.HasField("standardised") else mmd.raw.mmd2


def list_jobs(jobs: Iterable[finetuning_pb2.Job]) -> Table:
    """Returns a table of jobs."""
    table = new_table(
        "Jobs", "job", "state", "kind", "network", "task", "dataset", "epoch", "created", numbers=["epoch"]
    )
    for job in jobs:
        finetune = job.spec.kind == finetuning_pb2.JOB_KIND_FINETUNE
        epoch = f"{job.progress.done}/{job.progress.total}" if job.progress.total else ABSENT
        table.add_row(
            job.job_id,
            styled_state(label(job, "state")),
            label(job.spec, "kind"),
            label(job.spec, "network") if finetune else ABSENT,
            job.spec.task or ABSENT,
            job.spec.dataset_id,
            epoch,
            format_time(job.create_time),
        )
    return table


def show_job(job: finetuning_pb2.Job) -> list[RenderableType]:
    """Returns one job with its learning curve."""
    pairs: list[tuple[str, Any]] = [
        ("state", styled_state(label(job, "state"))),
        ("status", job.progress.detail or ABSENT),
        ("kind", label(job.spec, "kind")),
        ("dataset", job.spec.dataset_id),
        ("model", job.spec.model_id or ABSENT),
        ("seed", job.spec.seed),
        ("attempts", job.attempts),
        ("encoder", job.encoder_model_id or ABSENT),
        ("result", job.result.uri or ABSENT),
    ]
    if job.HasField("failure"):
        pairs.append(("failure", f"{job.failure.reason}: {job.failure.message}"))
    curve = new_table("Learning curve", "epoch", "step", "training loss", "validation", "s")
    for column in curve.columns:
        column.justify = "right"
    for point in job.curve:
        loss = number(point.train_loss, 4) if point.HasField("train_loss") else ABSENT
        curve.add_row(
            str(point.epoch), str(point.step), loss, number(point.validation_score, 4), f"{point.elapsed_seconds:.1f}"
        )
    record = list_fields(f"Job {job.job_id}", pairs)
    return [record, curve] if job.curve else [record]


def list_checks(checks: Iterable[alignment_pb2.Check]) -> Table:
    """Returns a table of checks."""
    table = new_table("Checks", "check", "state", "task", "model", "dataset", "created", "status")
    for check in checks:
        table.add_row(
            check.check_id,
            styled_state(label(check, "state")),
            check.spec.task,
            check.spec.model_id,
            check.spec.dataset_id,
            format_time(check.create_time),
            check.progress.detail,
        )
    return table


def list_experiments(experiments: Iterable[experiment_pb2.Experiment]) -> Table:
    """Returns a table of experiments."""
    table = new_table(
        "Experiments", "experiment", "state", "models", "tasks", "seeds", "ended", "dataset", "created", "status"
    )
    for experiment in experiments:
        table.add_row(
            experiment.experiment_id,
            styled_state(label(experiment, "state")),
            str(len(experiment.spec.model_ids)),
            str(len(experiment.spec.tasks)),
            str(len(experiment.spec.seeds)),
            f"{experiment.progress.done}/{experiment.progress.total}",
            experiment.spec.dataset_id,
            format_time(experiment.create_time),
            experiment.progress.detail,
        )
    return table


def list_models(models: Iterable[Model]) -> Table:
    """Returns a table of models."""
    table = new_table("Models", "model", "architecture", "objective", "sha256", "primary layer", "parent")
    for model in models:
        table.add_row(
            model.model_id,
            model.architecture.partition(":")[0],
            model.objective,
            model.checkpoint.sha256[:12],
            model.primary_layer,
            model.parent_model_id or ABSENT,
        )
    return table


def show_model(model: Model) -> Table:
    """Returns one model's card."""
    datasets = ", ".join(f"{s.dataset_id} ({pluralise(s.group_count, 'patient')})" for s in model.pretraining)
    shape = " × ".join(map(str, model.preprocessing.shape_dhw))
    spacing = " × ".join(map(number, model.preprocessing.spacing_mm)) or "of the T2 grid"
    return list_fields(
        f"Model {model.model_id}",
        {
            "architecture": model.architecture,
            "objective": model.objective,
            "weights": model.checkpoint.uri,
            "sha256": model.checkpoint.sha256,
            "input": f"{shape} voxels (D × H × W), spacing {spacing} mm, {model.preprocessing.normalisation}",
            "layers": ", ".join(f"{layer.name} ({layer.channels})" for layer in model.layers),
            "primary layer": model.primary_layer,
            "pretrained on": datasets or "unknown: leakage cannot be excluded",
            "fine-tuned from": model.parent_model_id or ABSENT,
            "source": model.source or ABSENT,
        },
    )
