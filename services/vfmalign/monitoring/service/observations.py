"""Checks and reads the observations of a request, and converts them to the form that is recorded.

Legend: the axis of arrays is C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray
from safetensors.numpy import load

from vfmalign.client.messages.monitors import FeatureSetRows
from vfmalign.core.domain.errors import BadOption, BadTensor, InvalidInput
from vfmalign.core.rpc.tensors import to_array
from vfmalign.core.storage.feature_sets import Manifest, read_part
from vfmalign.core.storage.lost_objects import lost_as
from vfmalign.core.storage.safetensors_header import MalformedHeader, parse_header
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.v1 import features_pb2, monitoring_pb2

FUTURE = timedelta(minutes=5)
"""Tolerance for acquisition times in the future."""
MAX_STORED_LAYERS = 1000
MAX_STORED_BYTES = 2**26
"""Maximum number and bytes of stored layers per request. Only layers that the monitor observes are counted."""
_HEADER_BYTES = 2**12
"""Maximum size of the header of a file with one vector."""
_STORED_PREFIXES = ("features/",)
_DTYPES = {"F16", "F32", "F64"}


@dataclass(frozen=True)
class IncomingObservation:
    """An observation before it is recorded.

    Attributes:
        id: id of the observation.
        patient: group of the observation.
        stratum: value of the monitor's stratum for this observation, such as the name of a scanner; empty if it is
            unknown.
        acquired_at: time when the study was acquired; None if unknown.
        layers: maps each layer that the monitor observes to the feature vector (C) of the observation. The mapping
            omits layers that the observation lacks.
        digest: digest of all other fields.
    """

    id: str
    patient: str
    stratum: str
    acquired_at: datetime | None
    layers: dict[str, NDArray[np.floating]]
    digest: str

    @classmethod
    def of(
        cls,
        observation_id: str,
        patient: str,
        stratum: str,
        acquired_at: datetime | None,
        layers: dict[str, NDArray[np.floating]],
    ) -> IncomingObservation:
        """Returns an observation with its digest."""
        digest = hashlib.sha256()
        for text in (patient, stratum, "" if acquired_at is None else acquired_at.isoformat()):
            digest.update(text.encode() + b"\0")
        for name in sorted(layers):
            digest.update(name.encode() + b"\0" + np.asarray(layers[name], "<f8").tobytes())
        return cls(observation_id, patient, stratum, acquired_at, layers, digest.hexdigest())


def read_inline(
    store: ObjectStore,
    observations: Sequence[monitoring_pb2.Observation],
    layers: Mapping[str, int],
    stratum: str,
) -> list[IncomingObservation]:
    """Checks the observations of a request, and reads stored features.

    Args:
        store: object store of the tenant.
        observations: observations of the request. The number and sizes of the observations are within the limits of the
            API.
        layers: maps each layer that the monitor observes to its number of channels. The first layer raises the alarm.
        stratum: name of the monitor's stratum; empty if it has no strata.

    Raises:
        BadOption, BadTensor, InvalidInput: an observation is invalid. The error names the position of the observation.
        DataLoss: stored features are missing or were changed.
    """
    _check_stored(observations, layers)
    return [
        _read_one(store, one, layers, stratum, f"inline.observations[{place}]")
        for place, one in enumerate(observations)
    ]


def _check_stored(observations: Sequence[monitoring_pb2.Observation], layers: Mapping[str, int]) -> None:
    """Checks the total size before the first object is read."""
    sizes = [
        8 * layers[features.layer]
        for one in observations
        for features in one.layers
        if features.HasField("stored") and features.layer in layers
    ]
    if len(sizes) > MAX_STORED_LAYERS or sum(sizes) > MAX_STORED_BYTES:
        raise BadOption(
            f"the request names {len(sizes):,} stored layers of up to {sum(sizes):,} bytes, but may name at most "
            f"{MAX_STORED_LAYERS:,} layers and {MAX_STORED_BYTES:,} bytes",
            field="inline.observations",
            remedy="send fewer observations at once",
        )


def _read_one(
    store: ObjectStore, one: monitoring_pb2.Observation, layers: Mapping[str, int], stratum: str, field: str
) -> IncomingObservation:
    arrays: dict[str, NDArray[np.floating]] = {}
    for place, features in enumerate(one.layers):
        path = f"{field}.layers[{place}]"
        if features.layer in arrays:
            raise BadOption("the layer occurs twice", field=path, remedy="send each layer once")
        if features.layer in layers:
            arrays[features.layer] = _read_layer(store, features, layers[features.layer], path)
    alarm_layer = next(iter(layers))
    if alarm_layer not in arrays:
        raise BadOption(
            f"the layer `{alarm_layer}`, which raises the alarm, is missing",
            field=f"{field}.layers",
            remedy="include this layer in the extraction",
        )
    study = one.study
    if not all(value and value.isprintable() for value in study.strata.values()):
        raise BadOption(
            "a value is empty or not printable", field=f"{field}.study.strata", remedy="send 1 to 64 characters"
        )
    acquired_at = (
        _to_time(study.acquire_time, f"{field}.study.acquire_time") if study.HasField("acquire_time") else None
    )
    value = study.strata.get(stratum, "") if stratum else ""
    return IncomingObservation.of(study.observation_id, study.group, value, acquired_at, arrays)


def _read_layer(
    store: ObjectStore, features: features_pb2.LayerFeatures, channels: int, field: str
) -> NDArray[np.floating]:
    source = features.WhichOneof("features")
    if source is None:
        raise BadOption("the layer has no features", field=field, remedy="set `tensor` or `stored`")
    if source == "tensor":
        array = to_array(features.tensor, f"{field}.tensor")
    else:
        array = _read_stored(store, features, channels, f"{field}.stored")
    if array.shape != (channels,):
        raise BadTensor(
            f"expected a vector of {channels:,} channels as in the reference, got the shape {tuple(array.shape[:6])}",
            field=field,
            remedy="observe pooled features of the same model and layer",
        )
    return array


def _read_stored(
    store: ObjectStore, features: features_pb2.LayerFeatures, channels: int, field: str
) -> NDArray[np.floating]:
    stored = features.stored
    try:
        key = store.key(stored.uri, prefixes=_STORED_PREFIXES)
    except InvalidInput as error:
        raise InvalidInput(error.message, field=f"{field}.uri", remedy=error.remedy) from None
    with lost_as("features", field, "extract the study again, and observe the returned features"):
        data = store.get(key, sha256=stored.sha256, max_bytes=8 * channels + _HEADER_BYTES)
    try:
        entry = parse_header(data, len(data)).tensors.get(features.layer)
    except MalformedHeader:
        entry = None
    if entry is None or entry.dtype not in _DTYPES:
        raise InvalidInput(
            "the stored file is not a safetensors file of real numbers with this layer",
            field=field,
            remedy="pass what Extract returned with `store_as`",
        )
    return load(data)[features.layer]


def _to_time(timestamp: Timestamp, field: str) -> datetime:
    if not timestamp.ByteSize():  # such as a `Date` from Node.js
        raise BadOption("the time is empty", field=field, remedy="set seconds since 1970 in UTC, or leave it out")
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BadOption("the time is invalid", field=field, remedy="send a time of the years 1 to 9999") from None


def read_feature_set_rows(
    store: ObjectStore,
    manifest: Manifest,
    request: FeatureSetRows,
    layers: Mapping[str, int],
    get_strata: Callable[[], Sequence[str]] | None,
) -> list[IncomingObservation]:
    """Reads rows of a feature set as observations. The id of an observation is the id of its case.

    Args:
        store: object store of the tenant.
        manifest: manifest of the set.
        request: selects the rows.
        layers: maps each layer that the monitor observes to its number of channels.
        get_strata: function that returns the stratum of each row of the set; None if the monitor has no strata.

    Raises:
        BadTensor: the set does not have the layer that raises the alarm, or the number of channels differs.
        BadOption: the requested rows do not exist in the set.
        DataLoss: a part of the set is missing or was changed.
    """
    if request.start > manifest.rows:
        raise BadOption(f"the feature set has {manifest.rows:,} rows", field="feature_set.start", remedy="begin with 0")
    channels = {spec.name: spec.channels for spec in manifest.layers}
    names = [name for name, count in layers.items() if channels.get(name) == count]
    if next(iter(layers)) not in names:
        raise BadTensor(
            f"the feature set has no layer `{next(iter(layers))}` of {next(iter(layers.values())):,} channels",
            field="feature_set.feature_set_id",
            remedy="extract it with the layers of the monitor",
        )
    stop = min(manifest.rows, request.start + request.rows)
    strata = get_strata() if get_strata is not None else None
    incoming: list[IncomingObservation] = []
    for index, part in enumerate(manifest.parts):
        first, last = max(part.start_row, request.start), min(part.start_row + part.rows, stop)
        if first >= last:
            continue
        arrays = read_part(store, manifest, index)
        incoming += [
            IncomingObservation.of(
                manifest.case_ids[row],
                manifest.groups[row],
                "" if strata is None else strata[row],
                None,
                {name: arrays[name][row - part.start_row] for name in names},
            )
            for row in range(first, last)
        ]
    return incoming
