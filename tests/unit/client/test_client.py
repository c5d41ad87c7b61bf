"""`AsyncClient` and `Client` against servers: what is sent, what comes back, and what failures become."""

import asyncio
import subprocess
import sys
import threading

import numpy as np
import pytest

from vfmalign.client import (
    AsyncClient,
    CheckSpec,
    Client,
    ComputeOptions,
    ExperimentSpec,
    JobSpec,
    LabelledFeatures,
    Recipe,
)
from vfmalign.client.messages.checks import Check, TrainingPlan
from vfmalign.client.messages.common import ObjectRef
from vfmalign.client.messages.experiments import Experiment
from vfmalign.client.messages.jobs import Job
from vfmalign.client.messages.mmd import ComputeResponse, Kernel, TestOptions, UploadedFeatures
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.errors import (
    BadOption,
    BadTensor,
    Conflict,
    DeadlineExceeded,
    Exhausted,
    Internal,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from vfmalign.core.rpc.tensors import to_array
from vfmalign.v1 import alignment_pb2, mmd_pb2

X = np.arange(12, dtype=np.float32).reshape(3, 4)
SPEC = JobSpec(kind="finetune", dataset_id="d", task="segmentation")
CHECK_SPEC = CheckSpec(model_id="m", dataset_id="d", task="segmentation", recipe=Recipe(preset="demo"))
EXPERIMENT_SPEC = ExperimentSpec(model_ids=("m",), dataset_id="d", tasks=("segmentation",))


# --- comparisons ---


async def test_arrays_become_inline_samples_and_the_answer_a_record(client, deployment):
    response = await client.mmd.compute(
        X,
        {"stages.3": X + 1},
        ComputeOptions(
            pairing="paired",
            kernel=Kernel(family="laplacian", bandwidth_rule="reference_median"),
            test=TestOptions(permutations=10, seed=3, method="wild_bootstrap"),
            measures=["cka"],
            precision="exact",
        ),
        reference=LabelledFeatures({"stages.3": X}, groups=["a", "a", "b"], case_ids=["1", "2", "3"]),
    )
    assert isinstance(response, ComputeResponse)
    assert response.layers[0].raw.mmd2.value == -0.25
    assert response.layers[0].standardised is None
    assert (response.estimator, response.rows_x, response.cost.device) == ("unbiased_paired", 3, "cpu")

    (request,) = deployment.mmd.requests
    (layer,) = request.x.inline.layers
    assert layer.layer == ""
    np.testing.assert_array_equal(to_array(layer.features), X)
    np.testing.assert_array_equal(to_array(request.y.inline.layers[0].features), X + 1)
    assert request.y.inline.layers[0].layer == "stages.3"
    assert list(request.reference.inline.groups) == ["a", "a", "b"]
    assert list(request.reference.inline.case_ids) == ["1", "2", "3"]
    assert request.kernel.family == mmd_pb2.KERNEL_FAMILY_LAPLACIAN
    assert (request.test.permutations, request.test.method) == (10, mmd_pb2.TEST_METHOD_WILD_BOOTSTRAP)
    assert list(request.measures) == [mmd_pb2.MEASURE_CKA]
    assert (request.precision, request.interval_level) == (mmd_pb2.PRECISION_EXACT, 0.95)


async def test_stored_samples_are_named(client, deployment):
    uploaded = UploadedFeatures(object=ObjectRef(uri="s3://b/uploads/a.safetensors", sha256="a" * 64))
    await client.mmd.compute("f" * 32, uploaded, ComputeOptions(pairing="independent"))
    (request,) = deployment.mmd.requests
    assert request.x.feature_set_id == "f" * 32
    assert request.y.uploaded.object.uri == "s3://b/uploads/a.safetensors"
    assert not request.HasField("reference")
    assert request.test.permutations == 0
    assert request.pairing == mmd_pb2.PAIRING_INDEPENDENT


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (np.zeros(3), r"y\.inline\.layers\[0\]\.features: expected 2 axes, got 1"),
        ({"a": np.full((2, 2), np.nan)}, r"y\.inline\.layers\[0\]\.features: 4 elements are NaN or infinite"),
        (np.zeros((2, 2), dtype=np.int64), "int64 cannot be sent"),
    ],
)
async def test_arrays_that_cannot_be_sent_name_their_place(client, deployment, sample, message):
    with pytest.raises(BadTensor, match=message):
        await client.mmd.compute(X, sample, ComputeOptions(pairing="paired"))
    assert deployment.mmd.requests == []


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"pairing": "sideways"}, "pairing", "choose 'paired' or 'independent'"),
        ({"pairing": "paired", "frequencies": 2**20 + 1}, "frequencies", "choose a value of at most 1048576"),
        ({"pairing": "paired", "test": {"permutations": 100_001}}, "test.permutations", "of at most 100000"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_sent(fields, field, message):
    with pytest.raises(BadOption, match=message) as caught:
        ComputeOptions.from_fields(**fields)
    assert caught.value.field == field


def test_a_field_that_does_not_exist_is_named_with_the_remedy() -> None:
    with pytest.raises(BadOption) as caught:
        TestOptions.from_fields(permutation=99)  # type: ignore[call-arg]
    assert caught.value.field == "permutation"
    assert (caught.value.message, caught.value.remedy) == (
        "there is no field of this name", "correct the name, or leave the field out"
    )  # fmt: skip


async def test_arrays_larger_than_a_message_are_not_sent(client, deployment):
    large = np.zeros((2**20, 5), dtype=np.float32)
    with pytest.raises(Exhausted, match="the limit is 16,777,216; upload the arrays with `upload`") as caught:
        await client.mmd.compute(large, X, ComputeOptions(pairing="independent"))
    assert caught.value.retry_after_s is None
    assert deployment.mmd.requests == []


# --- failures ---


async def test_errors_of_the_service_come_back_as_the_tree(client, deployment, bad_option):
    deployment.mmd.error = bad_option
    with pytest.raises(BadOption, match=r"interval_level: must be below 1; choose 0\.95") as caught:
        await client.mmd.compute(X, X, ComputeOptions(pairing="paired"))
    assert caught.value.field == "interval_level"


async def test_a_service_that_is_briefly_unavailable_is_asked_again(client, deployment):
    deployment.mmd.unavailable = 2
    await client.mmd.compute(X, X, ComputeOptions(pairing="paired"))
    assert len(deployment.mmd.requests) == 3
    deployment.mmd.unavailable = 100
    with pytest.raises(Unavailable, match="MmdService"):
        await client.mmd.compute(X, X, ComputeOptions(pairing="paired"))


async def test_a_deadline_ends_a_call(client, deployment):
    deployment.mmd.delay_s = 0.5
    with pytest.raises(DeadlineExceeded):
        await client.mmd.compute(X, X, ComputeOptions(pairing="paired"), timeout_s=0.05)


async def test_an_address_is_needed_at_the_first_call(deployment, monkeypatch):
    for name in ("FEATURES", "MMD", "FINETUNING"):
        monkeypatch.delenv(f"VFMALIGN_{name}_ADDRESS", raising=False)
    monkeypatch.setenv("VFMALIGN_FEATURES_ADDRESS", deployment.addresses["features_address"])
    async with AsyncClient() as client:
        assert (await client.features.get_dataset("a")).dataset_id == "a"
        with pytest.raises(BadOption, match=r"mmd_address: no address of the mmd service .* set VFMALIGN_MMD_ADDRESS"):
            await client.mmd.compute(X, X, ComputeOptions(pairing="paired"))


async def test_arguments_take_precedence_over_the_environment(deployment, monkeypatch):
    monkeypatch.setenv("VFMALIGN_FEATURES_ADDRESS", "127.0.0.1:1")
    async with AsyncClient(**deployment.addresses) as client:
        assert (await client.features.get_dataset("a")).dataset_id == "a"


def test_a_file_of_authorities_that_is_not_there_is_named(deployment, tmp_path):
    with pytest.raises(BadOption, match="ca_file"):
        AsyncClient(ca_file=tmp_path / "absent.pem", **deployment.addresses)


# --- operations ---


async def test_jobs_are_created_once_found_listed_and_cancelled(client):
    for name in ("one", "two", "one"):
        assert (await client.jobs.create(name, SPEC)).job_id == name
    with pytest.raises(Conflict, match="one: another job has this id"):
        await client.jobs.create("one", JobSpec(kind="finetune", dataset_id="other"))
    assert (await client.jobs.get("two")).spec.task == Task.parse("segmentation")
    with pytest.raises(NotFound):
        await client.jobs.get("absent")
    assert [job.job_id for job in await client.jobs.list()] == ["one", "two"]
    await client.jobs.cancel("two")
    assert [job.job_id for job in await client.jobs.list(["cancelled"])] == ["two"]
    assert [job.job_id for job in await client.jobs.list(["running", "queued"])] == ["one"]
    assert await client.jobs.list(["running"]) == []
    assert (await client.jobs.retry("two")).state == "queued"
    with pytest.raises(PreconditionFailed, match="one: the job has succeeded"):
        await client.jobs.retry("one")


@pytest.mark.parametrize(
    ("name", "record", "spec", "operation_id"),
    [
        ("jobs", Job, SPEC, "one"),
        ("checks", Check, CHECK_SPEC, "c1"),
        ("experiments", Experiment, EXPERIMENT_SPEC, "e1"),
    ],
)
async def test_every_method_returns_records(client, name, record, spec, operation_id):
    operations = getattr(client, name)
    created = await operations.create(operation_id, spec)
    assert type(created) is record
    assert created.spec == spec
    assert await operations.get(operation_id) == created
    assert await operations.list() == [created]
    assert [type(state) async for state in operations.watch(operation_id)][-1] is record
    assert (await operations.cancel(operation_id)).state == "cancelled"


async def test_a_check_is_created_with_the_number_of_its_trainings(client):
    check, plans, earlier = await client.checks.create_with_plans("c1", CHECK_SPEC)
    assert earlier == ()
    assert check == await client.checks.get("c1")
    assert plans == (
        TrainingPlan(seeds=3, trainings=11, reused=4),
        TrainingPlan(seeds=1, trainings=5, reused=0),
    )


async def test_a_list_names_the_states_and_the_limit_that_it_takes(client):
    with pytest.raises(BadOption, match="choose from queued, pending, running, succeeded, failed") as caught:
        await client.jobs.list(["ended"])
    assert caught.value.field == "states"
    with pytest.raises(BadOption, match="'pending' is not a state; choose from queued, running"):
        await client.checks.list(["pending"])
    with pytest.raises(BadOption, match="limit: must be positive, got 0"):
        await client.jobs.list(limit=0)


async def test_a_response_of_a_newer_service_is_not_taken_for_a_wrong_option(client, deployment):
    await client.checks.create("c1", CHECK_SPEC)
    deployment.alignment.check.MergeFromString(bytes([3 << 3, 99]))  # state 99
    assert deployment.alignment.check.state == 99
    with pytest.raises(Internal, match=r"Check: cannot read the service's response: state: unknown value; install the"):
        await client.checks.get("c1")
    deployment.alignment.check.state = alignment_pb2.CHECK_STATE_RUNNING
    assert (await client.checks.get("c1")).state == "running"


async def test_a_watch_goes_on_after_the_service_restarts(client, deployment):
    await client.jobs.create("one", SPEC)
    deployment.finetuning.hold = True
    lost, attempts = [], []
    async for job in client.jobs.watch("one", on_disconnect=lost.append):
        attempts.append(job.attempts)
        if len(attempts) == 1:
            await asyncio.to_thread(deployment.stop)
            deployment.finetuning.hold = False
            await asyncio.to_thread(deployment.start)
    assert attempts == [1, 2, 3]
    assert deployment.finetuning.watches == 2
    assert len(lost) == 1
    assert isinstance(lost[0], Unavailable)


async def test_a_service_that_stays_away_ends_the_watch(client, deployment):
    await client.jobs.create("one", SPEC)
    await asyncio.to_thread(deployment.stop)
    with pytest.raises(Unavailable):
        await client.jobs.wait("one", reconnect_s=0.0)


async def test_waiting_returns_the_job_that_ended(client, deployment):
    await client.jobs.create("one", SPEC)
    changes = []
    last = await client.jobs.wait("one", on_change=lambda job: changes.append(job.attempts))
    assert (last.attempts, changes) == (3, [1, 2, 3])
    deployment.finetuning.hold = True
    await client.jobs.create("two", SPEC)
    with pytest.raises(DeadlineExceeded, match=r"job two: it has not ended within 0\.2 s; wait longer, or cancel it"):
        await client.jobs.wait("two", timeout_s=0.2)


# --- the synchronous client ---


def test_the_synchronous_client_gives_the_same(deployment):
    with Client(**deployment.addresses) as client:
        assert client.mmd.compute(X, X, ComputeOptions(pairing="paired")).primary_layer == "stages.3"
        assert [one.dataset_id for one in client.features.list_datasets().datasets] == ["a", "b"]
        client.jobs.create("one", SPEC)
        assert [job.attempts for job in client.jobs.watch("one")] == [1, 2, 3]
        assert client.checks.create("c1", CHECK_SPEC).spec == CHECK_SPEC
        assert isinstance(client.checks.get("c1"), Check)
        with pytest.raises(NotFound):
            client.jobs.get("absent")
    assert not [thread for thread in threading.enumerate() if thread.name == "vfmalign-client"]
    client.close()


def test_a_watch_that_is_left_early_ends_the_call(deployment):
    deployment.finetuning.hold = True
    with Client(**deployment.addresses) as client:
        client.jobs.create("one", SPEC)
        for job in client.jobs.watch("one"):
            assert job.attempts == 1
            break
        assert deployment.finetuning.left.wait(10)


def test_threads_share_a_client(deployment):
    with Client(**deployment.addresses) as client:
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(client.features.get_dataset("a").dataset_id))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == ["a"] * 8


def test_importing_the_package_loads_neither_grpc_nor_numpy():
    code = "import sys, vfmalign.client; print({'grpc', 'numpy', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
