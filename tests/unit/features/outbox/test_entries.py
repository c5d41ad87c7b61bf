"""Stored observations: what is written is read, and anything else is damaged."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from vfmalign.client.messages.common import ObservedStudy
from vfmalign.client.messages.monitors import FeatureOrigin
from vfmalign.client.monitors import Observation
from vfmalign.core.domain.errors import InvalidInput
from vfmalign.core.storage.keys import outbox_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.outbox.entries import OutboxEntry, digest, read_batch
from vfmalign.v1 import monitoring_pb2 as pb

ORIGIN = FeatureOrigin(checkpoint_sha256="a" * 64, preprocessing_sha256="b" * 64, input_transform="identity")


def make_observed(name: str = "o-1", monitor: str = "m") -> OutboxEntry:
    study = ObservedStudy(
        observation_id=name, group="g-1", strata={"scanner": "A"}, acquire_time=datetime(2026, 3, 1, tzinfo=UTC)
    )
    features = np.array([1.0, np.nan, np.inf], np.float32)
    return OutboxEntry(monitor, ORIGIN, Observation(study, {"stages.3": features}))


def test_an_observation_is_read_as_it_was_written() -> None:
    observed = make_observed()
    read = OutboxEntry.from_bytes(observed.to_bytes())
    assert (read.monitor, read.origin, read.observation.study) == ("m", ORIGIN, observed.observation.study)
    assert np.array_equal(read.observation.layers["stages.3"], [1.0, np.nan, np.inf], equal_nan=True)
    assert read.to_bytes() == observed.to_bytes()


def change(**fields: object) -> bytes:
    request = pb.ObserveRequest.FromString(make_observed().to_bytes())
    for name, value in fields.items():
        (study,) = [one.study for one in request.inline.observations]
        if name == "seconds":
            study.acquire_time.seconds = int(str(value))
        elif name == "tensor":
            request.inline.observations[0].layers[0].tensor.data = b"123"
        elif name == "twice":
            request.inline.observations.append(request.inline.observations[0])
        else:
            request.ClearField(name)  # type: ignore[arg-type]
    return request.SerializeToString()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 40,
        make_observed().to_bytes()[:-7],
        change(origin=None),
        change(inline=None),
        change(monitor_id=None),
        change(seconds=10**15),
        change(tensor=None),
        change(twice=None),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        OutboxEntry.from_bytes(data)


def test_a_batch_tells_what_is_gone_and_what_is_damaged(store: ObjectStore) -> None:
    def put(number: int, content: bytes, sha256: str, monitor: str = "m") -> str:
        return store.put(outbox_key(monitor, number, "00000000", sha256), content).key

    data = make_observed().to_bytes()
    first = put(1, data, digest(data))
    cut_off = put(2, data[:-1], digest(data))
    foreign = put(3, data, digest(data), monitor="n")
    gone = outbox_key("m", 4, "00000000", digest(data))
    nonsense = put(5, b"nonsense", digest(b"nonsense"))
    last = put(6, data, digest(data))
    batch = read_batch(store, [first, cut_off, foreign, gone, nonsense, last])
    assert [key for key, _ in batch.entries] == [first, last]
    assert batch.gone == [gone]
    assert batch.damaged == [cut_off, foreign, nonsense]
