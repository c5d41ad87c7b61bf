"""Large tensors stay where they arrived; what is parsed is the same message, and bad bytes are protobuf's to refuse."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from vfmalign.core import attachments
from vfmalign.core.errors import BadTensor
from vfmalign.core.tensors import to_array, to_tensor
from vfmalign.v1 import common_pb2, mmd_pb2

ROWS = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)


@pytest.fixture
def request_of_two():
    request = mmd_pb2.ComputeRequest(layers=["a", "b"], interval_level=0.9, block_rows=3)
    for source, factor in ((request.x, 1), (request.y, 2)):
        source.inline.layers.add(layer="a", features=to_tensor(factor * ROWS))
        source.inline.layers.add(layer="b", features=to_tensor(ROWS[:2]))
        source.inline.groups.extend(f"p{row}" for row in range(len(ROWS)))
    return request


def shares_memory(array, raw):
    return np.shares_memory(array, np.frombuffer(raw, np.uint8))


def test_large_tensors_are_views_on_the_bytes_that_arrived(request_of_two):
    raw = request_of_two.SerializeToString()
    found = attachments.parse(mmd_pb2.ComputeRequest, raw)
    for source, factor in ((found.x, 1), (found.y, 2)):
        large, small = (to_array(layer.features) for layer in source.inline.layers)
        np.testing.assert_array_equal(large, factor * ROWS)
        np.testing.assert_array_equal(small, ROWS[:2])
        assert shares_memory(large, raw)
        assert not large.flags.writeable
        assert not shares_memory(small, raw)
        source.inline.layers[0].features.data = to_tensor(factor * ROWS).data
    assert found == request_of_two


def test_one_message_of_two_parts_is_merged_as_protobuf_merges(request_of_two):
    more = mmd_pb2.ComputeRequest(primary_layer="b")
    more.x.inline.layers.add(layer="c", features=to_tensor(3 * ROWS))
    found = attachments.parse(mmd_pb2.ComputeRequest, request_of_two.SerializeToString() + more.SerializeToString())
    assert [layer.layer for layer in found.x.inline.layers] == ["a", "b", "c"]
    np.testing.assert_array_equal(to_array(found.x.inline.layers[2].features), 3 * ROWS)
    assert found.primary_layer == "b"


def test_the_last_of_two_data_counts():
    one, other = to_tensor(ROWS), to_tensor(2 * ROWS)
    found = attachments.parse(
        common_pb2.Tensor, one.SerializeToString() + common_pb2.Tensor(data=other.data).SerializeToString()
    )
    np.testing.assert_array_equal(to_array(found), 2 * ROWS)


def test_a_token_of_another_call_is_data_of_the_wrong_size(request_of_two):
    found = attachments.parse(mmd_pb2.ComputeRequest, request_of_two.SerializeToString())
    stolen = found.x.inline.layers[0].features
    attachments.parse(mmd_pb2.ComputeRequest, b"")
    with pytest.raises(BadTensor, match="20 bytes, but shape"):
        to_array(stolen)


@pytest.mark.parametrize("cut", [1, 5, 4000, 8000])
def test_bytes_that_end_too_early_are_refused(request_of_two, cut):
    with pytest.raises(DecodeError):
        attachments.parse(mmd_pb2.ComputeRequest, request_of_two.SerializeToString()[:-cut])


def test_any_change_of_a_byte_parses_as_protobuf_would_or_fails_as_it_would(request_of_two):
    raw = bytearray(request_of_two.SerializeToString())
    rng = np.random.default_rng(1)
    for at in [*range(30), *rng.integers(0, len(raw), 100)]:
        changed = raw.copy()
        changed[at] = rng.integers(256)
        try:
            wanted = mmd_pb2.ComputeRequest.FromString(bytes(changed))
        except DecodeError:
            with pytest.raises(DecodeError):
                attachments.parse(mmd_pb2.ComputeRequest, bytes(changed))
            continue
        found = attachments.parse(mmd_pb2.ComputeRequest, bytes(changed))
        for source, expected in ((found.x, wanted.x), (found.y, wanted.y)):
            for layer, like in zip(source.inline.layers, expected.inline.layers, strict=True):
                assert bytes(attachments.data_of(layer.features)) == like.features.data
                layer.features.data = like.features.data
        assert found == wanted


def test_a_message_of_many_fields_is_copied_instead_of_walked(request_of_two, monkeypatch):
    monkeypatch.setattr(attachments, "MOST_FIELDS", 100)
    raw = request_of_two.SerializeToString()
    found = attachments.parse(mmd_pb2.ComputeRequest, raw)
    assert found == request_of_two
    assert not shares_memory(to_array(found.x.inline.layers[0].features), raw)


def test_only_methods_that_take_tensors_are_parsed_so():
    assert attachments.deserializer(common_pb2.ObjectRef.FromString) == common_pb2.ObjectRef.FromString
    assert attachments.deserializer(None) is None
    assert attachments.deserializer(bytes) is bytes
    assert attachments.deserializer(mmd_pb2.ComputeBatchRequest.FromString) != mmd_pb2.ComputeBatchRequest.FromString
