"""Two processes train like one: equal numbers within rounding, a common stop, and the exit code of the cause."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load as parse_safetensors
from tests.integration.training.conftest import BATCH_NORM, INPUT, comparable

from vfmalign.cli.local.ports import free_ports
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import JobFailure, JobResult, TrainingRecipe
from vfmalign.core.storage.keys import job_key
from vfmalign.training.launch import main, root_cause
from vfmalign.training.optim import weight_change
from vfmalign.training.process_group import ProcessGroup, shard_sizes

# Three samples for two processes: the shares differ, and so do hidden voxels, lesions and pairs in them.
RECIPE = TrainingRecipe(epochs=2, steps_per_epoch=2, batch_size=3, learning_rate=1e-3)
SEGMENTATION = {"task": "segmentation", "recipe": RECIPE}
LONG = {"task": "segmentation", "recipe": RECIPE.model_copy(update={"epochs": 4, "steps_per_epoch": 3})}
FIRST_STEP = {"task": "segmentation", "recipe": RECIPE.model_copy(update={"epochs": 1, "steps_per_epoch": 1})}
PRETRAINING = {
    "kind": "pretrain",
    "task": "",
    "model_id": "",
    "model_sha256": "",
    "recipe": RECIPE.model_copy(update={"epochs": 1, "patch_shape_dhw": INPUT.shape_dhw}),
}
JOBS = {
    "first-step": FIRST_STEP,
    "segmentation": SEGMENTATION,
    "frozen": SEGMENTATION | {"frozen": True},
    # Random weights, whose statistics both processes estimate.
    "batch-norm": SEGMENTATION | {"network": "scratch", "architecture": BATCH_NORM, "model_id": "", "model_sha256": ""},
    "masked": PRETRAINING | {"objective": "masked_reconstruction"},
    "contrastive": PRETRAINING | {"objective": "contrastive"},
}
# One process group for all jobs.
WORKER = """
import sys
import torch
from vfmalign.core.runtime.settings import load
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.training.job import run_job
from vfmalign.training.settings import read_spec
from vfmalign.training.process_group import init_process_group
from vfmalign.training.settings import TrainingSettings
from vfmalign.core.runtime.work_queue import ShutdownRequest

settings = load(TrainingSettings)
store = ObjectStore(settings.store)
with init_process_group("cpu") as process_group:
    # AdamW hides a factor of the gradient: here it would show, in a loss that couples samples.
    torch.manual_seed(0)
    alone, shared, input_NC = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3), torch.randn(5, 4)
    shared.load_state_dict(alone.state_dict())
    for network in (alone, process_group.distribute(shared, 5)):
        network(input_NC).softmax(0).square().sum().backward()
    assert torch.allclose(shared.weight.grad, alone.weight.grad, rtol=1e-5, atol=1e-7)
    for uri in sys.argv[1:]:
        run_job(store, read_spec(store, uri), settings.training, ShutdownRequest(), process_group)
"""
# The launcher, whose workers are forks of the server as well.
LAUNCHER = """
import functools, pathlib, sys
from tests.preloaded import PreloadedPython
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from vfmalign.training.launch import main

