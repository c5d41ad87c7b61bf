"""The cache loads each model once, keeps to its budget, and forgets failures."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch

from vfmalign.core.domain.errors import Cancelled, DataLoss, DigestMismatch, Exhausted, NotFound
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.extraction.cache import ModelCache
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state

MODEL_BYTES = 4 * 348_480


class CountingStore(ObjectStore):
    """Counts reads of weights; `gate` holds them back."""

    def __init__(self, settings):
        super().__init__(settings)
        self.loads = 0
        self.gate = threading.Event()
        self.gate.set()

    def get(self, key, sha256=None, max_bytes=None):
        if key.endswith(".safetensors"):
            self.loads += 1
            self.gate.wait(20)
        return super().get(key, sha256, max_bytes)


@pytest.fixture
def counting(store, store_settings):
    return CountingStore(store_settings)


@pytest.fixture
def three(store, publish_model):
    return [publish_model(store, f"model-{i}", i) for i in range(3)]


def cache_of(counting, models: float = 10.0):
    return ModelCache(counting, torch.device("cpu"), int(models * MODEL_BYTES))


def test_a_model_is_loaded_once(counting, three):
    cache = cache_of(counting)
    first, card = cache.get("model-0")
    assert card == three[0]
    assert cache.get("model-0")[0] is first
    assert cache.get("model-0", three[0].checkpoint.sha256)[0] is first
    assert counting.loads == 1
    assert not first.training
    assert cache.used_bytes() == MODEL_BYTES


def test_many_requests_at_once_load_once(counting, three):
    cache = cache_of(counting)
    counting.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(cache.get, "model-0") for _ in range(8)]
        counting.gate.set()
        encoders = {id(future.result()[0]) for future in waiting}
    assert len(encoders) == 1
    assert counting.loads == 1


def test_models_of_equal_weights_share_one_encoder(store, counting, three, publish_model):
    publish_model(store, "twin", 0)
    cache = cache_of(counting)
    assert cache.get("twin")[0] is cache.get("model-0")[0]


def test_tenants_load_their_own_encoders_within_one_budget(store, counting, three, publish_model):
    theirs = counting.of_tenant("ward-7")
    publish_model(store.of_tenant("ward-7"), "model-0", 0)
    cache = cache_of(counting, 1.5)
    other = cache.of_store(theirs)
    ours = cache.get("model-0")[0]
    assert other.get("model-0")[0] is not ours, "weights of another tenant are not taken for one's own"
    assert cache.used_bytes() == other.used_bytes() == MODEL_BYTES
    with pytest.raises(NotFound):
        other.get("model-1")


def test_the_least_recently_used_goes_first(counting, three):
    cache = cache_of(counting, 2.5)
    zero = cache.get("model-0")[0]
    cache.get("model-1")
    assert cache.get("model-0")[0] is zero
    cache.get("model-2")
    assert cache.used_bytes() == 2 * MODEL_BYTES
    assert cache.get("model-0")[0] is zero
    assert counting.loads == 3
    cache.get("model-1")
    assert counting.loads == 4


def test_a_model_larger_than_the_budget_is_refused_unread(counting, three):
    cache = cache_of(counting, 0.9)
    with pytest.raises(
        Exhausted, match=r"profound_conv_micro: .* raise VFMALIGN_FEATURES__MODEL_CACHE_BYTES"
    ) as caught:
        cache.get("model-0")
    assert caught.value.retry_after_s is None
    assert counting.loads == 0


def test_another_digest_is_refused(counting, three):
    with pytest.raises(DigestMismatch, match="model-0: the stored weights have SHA-256"):
        cache_of(counting).get("model-0", "0" * 64)


def test_failures_are_not_kept(counting, three):
    cache = cache_of(counting)
    key = three[0].checkpoint.key
    data = counting.get(key)
    counting.delete(key)
    with pytest.raises(DataLoss, match="no such object"):
        cache.get("model-0")
    assert cache.used_bytes() == 0
    counting.put(key, data[:-4] + b"\0\0\0\1")
    with pytest.raises(DataLoss, match="its SHA-256 is"):
        cache.get("model-0")
    counting.put(key, data)
    assert cache.get("model-0")[0] is not None


def test_who_waits_for_a_caller_that_leaves_loads_the_model_itself(counting, three, monkeypatch):
    cache, begun, waits = cache_of(counting), threading.Event(), threading.Event()

    class Loading(Future):
        def result(self, timeout=None):
            waits.set()
            return super().result(timeout)

    def leave(*_):
        begun.set()
        assert waits.wait(20)
        WorkContext(is_cancelled=waits.is_set).checkpoint()

    with ThreadPoolExecutor(2) as callers, monkeypatch.context() as patched:
        patched.setattr("vfmalign.features.extraction.cache.Future", Loading)
        patched.setattr("vfmalign.features.extraction.cache.load_card_encoder", leave)
        first = callers.submit(cache.get, "model-0")
        assert begun.wait(20)
        patched.undo()
        waiting = callers.submit(cache.get, "model-0")
        with pytest.raises(Cancelled):
            first.result(20)
        assert waiting.result(20)[1] == three[0]


def test_random_weights_are_kept_by_architecture_and_seed(counting):
    cache = cache_of(counting)
    first = cache.get_random("profound_conv_micro", 5)
    assert cache.get_random("profound_conv_micro", 5) is first
    assert cache.get_random("profound_conv_micro", 6) is not first
    expected = random_state(ARCHITECTURES["profound_conv_micro"], 5)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in first.state_dict().items())
