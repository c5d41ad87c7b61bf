"""The finetuning service as a process of its own, and what stands in for the processes around it.

The object store, the database, the network and the training processes are real. `FeatureService` and `MmdService` are
small servicers of these tests behind real gRPC: what they would compute is not what is tested here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid

import pytest
import sqlalchemy as sa
from tests.integration.finetuning.peers import PROGRAM, Peers, store_inputs
from tests.preloaded import get_command

from vfmalign.cli.local import signing_key
from vfmalign.core.rpc.channels import connect
from vfmalign.finetuning.schema import open_database
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    experiment_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
)


@pytest.fixture
def peers(store):
    peers = Peers(store)
    yield peers
    peers.stop()


@pytest.fixture(params=["sqlite"])
def database_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state' / 'finetuning.db'}"
    return request.getfixturevalue("postgres_database")


@pytest.fixture
def job_command(python_server):
    """The program of a job, which starts without importing anything."""
    return json.dumps(get_command(python_server, ["-c", PROGRAM]))


@pytest.fixture
def launcher_settings(job_command):
    """Settings beside those of every test: jobs are subprocesses."""
    return {"VFMALIGN_LAUNCHER__COMMAND": job_command}


@pytest.fixture
def signing_settings(tmp_path):
    """The key that signs results, drawn as by a local stack."""
    for holder in ("owner", "finetuning"):
        (tmp_path / "tokens" / holder).mkdir(parents=True)
    signing_key.ensure(tmp_path / "tokens")
    return {"VFMALIGN_SIGNING__KEY_FILE": str(signing_key.get_key_file(tmp_path / "tokens"))}


@pytest.fixture
async def service(tmp_path, store, store_environment, peers, python, database_url, launcher_settings, signing_settings):
    """The service's process, its stubs, and means to kill and start it again."""

    class Service:
        prefix = uuid.uuid4().hex[:8]  # the bucket is shared: artifacts of another test's check would be found
        process = None
        database = open_database(database_url)
        folder = tmp_path

        def environment(self, folder):
            """Settings of an orchestrator with a state directory of its own on the one database."""
            return (
                store_environment
                | launcher_settings
                | signing_settings
                | {
                    "VFMALIGN_FEATURES_ADDRESS": f"127.0.0.1:{peers.port}",
                    "VFMALIGN_MMD_ADDRESS": f"127.0.0.1:{peers.port}",
                    "VFMALIGN_STATE_DIR": str(folder / "state"),
                    "VFMALIGN_DATABASE__URL": database_url,
                    "VFMALIGN_LEASE__TTL_S": "5",
                    "VFMALIGN_LAUNCHER__MAX_RUNNING": "3",
                    "VFMALIGN_RECONCILER__POLL_S": "0.5",
                    "VFMALIGN_SERVER__GRPC_PORT": "0",
                    "VFMALIGN_SERVER__METRICS_PORT": "0",
                    "VFMALIGN_SERVER__HEALTH_PORT": "0",
                    "VFMALIGN_SERVER__PORTS_FILE": str(folder / "ports.json"),
                    "TEST_FOLDER": str(tmp_path),
                }
            )

        async def spawn(self, folder):
            """Starts an orchestrator; returns its process and its ports once it serves."""
            ports = folder / "ports.json"
            ports.unlink(missing_ok=True)
            with (folder / "service.log").open("ab") as log:
                command = [sys.executable, "-m", "vfmalign.finetuning"]
                process = python(command, env=self.environment(folder), stdout=log, stderr=log)
            while not ports.exists():
                assert process.poll() is None, (folder / "service.log").read_text()
                await asyncio.sleep(0.02)
            return process, json.loads(ports.read_text())

        async def start(self):
            self.process, self.ports = await self.spawn(tmp_path)
            self.channel = connect(f"127.0.0.1:{self.ports['grpc']}")
            self.checks = alignment_pb2_grpc.AlignmentServiceStub(self.channel)
            self.jobs = finetuning_pb2_grpc.FineTuningServiceStub(self.channel)
            self.experiments = experiment_pb2_grpc.ExperimentServiceStub(self.channel)

        async def kill(self):
            self.process.kill()
            self.process.wait()
            await self.channel.close()

        async def create(self, name, dataset="demo", seed=1, seeds=1, learning_rate=8e-3, task=None, **fields):
            """Creates a check with one recipe, or with trials of two where there is no learning rate."""
            check_id = f"{self.prefix}-{name}"
            recipe = finetuning_pb2.Recipe(preset="demo", epochs=6, steps_per_epoch=10, learning_rate=learning_rate)
            spec = alignment_pb2.CheckSpec(
                model_id="vfm",
                dataset_id=dataset,
                task=task or {"name": "segmentation"},
                seed=seed,
                seeds=seeds,
                recipe=recipe,
                **fields,
            )
            request = alignment_pb2.CreateCheckRequest(check_id=check_id, spec=spec)
            return (await self.checks.CreateCheck(request)).check.check_id

        async def get(self, check_id):
            return (await self.checks.GetCheck(alignment_pb2.GetCheckRequest(check_id=check_id))).check

        async def until(self, check_id, condition, seconds=60.0):
            end = time.monotonic() + seconds
            while not condition(check := await self.get(check_id)):
                assert time.monotonic() < end, (
                    f"{check.progress.detail}\n{(tmp_path / 'service.log').read_text()[-4000:]}"
                )
                await asyncio.sleep(0.1)
            return check

        async def started(self, count, seconds=60.0):
            end = time.monotonic() + seconds
            while len(self.starts()) < count:
                assert time.monotonic() < end, self.starts()
                await asyncio.sleep(0.1)

        async def finish(self, check_id):
            return await self.until(check_id, lambda check: check.HasField("end_time"))

        def runs(self, check_id):
            query = sa.text("SELECT stage, outcome FROM stage_runs WHERE check_id = :id")
            with self.database.engine.connect() as connection:
                return [tuple(row) for row in connection.execute(query, {"id": check_id})]

        def starts(self):
            path = tmp_path / "starts"
            return path.read_text().split() if path.exists() else []

    service = Service()
    await service.start()
    yield service
    (tmp_path / "go").touch()
    if service.process.poll() is None:
        service.process.terminate()
        service.process.wait(90)
    await service.channel.close()
    service.database.close()


@pytest.fixture(autouse=True)
def stored(store):
    """A model card and datasets; volumes are never read here."""
    store_inputs(store)
