"""Kills, stops, callers that leave, and calls that are too many or too large."""

import asyncio
import subprocess
import sys

import grpc
import numpy as np
import pytest
from tests.integration.features.conftest import Server

from vfmalign.core.storage.feature_sets import read_feature_set
from vfmalign.core.storage.keys import features_prefix
from vfmalign.v1 import common_pb2, features_pb2_grpc
from vfmalign.v1 import features_pb2 as pb

CASES = 24
PART = 3


@pytest.fixture(scope="module")
def long_dataset(upload, phantoms):
    """Twenty-four cases of three studies: the reading and computing of each is real, the making of them quick."""
    return upload("long", [phantoms[i % 3] for i in range(CASES)])


@pytest.fixture(scope="module")
def server(store, card, store_environment, python, tmp_path_factory):
    """A server of small parts, which ends without an error after the tests that disturb it from outside alone."""
    folder = tmp_path_factory.mktemp("parts")
    running = Server(python, store_environment, folder, VFMALIGN_FEATURES__PART_CASES=str(PART))
    yield running
    assert running.end() == 0, running.log.read_text()
    assert "Traceback" not in running.log.read_text(), running.log.read_text()


def request_of(*layers: str) -> pb.ExtractDatasetRequest:
    return pb.ExtractDatasetRequest(
        model_id="micro", dataset_id="long", split=common_pb2.SPLIT_TEST, layers=layers or ["stages.3"]
    )


def objects(store) -> dict[str, float]:
    """Every part with its time of last modification."""
    listed = store._client.list_objects(store.bucket, store.name("features/"), recursive=True)
    return {item.object_name: item.last_modified.timestamp() for item in listed if "/part-" in item.object_name}


async def next_message(call) -> pb.ExtractDatasetResponse | None:
    """The next message, None where the call ended in an error."""
    try:
        return await call.read()
    except grpc.aio.AioRpcError:
        return None


async def settled(count) -> int:
    """What `count` gives once it has stopped changing for two seconds."""
    for _ in range(15):
        before = count()
        await asyncio.sleep(2)
        if count() == before:
            break
    return count()


async def read_until(address: str, request, done: int) -> list[tuple[int, int]]:
    """Progress of a call until `done` cases are done; the call is left then."""
    points = []
    async with grpc.aio.insecure_channel(address) as channel:
        call = features_pb2_grpc.FeatureServiceStub(channel).ExtractDataset(request)
        async for message in call:
            points.append((message.progress.done, message.progress.total))
            if points[-1][0] >= done:
                break
    return points


async def finish(address: str, request) -> tuple[list[int], pb.ExtractDatasetResponse]:
    async with grpc.aio.insecure_channel(address) as channel:
        call = features_pb2_grpc.FeatureServiceStub(channel).ExtractDataset(request)
        *points, last = [message async for message in call]
    return [point.progress.done for point in points], last


