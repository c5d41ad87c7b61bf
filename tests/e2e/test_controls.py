"""Controls that fail where the system would measure something else than it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.core.storage.datasets import load_dataset, to_datalist
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import FeatureRequest, read_feature_set
from vfmalign.core.storage.keys import dataset_key
from vfmalign.core.storage.model_cards import load_card
from vfmalign.models.cards import load_encoder, publish
from vfmalign.v1 import alignment_pb2, features_pb2, mmd_pb2

pytestmark = pytest.mark.e2e

DATASET = "phantoms"
PRIMARY = "stages.3"
SPLITS = 200
LEVEL = 0.05


def extract(world: Any, model: str, split: int = 4) -> str:
    """Extracts a split and returns the feature set's id."""
    request = features_pb2.ExtractDatasetRequest(model_id=model, dataset_id=DATASET, split=split)
    replies = list(world.features.ExtractDataset(request, timeout=200, wait_for_ready=True))
    return str(replies[-1].feature_set.feature_set_id)


def test_learning_rate_zero_moves_nothing(rate_zero: Any) -> None:
    """The whole check at rate 0: paired MMD² is 0 within 1e-12, p is 1, and the weights are those of before."""
    result = rate_zero.result
    assert result.weight_change == 0
    for shift in result.shifts:
        for scaled in (shift.mmd.raw, shift.mmd.standardised):
            assert abs(scaled.mmd2.value) <= 1e-12
            assert scaled.p_value.value == 1
        assert abs(shift.paired_similarity.value - 1) <= 1e-11


def test_disjoint_halves_of_one_population_reject_at_the_level(world: Any) -> None:
    """200 seeded splits into halves, unpaired: rejections at 5 % are within the 99.9 % binomial interval."""
    sets = [read_feature_set(world.store, extract(world, "micro", split)) for split in (2, 4)]
    rows_NC = np.concatenate([found.layers[PRIMARY] for found in sets])
    mean_C, sd_C = rows_NC.mean(0), rows_NC.std(0)
    rows_NC = (rows_NC - mean_C) / np.maximum(sd_C, 1e-6)
    half = len(rows_NC) // 2
    rejected = 0
    requests = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(rows_NC))
        requests.append(
            mmd_pb2.ComputeRequest(
                x=_inline(rows_NC[order[:half]], order[:half]),
                y=_inline(rows_NC[order[half:]], order[half:]),
                pairing=mmd_pb2.PAIRING_INDEPENDENT,
                kernel=mmd_pb2.Kernel(
                    bandwidth_rule=mmd_pb2.BANDWIDTH_RULE_FIXED, fixed_sigma=np.sqrt(rows_NC.shape[1])
                ),
                test=mmd_pb2.TestOptions(permutations=199, seed=seed),
            )
        )
    for start in range(0, SPLITS, 50):
        batch = mmd_pb2.ComputeBatchRequest(requests=requests[start : start + 50])
        for reply in world.mmd.ComputeBatch(batch, timeout=200):
            assert reply.HasField("response"), reply.error
            rejected += reply.response.layers[0].raw.p_value.value <= LEVEL
    low, high = stats.binom.interval(0.999, SPLITS, LEVEL)
    assert low <= rejected <= high


def _inline(rows_NC: Any, identities: Any) -> mmd_pb2.FeatureSource:
    layer = mmd_pb2.InlineLayer(layer="features", features=to_tensor(np.ascontiguousarray(rows_NC, dtype=np.float32)))
    groups = [f"g{identity}" for identity in identities]
    return mmd_pb2.FeatureSource(inline=mmd_pb2.InlineFeatures(layers=[layer], groups=groups))


