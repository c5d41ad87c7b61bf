"""Jobs and recipes between protobuf and plain records. Translates only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import TypeAdapter, ValidationError

from vfmalign.client.messages.common import Progress, State
from vfmalign.core.domain.artifacts import JobProgress, Network, Objective, Record
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.db.repository import StoredRef
from vfmalign.finetuning.jobs.repository import Job
from vfmalign.finetuning.jobs.request import JobRequest, RecipeRequest
from vfmalign.v1 import common_pb2, features_pb2, finetuning_pb2

KINDS: dict[int, str] = {
    finetuning_pb2.JOB_KIND_PRETRAIN: "pretrain",
    finetuning_pb2.JOB_KIND_FINETUNE: "finetune",
}
NETWORKS: dict[int, Network] = {
    finetuning_pb2.NETWORK_PRETRAINED: "pretrained",
    finetuning_pb2.NETWORK_SCRATCH: "scratch",
    finetuning_pb2.NETWORK_SPECIALISED: "specialised",
}
OBJECTIVES: dict[int, Objective] = {
    features_pb2.OBJECTIVE_MASKED_RECONSTRUCTION: "masked_reconstruction",
    features_pb2.OBJECTIVE_CONTRASTIVE: "contrastive",
    features_pb2.OBJECTIVE_SUPERVISED: "supervised",
    features_pb2.OBJECTIVE_RANDOM: "random",
}
STATES: dict[int, State] = {
    finetuning_pb2.JOB_STATE_QUEUED: "queued",
    finetuning_pb2.JOB_STATE_RUNNING: "running",
    finetuning_pb2.JOB_STATE_SUCCEEDED: "succeeded",
    finetuning_pb2.JOB_STATE_FAILED: "failed",
    finetuning_pb2.JOB_STATE_CANCELLED: "cancelled",
}
_RECIPE_FIELDS = (
    "epochs",
    "steps_per_epoch",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "layer_decay",
    "encoder_rate",
    "warmup_fraction",
)
# Where our name of a field is not the API's.
_FIELD_NAMES = {
    "dataset": "dataset_id",
    "model": "model_id",
    "models": "model_ids",
    "objective": "objective",
    "patch_shape_DHW": "patch_shape_dhw",
}

_Key = TypeVar("_Key")
AnyRecord = TypeVar("AnyRecord", bound=Record)


def parse_id(kind: Any, text: str, field: str) -> str:
    """An id that a client chose.

    Raises:
        BadOption: it is not one.
    """
    try:
        name: str = TypeAdapter(kind).validate_python(text)
    except ValidationError as error:
        raise BadOption(
            "not an id",
            field=field,
            remedy="begin with a lower-case letter or digit, go on with those, `_`, `.` and `-`, and keep it short",
        ) from error
    return name


def parse_record(record: type[AnyRecord], fields: dict[str, Any], where: str) -> AnyRecord:
    """A record of fields that a client sent.

    Raises:
        BadOption: naming the first field that is wrong, as the API calls it.
    """
    try:
        return record.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        names = [_FIELD_NAMES.get(str(part), str(part)) for part in problem["loc"]]
        message = problem["msg"] if "pattern" not in problem["msg"] else "not an id or digest of this form"
        raise BadOption(message, field=".".join((where, *names))) from error


def parse_states(states: Sequence[int], known: dict[int, State]) -> tuple[State, ...]:
    """The states of a list's filter.

    Raises:
        BadOption: an unspecified or unknown one.
    """
    for state in states:
        if state not in known:
            raise BadOption(f"unknown state {state}", field="states", remedy="leave the list empty for all states")
    return tuple(known[state] for state in states)


def parse_recipe(message: finetuning_pb2.Recipe) -> dict[str, Any]:
    """Fields of a `RecipeRequest`."""
    fields: dict[str, Any] = {name: getattr(message, name) for name in _RECIPE_FIELDS if message.HasField(name)}
    if message.patch_shape_dhw:
        fields["patch_shape_DHW"] = tuple(message.patch_shape_dhw)
    return fields | {"preset": message.preset, "probe_steps": tuple(message.probe_steps)}


def parse_job(spec: finetuning_pb2.JobSpec) -> JobRequest:
    """What a client asks of a job.

    Raises:
        BadOption: a field out of range, unknown or missing.
    """
    if spec.kind not in KINDS:
        raise BadOption("required", field="spec.kind", remedy="say JOB_KIND_PRETRAIN or JOB_KIND_FINETUNE")
    if spec.kind == finetuning_pb2.JOB_KIND_PRETRAIN and spec.objective not in (
        features_pb2.OBJECTIVE_MASKED_RECONSTRUCTION,
        features_pb2.OBJECTIVE_CONTRASTIVE,
    ):
        raise BadOption("pretraining is masked reconstruction or contrastive", field="spec.objective")
    fields = {
        "kind": KINDS[spec.kind],
        "dataset": spec.dataset_id,
        "dataset_digest": spec.dataset_digest,
        "architecture": spec.architecture,
        "objective": OBJECTIVES.get(spec.objective, "supervised"),
        "network": NETWORKS.get(spec.network, "pretrained"),
        "model": spec.model_id,
        "model_sha256": spec.model_sha256,
        "task": spec.task,
        "recipe": parse_recipe(spec.recipe),
        "seed": spec.seed,
        "publish_as": spec.publish_as,
    }
    return parse_record(JobRequest, fields, "spec")


def pack_recipe(recipe: RecipeRequest) -> finetuning_pb2.Recipe:
    """A recipe as it was asked for."""
    message = finetuning_pb2.Recipe(preset=recipe.preset)
    for name in _RECIPE_FIELDS:
        if (value := getattr(recipe, name)) is not None:
            setattr(message, name, value)
    message.patch_shape_dhw.extend(recipe.patch_shape_DHW or ())
    message.probe_steps.extend(recipe.probe_steps)
    return message


def pack_job(job: Job, store: ObjectStore, *, curve: bool = True) -> finetuning_pb2.Job:
    """A job as it stands."""
    message = finetuning_pb2.Job(
        job_id=job.id,
        spec=_pack_spec(job.request),
        state=key_of(STATES, job.state),
        attempts=job.attempts,
        create_time=pack_time(job.created_at),
        start_time=pack_time(job.started_at),
        end_time=pack_time(job.finished_at),
        progress=_progress(job).to_proto(),
        curve=[pack_point(point) for point in job.curve] if curve else (),
    )
    if job.failure is not None:
        message.failure.CopyFrom(job.failure.to_proto())
    if job.result is not None:
        message.result.CopyFrom(pack_ref(job.result, store))
        if job.attempts or not job.baseline:  # a baseline that was taken published nothing under its own name
            message.encoder_model_id = job.spec.publish_as
    return message


def _progress(job: Job) -> Progress:
    """Returns a job's progress with the counts of its learning curve."""
    if not job.curve:
        return job.progress
    last = job.curve[-1]
    counts = {"done": last.epoch, "total": last.epochs, "unit": "epoch", "elapsed_seconds": last.elapsed_s}
    return job.progress.model_copy(update=counts)


