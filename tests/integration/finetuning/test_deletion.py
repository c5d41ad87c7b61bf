"""Deletion of jobs, checks and experiments through the API, and the marks of the inputs of unfinished work."""

from __future__ import annotations

import pytest

from vfmalign.core.domain.errors import BadOption, Conflict, NotFound, PreconditionFailed, Unavailable
from vfmalign.core.storage.deletion import check_unused
from vfmalign.core.storage.keys import deletion_key
from vfmalign.v1 import alignment_pb2, experiment_pb2, finetuning_pb2


async def create_job(service, job_id):
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_FINETUNE, dataset_id="demo", model_id="vfm", task={"name": "segmentation"}, seed=5,
        network=finetuning_pb2.NETWORK_SPECIALISED,
    )  # fmt: skip
    await service.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id=job_id, spec=spec))


async def delete_job(service, job_id, **fields):
    return (await service.jobs.DeleteJob(finetuning_pb2.DeleteJobRequest(job_id=job_id, **fields))).deletion


async def test_a_job_uses_its_inputs_until_it_ends_and_is_deleted_afterwards(service, store):
    job_id = f"{service.prefix}-job"
    await create_job(service, job_id)
    for kind, name in (("datasets", "demo"), ("models", "vfm")):
        with pytest.raises(PreconditionFailed, match=f"the job {job_id} uses it"):
            check_unused(store, kind, name)
    await service.started(1)
    with pytest.raises(PreconditionFailed, match=f"the job {job_id} is "):
        await delete_job(service, job_id)
    (service.folder / "go").touch()
    async for _ in service.jobs.WatchJob(finetuning_pb2.WatchJobRequest(job_id=job_id)):
        pass
    expected = store.sizes_bytes(f"jobs/{job_id}/")
    for dry_run in (True, False):
        deletion = await delete_job(service, job_id, dry_run=dry_run)
        assert (deletion.objects, deletion.size_bytes) == (len(expected), sum(expected.values()))
    assert store.sizes_bytes(f"jobs/{job_id}/") == {}
    with pytest.raises(NotFound):
        await delete_job(service, job_id)
    with pytest.raises(Conflict, match="was deleted"):
        await create_job(service, job_id)


async def test_work_on_an_input_that_is_being_deleted_does_not_begin(service, store):
    store.put(deletion_key("datasets", "demo"), b"")
    try:
        with pytest.raises(Unavailable, match="the dataset is being deleted"):
            await create_job(service, f"{service.prefix}-late")
        with pytest.raises(Unavailable, match="the dataset is being deleted"):
            await service.create("late")
    finally:
        store.delete(deletion_key("datasets", "demo"))
    await create_job(service, f"{service.prefix}-late")
    await service.jobs.CancelJob(finetuning_pb2.CancelJobRequest(job_id=f"{service.prefix}-late"))


async def test_a_check_is_deleted_with_its_jobs_and_its_encoders_stay(service, store):
    check = await service.finish(await service.create("gone"))
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail
    request = alignment_pb2.DeleteCheckRequest(check_id=check.check_id)
    with pytest.raises(PreconditionFailed, match=f"a part of the check {check.check_id}"):
        await delete_job(service, check.job_ids[0])
    encoders = [key for key in store.list("models/") if f"/{check.check_id}" in key]
    assert encoders
    assert (await service.checks.DeleteCheck(request)).deletion.objects > 10
    assert [key for key in store.list("") if f"/{check.check_id}" in key and not key.startswith("uses/")] == encoders
    for call in (
        service.checks.GetCheck(alignment_pb2.GetCheckRequest(check_id=check.check_id)),
        service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=check.job_ids[0])),
        service.checks.DeleteCheck(request),
    ):
        with pytest.raises(NotFound):
            await call


async def test_bad_ids_name_their_field(service):
    for call, field in (
        (lambda name: service.jobs.DeleteJob(finetuning_pb2.DeleteJobRequest(job_id=name)), "job_id"),
        (lambda name: service.checks.DeleteCheck(alignment_pb2.DeleteCheckRequest(check_id=name)), "check_id"),
        (
            lambda name: service.experiments.DeleteExperiment(
                experiment_pb2.DeleteExperimentRequest(experiment_id=name)
            ),
            "experiment_id",
        ),
    ):
        for name in ("", "../models", "a" * 129):
            with pytest.raises(BadOption) as caught:
                await call(name)
            assert caught.value.field == field
