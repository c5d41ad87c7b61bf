"""Stored observations: each object is a serialised ObserveRequest with one observation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.json_format import SerializeToJsonError

from vfmalign.client.messages.common import ObservedStudy
from vfmalign.client.messages.monitors import FeatureOrigin
from vfmalign.client.monitors import Observation
from vfmalign.core.domain.errors import DigestMismatch, InvalidInput, NotFound, VfmalignError
from vfmalign.core.rpc.limits.bounds import parse_request
from vfmalign.core.rpc.tensors import to_array
from vfmalign.core.storage.keys import parse_outbox_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.v1 import monitoring_pb2

MAX_ENTRY_BYTES = 64 * 2**20
"""Maximum size in bytes of an object that is read, several times the size of the largest observation."""


@dataclass(frozen=True)
class OutboxEntry:
    """An observation in the outbox, with the name of its monitor.

    Attributes:
        monitor: id of the monitor.
        origin: origin of the features.
        observation: the study with its pooled features.
    """

    monitor: str
    origin: FeatureOrigin
    observation: Observation

    def to_bytes(self) -> bytes:
        """Returns the content of the object."""
        request = monitoring_pb2.ObserveRequest(
            monitor_id=self.monitor,
            origin=self.origin.to_proto(),
            inline=monitoring_pb2.InlineObservations(observations=[self.observation.to_proto()]),
        )
        return request.SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> OutboxEntry:
        """Reads the content of an object.

        Raises:
            InvalidInput: the content is not one observation with features.
        """
        request = parse_request(monitoring_pb2.ObserveRequest.FromString, data)
        if not isinstance(request, monitoring_pb2.ObserveRequest) or len(request.inline.observations) != 1:
            raise InvalidInput("the object is not one observation")
        (message,) = request.inline.observations
        # Copied, because arrays would keep the whole message.
        layers = {one.layer: np.array(to_array(one.tensor, "tensor")) for one in message.layers}
        try:
            study = ObservedStudy.from_proto(message.study)
        except SerializeToJsonError:
            raise InvalidInput("the time of acquisition is invalid") from None
        return cls(request.monitor_id, FeatureOrigin.from_proto(request.origin), Observation(study, layers))


def digest(data: bytes) -> str:
    """Returns the digest of an object, which is part of its key."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Batch:
    """Result of reading objects. The objects have the order of the requested keys.

    Attributes:
        entries: keys with their observations.
        gone: keys of objects that another process has sent and deleted.
        damaged: keys of objects with changed content.
    """

    entries: Sequence[tuple[str, OutboxEntry]]
    gone: Sequence[str]
    damaged: Sequence[str]


def read_batch(store: ObjectStore, keys: Sequence[str]) -> Batch:
    """Reads the objects with these keys.

    Raises:
        VfmalignError: the store does not answer, or the bucket does not exist.
    """
    entries, gone, damaged = [], [], []
    for key in keys:
        try:
            entries.append((key, _read(store, key)))
        except NotFound as error:
            if error.subject != store.uri(key):
                raise  # the bucket itself is missing
            gone.append(key)
        except (InvalidInput, DigestMismatch):
            damaged.append(key)
    return Batch(entries, gone, damaged)


def _read(store: ObjectStore, key: str) -> OutboxEntry:
    parts = parse_outbox_key(key)
    if parts is None:
        raise InvalidInput("the key does not belong to an observation")
    monitor, _, sha256 = parts
    observed = OutboxEntry.from_bytes(store.get(key, sha256=sha256, max_bytes=MAX_ENTRY_BYTES))
    if observed.monitor != monitor:
        raise InvalidInput("the observation is for another monitor")
    return observed


def delete_entries(store: ObjectStore, keys: Sequence[str]) -> list[str]:
    """Deletes objects. Returns the keys of the deleted objects.

    Raises:
        VfmalignError: the store did not delete the first object. Remaining objects are sent again, but the monitor
            ignores repeated observations.
    """
    deleted: list[str] = []
    for key in keys:
        try:
            store.delete(key)
        except VfmalignError:
            if not deleted:
                raise
            break
        deleted.append(key)
    return deleted
