"""Tasks with parameters over gRPC: what is refused before anything is stored, and what reaches jobs and reports."""

from __future__ import annotations

import json

import pytest

from vfmalign.core.domain.errors import BadOption, NotFound
from vfmalign.core.domain.jobs import TrainingSpec
from vfmalign.v1 import alignment_pb2, finetuning_pb2


async def test_a_task_that_does_not_fit_is_refused_before_anything_is_stored(service):
    cases = [
        (
            {"labels": ["liver"]},
            "segmentation",
            "spec.task.parameters.labels",
            "liver is not a label map of prostate_mpmri",
        ),
        ({"structures": ["apex"]}, "segmentation", "spec.task.parameters.structures", "choose from gland, lesion"),
        ({"class_name": "age"}, "classification", "spec.task.parameters.class_name", "choose from significant_cancer"),
        (
            {"inputs": ["t2w", "adc"]},
            "translation",
            "spec.task.parameters.target",
            "adc is both the target and",
        ),
        ({"modalities": ["t1w"]}, "super_resolution", "spec.task.parameters.modalities", "t1w is not a modality"),
        ({"labels": ["gland"]}, "distortion", "spec.task.parameters.labels", "distortion does not use label"),
        ({"labels": ["Gland"]}, "segmentation", "spec.task.parameters.labels[0]", "use a lower-case letter, then"),
    ]
    for parameters, name, field, message in cases:
        task = {"name": name, "parameters": parameters}
        check = alignment_pb2.CheckSpec(model_id="vfm", dataset_id="demo", task=task)
        job = finetuning_pb2.JobSpec(
            kind=finetuning_pb2.JOB_KIND_FINETUNE, dataset_id="demo", model_id="vfm", task=task
        )  # fmt: skip
        for create in (
            service.checks.CreateCheck(alignment_pb2.CreateCheckRequest(check_id="misfit", spec=check)),
            service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="misfit", spec=job)),
        ):
            with pytest.raises(BadOption, match=message) as caught:
                await create
            assert caught.value.field == field
    for get in (
        service.checks.GetCheck(alignment_pb2.GetCheckRequest(check_id="misfit")),
        service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id="misfit")),
    ):
        with pytest.raises(NotFound):
            await get


async def test_a_task_with_parameters_reaches_the_jobs_of_its_check_and_the_report(service, store):
    task = {"name": "segmentation", "parameters": {"structures": ["gland"]}}
    name = await service.create("gland", task=task)
    check = await service.finish(name)
    assert check.spec.task.parameters.structures == ["gland"]
    job = await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=f"{name}-pretrained"))
    assert job.job.spec.task.parameters.structures == ["gland"]
    spec = store.read(f"jobs/{name}-pretrained/spec.json", TrainingSpec)
    assert str(spec.task) == "segmentation:structure=gland"
    validated = json.loads(store.get(f"checks/{name}/stages/validate.json"))
    assert validated["naive_baseline"] == "each voxel's commonest class in the training cases"
    report = json.loads(store.get(f"checks/{name}/report.json"))
    assert report["result"]["task"] == "segmentation:structure=gland"
