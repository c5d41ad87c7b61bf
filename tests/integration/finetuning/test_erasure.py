"""Erasure of a patient through the API of a running service: what is running, what has ended, and what comes later."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.erasure import ErasedDataset, ErasePatientRequest, Erasure
from vfmalign.core.domain.errors import PreconditionFailed
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.storage.datasets import load_dataset, save_dataset, to_datalist
from vfmalign.core.storage.keys import dataset_key
from vfmalign.database.tables import now
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.v1 import alignment_pb2, erasure_pb2, finetuning_pb2

PATIENT = "test-7"


@pytest.fixture
def affected(store):
    """A dataset with the patient."""
    dataset = load_dataset(store, "demo").model_copy(update={"id": "affected"})
    save_dataset(store, dataset)
    yield dataset
    store.delete(dataset_key("affected"))


def replace_dataset(store, dataset):
    """What the feature service does before this service is called; returns the request to this service."""
    smaller = dataset.model_copy(update={"test": tuple(case for case in dataset.test if case.group != PATIENT)})
    store.put(dataset_key(dataset.id), canonical_json(to_datalist(smaller)))
    version = ErasedDataset(dataset_id=dataset.id, dataset_digest=dataset.digest())
    return ErasePatientRequest(erasure_id="e1", group=PATIENT, models="keep", datasets=(version,))


async def get_receipt(service):
    return Erasure.from_proto((await service.checks.GetErasure(erasure_pb2.GetErasureRequest(erasure_id="e1"))).erasure)


def make_older(database):
    """Lets all ends lie in the past."""
    with database.engine.begin() as connection:
        for table in ("checks", "jobs"):
            rows = sa.table(table, sa.column("finished_at", sa.DateTime(timezone=True)))
            ended = sa.update(rows).where(rows.c.finished_at.is_not(None))
            connection.execute(ended.values(finished_at=now() - timedelta(hours=1)))


async def read_report(service, check_id):
    async for _ in service.checks.GetCheckReport(alignment_pb2.GetCheckReportRequest(check_id=check_id)):
        pass


async def test_a_patient_is_erased_from_checks_that_ended_that_run_and_that_come_later(service, store, affected):
    ended = await service.finish(await service.create("ended", dataset="affected"))
    other = await service.finish(await service.create("other", dataset="twin"))
    running = await service.create("running", dataset="affected", seed=5)  # its jobs wait for a file
    await service.until(running, lambda check: any(job.startswith(running) for job in service.starts()))
    await read_report(service, ended.check_id)

    def list_objects(name):
        return {key: store.get(key) for folder in ("checks", "jobs") for key in store.list(f"{folder}/{name}")}

    assert any(PATIENT.encode() in data for data in list_objects(ended.check_id).values())
    kept = list_objects(other.check_id)
    request = replace_dataset(store, affected)
    dry_run = request.model_copy(update={"dry_run": True}).to_proto()
    planned = Erasure.from_proto((await service.checks.ErasePatient(dry_run)).erasure)
    receipt = Erasure.from_proto((await service.checks.ErasePatient(request.to_proto())).erasure)
    assert receipt.complete_time is None
    assert {one.id for one in receipt.objects} == {one.id for one in planned.objects}
    assert {ended.check_id, running, *ended.job_ids} <= {one.id for one in receipt.objects}
    cancelled = await service.finish(running)
    assert cancelled.state == alignment_pb2.CHECK_STATE_CANCELLED
    await read_report(service, ended.check_id)  # everything goes together, after the last process has ended

    make_older(service.database)
    await service.kill()
    await service.start()
    end = time.monotonic() + 60.0
    while (receipt := await get_receipt(service)).complete_time is None:
        assert time.monotonic() < end, (service.folder / "service.log").read_text()[-4000:]
        await asyncio.sleep(0.2)
    assert list_objects(ended.check_id) == list_objects(running) == {}
    assert list_objects(other.check_id) == kept
    await read_report(service, other.check_id)
    shown = await service.get(ended.check_id)
    assert (shown.state, shown.HasField("result")) == (alignment_pb2.CHECK_STATE_SUCCEEDED, False)
    assert ended.result.verdict_reason in shown.progress.detail
    job = (await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=ended.job_ids[0]))).job
    assert len(job.curve) == 7
    for call in (
        read_report(service, ended.check_id),
        service.checks.RetryCheck(alignment_pb2.RetryCheckRequest(check_id=running)),
        service.jobs.RetryJob(finetuning_pb2.RetryJobRequest(job_id=ended.job_ids[0])),
    ):
        with pytest.raises(PreconditionFailed) as caught:
            await call
        assert caught.value.reason == "ERASED"

    # A call that has read the dataset before it was replaced, and writes its row only now.
    digest = request.datasets[0].dataset_digest
    spec = CheckSpec(model_id="vfm", dataset_id="affected", dataset_digest=digest, task="segmentation")
    late = f"{service.prefix}-late"
    CheckRepository(service.database).create(late, spec)
    failed = await service.finish(late)
    assert failed.failure.reason == "DIGEST_MISMATCH"
    assert [job for job in service.starts() if job.startswith(late)] == []
    with pytest.raises(PreconditionFailed) as caught:
        await service.create("refused", dataset="affected", dataset_digest=digest)
    assert caught.value.reason == "DIGEST_MISMATCH"
    again = await service.finish(await service.create("again", dataset="affected"))
    assert again.state == alignment_pb2.CHECK_STATE_SUCCEEDED, again.progress.detail
    assert set(again.job_ids) <= set(service.starts()), "it takes over no erased training"
    assert not any(f'"{PATIENT}"'.encode() in data for data in list_objects(again.check_id).values())
