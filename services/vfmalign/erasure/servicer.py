"""The two RPCs for the erasure of patients. Several servicers inherit these RPCs."""

from __future__ import annotations

from google.protobuf.message import Message
from grpc.aio import ServicerContext

from vfmalign.client.messages.erasure import ErasePatientRequest
from vfmalign.core.rpc.access.identity import current_identity
from vfmalign.core.runtime.threads import STORE
from vfmalign.erasure.receipts import Erasures
from vfmalign.v1 import erasure_pb2 as pb

Context = ServicerContext[Message, Message]


class ErasureRpcs:
    """Mixin for a servicer. The servicer sets `_erasures`."""

    _erasures: Erasures

    async def ErasePatient(self, request: pb.ErasePatientRequest, context: Context) -> pb.ErasePatientResponse:
        """See the proto."""
        record, identity = ErasePatientRequest.from_proto(request), current_identity.get()
        erasure = await STORE.run(self._erasures.erase, record, "" if identity is None else identity.key)
        return pb.ErasePatientResponse(erasure=erasure.to_proto())

    async def GetErasure(self, request: pb.GetErasureRequest, context: Context) -> pb.GetErasureResponse:
        """See the proto."""
        erasure = await STORE.run(self._erasures.get, request.erasure_id)
        return pb.GetErasureResponse(erasure=erasure.to_proto())
