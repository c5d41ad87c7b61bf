"""A header is accepted only if the file holds what it declares and nothing else, and no tensor is read for it."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from vfmalign.core.domain.errors import NotFound
from vfmalign.core.storage import safetensors_header
from vfmalign.core.storage.safetensors_header import MalformedHeader, parse_header, read_header


def make_file(header, content=b"\0" * 40):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def describe(*entries):
    names = "abcdef"
    return {
        names[index]: {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}
        for index, (begin, end) in enumerate(entries)
    }


def one(**changes):
    return {"a": {"dtype": "F32", "shape": [2, 5], "data_offsets": [0, 40]} | changes}


class PrefixStore:
    """One object, of which only the beginning may be read."""

    def __init__(self, data, size_bytes=None):
        self.data, self.size, self.read_bytes = data, len(data) if size_bytes is None else size_bytes, 0

    def uri(self, key):
        return f"s3://bucket/{key}"

    def size_bytes(self, key):
        return self.size if key == "object" else None

    def first(self, key, size):
        self.read_bytes += size
        return self.data[:size]


def test_the_header_of_a_file_that_the_library_wrote():
    arrays = {
        "half": np.arange(12, dtype=np.float16).reshape(3, 4),
        "single": np.arange(10, dtype=np.float32).reshape(2, 5),
        "flags": np.ones(3, np.bool_),
        "none": np.zeros((0, 7), np.float32),
        "scalar": np.array(3.0),
    }
    data = save(arrays, {"by": "a client"})
    header = parse_header(data, len(data))
    assert {name: entry.shape for name, entry in header.tensors.items()} == {n: a.shape for n, a in arrays.items()}
    assert header.metadata == {"by": "a client"}
    for name, array in arrays.items():
        entry = header.tensors[name]
        assert data[header.content_offset :][entry.begin : entry.end] == array.tobytes()
    assert read_header(PrefixStore(data), "object") == header
    assert parse_header(make_file(describe((8, 40), (0, 8))), len(make_file(describe((8, 40), (0, 8)))))


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "longer than the object"),
        (b"\xff" * 40, "longer than the object"),
        (make_file(b"no json"), "not JSON"),
        (make_file(b"[" * 200_000), "not JSON"),
        (make_file(b'{"a": 1, "a": 1}'), "names a tensor twice"),
        (make_file([1, 2]), "not a JSON object"),
        (make_file({"a": 3}), "not described by a JSON object"),
        (make_file({"a": {}}), "unknown type"),
        (make_file(one(dtype="F4")), "unknown type"),
        (make_file(one(dtype=["F32"])), "unknown type"),
        (make_file(one(shape=[2, 6])), "do not fit its shape"),
        (make_file(one(shape=[-2, -5])), "whole numbers"),
        (make_file(one(shape=[2.0, 5])), "whole numbers"),
        (make_file(one(shape=["2", 5])), "whole numbers"),
        (make_file(one(shape=[True, 10])), "whole numbers"),
        (make_file(one(shape=5)), "whole numbers"),
        (make_file(one(shape=[1] * 15 + [2, 5])), "whole numbers"),
        (make_file(one(shape=[2**60, 2**60])), "whole numbers"),
        (make_file(one(shape=[2**52, 2**52])), "do not fit its shape"),
        (make_file(one(data_offsets=[-40, 0])), "whole numbers"),
        (make_file(one(data_offsets=[0])), "whole numbers"),
        (make_file(one(data_offsets=None)), "whole numbers"),
        (make_file(one(data_offsets=[40, 0])), "do not fit its shape"),
        (make_file(one(data_offsets=[4, 44])), "leave a gap"),
        (make_file(describe((0, 8), (16, 40))), "leave a gap"),
        (make_file(describe((0, 20), (16, 40))), "overlap"),
        (make_file(describe((0, 40), (0, 40))), "overlap"),
        (make_file(one(), b"\0" * 39), "declares"),
        (make_file(one(), b"\0" * 41), "declares"),
        (make_file({"__metadata__": {"a": "b"}}), "declares"),
        (make_file(one() | {"__metadata__": [1]}), "metadata"),
        (make_file(one() | {"__metadata__": {"a": 1}}), "metadata"),
    ],
)
def test_files_that_do_not_hold_what_they_declare_are_refused(data, cause):
    with pytest.raises(MalformedHeader, match=cause):
        parse_header(data, len(data))


def test_a_header_of_a_few_bytes_on_a_huge_object_is_refused_without_reading_it():
    """1.5 GiB behind a header of 32 bytes were read before anything was checked."""
    store = PrefixStore(make_file({}, b""), size_bytes=3 * 2**29)
    with pytest.raises(MalformedHeader, match="its header declares 10 bytes, the object has 1610612736"):
        read_header(store, "object")
    assert store.read_bytes <= 32
    store = PrefixStore((2**40).to_bytes(8, "little"), size_bytes=2**41)
    with pytest.raises(MalformedHeader, match="longer than the object or 4194304 bytes"):
        read_header(store, "object")
    assert store.read_bytes == safetensors_header.LENGTH_BYTES
    with pytest.raises(MalformedHeader, match="it has no header"):
        read_header(PrefixStore(b""), "object")
    with pytest.raises(NotFound, match="s3://bucket/other: there is no such object"):
        read_header(PrefixStore(b""), "other")
