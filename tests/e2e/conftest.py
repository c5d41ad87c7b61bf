"""One stack, one dataset of phantoms and one pretrained encoder, shared by every end-to-end test.

Everything is real: the S3 server, the four services as processes that are started again when they die, training
processes, a database. The recipes are short, the phantoms few. Services and trainings are forks of an interpreter that
has imported torch; the tutorials and `tests/integration/cli` start them as users do.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from tests.preloaded import PreloadedPython, get_command
from tests.tokens import open_channel

from vfmalign.cli.local.environment import get_small_network_settings
from vfmalign.cli.local.stack import Stack
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.phantoms import rendering
from vfmalign.imaging.phantoms.dataset import synthesise_dataset
from vfmalign.v1 import (
    alignment_pb2,
    alignment_pb2_grpc,
    features_pb2_grpc,
    finetuning_pb2,
    finetuning_pb2_grpc,
    mmd_pb2_grpc,
)

DATASET = "phantoms"
# On coarse grids: the whole anatomy, quickly made and read.
PHANTOMS = rendering.PhantomSpec(
    t2w=rendering.SliceStack((64, 64, 16), (1.75, 1.75, 3.75)),
    dwi=rendering.SliceStack((48, 48, 16), (2.6, 2.6, 3.75)),
    adc=rendering.SliceStack((48, 48, 16), (2.6, 2.6, 3.75)),
)
MODEL = "micro"
EPOCHS = 2
STEPS = 16
"""In all a quarter of the preset's steps, the least for a verdict."""
RATE = 8e-3
"""The preset's for pretrained networks; with a rate of its own, a check tries no second recipe."""
TIMEOUT_S = 400.0
# A call that a kill interrupts is made again, as every client of the product does it.
RETRY = {"maxAttempts": 4, "initialBackoff": "0.2s", "maxBackoff": "2s", "backoffMultiplier": 2}
METHODS = {"name": [{}], "retryPolicy": RETRY | {"retryableStatusCodes": ["UNAVAILABLE"]}}
OPTIONS = [
    ("grpc.service_config", json.dumps({"methodConfig": [METHODS]})),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
ENDED = {
    alignment_pb2.CHECK_STATE_SUCCEEDED,
    alignment_pb2.CHECK_STATE_FAILED,
    alignment_pb2.CHECK_STATE_CANCELLED,
}


def recipe(**changes: Any) -> finetuning_pb2.Recipe:
    """A recipe of a few seconds."""
    values = {"preset": "demo", "epochs": EPOCHS, "steps_per_epoch": STEPS, "batch_size": 2, "learning_rate": RATE}
    return finetuning_pb2.Recipe(**(values | changes))


def check_spec(**changes: Any) -> alignment_pb2.CheckSpec:
    """The check that the tests vary."""
    values: dict[str, Any] = {
        "model_id": MODEL,
        "dataset_id": DATASET,
        "task": {"name": "segmentation"},
        "recipe": recipe(),
        "seed": 7,
        "seeds": 1,
        "permutations": 199,
        "bootstrap_resamples": 500,
    }
    return alignment_pb2.CheckSpec(**(values | changes))


@dataclass
class World:
    """The running stack and how tests talk to it."""

    home: StateDirectory
    stack: Stack
    store: ObjectStore
    events: list[str] = field(default_factory=list)
    channels: dict[str, grpc.Channel] = field(default_factory=dict)

    def channel(self, service: str) -> grpc.Channel:
        """The channel to one service, which keeps its port for life."""
        if service not in self.channels:
            state = self.stack.get_state()
            assert state.token_file is not None
            self.channels[service] = open_channel(state.services[service].ports.address, state.token_file, OPTIONS)
        return self.channels[service]

    @property
    def features(self) -> Any:
        """The feature service."""
        return features_pb2_grpc.FeatureServiceStub(self.channel("features"))

    @property
    def mmd(self) -> Any:
        """The MMD service."""
        return mmd_pb2_grpc.MmdServiceStub(self.channel("mmd"))

    @property
    def jobs(self) -> Any:
        """The fine-tuning service."""
        return finetuning_pb2_grpc.FineTuningServiceStub(self.channel("finetuning"))

    @property
    def checks(self) -> Any:
        """The alignment service."""
        return alignment_pb2_grpc.AlignmentServiceStub(self.channel("finetuning"))

    def create(self, check_id: str, **changes: Any) -> Any:
        """Creates a check."""
        request = alignment_pb2.CreateCheckRequest(check_id=check_id, spec=check_spec(**changes))
        return self.checks.CreateCheck(request, timeout=30, wait_for_ready=True).check

    def get(self, check_id: str) -> Any:
        """A check as it stands, also while its service comes back."""
        request = alignment_pb2.GetCheckRequest(check_id=check_id)
        return self.checks.GetCheck(request, timeout=90, wait_for_ready=True).check

    def wait_for(self, check_id: str, condition: Callable[[Any], bool], poll_s: float = 0.1) -> Any:
        """The check once a condition holds; fails when it ends or the time is over before."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            check = self.get(check_id)
            if condition(check):
                return check
            if check.state in ENDED:
                raise AssertionError(f"{check_id} ended first: {check.progress.detail} {check.failure}")
            time.sleep(poll_s)
        raise AssertionError(f"{check_id} is still at: {self.get(check_id).progress.detail}")

    def finish(self, check_id: str) -> Any:
        """The check once it has ended."""
        return self.wait_for(check_id, lambda check: check.state in ENDED, poll_s=0.5)

    def run(self, check_id: str, **changes: Any) -> Any:
        """Creates a check and waits for its success."""
        self.create(check_id, **changes)
        check = self.finish(check_id)
        assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.failure
        return check

    def pid(self, service: str) -> int:
        """Process id of a service."""
        process = self.stack.get_state().services[service].process
        assert process is not None
        return process.pid


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, python_server: Path) -> Iterator[World]:
    """A stack with a dataset and a pretrained model."""
    home = StateDirectory(tmp_path_factory.mktemp("stack"))
    home.create()
    (home.path / "tmp").mkdir()
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("TMPDIR", str(home.path / "tmp"))  # so that a search of the home covers temporary files
    forking = SimpleNamespace(**vars(subprocess) | {"Popen": partial(PreloadedPython, python_server)})
    monkeypatch.setattr("vfmalign.cli.local.stack.subprocess", forking)
    events: list[str] = []
    command = json.dumps(get_command(python_server, ["-m", "vfmalign.training"]))
    pacs = {"VFMALIGN_DICOMWEB__ABSENT__URL": "http://127.0.0.1:9/dicom-web"}  # nothing answers there
    settings = {
        **get_small_network_settings(),
        **pacs,
        "VFMALIGN_LAUNCHER__COMMAND": command,
        "VFMALIGN_MONITORING__WINDOW_TIMEOUT_S": "15",
    }
    stack = Stack(home, events.append, settings)
    stack.start()
    supervisor = threading.Thread(target=stack.supervise)
    supervisor.start()
    try:
        state = stack.get_state()
        assert state.store is not None
        result = World(home, stack, ObjectStore(state.store.to_settings()), events)
        counts = {"pretrain": 8, "train": 8, "val": 4, "test": 9}
        synthesise_dataset(result.store, DATASET, 1, counts, spec=PHANTOMS)
        _pretrain(result)
        yield result
    finally:
        stack.request_stop()
        supervisor.join()
        stack.stop()
        monkeypatch.undo()


@pytest.fixture(scope="session")
def undisturbed(world: World) -> Any:
    """A check that nobody disturbed."""
    return world.run("undisturbed")


@pytest.fixture(scope="session")
def rate_zero(world: World) -> Any:
    """A check of another task whose training changes no weight."""
    still = finetuning_pb2.Recipe(preset="demo", epochs=1, steps_per_epoch=2, learning_rate=0.0)
    return world.run("rate-zero", task={"name": "super_resolution"}, recipe=still)


@pytest.fixture(scope="session")
def picai(shared_folder: Path) -> Path:
    """The real case beside the repository."""
    folder = shared_folder / "data" / "picai-sample"
    if not folder.is_dir():
        pytest.skip("the real case is not beside this repository")
    return folder


def _pretrain(world: World) -> None:
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_PRETRAIN,
        dataset_id=DATASET,
        objective=1,
        recipe=finetuning_pb2.Recipe(preset="demo", epochs=2, steps_per_epoch=4),
        seed=1,
        publish_as=MODEL,
    )
    world.jobs.CreateJob(finetuning_pb2.CreateJobRequest(job_id="pretrain", spec=spec), wait_for_ready=True)
    request = finetuning_pb2.WatchJobRequest(job_id="pretrain")
    last = [reply.job for reply in world.jobs.WatchJob(request, timeout=TIMEOUT_S)][-1]
    assert last.state == finetuning_pb2.JOB_STATE_SUCCEEDED, last.failure
