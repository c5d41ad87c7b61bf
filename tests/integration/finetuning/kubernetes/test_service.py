"""The service as a process of its own whose jobs are a cluster's: what GetJob says, and that jobs outlive it."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.integration.finetuning.kubernetes.emulator import NAMESPACE, Api
from tests.integration.finetuning.kubernetes.world import result_of

from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.v1 import finetuning_pb2


@pytest.fixture
def launcher_settings(api: Api, tmp_path: Path) -> dict[str, str]:
    """Jobs are Kubernetes Jobs in a namespace of their own."""
    return {
        "VFMALIGN_LAUNCHER__KIND": "kubernetes",
        "VFMALIGN_LAUNCHER__NAMESPACE": NAMESPACE,
        "KUBECONFIG": str(api.kubeconfig(tmp_path)),
    }


async def test_jobs_outlive_the_service_and_say_what_they_wait_for(service: Any, api: Api, store: ObjectStore) -> None:
    job, name = f"{service.prefix}-far", f"vfmalign-{service.prefix}-far-1"
    request = finetuning_pb2.GetJobRequest(job_id=job)
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_FINETUNE, dataset_id="demo", model_id="vfm", task={"name": "segmentation"}, seed=5
    )

    async def until(condition: Any) -> finetuning_pb2.Job:
        end = time.monotonic() + 60
        while not condition(found := (await service.jobs.GetJob(request)).job):
            assert time.monotonic() < end, found.progress.detail
            await asyncio.sleep(0.05)
        return found

    await service.jobs.CreateJob(
        finetuning_pb2.CreateJobRequest(job_id=job, spec=spec), metadata=[("x-request-id", "k8s-service-test")]
    )
    await until(lambda found: found.state == finetuning_pb2.JOB_STATE_PENDING and api.jobs())
    state = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: 2 Insufficient memory."}
    api.pod(name, {"phase": "Pending", "conditions": [state]})
    found = await until(lambda found: "Insufficient memory" in found.progress.detail)
    assert found.progress.detail.startswith("attempt 1: its pod fits no node")
    assert found.log_command == f"kubectl logs --namespace vfmalign-jobs job/{name} --all-containers"
    labels, annotations = api.job(name)["metadata"]["labels"], api.job(name)["metadata"]["annotations"]
    assert (labels["vfmalign.io/job"], labels["vfmalign.io/network"]) == (job, "pretrained")
    assert annotations["vfmalign.io/request-id"] == "k8s-service-test"
    listed = await service.jobs.ListJobs(finetuning_pb2.ListJobsRequest(states=[finetuning_pb2.JOB_STATE_PENDING]))
    assert [one.job_id for one in listed.jobs] == [job]

    service.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(service.process.wait, 20) == 0
    await service.channel.close()
    assert api.jobs() == [name]
    assert api.requests("PATCH") == api.requests("DELETE") == []

    store.write(job_key(job, "result.json"), result_of(job))
    api.condition(name, "Complete")
    await service.start()
    found = await until(lambda found: found.HasField("end_time"))
    assert (found.state, found.attempts) == (finetuning_pb2.JOB_STATE_SUCCEEDED, 1)
