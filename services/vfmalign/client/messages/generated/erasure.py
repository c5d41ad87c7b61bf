"""Records of `erasure.proto`, by `make proto`; do not edit."""

from __future__ import annotations

from typing import ClassVar, Literal

from google.protobuf.message import Message

from vfmalign.client.messages.base import ApiMessage, Time
from vfmalign.core.domain.record import Id, OptionalId, OptionalSha256, Sha256
from vfmalign.v1 import erasure_pb2

__all__ = [
    "PatientDigest",
    "ErasedDataset",
    "ErasedObject",
    "Erasure",
    "ErasePatientRequest",
    "ErasePatientResponse",
    "GetErasureRequest",
    "GetErasureResponse",
    "ModelPolicy",
    "ErasureOutcome",
]
ModelPolicy = Literal["keep", "delete"]
"""What an erasure does with the models that were trained on the patient."""
ErasureOutcome = Literal["removed", "changed", "kept"]
"""What happened to an object."""


class PatientDigest(ApiMessage):
    """A patient whom a service knows without storing the group: HMAC-SHA256 of the group."""

    PROTO: ClassVar[type[Message]] = erasure_pb2.PatientDigest

    key: OptionalSha256 = ""
    """Key of the HMAC, hexadecimal; empty for no patient."""
    hmac: OptionalSha256 = ""
    """HMAC-SHA256 of the group, hexadecimal."""
    identifiers: tuple[Sha256, ...] = ()
    """HMAC-SHA256 of further identifiers of the patient, hexadecimal: digests of volumes, or ids of observations."""


class ErasedDataset(ApiMessage):
    """A version of a dataset that contained the patient."""

    PROTO: ClassVar[type[Message]] = erasure_pb2.ErasedDataset

    dataset_id: Id
    """Dataset id."""
    dataset_digest: Sha256
    """Digest of the dataset while it contained the patient."""


class ErasedObject(ApiMessage):
    """An object that contained data of the patient, or was computed from them."""

    PROTO: ClassVar[type[Message]] = erasure_pb2.ErasedObject

    kind: str = ""
    """Kind, such as `dataset`, `feature set`, `check` or `observation`."""
    id: str = ""
    """Id of the object. It is empty if the id identifies a study."""
    outcome: ErasureOutcome | None = None
    """What happened to it."""
    count: int = 0
    """Number of stored objects or rows that were removed."""
    size_bytes: int = 0
    """Size of the removed stored objects in bytes."""
    note: str = ""
    """Why the object stays, or what its remaining part lacks; empty if there is nothing to say."""


class Erasure(ApiMessage):
    """Receipt of one service for an erasure. It contains no group, case or observation id."""

    PROTO: ClassVar[type[Message]] = erasure_pb2.Erasure

    erasure_id: str
    """Erasure id."""
    service: str
    """Service that wrote the receipt: `features`, `finetuning` or `monitoring`."""
    patient: PatientDigest = PatientDigest()
    """The patient; unset if the request named none."""
    models: ModelPolicy
    """What happens to models that were trained on the patient."""
    requested_by: str = ""
    """Who requested the erasure: issuer and subject of the token."""
    create_time: Time
    """Time of the first request."""
    complete_time: Time | None = None
    """When the service had removed everything; unset until then. The service continues by itself, also after a restart.
    """
    datasets: tuple[ErasedDataset, ...] = ()
    """Versions of datasets that contained the patient. Pass them to AlignmentService."""
    objects: tuple[ErasedObject, ...] = ()
    """What was removed, changed and kept."""


class ErasePatientRequest(ApiMessage):
    """Request of ErasePatient. A repeated request continues the erasure of this id and returns its receipt."""

    PROTO: ClassVar[type[Message]] = erasure_pb2.ErasePatientRequest

    erasure_id: Id
    """Erasure id, chosen by the caller. Use one id for all services."""
    group: OptionalId = ""
    """Group of the patient's cases and observations; or set `patient`."""
    patient: PatientDigest = PatientDigest()
    """The patient of an earlier receipt, to erase the patient again after a backup was restored."""
    models: ModelPolicy
    """What to do with models that were trained on the patient."""
    datasets: tuple[ErasedDataset, ...] = ()
    """For AlignmentService: the datasets of the receipt of FeatureService."""
    observation_ids: tuple[str, ...] = ()
    """For MonitoringService: ids of further observations to erase, such as those whose group is no longer stored."""
    dry_run: bool = False
    """Remove nothing and store nothing; return what the call would remove."""


class ErasePatientResponse(ApiMessage):
    """Response of ErasePatient."""

    PROTO: ClassVar[type[Message]] = erasure_pb2.ErasePatientResponse

    erasure: Erasure
    """Receipt of the service."""


class GetErasureRequest(ApiMessage):
    """Request of GetErasure."""

    PROTO: ClassVar[type[Message]] = erasure_pb2.GetErasureRequest

    erasure_id: Id
    """Erasure id."""


class GetErasureResponse(ApiMessage):
    """Response of GetErasure."""

    PROTO: ClassVar[type[Message]] = erasure_pb2.GetErasureResponse

    erasure: Erasure
    """Receipt of the service."""
