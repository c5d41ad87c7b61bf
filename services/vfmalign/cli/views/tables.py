"""Shows lists and records as tables on a terminal, and formats their values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from rich.console import JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from vfmalign.analysis.checks import gate_intervals
from vfmalign.client.formatting import ABSENT, format_number
from vfmalign.client.messages.checks import Check, CheckResult
from vfmalign.client.messages.common import Estimate, ObjectRef
from vfmalign.client.messages.experiments import Experiment, ExperimentCell
from vfmalign.client.messages.features import FeatureSet, Model
from vfmalign.client.messages.jobs import Job
from vfmalign.client.messages.mmd import LayerResult, ShiftResult
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.patches import describe_patches
from vfmalign.core.formats.documents import pluralise

DEGENERATE = f"† {gate_intervals.DEGENERATE}."
BELOW_ERROR_BOUND = f"‡ {gate_intervals.BELOW_ERROR_BOUND}."
SATURATED = f"§ {gate_intervals.SATURATED}."
_STYLES = {
    "succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "pending": "magenta",
    "queued": "dim",
}  # fmt: skip


def new_table(title: str, *columns: str, numbers: Iterable[str] = (), whole: Iterable[str] = ()) -> Table:
    """Returns an empty table. Columns in `numbers` are right-aligned. Columns in `whole` are never wrapped."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    table.min_width = max(map(len, title.split()), default=0)  # or a word of the title is cut at the table's width
    right, unfolded = set(numbers), set(whole)
    for column in columns:
        justify: JustifyMethod = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column in unfolded)
    return table


def to_text(estimate: Estimate, *, digits: int = 3, signed: bool = False, unit: str = "") -> str:
    """Formats a value with its interval, or a dash. † marks an interval with unreliable coverage."""
    if estimate.value is None:
        return ABSENT
    text = format_number(estimate.value, digits, signed=signed) + unit
    if (interval := estimate.interval) is not None:
        mark = "†" if interval.degenerate else ""
        lower, upper = (format_number(end, digits, signed=signed) for end in (interval.lower, interval.upper))
        text += f" [{lower}, {upper}]{mark}"
    return text


def format_mmd2(shift: ShiftResult) -> str:
    """Formats MMD² with its interval. ‡ marks a value below its error bound."""
    return to_text(shift.mmd2) + ("‡" if shift.below_error_bound else "")


def name_training(job: Job) -> str:
    """Returns the network that a job trains. Adds a suffix for the check's seed or recipe, as in `scratch-s2`."""
    suffix = re.search(rf"-{job.spec.network}((?:-frozen)?(?:-[rs]\d+)?)$", job.job_id)
    return job.spec.network + (suffix[1] if suffix else "")


def format_share(share: Estimate) -> str:
    """Formats a share in [0, 1] as a percentage, or a dash."""
    return ABSENT if share.value is None else f"{format_number(100.0 * share.value)} %"


def format_smallest_difference(metric: MetricSpec) -> str:
    """Formats the smallest relevant difference of a metric with its unit."""
    unit = f" {metric.unit}" if metric.unit else ""
    return f"smallest relevant difference {metric.smallest_difference:g}{unit}"


def styled_state(state: str) -> Text:
    """Returns a state in its colour."""
    return Text(state, style=_STYLES.get(state, ""))


