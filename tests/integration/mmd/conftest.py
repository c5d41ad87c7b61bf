"""The MMD service as a process on a real S3 server, feature sets in its bucket, and requests about them."""

import json
import os
import signal
import sys
import time
import uuid
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from safetensors.numpy import save

from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest
from vfmalign.v1 import common_pb2, mmd_pb2_grpc
from vfmalign.v1 import mmd_pb2 as pb

Code = grpc.StatusCode
LAYERS = ("stages.2", "stages.3")
ROWS, CHANNELS = 16, 6


@pytest.fixture(scope="module")
def address(store, store_environment, python, tmp_path_factory):
    """`python -m vfmalign.mmd` on free ports, with little memory."""
    folder = tmp_path_factory.mktemp("mmd")
    ports_file, log_file = folder / "ports.json", folder / "mmd.log"
    environment = {
        **store_environment,
        "VFMALIGN_SERVER__GRPC_PORT": "0",
        "VFMALIGN_SERVER__METRICS_PORT": "0",
        "VFMALIGN_SERVER__HEALTH_PORT": "0",
        "VFMALIGN_SERVER__PORTS_FILE": str(ports_file),
        "VFMALIGN_SERVER__DRAIN_S": "5",
        "VFMALIGN_MMD__DEVICE": "cpu",
        "VFMALIGN_MMD__MEMORY_MIB": "128",
        "OMP_NUM_THREADS": "1",
    }
    with log_file.open("wb") as log:  # a pipe that nobody reads would fill up, and the service would wait
        process = python([sys.executable, "-m", "vfmalign.mmd"], env=environment, stderr=log)
    try:
        for _ in range(600):
            if ports_file.exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        assert process.poll() is None, log_file.read_text()
        yield f"127.0.0.1:{json.loads(ports_file.read_text())['grpc']}"
        assert process.poll() is None, "the server died during the tests"
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
    assert process.returncode == 0, log_file.read_text()


@pytest.fixture
async def service(address):
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_send_message_length", 2**24)]) as channel:
        yield mmd_pb2_grpc.MmdServiceStub(channel)


def store_set(store, layers, cases=None, groups=None):
    """Stores features as a committed set and returns its id."""
    rows = len(next(iter(layers.values())))
    request = FeatureRequest(
        model_id="profound_conv_micro",
        model_sha256="0" * 64,
        init_seed=uuid.uuid4().int % 2**62,
        dataset_id="phantoms",
        dataset_digest="1" * 64,
        split="test",
        layers=tuple(layers),
        preprocessing=Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=None, shape_dhw=(8, 8, 8)),
    )
    cases = cases or [f"case-{row:05d}" for row in range(rows)]
    writer = FeatureSetWriter(store, request, cases, groups or [f"group-{case}" for case in cases])
    half = max(rows // 2, 1)
    for start in range(0, rows, half):
        writer.write_part(start, {name: array[start : start + half] for name, array in layers.items()})
    writer.commit({"torch": "2"})
    return request.feature_set_id()


def features(seed, shift=0.0, rows=ROWS):
    rng = np.random.default_rng(seed)
    return {name: (rng.normal(size=(rows, CHANNELS)) + shift).astype(np.float32) for name in LAYERS}


@pytest.fixture(scope="module")
def sets(store):
    """Before, after (shifted) and reference features: arrays and ids."""
    arrays = {"x": features(1), "reference": features(3, rows=20)}
    arrays["y"] = {name: array + np.float32(0.8) for name, array in arrays["x"].items()}
    train = [f"train-{row}" for row in range(20)]
    ids = {name: store_set(store, arrays[name]) for name in ("x", "y")}
    ids["reference"] = store_set(store, arrays["reference"], train)
    return arrays, ids


@pytest.fixture
def new_set(store):
    """Stores a set of its own from a seed, and returns its id."""
    return lambda seed: store_set(store, features(seed))


def stored(feature_set):
    return pb.FeatureSource(feature_set_id=feature_set)


def inline(layers, groups=(), case_ids=()):
    tensors = [pb.InlineLayer(layer=name, features=to_tensor(array)) for name, array in layers.items()]
    return pb.FeatureSource(inline=pb.InlineFeatures(layers=tensors, groups=groups, case_ids=case_ids))


def request_of(ids, **fields):
    fields = {
        **{name: stored(feature_set) for name, feature_set in ids.items()},
        "pairing": pb.PAIRING_PAIRED,
        "test": pb.TestOptions(permutations=200, seed=7),
        **fields,
    }
    return pb.ComputeRequest(**fields)


def inline_request(x, y, **fields):
    fields = {"pairing": pb.PAIRING_PAIRED, "kernel": pb.Kernel(fixed_sigma=2.0), **fields}
    return pb.ComputeRequest(x=inline(x), y=inline(y), **fields)


async def failure(call):
    """What a call ends in, as it stands on the wire."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    trailers = dict(error.trailing_metadata())
    found = {"code": error.code(), "text": error.details(), "reason": "", "field": "", "retry": False}
    if "grpc-status-details-bin" in trailers:
        for detail in status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details:
            for cls in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                message = cls()
                if not detail.Unpack(message):
                    continue
                if cls is error_details_pb2.ErrorInfo:
                    assert message.domain == "vfmalign"
                    found["reason"] = message.reason
                elif cls is error_details_pb2.BadRequest:
                    found["field"] = message.field_violations[0].field
                else:
                    found["retry"] = True
    return SimpleNamespace(**found)


async def works(service, sets):
    """The service still answers."""
    response = await service.Compute(request_of(sets[1]))
    assert len(response.layers) == 2


def uploaded(store, layers, groups=(), case_ids=(), **changes):
    data = save(layers)
    ref = store.put(f"uploads/{uuid.uuid4().hex}.safetensors", data)
    fields = {"uri": store.uri(ref.key), "sha256": ref.sha256, **changes}
    features = pb.UploadedFeatures(object=common_pb2.ObjectRef(**fields), groups=groups, case_ids=case_ids)
    return pb.FeatureSource(uploaded=features)
