"""Experiments between protobuf and plain records. Translates only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError

from vfmalign.client.messages.base import to_bad_option
from vfmalign.client.messages.jobs import Recipe
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.experiments.cell_status import CellStatus, count_states
from vfmalign.finetuning.experiments.repository import Experiment
from vfmalign.finetuning.experiments.request import ExperimentRequest
from vfmalign.finetuning.jobs.converters import to_object_ref
from vfmalign.v1 import common_pb2, experiment_pb2, finetuning_pb2

_API_NAMES = {"dataset": "dataset_id", "models": "model_ids"}


def parse_experiment(spec: experiment_pb2.ExperimentSpec) -> ExperimentRequest:
    """What a client asks of an experiment; 0 and empty take the default where the API says so.

    Raises:
        BadOption: a field out of range, unknown or missing.
    """
    fields: dict[str, Any] = {
        "models": tuple(spec.model_ids),
        "dataset": spec.dataset_id,
        "dataset_digest": spec.dataset_digest,
        "tasks": tuple(spec.tasks),
        "recipe": Recipe.from_proto(spec.recipe, "spec.recipe"),
        "title": spec.title,
    }
    if spec.seeds:
        fields["seeds"] = tuple(spec.seeds)
    for name in ("permutations", "bootstrap_resamples", "interval_level", "max_running"):
        if value := getattr(spec, name):
            fields[name] = value
    try:
        request = ExperimentRequest.model_validate(fields)
    except ValidationError as error:
        wrong = to_bad_option(error, "spec")
        former, _, rest = wrong.field.removeprefix("spec.").partition(".")
        path = ".".join(part for part in ("spec", _API_NAMES.get(former, former), rest) if part)
        raise BadOption(wrong.message, field=path, remedy=wrong.remedy) from error
    request.check()
    return request


def pack_experiment(
    experiment: Experiment, store: ObjectStore, found: Sequence[CellStatus], *, cells: bool = True
) -> experiment_pb2.Experiment:
    """An experiment as it stands."""
    number = count_states(found)
    message = experiment_pb2.Experiment(
        experiment_id=experiment.id,
        spec=_pack_spec(experiment.request),
        state=f"EXPERIMENT_STATE_{experiment.state.upper()}",
        status=experiment.progress.detail,
        create_time=_to_timestamp(experiment.created_at),
        start_time=_to_timestamp(experiment.started_at),
        end_time=_to_timestamp(experiment.finished_at),
        cells=[_pack_cell(one) for one in found] if cells else (),
        counts=experiment_pb2.ExperimentCounts(**number),
        progress=_pack_progress(experiment, found),
    )
    if experiment.failure is not None:
        message.failure.CopyFrom(experiment.failure.to_proto())
    if experiment.report is not None:
        message.report_json.CopyFrom(to_object_ref(experiment.report.json_ref, store).to_proto())
        message.report_html.CopyFrom(to_object_ref(experiment.report.html_ref, store).to_proto())
        message.cells_csv.CopyFrom(to_object_ref(experiment.report.csv_ref, store).to_proto())
    return message


def _pack_spec(request: ExperimentRequest) -> experiment_pb2.ExperimentSpec:
    return experiment_pb2.ExperimentSpec(
        model_ids=request.models,
        dataset_id=request.dataset,
        dataset_digest=request.dataset_digest,
        tasks=request.tasks,
        seeds=request.seeds,
        recipe=request.recipe.to_proto(),
        permutations=request.permutations,
        bootstrap_resamples=request.bootstrap_resamples,
        interval_level=request.interval_level,
        max_running=request.max_running,
        title=request.title,
    )


def _pack_cell(one: CellStatus) -> experiment_pb2.ExperimentCell:
    return experiment_pb2.ExperimentCell(
        model_id=one.cell.model,
        task=one.cell.task,
        seed=one.cell.seed,
        check_id=one.cell.check_id,
        state=f"CHECK_STATE_{one.state.upper()}",
        status=one.message,
        end_time=_to_timestamp(one.finished_at),
        failure=finetuning_pb2.Failure(reason=one.reason, message=one.message) if one.state == "failed" else None,
    )


def _pack_progress(experiment: Experiment, found: Sequence[CellStatus]) -> common_pb2.Progress:
    """Time runs to the last check's end: an experiment that only waits does not change."""
    ends = [one.finished_at for one in found if one.finished and one.finished_at is not None]
    elapsed_s = (
        (max(ends) - experiment.started_at).total_seconds() if ends and experiment.started_at is not None else 0.0
    )
    return common_pb2.Progress(
        phase="checks",
        done=sum(one.finished for one in found),
        total=len(found),
        unit="check",
        elapsed_seconds=max(elapsed_s, 0.0),
    )


def _to_timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