def format_time(time: datetime) -> str:
    """Formats a time in UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def format_creation(time: datetime | None, created_by: str) -> str:
    """Formats when and by whom an object was created."""
    return " by ".join(filter(None, ("" if time is None else format_time(time), created_by))) or ABSENT


def show_creation(time: datetime | None, created_by: str) -> Text:
    """Returns a line about when and by whom an object was created."""
    return Text(f"Created: {format_creation(time, created_by)}", style="dim")


def list_fields(title: str, pairs: Mapping[str, object] | Sequence[tuple[str, object]]) -> Table:
    """Returns a record as a table, one field per line."""
    table = new_table(title, "field", "value")
    table.show_header = False
    for name, value in dict(pairs).items():
        table.add_row(Text(name, style="dim"), value if isinstance(value, Text) else str(value))
    return table


def separate_tables(parts: Sequence[RenderableType]) -> list[RenderableType]:
    """Puts a blank line before every table, except at the beginning."""
    lines: list[RenderableType] = []
    for part in parts:
        if isinstance(part, Table) and lines:
            lines.append("")
        lines.append(part)
    return lines


def list_absent_reasons(estimates: Iterable[Estimate]) -> list[RenderableType]:
    """Returns the distinct reasons for missing values or intervals."""
    reasons = {
        estimate.absent_reason: None
        for estimate in estimates
        if estimate.absent_reason and (estimate.value is None or estimate.interval is None)
    }
    return [Text(f"{ABSENT} {reason}", style="dim") for reason in reasons]


def primary_shift(result: CheckResult) -> Estimate:
    """Returns MMD² of the primary layer, averaged over the seeds. Uses standardised features if there are any."""
    if result.seed_variation is not None:
        layer = result.seed_variation.layers[0]
        return (layer.standardised or layer.raw).mean
    mmd = result.shifts[0].mmd
    return (mmd.standardised or mmd.raw).mmd2


def show_top_channels(layers: Sequence[LayerResult]) -> list[RenderableType]:
    """Returns the share of the top channels in the displacement of paired samples, and MMD² without these channels."""
    rows = [
        (layer, layer.top_channels) for layer in layers if layer.top_channels is not None and layer.top_channels.count
    ]
    if not rows:
        return []
    table = new_table(
        "Channels that move most (standardised features)",
        "layer",
        "channels",
        "share of displacement",
        "MMD²",
        "MMD² without them",
        numbers=["channels", "share of displacement", "MMD²", "MMD² without them"],
    )
    for layer, top in rows:
        table.add_row(
            layer.layer,
            f"{top.count} of {layer.channels - layer.channels_excluded}",
            format_share(top.displacement_share),
            ABSENT if layer.standardised is None else format_number(layer.standardised.mmd2.value),
            format_mmd2(top.shift_without),
        )
    return [table]


def list_top_channels_estimates(layers: Sequence[LayerResult]) -> list[Estimate]:
    """Returns the estimates of `show_top_channels` that have no value, so that their reasons can be shown."""
    without = [
        layer.top_channels.shift_without.mmd2
        for layer in layers
        if layer.top_channels is not None and layer.top_channels.count
    ]
    return [estimate for estimate in without if estimate.value is None]


def show_report(page: ObjectRef, downloaded: Path | None) -> Text:
    """Returns the stored location of a report's page, and its downloaded copy if there is one."""
    text = Text.assemble("Report: ", (page.uri, "bold"))
    if downloaded is not None:
        text.append(f"\n        {downloaded}", style="bold")
    return text


def list_jobs(jobs: Iterable[Job]) -> Table:
    """Returns a table of jobs."""
    table = new_table(
        "Jobs", "job", "state", "kind", "network", "task", "dataset", "epoch", "created",
        numbers=["epoch"], whole=["job", "created"],
    )  # fmt: skip
    for job in jobs:
        epoch = f"{job.progress.done}/{job.progress.total}" if job.progress.total else ABSENT
        table.add_row(
            job.job_id,
            styled_state(job.state),
            job.spec.kind,
            job.spec.network if job.spec.kind == "finetune" else ABSENT,
            ABSENT if job.spec.task is None else str(job.spec.task),
            job.spec.dataset_id,
            epoch,
            format_time(job.create_time),
        )
    return table


def show_job(job: Job) -> list[RenderableType]:
    """Returns one job with its learning curve."""
    outcome = ("status", job.progress.detail or ABSENT)
    if job.failure is not None:  # it begins with the status
        outcome = ("failure", f"{job.failure.reason}: {job.failure.message}")
    pairs: list[tuple[str, object]] = [
        ("state", styled_state(job.state)),
        outcome,
        ("kind", job.spec.kind),
        ("dataset", job.spec.dataset_id),
        ("model", job.spec.model_id or ABSENT),
        ("seed", job.spec.seed),
        ("attempts", job.attempts),
        ("encoder", job.encoder_model_id or ABSENT),
        ("result", ABSENT if job.result is None else job.result.uri),
        ("log", job.log_command or ABSENT),
        ("created", format_creation(job.create_time, job.created_by)),
    ]
    curve = new_table("Learning curve", "epoch", "step", "training loss", "validation", "s")
    for column in curve.columns:
        column.justify = "right"
    for point in job.curve:
        seconds = ABSENT if point.elapsed_seconds is None else f"{point.elapsed_seconds:.1f}"
        loss, score = format_number(point.train_loss, 4), format_number(point.validation_score, 4)
        curve.add_row(str(point.epoch), str(point.step), loss, score, seconds)
    record = list_fields(f"Job {job.job_id}", pairs)
    return [record, curve] if job.curve else [record]


def list_checks(checks: Iterable[Check]) -> Table:
    """Returns a table of checks."""
    table = new_table(
        "Checks", "check", "state", "task", "model", "dataset", "created", "status", whole=["check", "created"]
    )
    for check in checks:
        table.add_row(
            check.check_id,
            styled_state(check.state),
            str(check.spec.task),
            check.spec.model_id,
            check.spec.dataset_id,
            format_time(check.create_time),
            check.progress.detail,
        )
    return table


