"""Client of `MmdService`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np
from safetensors.numpy import save

from vfmalign.client.messages.imports import FileContent, FileUpload
from vfmalign.client.messages.mmd import (
    UNNAMED_LAYER,
    ComputeOptions,
    ComputeResponse,
    CreateUploadRequest,
    CreateUploadResponse,
    Estimator,
    Kernel,
    Measure,
    Pairing,
    Precision,
    TestOptions,
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
        *,
        pairing: Pairing,
        reference: Sample | None = None,
        kernel: Kernel | None = None,
        estimator: Estimator | None = None,
        layers: Sequence[str] = (),
        primary_layer: str = "",
        test: TestOptions | None = None,
        interval_level: float = 0.95,
        measures: Sequence[Measure] = (),
        projection: bool = False,
        precision: Precision | None = None,
        frequencies: int = 0,
        timeout_s: float = COMPUTE_TIMEOUT_S,
    ) -> ComputeResponse:
        """Compares two samples, layer by layer.

        Args:
            x: features before; an array of shape (rows, channels), arrays by layer, or the id of a stored feature set.
            y: features after.
            pairing: `paired` where row i of both comes from the same case, else `independent`.
            reference: sample of other cases that fixes scale and bandwidth; optional where `kernel` has a fixed σ.
            kernel: Gaussian, with the reference's median distance as bandwidth, where None.
            estimator: the unbiased one that fits the pairing where None.
            layers: layers to compare; all that both samples have where empty.
            primary_layer: its result comes first; the first layer where empty.
            test: hypothesis test; none where None.
            interval_level: coverage of intervals, in (0, 1).
            measures: measures of shift beside MMD².
            projection: whether to return 2-D coordinates of the primary layer.
            precision: least precision; the service's setting where None.
            frequencies: of the random Fourier estimator, at least 256; 0 takes 1,024.
            timeout_s: deadline of the call, in seconds.

        Raises:
            BadTensor: an array cannot be sent.
            BadOption: an option is wrong or does not fit the samples.
            NotFound: a feature set does not exist.
            Exhausted: the arrays do not fit into a message, or the comparison not into the service's memory.
            VfmalignError: the call failed otherwise.
        """
        options = ComputeOptions.from_fields(
            pairing=pairing, estimator=estimator, kernel=kernel, layers=tuple(layers), primary_layer=primary_layer,
            test=test, interval_level=interval_level, projection=projection, precision=precision,
            frequencies=frequencies, measures=tuple(measures),
        )  # fmt: skip
        request = _create_request(options, x, y, reference)
        stub = mmd_pb2_grpc.MmdServiceStub(self._open_channel())
        return ComputeResponse.from_response(await stub.Compute(request, timeout=timeout_s))

    async def upload(self, features: LabelledFeatures | Array | Mapping[str, Array]) -> UploadedFeatures:
        """Uploads arrays that are too large for a message; the result is a sample of `compute`.

        The service stores them under their digest and deletes them after a day, unless it is set otherwise. Arrays
        that it has already are not sent again.

        Args:
            features: an array of shape (rows, channels), or arrays by layer, with or without labels of the rows.

        Raises:
            Exhausted: they are larger than what the service may use for one comparison, or the quota has no room.
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
        f"the request has {size} bytes, a message at most {MESSAGE_BYTES}",
        subject="MmdService",
        remedy="pass what `upload` returns for the arrays, or compare fewer layers",
        reason=MESSAGE_TOO_LARGE,
    )