async def test_a_killed_extraction_continues_with_the_part_it_had_reached(store, long_dataset, start_server):
    server = start_server(VFMALIGN_FEATURES__PART_CASES=str(PART), VFMALIGN_FEATURES__READERS="1")
    points = await read_until_killed(server)
    reached = objects(store)
    assert 2 <= len(reached) < CASES // PART, "killed too late to prove anything"
    assert points[0] == (0, CASES)
    assert not [key for key in store.list("features/") if key.endswith("manifest.json")]
    await asyncio.sleep(1.1)  # times of modification are in seconds: a part written again would show

    again = start_server(VFMALIGN_FEATURES__PART_CASES=str(PART))
    done, last = await finish(again.address, request_of())
    assert done[0] == len(reached) * PART
    assert last.computed_cases == CASES - len(reached) * PART
    after = objects(store)
    assert len(after) == CASES // PART
    assert {key: after[key] for key in reached} == reached, "a part was written again"
    resumed = read_feature_set(store, last.feature_set.feature_set_id)
    assert resumed.manifest.case_ids == tuple(case.id for case in long_dataset.test)

    # The same set without a kill has the same bytes: all three studies repeat every third row as well.
    rows = resumed.layers["stages.3"]
    assert np.array_equal(rows, np.tile(rows[:3], (CASES // 3, 1)))
    for key in list(store.list(features_prefix(last.feature_set.feature_set_id))):
        store.delete(key)
    _, undisturbed = await finish(again.address, request_of())
    assert undisturbed.computed_cases == CASES
    assert undisturbed.feature_set == last.feature_set
    assert again.end() == 0


async def read_until_killed(server) -> list[tuple[int, int]]:
    """SIGKILL as soon as two parts are done."""
    points = []
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = features_pb2_grpc.FeatureServiceStub(channel).ExtractDataset(request_of())
        while (message := await next_message(call)) is not None:
            points.append((message.progress.done, message.progress.total))
            if points[-1][0] >= 2 * PART and server.process.poll() is None:
                server.process.kill()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
    server.process.wait(30)
    return points


async def test_a_caller_that_leaves_stops_the_work_and_the_next_continues(store, long_dataset, server):
    request = request_of("stages.2")
    before = set(objects(store))
    await read_until(server.address, request, PART)
    count = await settled(lambda: len(set(objects(store)) - before))
    assert 1 <= count < CASES // PART, "the work went on without a listener"
    done, last = await finish(server.address, request)
    assert (done[0], last.computed_cases) == (count * PART, CASES - count * PART)


async def test_sigterm_during_an_extraction_ends_with_0_and_loses_no_part(store, long_dataset, start_server):
    server = start_server(VFMALIGN_FEATURES__PART_CASES=str(PART), VFMALIGN_SERVER__DRAIN_S="0")
    request = request_of("stages.1")
    before = set(objects(store))
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = features_pb2_grpc.FeatureServiceStub(channel).ExtractDataset(request)
        while (message := await next_message(call)) is not None:
            if message.progress.done == PART:
                server.process.terminate()
        assert await call.code() is not grpc.StatusCode.OK
    assert await asyncio.to_thread(server.process.wait, 30) == 0, server.log.read_text()
    assert "Traceback" not in server.log.read_text(), server.log.read_text()
    written = set(objects(store)) - before
    assert written
    again = start_server(VFMALIGN_FEATURES__PART_CASES=str(PART))
    _, last = await finish(again.address, request)
    assert last.computed_cases == CASES - len(written) * PART
    assert written <= set(objects(store))


async def test_two_callers_of_one_set_compute_it_once(store, long_dataset, server):
    request = request_of("stages.0")
    (_, first), (_, second) = await asyncio.gather(finish(server.address, request), finish(server.address, request))
    assert first.feature_set == second.feature_set
    assert sorted([first.computed_cases, second.computed_cases]) == [0, CASES]


async def test_a_study_is_answered_while_a_dataset_is_extracted(store, long_dataset, server, phantoms, study_of):
    async with grpc.aio.insecure_channel(server.address) as channel:
        service = features_pb2_grpc.FeatureServiceStub(channel)
        bulk = asyncio.ensure_future(finish(server.address, request_of("stages.0", "stages.1")))
        await service.Extract(pb.ExtractRequest(model_id="micro", study=study_of(phantoms[0])))
        assert not bulk.done()
        await bulk


async def test_too_many_calls_are_refused_at_once_and_may_be_repeated(start_server, phantoms, study_of):
    server = start_server(VFMALIGN_FEATURES__QUEUE_SIZE="2")
    request = pb.ExtractRequest(model_id="micro", study=study_of(phantoms[0]))
    async with grpc.aio.insecure_channel(server.address) as channel:
        service = features_pb2_grpc.FeatureServiceStub(channel)
        answers = await asyncio.gather(*(service.Extract(request) for _ in range(12)), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert 1 <= len(refused) < 12
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert "queue extract: 2 calls run or wait already; repeat the call after the delay" in refused[0].details()
        assert (await service.Extract(request)).layers


async def test_features_larger_than_a_message_must_be_stored(store, start_server, phantoms, study_of):
    server = start_server(VFMALIGN_SERVER__MAX_MESSAGE_BYTES=str(2**16))
    study = pb.Study()
    for volume in study_of(phantoms[0]).volumes:
        ref = store.put(f"volumes/large/one/{volume.modality}.nii.gz", volume.nifti)
        stored = common_pb2.ObjectRef(uri=store.uri(ref.key), sha256=ref.sha256)
        study.volumes.append(pb.StudyVolume(modality=volume.modality, stored=stored))
    layers = ["stages.0", "stages.1", "stages.2", "stages.3"]
    request = pb.ExtractRequest(model_id="micro", study=study, layers=layers, pooling=pb.POOLING_NONE)
    async with grpc.aio.insecure_channel(server.address) as channel:
        service = features_pb2_grpc.FeatureServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.Extract(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "set `store_as` to store them" in caught.value.details()
        request.store_as, request.store_group = "large", "patient"
        response = await service.Extract(request)
        assert len(response.layers) == 4
        # 16·4·16·16 + 32·2·8·8 + 64·1·4·4 + 128·1·4·4 values in float32, and the files' headers.
        assert 94_208 < sum(layer.stored.size_bytes for layer in response.layers) < 94_208 + 1_024


async def test_settings_that_are_wrong_stop_the_process_with_one_sentence(store_environment, python):
    for start, settings, words in (
        (subprocess.Popen, {"VFMALIGN_FEATURES__READERS": "0"}, "VFMALIGN_FEATURES__READERS is wrong"),
        (
            python,
            {"VFMALIGN_FEATURES__DEVICE": "cuda:99"},
            "VFMALIGN_FEATURES__DEVICE: this machine has no device 'cuda:99'",
        ),
    ):
        command, environment = [sys.executable, "-m", "vfmalign.features"], store_environment | settings
        process = start(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        _, log = await asyncio.to_thread(process.communicate, timeout=120)
        assert process.returncode == 2
        assert log.count("\n") == 1
        assert words in log
