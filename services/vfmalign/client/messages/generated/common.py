"""Records of `common.proto`, by `make proto`; do not edit."""

from __future__ import annotations

from typing import ClassVar, Literal

from google.protobuf.message import Message
from pydantic import Field

from vfmalign.client.messages.base import ApiMessage, Time
from vfmalign.client.messages.methods import EstimateMethods, FileUploadMethods, ObjectRefMethods
from vfmalign.core.domain.record import Id, Sha256
from vfmalign.v1 import common_pb2

__all__ = [
    "ObjectRef",
    "Deletion",
    "StageTiming",
    "Cost",
    "Interval",
    "Estimate",
    "Progress",
    "SoftwareVersion",
    "FileContent",
    "FileUpload",
    "ObservedStudy",
    "DataType",
    "ReportFormat",
]
DataType = Literal["float16", "float32", "float64"]
"""Element type of a tensor. Bytes are little-endian."""
ReportFormat = Literal["html", "json", "csv", "dsse"]
"""A file of a report."""


class ObjectRef(ObjectRefMethods):
    """An object in the deployment's object storage."""

    PROTO: ClassVar[type[Message]] = common_pb2.ObjectRef

    uri: str
    """`s3://<bucket>/<key>` in the bucket that the service serves."""
    sha256: Sha256
    """SHA-256 of the object's bytes. Data are verified against it when they are read."""
    size_bytes: int = Field(default=0, ge=0, le=9223372036854775807)
    """Size in bytes; 0 in requests if unknown."""


class Deletion(ApiMessage):
    """What a deletion removes from object storage, or would remove."""

    PROTO: ClassVar[type[Message]] = common_pb2.Deletion

    objects: int = 0
    """Number of objects."""
    size_bytes: int = 0
    """Size of these objects in bytes."""


class StageTiming(ApiMessage):
    """Wall time of one stage."""

    PROTO: ClassVar[type[Message]] = common_pb2.StageTiming

    stage: str
    """Name of the stage, such as `read`, `prepare` or `forward`."""
    seconds: float
    """Wall time in seconds."""


class Cost(ApiMessage):
    """Cost of a response."""

    PROTO: ClassVar[type[Message]] = common_pb2.Cost

    stages: tuple[StageTiming, ...] = ()
    """Stages in order of first use."""
    device: str = ""
    """Device that computed: `cpu` or `cuda:<index> <name>`."""
    peak_device_memory_bytes: int = 0
    """Peak accelerator memory in bytes; 0 on the CPU."""


class Interval(ApiMessage):
    """A confidence interval."""

    PROTO: ClassVar[type[Message]] = common_pb2.Interval

    lower: float
    """Lower end, in the unit of the estimate."""
    upper: float
    """Upper end, in the unit of the estimate."""
    level: float
    """Nominal coverage, in (0, 1)."""
    method: str
    """How it was computed, such as `delete-one-group jackknife`."""
    degenerate: bool = False
    """True if the coverage is unreliable: for MMD², if a test does not reject, so that the estimator is degenerate.
    False if there was no test.
    """


class Estimate(EstimateMethods):
    """A number, or the reason why it is absent."""

    PROTO: ClassVar[type[Message]] = common_pb2.Estimate

    value: float | None = None
    """The value; if absent, `absent_reason` gives the reason. Generated code reads an absent value as 0, so test its
    presence first (`HasField` in Python).
    """
    interval: Interval | None = None
    """Its interval; absent if there is none."""
    absent_reason: str = ""
    """Why the value or the interval is absent, in one sentence; empty otherwise."""


class Progress(ApiMessage):
    """Progress of a long operation."""

    PROTO: ClassVar[type[Message]] = common_pb2.Progress

    phase: str = ""
    """Name of the running phase, such as `features_before`; for programs."""
    done: int = 0
    """Units finished."""
    total: int = 0
    """Total number of units; 0 if unknown."""
    unit: str = ""
    """Name of the unit, such as `case` or `epoch`."""
    elapsed_seconds: float = 0.0
    """Wall time so far in seconds."""
    detail: str = ""
    """One sentence for people: the current activity, or the reason for waiting."""
    reason: str = ""
    """UPPER_SNAKE_CASE constant if the operation waits, such as `SERVICE_UNAVAILABLE`; else empty."""


class SoftwareVersion(ApiMessage):
    """Version of a software package."""

    PROTO: ClassVar[type[Message]] = common_pb2.SoftwareVersion

    name: str
    """Distribution name, such as `torch`."""
    version: str
    """Its version."""


class FileContent(ApiMessage):
    """A file to upload."""

    PROTO: ClassVar[type[Message]] = common_pb2.FileContent

    sha256: Sha256
    """SHA-256 of its bytes, hex."""
    size_bytes: int = Field(ge=1, le=5368709120)
    """Its size in bytes, at most 5 GiB, the limit of one request to S3. Volumes have at most 544 MiB."""


class FileUpload(FileUploadMethods):
    """URL and headers of the request that uploads a file."""

    PROTO: ClassVar[type[Message]] = common_pb2.FileUpload

    sha256: str
    """SHA-256 of the file's bytes, hex."""
    url: str = Field(default="", repr=False)
    """URL for one PUT request. Anyone who has it can upload this file: it is only valid for the announced size and, if
    the store verifies checksums, for the announced content. Empty if the file is complete.
    """
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    """Headers of the request, in addition to `Content-Length`."""
    complete: bool = False
    """Whether the store has the file already."""


class ObservedStudy(ApiMessage):
    """A study that a monitor observes. No field may identify a patient."""

    PROTO: ClassVar[type[Message]] = common_pb2.ObservedStudy

    observation_id: Id
    """Id of the observation, such as an order number or a keyed hash of the study's UID. It makes observing idempotent.
    """
    group: Id
    """Group of the patient: the same for all observations of a patient and in the reference's dataset. A keyed hash of
    the patient's id, such as HMAC-SHA256 in hex, is suitable.
    """
    strata: dict[str, str] = Field(default_factory=dict)
    """Value of each stratum, such as `scanner`; 1 to 64 printable characters."""
    acquire_time: Time | None = None
    """When the study was acquired; absent if unknown. It only marks late observations; the order of arrival does not
    change.
    """
