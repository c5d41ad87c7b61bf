"""Clients of `DatasetService` and `ModelService`: upload files to presigned URLs, then publish them."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import grpc
import urllib3
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from vfmalign.client.features import OnProgress
from vfmalign.client.messages.common import Progress
from vfmalign.client.messages.features import Dataset, Model
from vfmalign.client.messages.imports import (
    CreateDatasetUploadsRequest,
    CreateDatasetUploadsResponse,
    CreateModelUploadsRequest,
    CreateModelUploadsResponse,
    FileContent,
    FileUpload,
    PublishDatasetRequest,
    PublishDatasetResponse,
    PublishModelRequest,
    PublishModelResponse,
)
from vfmalign.core.domain.errors import DigestMismatch, Internal, StoreUnavailable
from vfmalign.v1 import imports_pb2_grpc

_ATTEMPTS = 5
_CONNECTIONS = 8
_TIMEOUT = urllib3.Timeout(connect=5.0, read=300.0)
_BAD_DIGEST = b"<Code>BadDigest</Code>"


class _Uploader:
    """Sends files to presigned URLs."""

    def __init__(self) -> None:
        # Files beyond this number wait for a connection.
        self._http = urllib3.PoolManager(timeout=_TIMEOUT, retries=False, maxsize=_CONNECTIONS, block=True)

    async def upload(
        self,
        contents: Sequence[bytes],
        sign: Callable[[Sequence[FileContent]], Awaitable[Sequence[FileUpload]]],
    ) -> tuple[str, ...]:
        """Uploads files that the store does not have yet; returns their digests.

        URLs are requested anew for every attempt, because they may have expired.
        """
        by_digest = {hashlib.sha256(content).hexdigest(): content for content in contents}
        files = [FileContent(sha256=sha256, size_bytes=len(content)) for sha256, content in by_digest.items()]
        policy = AsyncRetrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            retry=retry_if_exception_type(StoreUnavailable),
            reraise=True,
        )

        async def send_all() -> None:
            pending = [upload for upload in await sign(files) if not upload.complete]
            await asyncio.gather(
                *(asyncio.to_thread(self._send, upload, by_digest[upload.sha256]) for upload in pending)
            )

        await policy(send_all)
        return tuple(hashlib.sha256(content).hexdigest() for content in contents)

    def _send(self, upload: FileUpload, content: bytes) -> None:
        host = urlsplit(upload.url).netloc
        try:
            response = self._http.request("PUT", upload.url, body=content, headers=upload.headers)
        except (urllib3.exceptions.HTTPError, OSError):
            # The error's own message holds the URL, which is a secret.
            raise StoreUnavailable(
                "the object storage cannot be reached from this machine",
                subject=host,
                remedy="check the network, or ask an operator to set VFMALIGN_PRESIGNED_ENDPOINT for `features`",
            ) from None
        if response.status == 200:
            return
        if _BAD_DIGEST in response.data:
            raise DigestMismatch(
                "the file changed on its way to the object storage", subject=host, remedy="run the import again"
            )
        raise StoreUnavailable(
            f"the object storage refused an upload (HTTP {response.status})",
            subject=host,
            remedy="run the import again, which continues where it was; check this machine's clock",
        )


class AsyncDatasetsClient:
    """Imports datasets. What identifies patients must be removed before; `vfmalign dataset import` does.

    Args:
        open_channel: returns the channel to the feature service.
    """

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel
        self._uploader = _Uploader()

    async def upload(self, import_id: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        """Uploads files of a future dataset: volumes as `.nii.gz`, or the datalist.

        Args:
            import_id: chosen by the caller; an interrupted import continues under the same id.
            contents: at most 256 files. Those that the store has already are not sent again.

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
        """Publishes a dataset whose files are uploaded; repeating the call returns the same dataset.

        Args:
            request: names the import, the dataset and the datalist.
            on_progress: called with the cases done so far; may be a coroutine function.

        Raises:
            InvalidInput: the datalist or a volume cannot be used.
            Conflict: the dataset exists with different content.
            PreconditionFailed: a file was not uploaded.
            VfmalignError: the call failed otherwise.
        """
        call = self._stub().PublishDataset(request.to_proto())
        dataset: Dataset | None = await _follow(call, PublishDatasetResponse, "dataset", on_progress)
        if dataset is None:
            raise Internal("the service ended its answer without a dataset", subject="DatasetService")
        return dataset

    def _stub(self) -> imports_pb2_grpc.DatasetServiceAsyncStub:
        return imports_pb2_grpc.DatasetServiceStub(self._open_channel())


class AsyncModelsClient:
    """Imports models: safetensors of a supported architecture.

    Args:
        open_channel: returns the channel to the feature service.
    """

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel
        self._uploader = _Uploader()

    async def upload(self, import_id: str, weights: bytes) -> str:
        """Uploads the weights of a future model; returns their digest. See `AsyncDatasetsClient.upload`."""

        async def sign(files: Sequence[FileContent]) -> Sequence[FileUpload]:
            request = CreateModelUploadsRequest(import_id=import_id, weights=files[0])
            response = await self._stub().CreateModelUploads(request.to_proto())
            return [CreateModelUploadsResponse.from_response(response).upload]

        (sha256,) = await self._uploader.upload([weights], sign)
        return sha256

    async def publish(self, request: PublishModelRequest, on_progress: OnProgress | None = None) -> Model:
        """Publishes a model whose weights are uploaded; repeating the call returns the same model.

        Args:
            request: names the import, and describes the model.
            on_progress: called with the phase that runs; may be a coroutine function.

        Raises:
            InvalidInput: the weights or the description cannot be used.
            Conflict: the id belongs to another model.
            PreconditionFailed: the weights were not uploaded.
            VfmalignError: the call failed otherwise.
        """
        call = self._stub().PublishModel(request.to_proto())
        model: Model | None = await _follow(call, PublishModelResponse, "model", on_progress)
        if model is None:
            raise Internal("the service ended its answer without a model", subject="ModelService")
        return model

    def _stub(self) -> imports_pb2_grpc.ModelServiceAsyncStub:
        return imports_pb2_grpc.ModelServiceStub(self._open_channel())


async def _follow(call: Any, response: type[Any], field: str, on_progress: OnProgress | None) -> Any:
    """Reads a stream of progress to its end; returns the result, the response's field of this name."""
    result = None
    try:
        async for message in call:
            event = response.from_response(message)
            result = getattr(event, field)
            progress: Progress | None = event.progress
            if progress is not None and on_progress is not None:
                pending = on_progress(progress)
                if inspect.isawaitable(pending):
                    await pending
    finally:
        call.cancel()  # the service goes on for a stream whose reader has left
    return result
