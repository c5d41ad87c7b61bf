"""Two tenants of one finetuning service: jobs and checks of one id, which run at the same time."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from tests.integration.finetuning.peers import store_inputs

from vfmalign.core.domain.errors import Forbidden, InvalidInput, NotFound
from vfmalign.core.rpc.channels import connect
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.keys import check_key
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    erasure_pb2,
    experiment_pb2,
    experiment_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
)

TENANTS = ("default", "ward-7")


@pytest.fixture
def launcher_settings(job_command):
    """Jobs are subprocesses, and the service has two tenants."""
    return {"VFMALIGN_LAUNCHER__COMMAND": job_command, "VFMALIGN_AUTH__TENANTS": ",".join(TENANTS)}


@pytest.fixture(autouse=True)
def stored_of_others(store):
    """The other tenant has inputs of the same ids."""
    store_inputs(store.of_tenant("ward-7"))


class Caller:
    """Stubs that name a tenant."""

    def __init__(self, service, tenant):
        self.channel = connect(f"127.0.0.1:{service.ports['grpc']}", tenant=tenant)
        self.checks = alignment_pb2_grpc.AlignmentServiceStub(self.channel)
        self.jobs = finetuning_pb2_grpc.FineTuningServiceStub(self.channel)
        self.experiments = experiment_pb2_grpc.ExperimentServiceStub(self.channel)

    async def create(self, name, seed):
        recipe = finetuning_pb2.Recipe(preset="demo", epochs=6, steps_per_epoch=10, learning_rate=8e-3)
        task = {"name": "segmentation"}
        spec = alignment_pb2.CheckSpec(model_id="vfm", dataset_id="demo", task=task, seed=seed, seeds=1, recipe=recipe)
        await self.checks.CreateCheck(alignment_pb2.CreateCheckRequest(check_id=name, spec=spec))

    async def get(self, name):
        return (await self.checks.GetCheck(alignment_pb2.GetCheckRequest(check_id=name))).check

    async def finish(self, name):
        end = time.monotonic() + 120
        while not (check := await self.get(name)).HasField("end_time"):
            assert time.monotonic() < end, check.progress.detail
            await asyncio.sleep(0.1)
        return check

    async def read_report(self, name):
        request = alignment_pb2.GetCheckReportRequest(check_id=name, format=2)
        return b"".join([message.content async for message in self.checks.GetCheckReport(request)])


@pytest.fixture
async def callers(service):
    found = [Caller(service, tenant) for tenant in TENANTS]
    yield found
    for caller in found:
        await caller.channel.close()


async def list_ids(caller):
    checks = (await caller.checks.ListChecks(alignment_pb2.ListChecksRequest())).checks
    jobs = (await caller.jobs.ListJobs(finetuning_pb2.ListJobsRequest())).jobs
    return {check.check_id for check in checks}, {job.job_id for job in jobs}


async def test_checks_of_one_id_run_side_by_side(service, callers, store):
    """With other seeds: the same id is no conflict, and the same files and locks would mix their results."""
    name = f"{service.prefix}-same"
    for caller, seed in zip(callers, (1, 12), strict=True):
        await caller.create(name, seed)
    checks = [await caller.finish(name) for caller in callers]
    states = [alignment_pb2.CheckState.Name(check.state) for check in checks]
    assert states == ["CHECK_STATE_SUCCEEDED"] * 2, [check.progress.detail for check in checks]
    assert service.starts().count(f"{name}-pretrained") == 2, "each has jobs of its own"
    gains = [check.result.rpg_scratch.relative_percent.value for check in checks]
    assert gains[0] != gains[1]
    reports = [await caller.read_report(name) for caller in callers]
    assert reports[0] != reports[1]
    for tenant, check, report in zip(TENANTS, checks, reports, strict=True):
        own = store.of_tenant(tenant)
        assert own.key(check.result.report_json.uri) == check_key(name, "report.json")
        assert own.get(check_key(name, "report.json")) == report
    assert len(list(store.of_tenant("ward-7").list("features/"))) > 0, "the services were called for the tenant"
    assert await list_ids(callers[0]) == await list_ids(callers[1])
    log = (service.folder / "state" / "logs" / f"ward-7:{name}-pretrained.log").exists()
    assert log, "jobs of one id have a log each"
    lines = [json.loads(line) for line in (service.folder / "service.log").read_text().splitlines()]
    for event, key in (("job_launched", "job"), ("check_succeeded", "check")):
        tenants = [line["tenant"] for line in lines if line["event"] == event and line[key].startswith(name)]
        assert set(tenants) == set(TENANTS), "lines about one id are told apart"


async def test_what_another_tenant_has_does_not_exist(service, callers, store):
    ours, theirs = callers
    name = f"{service.prefix}-hidden"
    await theirs.create(name, 5)  # its jobs wait for a file
    await service.started(1)
    checks, jobs = await list_ids(theirs)
    assert (checks, bool(jobs)) == ({name}, True)
    assert await list_ids(ours) == (set(), set())
    job = min(jobs)

    async def read(stream):
        async for _ in stream:
            pass

    for call in (
        ours.get(name),
        ours.read_report(name),
        read(ours.checks.WatchCheck(alignment_pb2.WatchCheckRequest(check_id=name))),
        ours.checks.CancelCheck(alignment_pb2.CancelCheckRequest(check_id=name)),
        ours.checks.RetryCheck(alignment_pb2.RetryCheckRequest(check_id=name)),
        ours.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=job)),
        read(ours.jobs.WatchJob(finetuning_pb2.WatchJobRequest(job_id=job))),
        ours.jobs.CancelJob(finetuning_pb2.CancelJobRequest(job_id=job)),
        ours.jobs.RetryJob(finetuning_pb2.RetryJobRequest(job_id=job)),
        ours.jobs.DeleteJob(finetuning_pb2.DeleteJobRequest(job_id=job)),
        ours.checks.DeleteCheck(alignment_pb2.DeleteCheckRequest(check_id=name)),
        ours.experiments.DeleteExperiment(experiment_pb2.DeleteExperimentRequest(experiment_id=name)),
        ours.experiments.GetExperiment(experiment_pb2.GetExperimentRequest(experiment_id=name)),
        ours.checks.GetErasure(erasure_pb2.GetErasureRequest(erasure_id=name)),
    ):
        with pytest.raises(NotFound):
            await call
    everything = {key: store.of_tenant("ward-7").get(key) for key in store.of_tenant("ward-7").list("checks/")}
    dataset = erasure_pb2.ErasedDataset(dataset_id="demo", dataset_digest=load_dataset(store, "demo").digest())
    erasure = erasure_pb2.ErasePatientRequest(
        erasure_id=name, group="test-1", models=erasure_pb2.MODEL_POLICY_KEEP, datasets=[dataset]
    )
    receipt = (await ours.checks.ErasePatient(erasure)).erasure
    assert (receipt.HasField("complete_time"), len(receipt.objects)) == (True, 0)
    with pytest.raises(NotFound):
        await theirs.checks.GetErasure(erasure_pb2.GetErasureRequest(erasure_id=name))
    after = {key: store.of_tenant("ward-7").get(key) for key in everything}
    assert after == everything
    check = await theirs.get(name)
    assert not check.HasField("end_time")
    assert check.progress.phase != "stopping"
    with pytest.raises(InvalidInput) as unclear:  # without authentication, everybody belongs to both
        await service.get(name)
    assert unclear.value.reason == "TENANT_REQUIRED"
    stranger = Caller(service, "ward-9")
    with pytest.raises(Forbidden) as denied:
        await stranger.get(name)
    assert denied.value.reason == "WRONG_TENANT"
    await stranger.channel.close()