def list_experiments(experiments: Iterable[Experiment]) -> Table:
    """Returns a table of experiments."""
    table = new_table(
        "Experiments", "experiment", "state", "models", "tasks", "seeds", "ended", "dataset", "created", "status",
        whole=["experiment", "created"],
    )  # fmt: skip
    for experiment in experiments:
        table.add_row(
            experiment.experiment_id,
            styled_state(experiment.state),
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
    table = new_table(
        "Models", "model", "architecture", "objective", "sha256", "primary layer", "licence", "parent", whole=["model"]
    )
    for model in models:
        table.add_row(
            model.model_id,
            model.architecture.partition(":")[0],
            model.objective,
            model.checkpoint.sha256[:12],
            model.primary_layer,
            model.licence or ABSENT,
            model.parent_model_id or ABSENT,
        )
    return table


def list_families(families: Iterable[tuple[str, str, Preprocessing, str, bool]]) -> Table:
    """Returns a table of families of public encoders: name, networks, input, licence, and whether it is verified."""
    table = new_table("Families", "family", "networks", "input", "licence", "verified", whole=["family"])
    for name, networks, preprocessing, licence, verified in families:
        table.add_row(name, networks, _describe_input(preprocessing), licence, "yes" if verified else "no")
    return table


def _describe_input(preprocessing: Preprocessing) -> str:
    shape = " × ".join(map(str, preprocessing.shape_dhw))
    spacing = " × ".join(f"{edge:g}" for edge in preprocessing.spacing_mm or ()) or f"of {preprocessing.reference}"
    window = "" if preprocessing.window is None else " of {:g} to {:g} HU".format(*preprocessing.window)
    patches = f"; patches of {text}" if (text := describe_patches(preprocessing)) else ""
    return (
        f"{', '.join(preprocessing.modalities)}; {shape} voxels (D × H × W), spacing {spacing} mm, "
        f"{preprocessing.normalisation}{window}{patches}; grid of {preprocessing.reference}"
    )


def show_model(model: Model) -> Table:
    """Returns one model's card."""
    datasets = ", ".join(f"{s.dataset_id} ({pluralise(s.group_count, 'patient')})" for s in model.pretraining)
    return list_fields(
        f"Model {model.model_id}",
        {
            "architecture": model.architecture.partition(":")[0],
            "objective": model.objective,
            "weights": model.checkpoint.uri,
            "sha256": model.checkpoint.sha256,
            "input": _describe_input(model.preprocessing),
            "layers": ", ".join(f"{layer.name} ({layer.channels})" for layer in model.layers),
            "primary layer": model.primary_layer,
            "pretrained on": datasets or "unknown: leakage cannot be excluded",
            "fine-tuned from": model.parent_model_id or ABSENT,
            "source": model.source or ABSENT,
            "licence": model.licence or "unknown",
            "tensors": ABSENT
            if model.tensors is None
            else ", ".join(f"{count} {name}" for name, count in model.tensors),
            "rules for DICOM": "yes" if model.has_dicom_rules else ABSENT,
            "created": format_creation(model.create_time, model.created_by),
        },
    )


def list_feature_sets(feature_sets: Iterable[FeatureSet]) -> Table:
    """Returns a table of feature sets."""
    table = new_table(
        "Feature sets", "feature set", "model", "weights", "dataset", "split", "transform", "cases", "created",
        numbers=["cases"], whole=["feature set", "created"],
    )  # fmt: skip
    for one in feature_sets:
        table.add_row(
            one.feature_set_id,
            one.model_id,
            _describe_weights(one),
            one.dataset_id,
            one.split or ABSENT,
            one.input_transform,
            str(one.rows),
            ABSENT if one.create_time is None else format_time(one.create_time),
        )
    return table


def show_feature_set(feature_set: FeatureSet, facts: Mapping[str, object] = MappingProxyType({})) -> Table:
    """Returns one feature set as a table. `facts` are additional fields."""
    return list_fields(
        f"Feature set {feature_set.feature_set_id}",
        {
            "model": f"{feature_set.model_id}, {_describe_weights(feature_set)}",
            "dataset": f"{feature_set.dataset_id}, {feature_set.split}",
            "input transform": feature_set.input_transform,
            "rows": f"{pluralise(feature_set.rows, 'case')} of {pluralise(feature_set.groups, 'patient')}",
            "layers": ", ".join(f"{item.name} ({item.channels})" for item in feature_set.layers),
            "manifest": feature_set.manifest.uri,
            "version": f"{feature_set.feature_set_id}@{feature_set.manifest.sha256}",
            "weights": feature_set.checkpoint_sha256 or ABSENT,
            "created by": feature_set.created_by or ABSENT,
            **facts,
        },
    )


def _describe_weights(feature_set: FeatureSet) -> str:
    is_random = feature_set.initialisation == "random"
    return f"random, seed {feature_set.initialisation_seed}" if is_random else "checkpoint"


def format_control(cell: ExperimentCell) -> str:
    """Returns the suffix that distinguishes a cell from others of its model, task and seed; often empty."""
    cases = f", {pluralise(cell.train_cases, 'training case')}" if cell.train_cases else ""
    return cases + (", shuffled labels" if cell.shuffled_labels else ", frozen" if cell.frozen else "")