def _pack_spec(request: JobRequest) -> finetuning_pb2.JobSpec:
    return finetuning_pb2.JobSpec(
        kind=key_of(KINDS, request.kind),
        dataset_id=request.dataset,
        dataset_digest=request.dataset_digest,
        architecture=request.architecture,
        objective=key_of(OBJECTIVES, request.objective),
        network=key_of(NETWORKS, request.network),
        model_id=request.model,
        model_sha256=request.model_sha256,
        task=request.task,
        recipe=pack_recipe(request.recipe),
        seed=request.seed,
        publish_as=request.publish_as,
    )


def pack_point(point: JobProgress) -> finetuning_pb2.CurvePoint:
    """One point of a learning curve."""
    return finetuning_pb2.CurvePoint(
        epoch=point.epoch,
        step=point.step,
        train_loss=point.train_loss,
        validation_score=point.val_score,
        elapsed_seconds=point.elapsed_s,
    )


def pack_ref(ref: StoredRef, store: ObjectStore) -> common_pb2.ObjectRef:
    """A stored object."""
    return common_pb2.ObjectRef(uri=store.uri(ref.key), sha256=ref.sha256, size_bytes=ref.size_bytes)


def pack_time(moment: datetime | None) -> Timestamp | None:
    """A time, absent where it has not come."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def key_of(table: dict[int, _Key], value: Any) -> Any:
    """The enum value behind one of our words."""
    return next(key for key, known in table.items() if known == value)
