"""Clients of `DatasetService` and `ModelService`.

The clients upload files to presigned URLs and then publish the dataset or model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc

from vfmalign.client.messages.common import FileContent, FileUpload
from vfmalign.client.messages.features import Dataset, Model
from vfmalign.client.messages.imports import (
    CreateDatasetUploadsRequest,
    CreateDatasetUploadsResponse,
    CreateModelUploadsRequest,
    CreateModelUploadsResponse,
    PublishDatasetRequest,
    PublishDatasetResponse,
    PublishModelRequest,
    PublishModelResponse,
)
from vfmalign.client.responses import OnProgress, read_last_event
from vfmalign.client.uploader import Uploader
from vfmalign.core.domain.errors import Internal
from vfmalign.v1 import imports_pb2_grpc


class AsyncDatasetsClient:
    """Imports datasets.

    Before an upload, remove everything that identifies patients, as `vfmalign dataset import` does.

    Args:
        open_channel: returns the channel to the feature service.
    """

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel
        self._uploader = Uploader()

    async def upload(self, import_id: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        """Uploads files of a future dataset: volumes as `.nii.gz`, or the datalist.

        Args:
            import_id: an id that you choose. To continue an interrupted import, pass its id again.
            contents: at most 256 files. Files that the store already has are not sent again.

        Returns:
            The digest of each file.

        Raises:
            StoreUnavailable: the object storage cannot be reached, or refuses the upload.
            VfmalignError: the call failed otherwise.
        """

        async def sign(files: Sequence[FileContent]) -> Sequence[FileUpload]:
            request = CreateDatasetUploadsRequest(import_id=import_id, files=tuple(files))
            response = await self._stub().CreateDatasetUploads(request.to_proto())
            return CreateDatasetUploadsResponse.from_response(response).uploads

        return await self._uploader.upload(contents, sign)

    async def publish(self, request: PublishDatasetRequest, on_progress: OnProgress | None = None) -> Dataset:
        """Publishes a dataset after its files were uploaded. A repeated call returns the same dataset.

        Args:
            request: names the import, the dataset and the datalist.
            on_progress: function or coroutine function that is called with the number of finished cases.

        Raises:
            InvalidInput: the datalist or a volume cannot be used.
            Conflict: the dataset exists with different content.
            PreconditionFailed: a file was not uploaded.
            VfmalignError: the call failed otherwise.
        """
        call = self._stub().PublishDataset(request.to_proto())
        event = await read_last_event(call, PublishDatasetResponse, on_progress)
        if event is None or event.dataset is None:
            raise Internal("the service ended its answer without a dataset", subject="DatasetService")
        return event.dataset

    def _stub(self) -> imports_pb2_grpc.DatasetServiceAsyncStub:
        return imports_pb2_grpc.DatasetServiceStub(self._open_channel())


class AsyncModelsClient:
    """Imports models: safetensors of a supported architecture.

    Args:
        open_channel: returns the channel to the feature service.
    """

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel
        self._uploader = Uploader()

    async def upload(self, import_id: str, weights: bytes) -> str:
        """Uploads the weights of a future model and returns their digest. See `AsyncDatasetsClient.upload`."""

        async def sign(files: Sequence[FileContent]) -> Sequence[FileUpload]:
            request = CreateModelUploadsRequest(import_id=import_id, weights=files[0])
            response = await self._stub().CreateModelUploads(request.to_proto())
            return [CreateModelUploadsResponse.from_response(response).upload]

        (sha256,) = await self._uploader.upload([weights], sign)
        return sha256

    async def publish(self, request: PublishModelRequest, on_progress: OnProgress | None = None) -> Model:
        """Publishes a model after its weights were uploaded. A repeated call returns the same model.

        Args:
            request: names the import, and describes the model.
            on_progress: function or coroutine function that is called with the running phase.

        Raises:
            InvalidInput: the weights or the description cannot be used.
            Conflict: another model has this id.
            PreconditionFailed: the weights were not uploaded.
            VfmalignError: the call failed otherwise.
        """
        call = self._stub().PublishModel(request.to_proto())
        event = await read_last_event(call, PublishModelResponse, on_progress)
        if event is None or event.model is None:
            raise Internal("the service ended its answer without a model", subject="ModelService")
        return event.model

    def _stub(self) -> imports_pb2_grpc.ModelServiceAsyncStub:
        return imports_pb2_grpc.ModelServiceStub(self._open_channel())
