"""Jobs of their own through the API of the finetuning service's process: idempotency, refusals, cancel and retry."""

from __future__ import annotations

import pytest

from vfmalign.core.domain.errors import BadOption, Conflict, NotFound, PreconditionFailed
from vfmalign.v1 import alignment_pb2, finetuning_pb2


async def test_jobs_through_the_api(service):
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_FINETUNE, dataset_id="demo", model_id="vfm", task={"name": "segmentation"}, seed=5
    )
    await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="solo", spec=spec))
    await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="solo", spec=spec))
    states = []
    async for event in service.jobs.WatchJob(finetuning_pb2.WatchJobRequest(job_id="solo")):
        states.append(event.job.state)
        (service.folder / "go").touch()
    assert states[-1] == finetuning_pb2.JOB_STATE_SUCCEEDED
    assert service.starts() == ["solo"]

    spec.seed = 6
    with pytest.raises(Conflict):
        await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="solo", spec=spec))
    spec.model_id = "unknown"
    with pytest.raises(NotFound, match="no model has this id"):
        await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="other", spec=spec))
    with pytest.raises(NotFound):
        await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id="other"))
    with pytest.raises(BadOption):
        await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="../etc", spec=spec))


async def test_nobody_takes_the_ids_of_a_checks_jobs(service):
    """The check would fail at the first of its jobs that belongs to somebody else."""
    name = f"{service.prefix}-fair"
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_FINETUNE, dataset_id="demo", model_id="vfm", task={"name": "segmentation"}
    )
    for job_id in (f"{name}-pretrained", f"{name}-specialised-s2"):
        with pytest.raises(BadOption, match="belong to the jobs of checks"):
            await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id=job_id, spec=spec))
    check = await service.finish(await service.create("fair"))
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail
    own = await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=f"{name}-pretrained"))
    assert own.job.state == finetuning_pb2.JOB_STATE_SUCCEEDED


async def test_a_cancelled_job_is_retried_through_the_api(service):
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_FINETUNE, dataset_id="demo", model_id="vfm", task={"name": "segmentation"}, seed=5,
        network=finetuning_pb2.NETWORK_SPECIALISED,  # it publishes no model, whose invented weights would be damaged
    )  # fmt: skip
    request, watch = finetuning_pb2.RetryJobRequest(job_id="again"), finetuning_pb2.WatchJobRequest(job_id="again")
    await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="again", spec=spec))
    await service.started(1)
    await service.jobs.CancelJob(finetuning_pb2.CancelJobRequest(job_id="again"))
    assert [event.job.state async for event in service.jobs.WatchJob(watch)][-1] == finetuning_pb2.JOB_STATE_CANCELLED
    (service.folder / "go").touch()
    assert not (await service.jobs.RetryJob(request)).job.HasField("end_time")
    states = [event.job.state async for event in service.jobs.WatchJob(watch)]
    assert finetuning_pb2.JOB_STATE_CANCELLED not in states
    assert states[-1] == finetuning_pb2.JOB_STATE_SUCCEEDED
    assert service.starts() == ["again", "again"]
    with pytest.raises(PreconditionFailed, match="the job has succeeded"):
        await service.jobs.RetryJob(request)
