"""Two orchestrators with two state directories on one database: one leads, the other serves the API and stands by."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vfmalign.core.rpc.channels import connect
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.v1 import alignment_pb2, alignment_pb2_grpc, finetuning_pb2

pytestmark = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Rival:
    """An orchestrator beside the one of the fixture."""

    def __init__(self, process, ports, folder):
        self.process, self.ports, self.folder = process, ports, folder
        self.checks = alignment_pb2_grpc.AlignmentServiceStub(connect(f"127.0.0.1:{ports['grpc']}"))

    def events(self, name):
        """Lines of its log."""
        lines = (self.folder / "service.log").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == name]


@pytest.fixture
async def rival(service, tmp_path):
    folder = tmp_path / "rival"
    folder.mkdir()
    rival = Rival(*await service.spawn(folder), folder)
    yield rival
    (tmp_path / "go").touch()
    rival.process.send_signal(signal.SIGCONT)
    rival.process.terminate()
    rival.process.wait(90)


def health(ports, name=""):
    """What the health service answers for a name."""
    with grpc.insecure_channel(f"127.0.0.1:{ports['health']}") as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status


def metrics(ports):
    """Values without labels, by name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['metrics']}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def leads(ports):
    return metrics(ports)["vfmalign_orchestrator_leader"] == 1


async def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def test_a_standby_serves_the_api_and_takes_over_at_once_from_a_leader_that_stops(service, rival):
    await until(lambda: leads(service.ports))
    assert health(service.ports, "leader") == SERVING
    assert (health(rival.ports), health(rival.ports, "leader")) == (SERVING, NOT_SERVING)
    for ports in (service.ports, rival.ports):
        assert health(ports, "orchestration") == SERVING
    assert not leads(rival.ports)
    await until(lambda: 'vfmalign_jobs{state="queued"}' in metrics(service.ports))
    assert 'vfmalign_jobs{state="queued"}' not in metrics(rival.ports)

    name = await service.create("shared", seed=5)
    await service.until(name, lambda _: service.starts())
    seen = await rival.checks.GetCheck(alignment_pb2.GetCheckRequest(check_id=name))
    assert seen.check.state == alignment_pb2.CHECK_STATE_RUNNING
    await asyncio.sleep(2)
    assert len(service.starts()) == len(set(service.starts())), "a job has two processes"
    assert len(rival.events("standing_by")) == 1, "once, not at every poll"

    service.process.terminate()
    await asyncio.to_thread(service.process.wait, 60)
    await until(lambda: leads(rival.ports))
    assert health(rival.ports, "leader") == SERVING
    assert metrics(rival.ports)["vfmalign_orchestrator_takeovers_total"] == 1
    (service.folder / "go").touch()
    await service.channel.close()
    await service.start()
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail
    assert not leads(service.ports)


async def test_a_killed_leader_s_jobs_are_adopted_and_not_doubled(service, rival):
    name = await service.create("killed", seed=5)
    await service.until(name, lambda _: len(service.starts()) == 3)
    await service.kill()
    await until(lambda: leads(rival.ports))
    await asyncio.sleep(1)
    assert len(service.starts()) == 3
    (service.folder / "go").touch()
    await service.start()
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail
    jobs = [(await service.jobs.GetJob(finetuning_pb2.GetJobRequest(job_id=job))).job.attempts for job in check.job_ids]
    assert jobs == [1, 1, 1]


async def test_a_leader_that_was_stopped_beyond_its_lease_stands_by_and_writes_nothing(service, rival):
    name = await service.create("stopped", seed=5)
    await service.until(name, lambda _: len(service.starts()) == 3)
    with service.database.session() as session:
        # SQLite has one write lock, which a process that is stopped within a transaction keeps from all others. Here it
        # is the test's, so that the leader holds none. PostgreSQL ends the transaction of such a process.
        session.connection()
        service.process.send_signal(signal.SIGSTOP)
    await until(lambda: leads(rival.ports))
    (service.folder / "go").touch()

    await until(lambda: CheckRepository(service.database).get(name).finished)
    runs = service.runs(name)
    service.process.send_signal(signal.SIGCONT)
    await until(lambda: health(service.ports, "leader") == NOT_SERVING)
    check = await service.finish(name)
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.progress.detail
    assert service.runs(name) == runs
    assert len(service.starts()) == 3
    assert service.process.poll() is None, "it stands by instead of ending"
    assert not leads(service.ports)
