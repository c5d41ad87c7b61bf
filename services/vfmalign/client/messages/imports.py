"""Messages of `DatasetService` and `ModelService`; fields and units are documented in `imports.proto`."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from google.protobuf.message import Message
from pydantic import Field

from vfmalign.client.messages.base import ApiMessage
from vfmalign.client.messages.common import Progress
from vfmalign.client.messages.features import Dataset, Model, Preprocessing
from vfmalign.core.domain.models import Objective
from vfmalign.core.domain.record import Id, Sha256
from vfmalign.v1 import imports_pb2


class FileContent(ApiMessage):
    """A file to upload: its digest, and its size in bytes."""

    PROTO: ClassVar[type[Message]] = imports_pb2.FileContent

    sha256: Sha256
    size_bytes: int = Field(ge=1)


class FileUpload(ApiMessage):
    """Where a file is uploaded.

    Attributes:
        url: of one PUT request; a secret. Empty where the file is complete.
        headers: of the request.
        complete: whether the store has the file already.
    """

    PROTO: ClassVar[type[Message]] = imports_pb2.FileUpload

    sha256: Sha256
    url: str = Field(default="", repr=False)
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    complete: bool = False


class CreateDatasetUploadsRequest(ApiMessage):
    """Files of a dataset that are uploaded next."""

    PROTO: ClassVar[type[Message]] = imports_pb2.CreateDatasetUploadsRequest

    import_id: Id
    files: tuple[FileContent, ...] = Field(min_length=1)


class CreateDatasetUploadsResponse(ApiMessage):
    """Where the files are uploaded, in the order of the request, and until when."""

    PROTO: ClassVar[type[Message]] = imports_pb2.CreateDatasetUploadsResponse

    uploads: tuple[FileUpload, ...]
    expire_time: datetime


class PublishDatasetRequest(ApiMessage):
    """A dataset to publish; `datalist_sha256` names the uploaded file that names all others."""

    PROTO: ClassVar[type[Message]] = imports_pb2.PublishDatasetRequest

    import_id: Id
    dataset_id: Id
    datalist_sha256: Sha256


class PublishDatasetResponse(ApiMessage):
    """One message of PublishDataset: progress any number of times, then the dataset once."""

    PROTO: ClassVar[type[Message]] = imports_pb2.PublishDatasetResponse

    progress: Progress | None = None
    dataset: Dataset | None = None


class CreateModelUploadsRequest(ApiMessage):
    """The weights of a model that are uploaded next."""

    PROTO: ClassVar[type[Message]] = imports_pb2.CreateModelUploadsRequest

    import_id: Id
    weights: FileContent


class CreateModelUploadsResponse(ApiMessage):
    """Where the weights are uploaded, and until when."""

    PROTO: ClassVar[type[Message]] = imports_pb2.CreateModelUploadsResponse

    upload: FileUpload
    expire_time: datetime


class PublishModelRequest(ApiMessage):
    """A model to publish.

    Attributes:
        weights_sha256: of the uploaded safetensors file.
        architecture: a name, or the description of a network as a card holds it.
        preprocessing: the encoder's input; None for the architecture's own.
        primary_layer: empty for the architecture's own.
        source: origin and licence of the weights.
    """

    PROTO: ClassVar[type[Message]] = imports_pb2.PublishModelRequest

    import_id: Id
    model_id: Id
    weights_sha256: Sha256
    architecture: str = Field(min_length=1)
    objective: Objective = "unknown"
    preprocessing: Preprocessing | None = None
    primary_layer: str = ""
    source: str = ""


class PublishModelResponse(ApiMessage):
    """One message of PublishModel: progress any number of times, then the model once."""

    PROTO: ClassVar[type[Message]] = imports_pb2.PublishModelResponse

    progress: Progress | None = None
    model: Model | None = None