subprocess_handler.Popen = functools.partial(PreloadedPython, pathlib.Path(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def environment(store_environment):
    return store_environment | {"VFMALIGN_TRAINING__THREADS": "1", "VFMALIGN_TRAINING__DEVICE": "cpu"}


@pytest.fixture
def launch(store, environment, python, python_server):
    """Starts one machine's processes of a job; `command` is that of users."""
    running = []

    def start(job, *arguments, command=False):
        program = ["-m", "vfmalign.training.launch"] if command else ["-c", LAUNCHER, str(python_server)]
        line = [sys.executable, *program, *arguments, store.uri(job_key(job, "spec.json"))]
        popen = subprocess.Popen if command else python
        running.append(popen(line, env=environment, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.terminate()
        process.communicate()


def free_port():
    return free_ports(1)[0]


def last_weights(store, result):
    """Weights of the network after the last step."""
    key = store.get_json(job_key(result.job_id, "checkpoint/latest.json"))["state"]["key"]
    return {name: t for name, t in parse_safetensors(store.get(key)).items() if name.startswith("model.")}


def assert_equal_within_rounding(store, two, one):
    """Sums over samples are taken in another order: 1e-7 of a gradient, of which AdamW makes up to 1e-4 of a rate.

    A rectifier whose input lies within rounding of zero may let a gradient through for one of the two alone: 1e-4 of
    weights after one step, 2e-4 of weights that moved by 3e-2, both seen with AVX-512.
    """
    assert weight_change(last_weights(store, one), last_weights(store, two)) < 1e-3
    assert [(p.epoch, p.step) for p in two.curve] == [(p.epoch, p.step) for p in one.curve]
    assert two.selected_epoch == one.selected_epoch
    assert [p.validation_score for p in two.curve] == pytest.approx(
        [p.validation_score for p in one.curve], rel=1e-4, abs=1e-4
    )
    assert [p.train_loss for p in two.curve[1:]] == pytest.approx([p.train_loss for p in one.curve[1:]], rel=1e-4)
    assert len(two.test_scores) == len(one.test_scores)
    for mine, other in zip(two.test_scores, one.test_scores, strict=True):
        assert mine.case == other.case
        assert mine.values.keys() == other.values.keys()
        for name, value in other.values.items():
            found = mine.values[name]
            assert found == value if value is None else found == pytest.approx(value, rel=1e-3, abs=1e-3)


# --- the numbers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def together(store, make_spec, environment, python):
    """Every job of `JOBS` and a long one, run by two processes."""
    jobs = JOBS | {"long": LONG}
    specs = {name: make_spec(f"two-{name}", **changes) for name, changes in jobs.items()}
    uris = [store.uri(job_key(spec.job_id, "spec.json")) for spec in specs.values()]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        python(
            [sys.executable, "-c", WORKER, *uris],
            env=environment | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    logs = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], logs
    return {name: store.read(job_key(spec.job_id, "result.json"), JobResult) for name, spec in specs.items()}


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_train_like_one(store, make_spec, finish, together, name):
    one, two = finish(make_spec(f"one-{name}", **JOBS[name])), together[name]
    assert_equal_within_rounding(store, two, one)
    assert one.curve[-1].validation_score != one.curve[0].validation_score, "the weights do not move"
    assert two.device == "cpu, 1 thread × 2"


# --- the launcher -----------------------------------------------------------------------------------------------------


def test_a_stop_on_one_machine_stops_all_and_resuming_is_bit_identical(store, make_spec, launch, together):
    make_spec("stopped", **LONG)
    place = f"127.0.0.1:{free_port()}"
    machines = [
        launch("stopped", "--nodes", "2", "--processes", "1", "--node-rank", rank, "--master", place)
        for rank in ("1", "0")  # the second one waits for the first
    ]
    deadline = time.monotonic() + 300
    while not store.exists(job_key("stopped", "progress/0001.json")):
        assert all(machine.poll() is None for machine in machines), [m.communicate() for m in machines]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    machines[0].terminate()
    logs = [machine.communicate(timeout=300)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [143, 143], logs
    step = store.get_json(job_key("stopped", "checkpoint/latest.json"))["step"]
    assert 3 <= step < 12
    assert not store.exists(job_key("stopped", "failure.json"))

    again = launch("stopped", "--processes", "2")
    _, log = again.communicate(timeout=300)
    assert again.returncode == 0, log
    resumed = [json.loads(line) for line in log.splitlines() if '"resumed"' in line]
    assert [line["step"] for line in resumed] == [step, step]
    result = store.read(job_key("stopped", "result.json"), JobResult)
    assert comparable(result) == comparable(together["long"])


def test_a_machine_that_loses_another_ends_with_76(store, make_spec, launch):
    make_spec("abandoned", **LONG)
    place = f"127.0.0.1:{free_port()}"
    lost, left = [
        launch("abandoned", "--nodes", "2", "--processes", "1", "--node-rank", rank, "--master", place)
        for rank in ("1", "0")
    ]
    deadline = time.monotonic() + 300
    while not store.exists(job_key("abandoned", "progress/0001.json")):
        assert lost.poll() is left.poll() is None, left.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    launcher = psutil.Process(lost.pid)
    for process in (launcher, *launcher.children(recursive=True)):
        process.kill()
    _, log = left.communicate(timeout=300)
    assert left.returncode == 76, log
    assert not store.exists(job_key("abandoned", "failure.json"))


def test_an_invalid_spec_exits_with_2(store, launch):
    store.put(job_key("bad", "spec.json"), b"{}")
    process = launch("bad", "--processes", "1", command=True)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 2, log
    assert store.read(job_key("bad", "failure.json"), JobFailure).exit_code == 2


def test_small_batches_and_batch_statistics_are_rejected_for_several_processes():
    two = ProcessGroup(rank=0, world_size=2)
    with pytest.raises(
        BadOption, match=r"recipe\.batch_size: batch size 1 is smaller than the number of processes \(2\)"
    ):
        two.distribute(torch.nn.Linear(1, 1), batch_size=1)
    with pytest.raises(BadOption, match="batch normalisation without running statistics"):
        two.distribute(torch.nn.Sequential(torch.nn.BatchNorm3d(4, track_running_stats=False)), batch_size=2)


@pytest.mark.parametrize(("samples", "processes", "sizes"), [(3, 2, [1, 2]), (8, 3, [2, 3, 3]), (4, 4, [1, 1, 1, 1])])
def test_every_sample_is_in_one_shard(samples, processes, sizes):
    assert shard_sizes(samples, processes) == sizes


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([(1, 2), (2, 143)], 2),
        ([(1, 76), (2, 3)], 3),
        ([(1, 76), (1, 1)], 1),
        ([(1, 75), (2, 1)], 1),
        ([(1, 76), (2, 75)], 75),
        ([(1, 76), (2, 69)], 69),
        ([(1, 76), (1, 143)], 76),
        ([(1, 143), (1, 143)], 143),
        ([(1, -9), (2, 76)], 137),
        ([(1, 76), (31, -9)], 76),
    ],
)
def test_the_exit_code_is_that_of_the_root_cause(ends, code):
    failures = {rank: SimpleNamespace(timestamp=at, exitcode=end) for rank, (at, end) in enumerate(ends)}
    assert root_cause(failures) == code


@pytest.mark.usefixtures("process_as_before")
def test_an_unreachable_master_is_a_lost_process(monkeypatch, store_environment):
    for name, value in store_environment.items():
        monkeypatch.setenv(name, value)
    nobody = f"127.0.0.1:{free_port()}"
    arguments = ["--nodes", "2", "--processes", "1", "--node-rank", "1", "--master", nobody, "--timeout-s", "1"]
    assert main([*arguments, "s3://bucket/jobs/x/spec.json"]) == 76


@pytest.mark.parametrize(
    "arguments",
    [
        ["--processes", "0", "s3://b/default/jobs/x/spec.json"],
        ["--nodes", "2", "--processes", "1", "s3://b/default/jobs/x/spec.json"],
        ["--nodes", "2", "--processes", "1", "--node-rank", "2", "--master", "h:1", "s3://b/default/jobs/x/spec.json"],
        ["--processes", "1", "--master", "host", "s3://b/default/jobs/x/spec.json"],
    ],
)
def test_invalid_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage" in capsys.readouterr().err
