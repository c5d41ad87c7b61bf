"""Uploaded objects: accounted for by their whole size, read once they fit, and viewed where they were read."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from vfmalign.core.domain.errors import BadOption, BadTensor, DigestMismatch, PreconditionFailed
from vfmalign.core.runtime.work_context import UNLIMITED
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.service.feature_reader import FeatureReader, Stored, Uploaded

ARRAYS = {
    "half": np.arange(12, dtype=np.float16).reshape(3, 4),
    "single": np.arange(15, dtype=np.float32).reshape(3, 5),
    "double": np.arange(3, dtype=np.float64).reshape(3, 1),
}


class UploadStore(ObjectStore):
    """One object under `uploads/x`; `bodies` counts how often it was read as a whole."""

    def __init__(self, data: bytes) -> None:
        self.bucket, self.data, self.bodies = "bucket", data, 0

    def size_bytes(self, key):
        return len(self.data)

    def first(self, key, size):
        return self.data[:size]

    def get_large(self, key, sha256=None, max_bytes=None, context=UNLIMITED):
        self.bodies += 1
        assert max_bytes is not None
        assert len(self.data) <= max_bytes
        self._verify(key, hashlib.sha256(self.data).hexdigest(), sha256)
        return memoryview(bytearray(self.data))


def upload(data: bytes) -> tuple[FeatureReader, UploadStore, Uploaded]:
    store = UploadStore(data)
    return FeatureReader(store), store, Uploaded("x", "s3://bucket/default/uploads/x", hashlib.sha256(data).hexdigest())


def make_file(shape, content):
    text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, len(content)]}}).encode()
    return len(text).to_bytes(8, "little") + text + content


@pytest.mark.parametrize(
    ("source", "field"),
    [
        (Stored("x", "not even an id!"), "x.feature_set_id"),
        (Uploaded("reference", "s3://bucket/default/uploads/x", "0" * 64), "reference.uploaded"),
    ],
)
def test_without_object_storage_a_reference_to_it_is_refused_and_arrays_are_not(source, field):
    reader, inline = FeatureReader(None), Sample("y", {"a": ARRAYS["single"]})
    assert [shape.rows for shape in reader.shapes([inline])] == [3]
    assert reader.read([inline], UNLIMITED) == [inline]
    with pytest.raises(PreconditionFailed, match="this service has none") as caught:
        reader.shapes([inline, source])
    assert (caught.value.reason, caught.value.subject) == ("NO_OBJECT_STORAGE", field)
    assert "AWS_ENDPOINT_URL_S3" in caught.value.remedy


def test_arrays_are_those_that_were_saved_and_views_of_what_was_read():
    reader, store, source = upload(save(ARRAYS, {"by": "a client"}))
    (shape,) = reader.shapes([source])
    assert (shape.rows, shape.channels) == (3, {"half": 4, "single": 5, "double": 1})
    assert store.bodies == 0
    (sample,) = reader.read([source], UNLIMITED)
    assert list(sample.layers) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(sample.layers[name], array)
        assert sample.layers[name].dtype == array.dtype
        assert sample.layers[name].base is not None
    assert store.bodies == 1


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (make_file([2, 5], bytes(40)) + bytes(1000), "its header declares"),
        (make_file([2, 5], bytes(36)), "do not fit its shape"),
        (make_file([1, 10, 1], bytes(40)), "contains a tensor with 3 axes; save \\(rows, channels\\)"),
        (make_file([10], bytes(40)), "contains a tensor with 1 axes"),
        (save({"a": np.zeros((2, 5), np.int32)}), "contains tensors of another type"),
        (b"only words that are longer than a header", "is not a safetensors file"),
    ],
)
def test_an_object_that_is_not_what_its_header_accounts_for_is_refused_before_its_body_is_read(data, cause):
    reader, store, source = upload(data)
    with pytest.raises(BadTensor, match=f"x.uploaded.object: .*{cause}"):
        reader.shapes([source])
    assert store.bodies == 0


def test_an_object_of_another_size_than_the_request_says_is_refused():
    reader, _, source = upload(save(ARRAYS))
    size_bytes = len(save(ARRAYS))
    assert reader.shapes([source]) == reader.shapes([replace(source, size_bytes=size_bytes)])
    with pytest.raises(BadOption, match=f"{size_bytes:,} bytes, but the request states 1") as error:
        reader.shapes([replace(source, size_bytes=1)])
    assert error.value.field == "x.uploaded.object.size_bytes"


def test_an_object_that_is_replaced_after_its_header_was_read_is_refused():
    first, second = save({"a": np.zeros((2, 6), np.float32)}), save({"a": np.zeros((3, 4), np.float32)})
    assert len(first) == len(second)
    reader, store, source = upload(first)
    reader.shapes([source])
    store.data = second
    with pytest.raises(DigestMismatch):
        reader.read([source], UNLIMITED)
    # Even one whose digest the caller names: its shape was not accounted for.
    reader, store, source = upload(first)
    source = Uploaded("x", source.uri, hashlib.sha256(second).hexdigest())
    reader.shapes([source])
    store.data = second
    with pytest.raises(BadTensor, match="was replaced while it was read"):
        reader.read([source], UNLIMITED)


def test_a_large_object_with_a_small_header_takes_no_memory():
    """1.5 GiB with a header of 32 bytes raised the memory of the service from 1.3 to 3.1 GiB."""
    code = """if True:
        import resource
        from tests.unit.mmd.service.test_feature_reader import UploadStore, Uploaded, make_file
        from vfmalign.core.runtime.work_context import UNLIMITED
        from vfmalign.mmd.service.feature_reader import FeatureReader

        class LargeStore(UploadStore):
            def size_bytes(self, key):
                return 2**28 + len(self.data)
            def get_large(self, key, **options):
                return memoryview(bytearray(self.data) + bytearray(2**28))

        source = Uploaded("x", "s3://bucket/default/uploads/x", "0" * 64)
        reader = FeatureReader(LargeStore(make_file([1, 1], bytes(4))))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            reader.shapes([source])
            reader.read([source], UNLIMITED)
        except Exception as error:
            print(type(error).__name__)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    error, growth_mib = done.stdout.split()
    assert error == "BadTensor"
    assert float(growth_mib) < 32
