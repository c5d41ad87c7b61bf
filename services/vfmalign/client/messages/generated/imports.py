"""Records of `imports.proto`, by `make proto`; do not edit."""

from __future__ import annotations

from typing import ClassVar

from google.protobuf.message import Message

from vfmalign.client.messages.base import ApiMessage, Time
from vfmalign.client.messages.generated.common import FileContent, FileUpload, Progress
from vfmalign.client.messages.generated.features import Dataset, Model
from vfmalign.core.domain.models import Objective, Preprocessing, TensorCounts
from vfmalign.core.domain.record import Id, OptionalLicence, Sha256
from vfmalign.v1 import imports_pb2

__all__ = [
    "CreateDatasetUploadsRequest",
    "CreateDatasetUploadsResponse",
    "PublishDatasetRequest",
    "PublishDatasetResponse",
    "CreateModelUploadsRequest",
    "CreateModelUploadsResponse",
    "PublishModelRequest",
    "PublishModelResponse",
]


class CreateDatasetUploadsRequest(ApiMessage):
    """Request of CreateDatasetUploads."""

    PROTO: ClassVar[type[Message]] = imports_pb2.CreateDatasetUploadsRequest

    import_id: Id
    """Id of the import, chosen by the client. Equal ids of different callers are different imports."""
    files: tuple[FileContent, ...]
    """Files, each once."""


class CreateDatasetUploadsResponse(ApiMessage):
    """Response of CreateDatasetUploads."""

    PROTO: ClassVar[type[Message]] = imports_pb2.CreateDatasetUploadsResponse

    uploads: tuple[FileUpload, ...]
    """One for each file, in the order of the request."""
    expire_time: Time
    """When the URLs expire. An upload that has begun continues."""


class PublishDatasetRequest(ApiMessage):
    """Request of PublishDataset."""

    PROTO: ClassVar[type[Message]] = imports_pb2.PublishDatasetRequest

    import_id: Id
    """Id of the import."""
    dataset_id: Id
    """Id of the dataset."""
    datalist_sha256: Sha256
    """SHA-256 of the datalist, hex. It is one of the uploaded files, in exactly the stored form (docs/datasets.md), and
    names every other file by its digest.
    """


class PublishDatasetResponse(ApiMessage):
    """One message of PublishDataset. The stream reports progress and ends with the dataset."""

    PROTO: ClassVar[type[Message]] = imports_pb2.PublishDatasetResponse

    progress: Progress | None = None
    """Cases done so far, in the phases `verify` and `publish`."""
    dataset: Dataset | None = None
    """The dataset; the last message."""


class CreateModelUploadsRequest(ApiMessage):
    """Request of CreateModelUploads."""

    PROTO: ClassVar[type[Message]] = imports_pb2.CreateModelUploadsRequest

    import_id: Id
    """Id of the import, as in CreateDatasetUploadsRequest."""
    weights: FileContent
    """The weights."""


class CreateModelUploadsResponse(ApiMessage):
    """Response of CreateModelUploads."""

    PROTO: ClassVar[type[Message]] = imports_pb2.CreateModelUploadsResponse

    upload: FileUpload
    """Destination of the upload."""
    expire_time: Time
    """When the URL expires. An upload that has begun continues."""


class PublishModelRequest(ApiMessage):
    """Request of PublishModel."""

    PROTO: ClassVar[type[Message]] = imports_pb2.PublishModelRequest

    import_id: Id
    """Id of the import."""
    model_id: Id
    """Id of the published model."""
    weights_sha256: Sha256
    """SHA-256 of the uploaded safetensors file, hex."""
    architecture: str
    """Name of the architecture, as in ListModels; `torch_export`; or the description of a network in the form of a
    model card.
    """
    objective: Objective = "unknown"
    """Training objective."""
    preprocessing: Preprocessing | None = None
    """Input preparation; absent means the architecture's own, which an exported program does not have. An empty
    `reference` is the first modality, or `t2w` for models of prostate MRI; empty `quantiles` are 0.02 and 0.98.
    """
    primary_layer: str = ""
    """Layer of a check's main number; empty means the architecture's own."""
    source: str = ""
    """Origin of the weights, such as URI@REVISION, without data of patients."""
    declaration: str = ""
    """Rules for reading the model's inputs from DICOM in Extract: the JSON of a declaration with the member
    `selections` (docs/datasets.md). It declares every modality of the model. Empty, the default, means no rules.
    """
    licence: OptionalLicence = ""
    """SPDX id of the licence of the weights; empty, the default, means unknown."""
    tensors: TensorCounts | None = None
    """What the import did with the tensors of the file; absent if unknown."""


class PublishModelResponse(ApiMessage):
    """One message of PublishModel. The stream reports progress and ends with the model."""

    PROTO: ClassVar[type[Message]] = imports_pb2.PublishModelResponse

    progress: Progress | None = None
    """The running phase."""
    model: Model | None = None
    """The published model; the last message."""
