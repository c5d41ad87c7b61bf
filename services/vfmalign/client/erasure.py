"""Client of the erasures of patients, which three services carry out."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Literal

import grpc

from vfmalign.client.messages.erasure import ErasePatientRequest, Erasure
from vfmalign.v1 import alignment_pb2_grpc, erasure_pb2, features_pb2_grpc, monitoring_pb2_grpc

ErasingService = Literal["features", "finetuning", "monitoring"]


def digest_identifier(key: str, identifier: str) -> str:
    """Returns the HMAC-SHA256 of an identifier, such as a group, in hexadecimal. `key` is hexadecimal, too."""
    return hmac.digest(bytes.fromhex(key), identifier.encode(), hashlib.sha256).hex()


class AsyncErasuresClient:
    """Erases patients.

    Args:
        open_channel: returns the channel to each service.
    """

    def __init__(self, open_channel: Mapping[ErasingService, Callable[[], grpc.aio.Channel]]) -> None:
        self._open_channel = open_channel

    async def erase(self, service: ErasingService, request: ErasePatientRequest) -> Erasure:
        """Erases a patient from one service, or only plans the erasure. Returns the service's receipt.

        Call `features` first, and pass the datasets of its receipt to `finetuning`. Repeat the call until the receipt
        has a `complete_time`.

        Raises:
            Conflict: the erasure id belongs to another patient.
        """
        return Erasure.from_response((await self._stub(service).ErasePatient(request.to_proto())).erasure)

    async def get(self, service: ErasingService, erasure_id: str) -> Erasure:
        """Returns the receipt of one service.

        Raises:
            NotFound: the service has no erasure of this id.
        """
        request = erasure_pb2.GetErasureRequest(erasure_id=erasure_id)
        return Erasure.from_response((await self._stub(service).GetErasure(request)).erasure)

    def _stub(
        self, service: ErasingService
    ) -> (
        features_pb2_grpc.FeatureServiceAsyncStub
        | alignment_pb2_grpc.AlignmentServiceAsyncStub
        | monitoring_pb2_grpc.MonitoringServiceAsyncStub
    ):
        channel = self._open_channel[service]()
        if service == "features":
            return features_pb2_grpc.FeatureServiceStub(channel)
        if service == "finetuning":
            return alignment_pb2_grpc.AlignmentServiceStub(channel)
        return monitoring_pb2_grpc.MonitoringServiceStub(channel)
