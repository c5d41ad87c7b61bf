"""What the pairs of a batch share: sets are read once and rows prepared once, within a budget of bytes."""

import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from tests.mmd_options import make_options

from vfmalign.mmd.comparison import standardisation
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine import rows
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.lru_cache import IdentityKey, SizedLruCache
from vfmalign.mmd.service import comparison_job
from vfmalign.mmd.service.comparison_job import ComparisonJob
from vfmalign.mmd.service.feature_reader import FeatureReader
from vfmalign.mmd.statistics import bandwidths


def test_the_least_recently_used_goes_first():
    cache, made = SizedLruCache(10), []

    def get(key, size=4):
        def make():
            made.append(key)
            return key.upper()

        assert cache.get_or_create(key, make, lambda _: size) == key.upper()

    for key in "abacab":
        get(key)
    assert made == ["a", "b", "c", "b"], "a was used after b, so that c took b's place"
    get("d", size=11)
    get("d", size=11)
    assert made[-2:] == ["d", "d"]
    assert cache.used_bytes == 8


def test_a_key_does_not_keep_its_array_alive():
    cache, array = SizedLruCache(10), np.zeros(3)
    assert cache.get_or_create(("mean", IdentityKey(array)), lambda: 1.0, lambda _: 4) == 1.0
    assert cache.get_or_create(("mean", IdentityKey(array)), lambda: 2.0, lambda _: 4) == 1.0
    key, freed = IdentityKey(array), weakref.ref(array)
    del array
    assert freed() is None
    assert key != IdentityKey(np.zeros(3))
    for name in "abc":  # evicts the entry of the array that is gone
        assert cache.get_or_create(name, lambda: 3.0, lambda _: 4) == 3.0
    assert cache.used_bytes == 8


def test_a_value_that_is_none_or_false_is_stored():
    cache, made = SizedLruCache(10), []
    for _ in range(2):
        assert cache.get_or_create("zero", lambda: made.append(1) or 0.0, lambda _: 1) == 0.0
        assert cache.get_or_create("none", lambda: made.append(2), lambda _: 1) is None
    assert made == [1, 2]


def test_threads_share_the_cache_and_its_bound():
    cache = SizedLruCache(10)

    def ask(turn):
        key = turn % 7
        return cache.get_or_create(key, lambda: (time.sleep(1e-4), key)[1], lambda _: 3) == key

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))
    assert 0 < cache.used_bytes <= 10


def test_a_factory_may_use_the_cache():
    cache = SizedLruCache(10)
    inner = lambda: cache.get_or_create("inner", lambda: 1, lambda _: 1) + 1  # noqa: E731
    assert cache.get_or_create("outer", inner, lambda _: 1) == 2
    assert cache.used_bytes == 2


def test_identity_keys_compare_the_very_object():
    one, equal = np.ones(1), np.ones(1)
    assert IdentityKey(one) == IdentityKey(one)
    assert hash(IdentityKey(one)) == hash(IdentityKey(one))
    assert IdentityKey(one) != IdentityKey(equal)


@pytest.fixture
def counted(monkeypatch):
    """How often rows of a part were prepared, scales and medians taken."""
    counts = Counter()

    def count(module, name):
        function = getattr(module, name)

        def counting(*args, **fields):
            counts[name] += 1
            return function(*args, **fields)

        monkeypatch.setattr(module, name, counting)

    count(rows, "_fill")
    count(rows, "mean")
    count(standardisation, "_standardise")
    count(bandwidths, "median_distance")
    return counts


def _batch(max_bytes, copies):
    """Three checkpoints against the same features before, with the same reference; returns their values."""
    rng = np.random.default_rng(0)
    before, reference = rng.normal(size=(2, 40, 5)).astype(np.float32)
    groups = tuple(f"g{row % 10}" for row in range(40))
    cache = SizedLruCache(max_bytes)
    sets, engine = FeatureReader(None, cache), replace(ComputeConfig(), cache=cache)
    values = []
    for shift in (0.1, 0.2, 0.3):
        x, ref = (before.copy(), reference.copy()) if copies else (before, reference)
        given = [Sample("x", {"a": x}, groups), Sample("y", {"a": before + np.float32(shift)}, groups)]
        job = ComparisonJob([*given, Sample("reference", {"a": ref})], make_options("paired", permutations=100), sets)
        layer = comparison_job.run(comparison_job.prepare(job, engine), engine).layers[0]
        values.append((layer.raw, layer.standardised))
    return values, cache


@pytest.mark.parametrize("copies", [False, True])
def test_a_batch_prepares_what_its_pairs_share_once(counted, copies):
    alone, _ = _batch(0, copies)
    # Per pair: x, y and the reference's median, each raw and standardised; centre; scale; both medians. Then rows and
    # median without the top channels, which differ from pair to pair and are not shared.
    assert counted == {"_fill": 3 * (6 + 3), "mean": 3, "_standardise": 3, "median_distance": 3 * (2 + 1)}
    counted.clear()
    together, cache = _batch(2**20, copies)
    assert counted == {"_fill": 2 + 2 + 3 * 2 + 3 * 3, "mean": 1, "_standardise": 1, "median_distance": 2 + 3}
    assert together == alone
    assert 0 < cache.used_bytes <= 2**20


def test_a_budget_that_is_too_small_changes_no_number(counted):
    alone, _ = _batch(0, True)
    together, cache = _batch(1500, True)
    assert together == alone
    assert cache.used_bytes <= 1500
