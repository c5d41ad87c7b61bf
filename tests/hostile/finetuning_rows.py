"""Rows for jobs, checks and experiments."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.hostile.row import Row

from vfmalign.core.rpc.page_tokens import PageTokens
from vfmalign.v1 import alignment_pb2, experiment_pb2, finetuning_pb2

INVALID, NOT_FOUND, TOO_LARGE = "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"
DEEP = "[" * 180 + "]" * 180


def job(
    name: str,
    names: str,
    job_id: str = "hostile",
    recipe: dict[str, Any] | None = None,
    code: str = INVALID,
    **spec: Any,
) -> Row:
    """A valid request of CreateJob with some fields replaced."""
    fields = {
        "kind": finetuning_pb2.JOB_KIND_FINETUNE,
        "dataset_id": "phantoms",
        "model_id": "micro",
        "task": {"name": "segmentation"},
        "recipe": {"preset": "demo", **(recipe or {})},
        **spec,
    }
    request = {"job_id": job_id, "spec": fields}
    return Row(name, "FineTuningService/CreateJob", lambda _: finetuning_pb2.CreateJobRequest(**request), code, names)


def check(name: str, names: str, check_id: str = "hostile", **spec: Any) -> Row:
    """A valid request of CreateCheck with some fields replaced."""
    fields = {"model_id": "micro", "dataset_id": "phantoms", "task": {"name": "segmentation"}, **spec}
    request = {"check_id": check_id, "spec": fields}
    return Row(
        name, "AlignmentService/CreateCheck", lambda _: alignment_pb2.CreateCheckRequest(**request), INVALID, names
    )


def experiment(name: str, names: str, **spec: Any) -> Row:
    """A valid request of CreateExperiment with some fields replaced."""
    fields = {"model_ids": ["micro"], "dataset_id": "phantoms", "tasks": [{"name": "segmentation"}], **spec}
    request = {"experiment_id": "hostile", "spec": fields}
    return Row(
        name,
        "ExperimentService/CreateExperiment",
        lambda _: experiment_pb2.CreateExperimentRequest(**request),
        INVALID,
        names,
    )


def list_jobs(name: str, names: str, **fields: Any) -> Row:
    """A request of ListJobs."""
    return Row(name, "FineTuningService/ListJobs", lambda _: finetuning_pb2.ListJobsRequest(**fields), INVALID, names)


def list_from(name: str, *position: Any) -> Row:
    """A request of ListJobs with a page token of any position."""
    return list_jobs(name, "page_token", page_token=encode(json.dumps(position)))


def by_id(method: str, name: str, names: str, job_id: str, code: str = INVALID) -> Row:
    """A request of GetJob, WatchJob, CancelJob or RetryJob."""
    request = getattr(finetuning_pb2, f"{method}Request")
    return Row(name, f"FineTuningService/{method}", lambda _: request(job_id=job_id), code, names)


def report(name: str, names: str, code: str = INVALID, **fields: Any) -> Row:
    """A request of GetCheckReport for a check that does not exist, with some fields replaced."""
    request = alignment_pb2.GetCheckReportRequest(**{"check_id": "none", **fields})
    return Row(name, "AlignmentService/GetCheckReport", lambda _: request, code, names)


def encode(text: str) -> str:
    """Encodes the content of a page token."""
    return base64.urlsafe_b64encode(text.encode()).decode()


PLAN = {
    "metric": "lesion_dice",
    "smallest_difference": 0.01,
    "seeds": 3,
    "model_sha256": "a" * 64,
    "dataset_digest": "b" * 64,
}
LIST = PageTokens.of(finetuning_pb2.ListJobsRequest())
ALL = (LIST.method, LIST.filters)
"""Method and digest of no filter, as a valid token has them."""

ROWS = (
    check("licence pattern of 1 KiB", "spec.require_licence", require_licence="a" * 2**10),
    check("licence that the model lacks", "require_licence", require_licence="*[!a]" * 20),
    report("report of no check", "none", code="NOT_FOUND"),
    report("report of a path", "check_id", check_id="../models/micro/model"),
    report("report in format 77", "format", format=77),
    Row(
        "report of an experiment with NUL",
        "ExperimentService/GetExperimentReport",
        lambda _: experiment_pb2.GetExperimentReportRequest(experiment_id="a\0"),
        INVALID,
        "experiment_id",
    ),
    job("architecture of 15 MiB", "larger than max", architecture="a" * (15 * 2**20), code=TOO_LARGE),
    job("architecture of 200 KiB", "spec.architecture", architecture="a" * (200 * 2**10)),
    job("architecture of control characters", "spec.architecture", architecture="\x1b[2J"),
    job("unknown network 77", "spec.network", network=77),
    job("negative kind", "spec.kind", kind=-1),
    job("no kind", "spec.kind", kind=0),
    job("patch of -1, 0 and 2^31 - 1", "patch_shape_dhw[0]", recipe={"patch_shape_dhw": [-1, 0, 2**31 - 1]}),
    job("patch of two axes", "spec.recipe.patch_shape_dhw", recipe={"patch_shape_dhw": [8, 8]}),
    job("patch of 1,024 in every axis", "patch_shape_dhw", recipe={"patch_shape_dhw": [1024] * 3}),
    job("patch of 50,000 axes", "50,000 entries", recipe={"patch_shape_dhw": [1] * 50_000}),
    job("no epochs", "spec.recipe.epochs", recipe={"epochs": 0}),
    job("2^31 - 1 epochs", "spec.recipe.epochs", recipe={"epochs": 2**31 - 1}),
    job("negative batch", "spec.recipe.batch_size", recipe={"batch_size": -1}),
    job("learning rate NaN", "learning_rate", recipe={"learning_rate": float("nan")}),
    job("weight decay infinite", "weight_decay", recipe={"weight_decay": float("inf")}),
    job("no layer decay", "spec.recipe.layer_decay", recipe={"layer_decay": 0.0}),
    job("unknown preset", "recipe.preset", recipe={"preset": "x"}),
    job("negative seed", "spec.seed", seed=-1),
    job("id with NUL", "job_id", job_id="a\0b"),
    job("id that climbs", "job_id", job_id="../x"),
    job("id that ends in a newline", "job_id", job_id="hostile\n"),
    job("id in full-width letters", "job_id", job_id="ａｂ"),
    job("empty id", "job_id", job_id=""),
    job("id of 101 characters", "job_id", job_id="a" * 101),
    job("id of the job of a check", "job_id", job_id="demo-pretrained"),
    job("model id with NUL", "spec.model_id", model_id="a\0"),
    job("model id that climbs", "spec.model_id", model_id="../micro"),
    job("unknown model", "unknown", model_id="unknown", code=NOT_FOUND),
    job("digest of another length", "spec.model_sha256", model_sha256="ab"),
    job("digest of other weights", "micro", model_sha256="0" * 64, code="FAILED_PRECONDITION"),
    job("publishes under a path", "spec.publish_as", publish_as="a/b"),
    job("unknown task", "task", task={"name": "x"}),
    job("task of 1 MiB", "spec.task.name", task={"name": "x" * 2**17}),
    job("label map of path", "labels[0]", task={"name": "segmentation", "parameters": {"labels": ["../x"]}}),
    job("undeclared label map", "liver", task={"name": "segmentation", "parameters": {"labels": ["liver"]}}),
    job("2,000 structures", "structures", task={"name": "segmentation", "parameters": {"structures": ["a"] * 2000}}),
    job("map of 17 modalities", "spec.modality_map", modality_map={f"m{i}": "t2w" for i in range(17)}),
    job("map with NUL", "spec.modality_map", modality_map={"a\0": "t2w"}),
    job("map of two modalities to one input", "spec.modality_map", modality_map={"t2w": "t2w", "adc": "t2w"}),
    job("pretraining that is supervised", "spec.objective", kind=1, model_id="", task=None, objective=3),
    job("pretraining of a model", "spec.kind", kind=1, objective=2),
    by_id("GetJob", "get with NUL", "job_id", "a\0"),
    by_id("GetJob", "get of an id of 100 KiB", "job_id", "a" * 100_000),
    by_id("GetJob", "get of what does not exist", "none", "none", NOT_FOUND),
    by_id("GetJob", "get of an empty id", "job_id", ""),
    by_id("WatchJob", "watch with NUL", "job_id", "\0"),
    by_id("CancelJob", "cancel what does not exist", "none", "none", NOT_FOUND),
    by_id("RetryJob", "retry an id that climbs", "job_id", "../../models/micro"),
    by_id("DeleteJob", "delete an id that climbs", "job_id", "../models/micro"),
    by_id("DeleteJob", "delete an empty id", "job_id", ""),
    by_id("DeleteJob", "delete what does not exist", "none", "none", NOT_FOUND),
    Row(
        "delete a prefix of checks",
        "AlignmentService/DeleteCheck",
        lambda _: alignment_pb2.DeleteCheckRequest(check_id="hostile/"),
        INVALID,
        "check_id",
    ),
    Row(
        "delete all experiments",
        "ExperimentService/DeleteExperiment",
        lambda _: experiment_pb2.DeleteExperimentRequest(),
        INVALID,
        "experiment_id",
    ),
    list_jobs("page of -1 jobs", "page_size", page_size=-1),
    list_jobs("page of 2^31 - 1 jobs", "page_size", page_size=2**31 - 1),
    list_jobs("unknown state 77", "states[0]", states=[77]),
    list_jobs("unspecified state", "states", states=[0]),
    list_jobs("100,000 states", "states", states=[1] * 100_000),
    list_jobs("token that is no base64", "page_token", page_token="%%%"),
    list_jobs("token of 100 KiB", "page_token", page_token="A" * 100_000),
    list_jobs("token of nested JSON", "page_token", page_token=encode(DEEP)),
    list_from("token of year 1, east of Greenwich", *ALL, "0001-01-01T00:00:00+14:00", "a"),
    list_from("token of year 9999, west of it", *ALL, "9999-12-31T23:59:59-14:00", "a"),
    list_from("token of a time without zone", *ALL, "2026-01-01T00:00:00", "a"),
    list_from("token with NUL in its id", *ALL, "2026-01-01T00:00:00+00:00", "a\0"),
    list_from("token of numbers", 1e400, 2, 3),
    list_from("token of another list", "ListChecks", LIST.filters, "2026-01-01T00:00:00+00:00", "a"),
    check("plan of a p-value", "spec.plan.gate", plan=PLAN | {"gate": ["p_value<=0.05"]}),
    check("plan of a gate with NUL", "spec.plan.gate", plan=PLAN | {"gate": ["mmd2.upper<=1\0"]}),
    check("plan of a threshold beyond all numbers", "spec.plan.gate", plan=PLAN | {"gate": ["mmd2.upper<=1e999"]}),
    check("plan of 10,000 gates", "10,000 entries", plan=PLAN | {"gate": ["mmd2.upper<=1"] * 10_000}),
    check("plan without a gate", "spec.plan.gate", plan=PLAN),
    check("plan of another number of seeds", "spec.plan.seeds", plan=PLAN | {"gate": ["mmd2.upper<=1"], "seeds": 9}),
    check("plan of NaN", "spec.plan.smallest_difference", plan=PLAN | {"smallest_difference": float("nan")}),
    check(
        "plan of another digest",
        "spec.plan.model_sha256",
        plan=PLAN | {"require": ["gain"]},
        smallest_difference=0.01,
    ),
    check("check of NaN level", "spec.interval_level", interval_level=float("nan")),
    check("check of level 1", "spec.interval_level", interval_level=1.0),
    check("check of -1 permutations", "spec.permutations", permutations=-1),
    check("check of 2^31 - 1 resamples", "spec.bootstrap_resamples", bootstrap_resamples=2**31 - 1),
    check("check of 11 seeds", "spec.seeds", seeds=11),
    check("check of seeds beyond 2^63", "seed", seed=2**63 - 1, seeds=2),
    check("check of one training case", "spec.train_cases", train_cases=1),
    check("check of more training cases than there are", "spec.train_cases", train_cases=100_000),
    check("check of 21 trainings of random weights", "spec.random_seeds", random_seeds=21),
    check("check of fewer trainings of random weights than seeds", "random_seeds", seeds=3, random_seeds=2),
    check("check of a layer with NUL", "spec.layers[0]", layers=["a\0"]),
    check("check of a layer twice", "layers", layers=["a", "a"]),
    check("check of 10,000 layers", "spec.layers", layers=["a"] * 10_000),
    check("check of an infinite difference", "smallest_difference", smallest_difference=float("inf")),
    check("check without a task", "spec.task", task=None),
    check("check id of 81 characters", "check_id", "a" * 81),
    experiment("experiment of no model", "spec.model_ids", model_ids=[]),
    experiment("experiment of 10,000 models", "spec.model_ids", model_ids=["m"] * 10_000),
    experiment("experiment of one model twice", "spec.model_ids", model_ids=["micro", "micro"]),
    experiment("experiment of 1,001 cells", "spec", model_ids=["a", "b"], seeds=list(range(501))),
    experiment("experiment of a negative seed", "spec.seeds[0]", seeds=[-1]),
    experiment("experiment of one training case", "spec.train_cases", train_cases=[1]),
    experiment("experiment of a number of training cases twice", "spec.train_cases", train_cases=[0, 0]),
    experiment("experiment of 9 numbers of training cases", "spec.train_cases", train_cases=list(range(2, 11))),
    experiment("experiment of 100,001 training cases", "spec.train_cases[1]", train_cases=[8, 100_001]),
    experiment("experiment of more training cases than there are", "spec.train_cases", train_cases=[100_000]),
    experiment("experiment that runs 65 checks", "spec.max_running", max_running=65),
    experiment("experiment with a title of 201", "spec.title", title="a" * 201),
    experiment("experiment with a title in two lines", "spec.title", title="a\nb"),
    experiment("experiment with a title right to left", "spec.title", title="\u202ea"),
    experiment(
        "experiment of a negative difference",
        "smallest_differences[0].value",
        smallest_differences=[{"metric": "x", "value": -1}],
    ),
    experiment(
        "experiment of an unknown metric", "smallest_differences", smallest_differences=[{"metric": "x", "value": 1}]
    ),
)
