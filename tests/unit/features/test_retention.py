"""Features are deleted when every object of theirs is old, on a real S3 server."""

import itertools
import time

import pytest

from vfmalign.core.domain.errors import Cancelled
from vfmalign.core.runtime import metrics
from vfmalign.core.storage.keys import deletion_key, features_prefix
from vfmalign.features.deletion import Deletions

DAYS = 2 / 86_400


@pytest.fixture
def bucket(store):
    yield store
    for key in store.list(""):
        store.delete(key)


def test_features_go_when_all_their_objects_are_old(bucket):
    def put(name, part):
        bucket.put(f"{features_prefix(name)}{part}", b"12345")

    old_set, grown_set = "0" * 32, "1" * 32
    for name in (old_set, grown_set, "old-study"):
        put(name, "part-00000.safetensors")
    bucket.put("datasets/d/dataset.json", b"{}")
    bucket.put("features.txt", b"beside the prefix")
    time.sleep(4)
    put(grown_set, "part-00001.safetensors")
    put("new-study", "stages.3.safetensors")
    everything = list(bucket.list(""))
    assert Deletions(bucket).sweep().objects == 0
    assert Deletions(bucket, 1).sweep().objects == 0
    assert list(bucket.list("")) == everything
    before = metrics.deleted_objects.labels("features")._value.get()
    assert Deletions(bucket, DAYS).sweep().objects == 2
    assert metrics.deleted_objects.labels("features")._value.get() == before + 2
    left = [key for key in everything if old_set not in key and "old-study" not in key]
    assert list(bucket.list("")) == left
    assert not bucket.exists(deletion_key("features", old_set))


def test_the_object_by_which_readers_find_the_others_goes_first(bucket):
    """Otherwise, a kill might leave a model that is listed and has no weights."""
    for name in ("model.json", f"{'0' * 64}.safetensors"):
        bucket.put(f"models/m/{name}", b"12345")
    writes = itertools.count()

    def stop():
        if next(writes) == 2:  # after the mark and the first object
            raise Cancelled("the caller has left")

    with pytest.raises(Cancelled):
        Deletions(bucket.guarded_by(stop)).delete("models", "m", dry_run=False)
    assert list(bucket.list("models/m/")) == [f"models/m/{'0' * 64}.safetensors"]
    bucket.put("uses/models/m/check/late", b"")
    assert Deletions(bucket).complete().objects == 1, "half a model is not kept"
