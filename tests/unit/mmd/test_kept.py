"""What the pairs of a batch share: sets are read once and rows prepared once, within a budget of bytes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from vfmalign.mmd import bandwidths, jobs, rows, scalings
from vfmalign.mmd.jobs import Job
from vfmalign.mmd.kept import Kept, Same
from vfmalign.mmd.results import Engine, Options
from vfmalign.mmd.samples import Sample
from vfmalign.mmd.sources import Sets


def test_the_least_recently_used_goes_first():
    kept, made = Kept(10), []

    def get(key, size=4):
        def make():
            made.append(key)
            return key.upper()

        assert kept.get(key, make, lambda _: size) == key.upper()

    for key in "abacab":
        get(key)
    assert made == ["a", "b", "c", "b"], "a was used after b, so that c took b's place"
    get("d", size=11)
    get("d", size=11)
    assert made[-2:] == ["d", "d"]
    assert kept.used_bytes == 8


def test_same_is_identity():
    one, equal = [1], [1]
    assert Same(one) == Same(one)
    assert hash(Same(one)) == hash(Same(one))
    assert Same(one) != Same(equal)


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
    count(scalings, "_standardising")
    count(bandwidths, "median")
    return counts


def _batch(kept_bytes, copies):
    """Three checkpoints against the same features before, with the same reference; returns their values."""
    rng = np.random.default_rng(0)
    before, reference = rng.normal(size=(2, 40, 5)).astype(np.float32)
    groups = tuple(f"g{row % 10}" for row in range(40))
    kept = Kept(kept_bytes)
    sets, engine = Sets(None, kept), replace(Engine(), kept=kept)
    values = []
    for shift in (0.1, 0.2, 0.3):
        x, ref = (before.copy(), reference.copy()) if copies else (before, reference)
        given = [Sample("x", {"a": x}, groups), Sample("y", {"a": before + np.float32(shift)}, groups)]
        job = Job([*given, Sample("reference", {"a": ref})], Options("paired", relabellings=100), sets)
        layer = jobs.run(jobs.plan(job, engine, 0.0), engine).comparison.layers[0]
        values.append((layer.raw, layer.standardised))
    return values, kept


@pytest.mark.parametrize("copies", [False, True])
def test_a_batch_prepares_what_its_pairs_share_once(counted, copies):
    alone, _ = _batch(0, copies)
    # Per pair: x, y and the reference's median, each raw and standardised; centre; scale; both medians.
    assert counted == {"_fill": 3 * 6, "mean": 3, "_standardising": 3, "median": 6}
    counted.clear()
    together, kept = _batch(2**20, copies)
    assert counted == {"_fill": 2 + 2 + 3 * 2, "mean": 1, "_standardising": 1, "median": 2}
    assert together == alone
    assert 0 < kept.used_bytes <= 2**20


def test_a_budget_that_is_too_small_changes_no_number(counted):
    alone, _ = _batch(0, True)
    together, kept = _batch(1500, True)
    assert together == alone
    assert kept.used_bytes <= 1500