def test_shift_grows_along_the_way_from_before_to_after(world: Any, undisturbed: Any) -> None:
    """MMD² at θ0 + t(θ1 − θ0) does not decrease over t = 0, ½, 1."""
    store = world.store
    first, card = load_encoder(store, "micro")
    last, _ = load_encoder(store, "undisturbed-encoder")
    before, after = first.state_dict(), last.state_dict()
    middle = {name: before[name] + 0.5 * (after[name] - before[name]) for name in before}
    publish(
        store,
        "halfway",
        middle,
        architecture=card.architecture,
        objective="supervised",
        preprocessing=card.preprocessing,
        primary_layer=card.primary_layer,
        pretraining=card.pretraining,
        parent="micro",
    )
    base, reference = extract(world, "micro"), extract(world, "micro", split=2)
    shifts = []
    for model in ("micro", "halfway", "undisturbed-encoder"):
        request = mmd_pb2.ComputeRequest(
            x=mmd_pb2.FeatureSource(feature_set_id=base),
            y=mmd_pb2.FeatureSource(feature_set_id=extract(world, model)),
            reference=mmd_pb2.FeatureSource(feature_set_id=reference),
            pairing=mmd_pb2.PAIRING_PAIRED,
            layers=[PRIMARY],
        )
        shifts.append(world.mmd.Compute(request, timeout=60).layers[0].standardised.mmd2.value)
    assert abs(shifts[0]) <= 1e-12
    assert shifts[0] <= shifts[1] <= shifts[2]
    assert shifts[2] > 0


def test_two_swapped_cases_after_stop_the_check(world: Any, undisturbed: Any) -> None:
    """The features after are stored beforehand with two cases swapped: the check must notice, not compare."""
    store = world.store
    card = load_card(store, "micro")
    encoder, _ = load_encoder(store, "undisturbed-encoder")
    # The same seed gives the same encoder: its card is published now, so that the set's id is known in advance.
    published = publish(
        store,
        "swapped-encoder",
        encoder.state_dict(),
        architecture=card.architecture,
        objective="supervised",
        preprocessing=card.preprocessing,
        primary_layer=card.primary_layer,
        pretraining=load_card(store, "undisturbed-encoder").pretraining,
        parent="micro",
        source="job swapped-pretrained",
    )
    dataset = load_dataset(store, DATASET)
    request = FeatureRequest(
        model_id="swapped-encoder",
        model_sha256=published.checkpoint.sha256,
        dataset_id=DATASET,
        dataset_digest=dataset.digest(),
        split="test",
        layers=tuple(shift.mmd.layer for shift in undisturbed.result.shifts),
        preprocessing=card.preprocessing,
    )
    order = [1, 0, *range(2, len(dataset.test))]
    cases = [dataset.test[index] for index in order]
    rows = {layer.name: np.zeros((len(cases), layer.channels), np.float32) for layer in card.layers}
    writer = FeatureSetWriter(store, request, [case.id for case in cases], [case.group for case in cases])
    writer.write_part(0, rows)
    writer.commit({})
    world.create("swapped")
    check = world.finish("swapped")
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "CASE_ORDER_MISMATCH"
    assert "order" in check.failure.message


def test_a_test_case_that_is_also_in_train_stops_the_check(world: Any) -> None:
    dataset = load_dataset(world.store, DATASET)
    leaking = DatasetManifest(id="leaking", train=(*dataset.train, dataset.test[0]), val=dataset.val, test=dataset.test)
    world.store.put(dataset_key("leaking"), canonical_json(to_datalist(leaking)))
    world.create("leaking", dataset_id="leaking")
    check = world.finish("leaking")
    assert check.state == alignment_pb2.CHECK_STATE_FAILED
    assert check.failure.reason == "LEAKAGE"
    assert dataset.test[0].id in check.failure.message
    assert "train" in check.failure.message


def test_a_test_patient_of_the_pretraining_set_stops_the_check(world: Any) -> None:
    dataset = load_dataset(world.store, DATASET)
    renamed = _renamed(dataset.pretrain[0])
    seen = DatasetManifest(id="seen", train=dataset.train, val=dataset.val, test=(renamed, *dataset.test))
    world.store.put(dataset_key("seen"), canonical_json(to_datalist(seen)))
    world.create("seen", dataset_id="seen")
    check = world.finish("seen")
    assert check.failure.reason == "LEAKAGE"
    assert "pretraining" in check.failure.message


def _renamed(case: Case) -> Case:
    """The same volumes under another name: a digest tells."""
    volumes = {kind: StoredObject(key=ref.key, sha256=ref.sha256) for kind, ref in case.volumes.items()}
    assert {"t2w", "dwi", "adc"} <= set(volumes)
    return Case(id="somebody-new", group="somebody-new", volumes=volumes)
