"""Client of `MmdService`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np
from safetensors.numpy import save

from vfmalign.client.messages.common import FileContent, FileUpload
from vfmalign.client.messages.mmd import (
    UNNAMED_LAYER,
    ComputeOptions,
    ComputeResponse,
    CreateUploadRequest,
    CreateUploadResponse,
    UploadedFeatures,
)
from vfmalign.client.samples import Array, LabelledFeatures, Sample, to_feature_source
from vfmalign.client.uploader import Uploader
from vfmalign.core.domain.errors import TooLarge
from vfmalign.core.rpc.status_mapping import MESSAGE_TOO_LARGE
from vfmalign.core.rpc.transport import MESSAGE_BYTES
from vfmalign.v1 import mmd_pb2, mmd_pb2_grpc

COMPUTE_TIMEOUT_S = 3600.0


class AsyncMmdClient:
    """Computes MMD² between samples of features.

    Args:
        open_channel: returns the channel to the service.
    """

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel
        self._uploader = Uploader()

    async def compute(
        self,
        x: Sample,
        y: Sample,
        options: ComputeOptions,
        *,
        reference: Sample | None = None,
        timeout_s: float = COMPUTE_TIMEOUT_S,
    ) -> ComputeResponse:
        """Compares two samples, layer by layer.

        Args:
            x: features before fine-tuning: an array of shape (rows, channels), a mapping from layer to array, or the id
                of a stored feature set.
            y: features after.
            options: options of the comparison.
            reference: sample of other cases, from which scale and bandwidth are computed; optional if the kernel has a
                fixed σ.
            timeout_s: deadline of the call, in seconds.

        Raises:
            BadTensor: an array cannot be sent.
            BadOption: an option does not fit the samples or the other options.
            NotFound: a feature set does not exist.
            Exhausted: the arrays do not fit into a message, or the comparison does not fit into the service's memory.
            VfmalignError: the call failed otherwise.
        """
        request = _create_request(options, x, y, reference)
        stub = mmd_pb2_grpc.MmdServiceStub(self._open_channel())
        return ComputeResponse.from_response(await stub.Compute(request, timeout=timeout_s))

    async def upload(self, features: LabelledFeatures | Array | Mapping[str, Array]) -> UploadedFeatures:
        """Uploads arrays that are too large for a message. Pass the result to `compute` as a sample.

        The service stores the arrays under their digest, and by default deletes them after a day. The client does not
        send arrays that the service already has.

        Args:
            features: an array of shape (rows, channels), or arrays by layer, with or without labels of the rows.

        Raises:
            Exhausted: the arrays exceed the service's memory limit for one comparison, or the remaining quota.
            PreconditionFailed: the service has no object storage.
            StoreUnavailable: the object storage cannot be reached, or refuses the upload.
            VfmalignError: the call failed otherwise.
        """
        labelled = features if isinstance(features, LabelledFeatures) else LabelledFeatures(features)
        layers = labelled.layers if isinstance(labelled.layers, Mapping) else {UNNAMED_LAYER: labelled.layers}
        answers: list[CreateUploadResponse] = []

        async def sign(files: Sequence[FileContent]) -> Sequence[FileUpload]:
            stub = mmd_pb2_grpc.MmdServiceStub(self._open_channel())
            response = await stub.CreateUpload(CreateUploadRequest(file=files[0]).to_proto())
            answers.append(CreateUploadResponse.from_response(response))
            return [answers[-1].upload]

        await self._uploader.upload([save({name: np.ascontiguousarray(layers[name]) for name in layers})], sign)
        return UploadedFeatures(object=answers[-1].object, groups=labelled.groups, case_ids=labelled.case_ids)


def _create_request(options: ComputeOptions, x: Sample, y: Sample, reference: Sample | None) -> mmd_pb2.ComputeRequest:
    """Adds the samples, which have no records, to the options."""
    request: mmd_pb2.ComputeRequest = options.to_proto()
    request.x.CopyFrom(to_feature_source(x, "x"))
    request.y.CopyFrom(to_feature_source(y, "y"))
    if reference is not None:
        request.reference.CopyFrom(to_feature_source(reference, "reference"))
    _check_size(request)
    return request


def _check_size(request: mmd_pb2.ComputeRequest) -> None:
    if (size := request.ByteSize()) <= MESSAGE_BYTES:
        return
    raise TooLarge(
        f"the request has {size:,} bytes, and the limit is {MESSAGE_BYTES:,}",
        subject="MmdService",
        remedy="upload the arrays with `upload` and pass its results, or compare fewer layers",
        reason=MESSAGE_TOO_LARGE,
    )
