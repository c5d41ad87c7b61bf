"""The first request with grpcio and the generated stubs alone."""

import json
import os
from pathlib import Path

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2  # googleapis-common-protos

from vfmalign.v1 import common_pb2, mmd_pb2, mmd_pb2_grpc

# A call may be repeated where the service answers UNAVAILABLE: no RPC has another effect the second time.
RETRIES = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [{"name": [{}], "retryPolicy": RETRIES}],
}
OPTIONS = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.max_receive_message_length", 16 << 20),
    # Finds the pods of a new version in time; 30 s by default.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
]


def to_source(rows: list[list[float]]) -> mmd_pb2.FeatureSource:
    """Packs rows × channels as little-endian float32."""
    features = np.asarray(rows, "<f4")
    tensor = common_pb2.Tensor(
        data_type=common_pb2.DATA_TYPE_FLOAT32, shape=features.shape, data=features.tobytes()
    )
    return mmd_pb2.FeatureSource(
        inline=mmd_pb2.InlineFeatures(layers=[mmd_pb2.InlineLayer(features=tensor)])
    )


def print_estimate(name: str, estimate: common_pb2.Estimate) -> None:
    """Prints a value, or why it is absent; an absent value reads as 0."""
    present = estimate.HasField("value")
    print(name, estimate.value if present else f"absent: {estimate.absent_reason}")


def print_error(error: grpc.Call) -> None:
    """Prints what a program branches on (reason) and what a person reads (subject, remedy)."""
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            print(
                error.code().name,
                info.reason,
                "|",
                info.metadata["subject"],
                "|",
                info.metadata["remedy"],
            )


request = mmd_pb2.ComputeRequest(
    x=to_source([[0, 0], [1, 0], [0, 1], [1, 1]]),
    y=to_source([[2, 0], [3, 0], [2, 1], [3, 1]]),
    pairing=mmd_pb2.PAIRING_INDEPENDENT,
    kernel=mmd_pb2.Kernel(fixed_sigma=1.0),
    test=mmd_pb2.TestOptions(permutations=99, seed=1),
)
token = Path(os.environ["VFMALIGN_TOKEN_FILE"]).read_text().strip()
metadata = [("authorization", f"Bearer {token}")]
with grpc.insecure_channel(os.environ["VFMALIGN_MMD_ADDRESS"], OPTIONS) as channel:
    stub = mmd_pb2_grpc.MmdServiceStub(channel)
    response = stub.Compute(request, metadata=metadata, timeout=30)
    print_estimate("MMD²", response.layers[0].raw.mmd2)
    print_estimate("p", response.layers[0].raw.p_value)

    request.x.feature_set_id = "some-feature-set"
    try:
        stub.Compute(request, metadata=metadata, timeout=30)
    except grpc.RpcError as error:
        print_error(error)
