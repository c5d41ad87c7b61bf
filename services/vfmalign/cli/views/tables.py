"""Lists and records as tables for a terminal.

Knows the API's messages and rich. Knows nothing of calls; `check_tables` shows a check's result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from vfmalign.cli.views.enum_labels import (
    CHECK_STATES,
    EXPERIMENT_STATES,
    JOB_STATES,
    KINDS,
    NETWORKS,
    OBJECTIVES,
    word,
)
from vfmalign.core.domain.documents import pluralise
from vfmalign.v1 import alignment_pb2, common_pb2, experiment_pb2, features_pb2, finetuning_pb2

ABSENT = "—"
_STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "queued": "dim"}


def table(title: str, *columns: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table; the columns named in `numbers` are set flush right."""
    result = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    right = set(numbers)
    for column in columns:
        result.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return result


def number(value: float, digits: int = 3) -> str:
    """A number to some significant digits; a dash where it is not finite."""
    return f"{value:.{digits}g}" if math.isfinite(value) else ABSENT


def estimate(message: common_pb2.Estimate, *, digits: int = 3, signed: bool = False, unit: str = "") -> str:
    """A value with its interval, or a dash; † marks an interval whose coverage is not to be relied on."""
    if not message.HasField("value"):
        return ABSENT
    sign = "+" if signed else ""
    text = f"{message.value:{sign}.{digits}g}{unit}"
    if message.HasField("interval"):
        interval = message.interval
        mark = "†" if interval.degenerate else ""
        text += f" [{interval.lower:{sign}.{digits}g}, {interval.upper:{sign}.{digits}g}]{mark}"
    return text


def state(name: str) -> Text:
    """A state in its colour."""
    return Text(name, style=_STYLES.get(name, ""))


def moment(stamp: Timestamp) -> str:
    """A time in UTC; a dash for none."""
    if not stamp.seconds:
        return ABSENT
    return f"{stamp.ToDatetime(tzinfo=UTC):%Y-%m-%d %H:%M:%S}"


def fields(title: str, pairs: Mapping[str, Any] | Sequence[tuple[str, Any]]) -> Table:
    """A record, one field a line."""
    result = table(title, "field", "value")
    result.show_header = False
    for name, value in dict(pairs).items():
        result.add_row(Text(name, style="dim"), value if isinstance(value, Text) else str(value))
    return result


def jobs(found: Iterable[finetuning_pb2.Job]) -> Table:
    """A list of jobs."""
    result = table("Jobs", "job", "state", "kind", "network", "task", "dataset", "epoch", "created", numbers=["epoch"])
    for job in found:
        finetune = job.spec.kind == finetuning_pb2.JOB_KIND_FINETUNE
        epoch = f"{job.progress.done}/{job.progress.total}" if job.HasField("progress") else ABSENT
        result.add_row(
            job.job_id,
            state(word(JOB_STATES, job.state)),
            word(KINDS, job.spec.kind),
            word(NETWORKS, job.spec.network) if finetune else ABSENT,
            job.spec.task or ABSENT,
            job.spec.dataset_id,
            epoch,
            moment(job.create_time),
        )
    return result


def job(found: finetuning_pb2.Job) -> list[Table]:
    """One job with its learning curve."""
    pairs: list[tuple[str, Any]] = [
        ("state", state(word(JOB_STATES, found.state))),
        ("status", found.status or ABSENT),
        ("kind", word(KINDS, found.spec.kind)),
        ("dataset", found.spec.dataset_id),
        ("model", found.spec.model_id or ABSENT),
        ("seed", found.spec.seed),
        ("attempts", found.attempts),
        ("encoder", found.encoder_model_id or ABSENT),
        ("result", found.result.uri or ABSENT),
    ]
    if found.HasField("failure"):
        pairs.append(("failure", f"{found.failure.reason}: {found.failure.message}"))
    curve = table("Learning curve", "epoch", "step", "training loss", "validation", "s")
    for column in curve.columns:
        column.justify = "right"
    for point in found.curve:
        loss = number(point.train_loss, 4) if point.HasField("train_loss") else ABSENT
        curve.add_row(
            str(point.epoch), str(point.step), loss, number(point.validation_score, 4), f"{point.elapsed_seconds:.1f}"
        )
    return [fields(f"Job {found.job_id}", pairs), curve] if found.curve else [fields(f"Job {found.job_id}", pairs)]


def checks(found: Iterable[alignment_pb2.Check]) -> Table:
    """A list of checks."""
    result = table("Checks", "check", "state", "task", "model", "dataset", "created", "status")
    for check in found:
        result.add_row(
            check.check_id,
            state(word(CHECK_STATES, check.state)),
            check.spec.task,
            check.spec.model_id,
            check.spec.dataset_id,
            moment(check.create_time),
            check.status,
        )
    return result


def experiments(found: Iterable[experiment_pb2.Experiment]) -> Table:
    """A list of experiments."""
    result = table(
        "Experiments", "experiment", "state", "models", "tasks", "seeds", "ended", "dataset", "created", "status"
    )
    for experiment in found:
        result.add_row(
            experiment.experiment_id,
            state(word(EXPERIMENT_STATES, experiment.state)),
            str(len(experiment.spec.model_ids)),
            str(len(experiment.spec.tasks)),
            str(len(experiment.spec.seeds)),
            f"{experiment.progress.done}/{experiment.progress.total}",
            experiment.spec.dataset_id,
            moment(experiment.create_time),
            experiment.status,
        )
    return result


def models(found: Iterable[features_pb2.Model]) -> Table:
    """A list of models."""
    result = table("Models", "model", "architecture", "objective", "sha256", "primary layer", "parent")
    for model in found:
        result.add_row(
            model.model_id,
            model.architecture.partition(":")[0],
            word(OBJECTIVES, model.objective),
            model.checkpoint.sha256[:12],
            model.primary_layer,
            model.parent_model_id or ABSENT,
        )
    return result


def model(found: features_pb2.Model) -> Table:
    """One model's card."""
    seen = ", ".join(f"{s.dataset_id} ({pluralise(s.group_count, 'patient')})" for s in found.pretraining)
    return fields(
        f"Model {found.model_id}",
        {
            "architecture": found.architecture,
            "objective": word(OBJECTIVES, found.objective),
            "weights": found.checkpoint.uri,
            "sha256": found.checkpoint.sha256,
            "input": f"{' × '.join(map(str, found.preprocessing.shape_dhw))} voxels (D × H × W), spacing "
            f"{' × '.join(map(number, found.preprocessing.spacing_mm)) or 'of the T2 grid'} mm, "
            f"{found.preprocessing.normalisation}",
            "layers": ", ".join(f"{layer.name} ({layer.channels})" for layer in found.layers),
            "primary layer": found.primary_layer,
            "pretrained on": seen or "unknown: leakage cannot be excluded",
            "fine-tuned from": found.parent_model_id or ABSENT,
            "source": found.source or ABSENT,
        },
    )
