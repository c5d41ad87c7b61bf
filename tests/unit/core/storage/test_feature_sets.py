"""Feature sets on a real S3 server: parts, resuming, the one commit, and every tampering noticed."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from vfmalign.core.domain.errors import BadTensor, DataLoss, NotFound, PreconditionFailed
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.storage.feature_set_writer import FeatureSetWriter
from vfmalign.core.storage.feature_sets import (
    FeatureRequest,
    find_damaged_parts,
    read_committed,
    read_feature_set,
    read_manifest,
)
from vfmalign.core.storage.keys import features_prefix
from vfmalign.core.storage.store import object_store
from vfmalign.core.storage.store.object_store import ObjectStore

CASES = [f"case-{i}" for i in range(7)]
GROUPS = [f"group-{i // 2}" for i in range(7)]
CHANNELS = {"stages.2": 3, "stages.3": 5}
SOFTWARE = {"torch": "2.13"}
_seeds = count()


def request(**fields: Any) -> FeatureRequest:
    """A request that no other test has made."""
    content: dict[str, Any] = {
        "model_id": "m",
        "model_sha256": "a" * 64,
        "init_seed": next(_seeds),
        "dataset_id": "d",
        "dataset_digest": "b" * 64,
        "split": "test",
        "layers": tuple(CHANNELS),
        "preprocessing": Preprocessing(
            modalities=("t2w", "dwi", "adc"), spacing_mm=(3.0, 1.0, 1.0), shape_dhw=(16, 64, 64)
        ),
    }
    return FeatureRequest.model_validate(content | fields)


def rows(start: int, stop: int, seed: int = 0) -> dict[str, Any]:
    """The same values for a row whatever part it is in."""
    return {
        layer: np.stack([np.random.default_rng([seed, row]).normal(size=size) for row in range(start, stop)]).astype(
            "f4"
        )
        for layer, size in CHANNELS.items()
    }


def writer(store: ObjectStore, asked: FeatureRequest) -> FeatureSetWriter:
    return FeatureSetWriter(store, asked, CASES, GROUPS)


def test_rows_come_back_in_order_with_cases_and_groups(store: ObjectStore) -> None:
    asked = request()
    writing = writer(store, asked)
    for start, stop in ((4, 7), (0, 2), (2, 4)):  # parts may come in any order
        writing.write_part(start, rows(start, stop))
    manifest = writing.commit(SOFTWARE).manifest
    stored = read_feature_set(store, asked.feature_set_id())
    assert stored.manifest == manifest == read_manifest(store, asked.feature_set_id())
    assert manifest.case_ids == tuple(CASES)
    assert manifest.groups == tuple(GROUPS)
    assert {spec.name: spec.channels for spec in manifest.layers} == CHANNELS
    assert manifest.software == SOFTWARE
    for layer, array in rows(0, 7).items():
        np.testing.assert_array_equal(stored.layers[layer], array)
        assert stored.layers[layer].dtype == np.float32


def test_the_id_depends_on_all_that_the_features_depend_on() -> None:
    base: dict[str, Any] = {"init_seed": 1}
    changes: list[dict[str, Any]] = [
        {},
        {"model_sha256": "c" * 64},
        {"initialisation": "random"},
        {"init_seed": 2},
        {"dataset_digest": "c" * 64},
        {"split": "train"},
        {"layers": ("stages.3",)},
        {"input_transform": "half_resolution"},
        {"preprocessing": Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=None, shape_dhw=(16, 64, 64))},
    ]
    ids = {request(**base | change).feature_set_id() for change in changes}
    assert len(ids) == len(changes)
    assert all(len(identity) == 32 for identity in ids)
    assert request(**base).feature_set_id() == request(**base).feature_set_id()


def test_an_interrupted_set_is_continued_by_another_process(store: ObjectStore) -> None:
    asked = request()
    first = writer(store, asked)
    first.write_part(0, rows(0, 2))
    first.write_part(4, rows(4, 6))
    second = writer(store, asked)
    assert second.parts_done(2) == {0, 4}
    second.write_part(2, rows(2, 4))
    with pytest.raises(PreconditionFailed, match="row 6 is missing"):
        second.commit(SOFTWARE)
    second.write_part(6, rows(6, 7))
    second.commit(SOFTWARE)
    np.testing.assert_array_equal(
        read_feature_set(store, asked.feature_set_id()).layers["stages.3"], rows(0, 7)["stages.3"]
    )


def test_parts_of_another_length_or_with_other_bytes_are_not_continued(store: ObjectStore) -> None:
    asked = request()
    first = writer(store, asked)
    first.write_part(0, rows(0, 4))
    short = first.write_part(4, rows(4, 6))
    store.put(short.key, b"half of it")
    second = writer(store, asked)
    assert second.parts_done(2) == set()
    assert second.parts_done(4) == {0}


def test_a_set_without_a_manifest_does_not_exist(store: ObjectStore) -> None:
    asked = request()
    writer(store, asked).write_part(0, rows(0, 7))
    with pytest.raises(NotFound, match="no such feature set"):
        read_manifest(store, asked.feature_set_id())


def test_of_two_writers_the_first_commit_counts(store: ObjectStore) -> None:
    asked = request()
    first, second = writer(store, asked), writer(store, asked)
    first.write_part(0, rows(0, 7, seed=1))
    second.write_part(0, rows(0, 7, seed=2))  # another device: other last bits, other part
    won = second.commit({"writer": "second"})
    assert first.commit({"writer": "first"}) == won
    np.testing.assert_array_equal(
        read_feature_set(store, asked.feature_set_id()).layers["stages.2"], rows(0, 7, seed=2)["stages.2"]
    )


def test_equal_rows_make_equal_parts(store: ObjectStore) -> None:
    asked = request()
    keys = {writer(store, asked).write_part(0, rows(0, 7)).key for _ in range(5)}
    assert len(keys) == 1


def committed(store: ObjectStore) -> tuple[str, str]:
    asked = request()
    writing = writer(store, asked)
    writing.write_part(0, rows(0, 4))
    part = writing.write_part(4, rows(4, 7))
    writing.commit(SOFTWARE)
    return asked.feature_set_id(), part.key


def test_a_changed_or_missing_part_is_noticed(store: ObjectStore) -> None:
    identity, key = committed(store)
    store.put(key, save(rows(4, 7, seed=9)))
    for damage in (lambda: None, lambda: store.delete(key)):
        damage()
        with pytest.raises(
            DataLoss, match=r"part-.*`vfmalign extract d --model m .*--layer stages.2.* --verify`"
        ) as caught:
            read_feature_set(store, identity)
        assert (caught.value.kind, caught.value.owner, caught.value.subject) == (
            "feature_set", identity, store.uri(key),
        )  # fmt: skip


def truncate(store: ObjectStore, key: str) -> None:
    store.put(key, store.get(key)[:-4])


def flip_last_byte(store: ObjectStore, key: str) -> None:
    data = store.get(key)
    store.put(key, data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "found", "found_by_reading"),
    [(ObjectStore.delete, (1,), (1,)), (truncate, (1,), (1,)), (flip_last_byte, (), (1,))],
)
def test_missing_and_truncated_parts_are_found_without_reading_them(
    store: ObjectStore, damage: Any, found: Any, found_by_reading: Any
) -> None:
    identity, key = committed(store)
    manifest = read_manifest(store, identity)
    assert find_damaged_parts(store, manifest, read=True) == ()
    damage(store, key)
    assert find_damaged_parts(store, manifest) == found
    assert find_damaged_parts(store, manifest, read=True) == found_by_reading


def test_a_part_that_the_listing_lacks_is_looked_up(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    identity, _ = committed(store)
    manifest = read_manifest(store, identity)
    monkeypatch.setattr(store, "sizes_bytes", lambda prefix: {})
    assert find_damaged_parts(store, manifest) == ()


def test_a_reader_that_refers_to_a_manifest_gets_this_one_or_an_error(store: ObjectStore) -> None:
    identity, _ = committed(store)
    first = read_committed(store, identity)
    assert read_committed(store, identity, first.sha256) == first
    edits: list[dict[str, object]] = [{"software": {"torch": "2.14"}}, {"groups": ("one",) * len(GROUPS)}]
    for edit in edits:
        store.put(first.key, first.manifest.model_copy(update=edit).to_json())
        assert read_committed(store, identity).sha256 != first.sha256
        with pytest.raises(DataLoss, match="replaced or damaged"):
            read_committed(store, identity, first.sha256)
    store.delete(first.key)
    with pytest.raises(DataLoss, match="no such object") as caught:
        read_committed(store, identity, first.sha256)
    assert caught.value.owner == identity
    with pytest.raises(NotFound, match="no such feature set"):
        read_committed(store, identity)


def test_a_repaired_set_keeps_its_manifest_unless_its_bytes_differ(store: ObjectStore) -> None:
    identity, key = committed(store)
    first = read_committed(store, identity)
    for seed, same in ((0, True), (1, False)):
        store.delete(key)
        repair = writer(store, first.manifest.request)
        assert repair.parts_done(4, first.manifest) == {0}
        repair.write_part(4, rows(4, 7, seed=seed))
        repaired = repair.commit(SOFTWARE, replaced=first)
        assert (repaired == first) is same
        assert repaired == read_committed(store, identity)
        read_feature_set(store, identity, repaired.sha256)


def test_a_manifest_beyond_the_limit_of_documents_is_not_read(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, _ = committed(store)
    size = read_committed(store, identity).size_bytes
    monkeypatch.setattr(object_store, "MAX_DOCUMENT_BYTES", size)
    read_committed(store, identity)
    monkeypatch.setattr(object_store, "MAX_DOCUMENT_BYTES", size - 1)
    with pytest.raises(DataLoss, match=f"has {size} bytes, the limit is {size - 1}") as caught:
        read_committed(store, identity)
    assert (caught.value.kind, caught.value.owner) == ("feature_set", identity)


def test_a_manifest_of_another_set_is_noticed(store: ObjectStore) -> None:
    identity, _ = committed(store)
    other = f"{features_prefix('0' * 32)}manifest.json"
    store.put(other, store.get(f"{features_prefix(identity)}manifest.json"))
    with pytest.raises(DataLoss, match="describes another set"):
        read_manifest(store, "0" * 32)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda manifest: manifest["parts"].reverse(), "every row once"),
        (lambda manifest: manifest["parts"].pop(), "every row once"),
        (lambda manifest: manifest["parts"].clear(), "every row once"),
        (lambda manifest: manifest["case_ids"].pop(), "one case and one group"),
        (lambda manifest: manifest["case_ids"].__setitem__(1, "case-0"), "no case twice"),
        (lambda manifest: manifest["groups"].append("g"), "one case and one group"),
        (lambda manifest: manifest["layers"].pop(), "layers differ from"),
        (lambda manifest: manifest.update(dtype="float64"), "dtype"),
        (lambda manifest: manifest.pop("software"), "software"),
    ],
)
def test_a_manifest_that_does_not_add_up_is_refused(store: ObjectStore, change: Any, problem: str) -> None:
    identity, _ = committed(store)
    key = f"{features_prefix(identity)}manifest.json"
    manifest = json.loads(store.get(key))
    change(manifest)
    store.put(key, json.dumps(manifest).encode())
    with pytest.raises(DataLoss, match=problem):
        read_feature_set(store, identity)


def with_value(value: float) -> dict[str, Any]:
    arrays = rows(0, 4)
    arrays["stages.3"][2, 1] = value
    return arrays


@pytest.mark.parametrize(
    ("start", "arrays", "problem"),
    [
        (0, {"stages.3": np.zeros((1, 5), "f4")}, "layers"),
        (0, {**rows(0, 1), "stages.9": np.zeros((1, 5), "f4")}, "layers"),
        (0, {**rows(0, 2), "stages.3": np.zeros((1, 5), "f4")}, "equal rows"),
        (0, {**rows(0, 2), "stages.3": np.zeros((2, 5, 1), "f4")}, "equal rows"),
        (6, rows(0, 2), r"ends after the last row \(7\)"),
        (-1, rows(0, 2), "rows"),
        (0, with_value(float("nan")), "case case-2.*stages.3 has NaN"),
        (0, with_value(float("inf")), "case case-2.*NaN or infinity"),
    ],
)
def test_a_wrong_part_is_refused(store: ObjectStore, start: int, arrays: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadTensor, match=problem):
        writer(store, request()).write_part(start, arrays)


def test_channels_may_not_change_between_parts(store: ObjectStore) -> None:
    writing = writer(store, request())
    writing.write_part(0, rows(0, 2))
    with pytest.raises(BadTensor, match="channels"):
        writing.write_part(2, {**rows(2, 4), "stages.2": np.zeros((2, 4), "f4")})


@pytest.mark.parametrize(("cases", "groups"), [([], []), (["a"], []), (["a", "a"], ["g", "g"])])
def test_rows_need_one_case_and_one_group_each(store: ObjectStore, cases: list[str], groups: list[str]) -> None:
    with pytest.raises(BadTensor, match="one case id and one group per row"):
        FeatureSetWriter(store, request(), cases, groups)


@pytest.mark.parametrize(
    ("fields", "feature_set_id"),
    [
        (
            {"initialisation": "random", "init_seed": 7, "input_transform": "half_resolution"},
            "af1eebcfa719fe6fb8f98cdce68895e7",
        ),
        ({"init_seed": 0, "split": "train", "layers": ("stages.3",)}, "96f65ca539af57398625371263c4ab3c"),
    ],
)
def test_ids_of_stored_sets_never_change(fields: dict[str, Any], feature_set_id: str) -> None:
    """Literal ids of sets as they lie in object storage: another id would have every set extracted again."""
    stored = {
        "model_id": "profound",
        "dataset_id": "prostate",
        "layers": ("stages.3", "pooled"),
        "preprocessing": Preprocessing(
            modalities=("t2w", "dwi", "adc"), spacing_mm=(3.0, 0.5, 0.5), shape_dhw=(32, 256, 256)
        ),
    }
    assert request(**stored | fields).feature_set_id() == feature_set_id
