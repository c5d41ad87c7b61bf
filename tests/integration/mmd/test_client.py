"""The Python client against the MMD service's process: arrays, stored sets and errors."""

import re

import numpy as np
import pytest
from tests.integration.mmd.conftest import ROWS

from vfmalign.client import AsyncClient, Client, ComputeOptions
from vfmalign.client.messages.mmd import Kernel, TestOptions
from vfmalign.client.samples import StoredFeatureSet
from vfmalign.core.domain.errors import BadOption, DataLoss, DigestMismatch, NotFound
from vfmalign.core.storage.feature_sets import read_committed
from vfmalign.core.storage.keys import manifest_key
from vfmalign.finetuning.checks.clients import FeatureSetRef
from vfmalign.finetuning.experiments.seed_control import CellFeatures, compare_seeds, read_features

FIXED = ComputeOptions(pairing="paired", kernel=Kernel(fixed_sigma=2.0))


async def test_arrays_and_stored_sets_give_the_same(address, sets):
    arrays, ids = sets
    test = TestOptions(permutations=200, seed=7)
    options = ComputeOptions(pairing="paired", test=test, measures=["cka"])
    async with AsyncClient(mmd_address=address) as client:
        inline = await client.mmd.compute(arrays["x"], arrays["y"], options, reference=arrays["reference"])
        stored = await client.mmd.compute(ids["x"], ids["y"], options, reference=ids["reference"])
    assert [layer.layer for layer in stored.layers] == ["stages.2", "stages.3"]
    assert stored.estimator == "unbiased_paired"
    for a, b in zip(inline.layers, stored.layers, strict=True):
        assert a.raw.mmd2.value == pytest.approx(b.raw.mmd2.value, rel=1e-9)
        assert a.standardised.mmd2 == b.standardised.mmd2
        assert a.standardised.p_value.value < 0.05
        assert a.measures[0].measure == "cka"


async def test_two_seeds_are_compared_as_before_and_after_are(address, store, sets):
    """From the features that a cell's result holds, in its JSON, as from the stored sets themselves."""
    _, ids = sets
    cells = []
    for after in ("x", "y"):
        refs = [make_ref(store, ids[name]) for name in ("reference", after)]
        cells.append(CellFeatures.model_validate_json(read_features(store, "stages.3", *refs).to_json()))
    async with AsyncClient(mmd_address=address) as client:
        control = await compare_seeds(client.mmd, *cells, 0.9)
        same = await compare_seeds(client.mmd, cells[0], cells[0], 0.9)
        missing = await compare_seeds(client.mmd, cells[0], None, 0.9)
        stored = await client.mmd.compute(
            ids["x"],
            ids["y"],
            ComputeOptions(pairing="paired", layers=["stages.3"], interval_level=0.9),
            reference=ids["reference"],
        )
    assert control == stored.layers[0].standardised.mmd2
    assert control.interval.level == 0.9
    assert control.value > 0
    assert same.value == pytest.approx(0.0, abs=1e-9)
    assert missing.absent_reason == "the result of a cell holds no features"


def test_features_that_are_too_large_for_a_result_are_left_out(store, sets, monkeypatch):
    _, ids = sets
    refs = [make_ref(store, ids[name]) for name in ("reference", "x")]
    assert read_features(store, "stages.3", *refs) is not None
    monkeypatch.setattr("vfmalign.finetuning.experiments.seed_control.MAX_FEATURE_BYTES", 100)
    assert read_features(store, "stages.3", *refs) is None


def make_ref(store, feature_set):
    committed = read_committed(store, feature_set)
    return FeatureSetRef(
        feature_set=feature_set, manifest_uri=store.uri(committed.key), manifest_sha256=committed.sha256,
        rows=ROWS, groups=ROWS, checkpoint_sha256="0" * 64, device="cpu", stage_seconds={},
    )  # fmt: skip


def test_a_plain_array_and_the_errors_of_the_service(address):
    rows = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    with Client(mmd_address=address) as client:
        same = client.mmd.compute(rows, rows, FIXED)
        assert same.layers[0].raw.mmd2.value == pytest.approx(0.0, abs=1e-6)
        with pytest.raises(NotFound):
            client.mmd.compute("0" * 32, "1" * 32, FIXED)
        with pytest.raises(BadOption) as caught:
            client.mmd.compute(rows, rows, FIXED.model_copy(update={"layers": ("absent",)}))
        assert caught.value.field == caught.value.subject == "layers"
        with pytest.raises(BadOption, match="`x` has no layer `absent`") as caught:
            client.mmd.compute(rows, rows, FIXED.model_copy(update={"primary_layer": "absent"}))
        assert caught.value.field == caught.value.subject == "primary_layer"


def test_a_set_in_another_version_than_the_caller_names_is_the_caller_s_error(address, store, new_set):
    """It is no loss of data, and does not count against the service."""
    feature_set, other = new_set(7), new_set(8)
    sha256 = read_committed(store, feature_set).sha256
    with Client(mmd_address=address) as client:
        with pytest.raises(DigestMismatch, match="0000 was requested") as caught:
            client.mmd.compute(other, StoredFeatureSet(feature_set, "0" * 64), FIXED)
        assert caught.value.subject == f"feature set {feature_set}"
        store.delete(manifest_key(feature_set))
        with pytest.raises(NotFound):
            client.mmd.compute(other, StoredFeatureSet(feature_set, sha256), FIXED)


def flip_last_byte(store, key):
    data = store.get(key)
    store.put(key, data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("damage", ["deleted", "truncated", "changed", "manifest damaged"])
def test_a_damaged_feature_set_is_named_for_programs(address, store, new_set, damage):
    feature_set, other = new_set(5), new_set(6)
    committed = read_committed(store, feature_set)
    key = committed.manifest.parts[1].key
    if damage == "deleted":
        store.delete(key)
    elif damage == "truncated":
        store.put(key, store.get(key)[:-8])
    elif damage == "changed":
        flip_last_byte(store, key)
    else:
        key = committed.key
        flip_last_byte(store, key)
    sample = StoredFeatureSet(feature_set, committed.sha256)
    with Client(mmd_address=address) as client:
        with pytest.raises(DataLoss) as caught:
            client.mmd.compute(other, sample, FIXED)
        assert (caught.value.kind, caught.value.owner) == ("feature_set", feature_set)
        assert caught.value.subject == store.uri(key)
        assert re.search("`vfmalign extract .* --verify`", caught.value.remedy)
        intact = StoredFeatureSet(other, read_committed(store, other).sha256)
        client.mmd.compute(other, intact, FIXED)
