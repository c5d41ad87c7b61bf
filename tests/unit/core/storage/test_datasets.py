"""Datasets: the datalist, its digest, and what may not overlap."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vfmalign.core.domain.datasets import SPLITS, Case, DatasetManifest
from vfmalign.core.domain.declarations import DatasetDeclaration
from vfmalign.core.domain.errors import BadDataset, Conflict, Leakage, NotFound, PreconditionFailed
from vfmalign.core.domain.models import PretrainingDataset
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.storage.datasets import (
    check_leakage,
    check_splits,
    from_datalist,
    load_dataset,
    save_dataset,
    to_datalist,
)
from vfmalign.core.storage.keys import dataset_key
from vfmalign.core.storage.store import object_store
from vfmalign.core.storage.store.object_store import ObjectStore

EMPTY_MASK = hashlib.sha256(b"no lesion").hexdigest()


def case(name: str, group: str | None = None, volume: str | None = None) -> Case:
    def ref(kind: str) -> StoredObject:
        content = f"{volume or name} {kind}".encode()
        return StoredObject(key=f"volumes/d/{name}/{kind}.nii.gz", sha256=hashlib.sha256(content).hexdigest())

    volumes: dict[Any, StoredObject] = {kind: ref(kind) for kind in ("t2w", "dwi", "adc", "gland")}
    # Healthy patients on one grid have the same bytes here: that is no leakage.
    volumes["lesions"] = StoredObject(key=f"volumes/d/{name}/lesions.nii.gz", sha256=EMPTY_MASK)
    return Case(id=name, group=group or f"group-{name}", volumes=volumes)


def dataset(**splits: Any) -> DatasetManifest:
    content: dict[str, Any] = {
        "id": "d",
        "pretrain": (case("p1"), case("p2")),
        "train": (case("a"), case("b")),
        "val": (case("v"),),
        "test": (case("t1"), case("t2", group="group-t1")),
    }
    return DatasetManifest.model_validate(content | splits)


def test_a_dataset_comes_back_from_the_store_in_order(store: ObjectStore) -> None:
    digest = save_dataset(store, dataset())
    assert save_dataset(store, dataset()) == digest
    assert load_dataset(store, "d", digest) == dataset()
    assert load_dataset(store, "d").digest() == digest


def test_the_datalist_is_one_that_monai_reads(store: ObjectStore) -> None:
    content = to_datalist(dataset())
    assert content["numTraining"] == 2
    assert content["training"][0]["image"] == [f"volumes/d/a/{kind}.nii.gz" for kind in ("t2w", "dwi", "adc")]
    assert content["training"][0]["label"] == "volumes/d/a/lesions.nii.gz"
    assert content["training"][0]["case"] == "a"
    assert content["test"][1]["group"] == "group-t1"
    assert from_datalist(content, "d") == dataset()


def test_a_case_may_lack_modalities_and_masks() -> None:
    full = case("x")
    partial = full.model_copy(update={"volumes": {"adc": full.volumes["adc"]}})
    one = dataset(train=(partial,))
    assert from_datalist(to_datalist(one), "d") == one


def test_the_digest_depends_on_every_split_and_on_order() -> None:
    digests = {
        dataset().digest(),
        dataset(train=(case("b"), case("a"))).digest(),
        dataset(val=(case("w"),)).digest(),
        dataset(test=(case("t1"),)).digest(),
        dataset(held_out=False).digest(),
        dataset(phantom=True).digest(),
    }
    assert len(digests) == 6


def test_a_set_says_that_it_holds_phantoms_and_is_never_taken_for_one_by_a_name(store: ObjectStore) -> None:
    save_dataset(store, dataset(id="generated", phantom=True))
    assert load_dataset(store, "generated").phantom
    named_so = dataset(test=(case("t1", group="phantom-1"),), train=(), val=(), pretrain=())
    assert not from_datalist(to_datalist(named_so), "d").phantom


def test_later_fields_leave_the_digest_of_earlier_datasets_as_it_was() -> None:
    content = dataset().model_dump(mode="json", exclude={"phantom", "declaration"})
    for split in SPLITS:
        content[split] = [{key: case[key] for key in ("id", "group", "volumes")} for case in content[split]]
    assert dataset().digest() == hashlib.sha256(canonical_json(content)).hexdigest()


def test_another_digest_another_body_and_a_missing_set_are_told_apart(store: ObjectStore) -> None:
    save_dataset(store, dataset(id="e"))
    with pytest.raises(PreconditionFailed, match="dataset e: its digest is") as caught:
        load_dataset(store, "e", "0" * 64)
    assert caught.value.reason == "DIGEST_MISMATCH"
    with pytest.raises(Conflict, match="dataset e"):
        save_dataset(store, dataset(id="e", val=()))
    with pytest.raises(NotFound, match="dataset nothing"):
        load_dataset(store, "nothing")


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {**to_datalist(dataset()), "training": None},
        {**to_datalist(dataset()), "training": [{"image": []}]},
        {**to_datalist(dataset()), "test": [{**to_datalist(dataset())["test"][0], "image": ["one"]}]},
        {**to_datalist(dataset()), "test": [{**to_datalist(dataset())["test"][0], "sha256": {}}]},
        {**to_datalist(dataset()), "test": [{**to_datalist(dataset())["test"][0], "case": "Not^An^Id"}]},
    ],
)
def test_a_file_that_is_no_datalist_of_ours_is_refused(store: ObjectStore, content: Any) -> None:
    store.put(dataset_key("broken"), b"x")
    with pytest.raises(PreconditionFailed):
        load_dataset(store, "broken")
    with pytest.raises(PreconditionFailed, match="not a datalist"):
        from_datalist(content, "broken")


OVERLAPS = {
    "the case": case("a"),
    "the patient": case("other", group="group-a"),
    "an image": case("other", volume="a"),
}


@pytest.mark.parametrize("shared", OVERLAPS.values(), ids=OVERLAPS.keys())
@pytest.mark.parametrize("split", ["pretrain", "val", "test"])
def test_held_out_splits_share_nothing(store: ObjectStore, shared: Case, split: str) -> None:
    overlapping = dataset(**{split: (shared,)})
    with pytest.raises(BadDataset, match=rf"share .* \(.*\b{shared.id}\b.*\); put both cases into one split, or"):
        check_splits(overlapping)
    with pytest.raises(BadDataset):
        save_dataset(store, overlapping)
    check_splits(dataset(**{split: (shared,), "held_out": False}))


def test_a_case_stands_once_in_a_split_even_where_nothing_is_held_out() -> None:
    with pytest.raises(BadDataset, match="twice in test"):
        check_splits(dataset(test=(case("t1"), case("t1")), held_out=False))


def test_label_maps_alike_are_no_overlap() -> None:
    check_splits(dataset())
    check_leakage(dataset(), [])


@pytest.mark.parametrize("shared", OVERLAPS.values(), ids=OVERLAPS.keys())
def test_a_test_case_that_was_trained_on_is_leakage(shared: Case) -> None:
    with pytest.raises(Leakage, match=f"test case {shared.id} is also in train") as caught:
        check_leakage(dataset(test=(case("t1"), shared)), [])
    assert caught.value.remedy
    check_leakage(dataset(test=(shared,), held_out=False), [])


def test_a_test_case_that_the_model_has_seen_is_leakage() -> None:
    seen = case("t1").volumes["dwi"].sha256

    def source(**fields: Any) -> PretrainingDataset:
        return PretrainingDataset(
            dataset_id="big", dataset_digest="0" * 64, **{"volume_sha256": (), "groups": ("group-else",), **fields}
        )

    check_leakage(dataset(), [source()])
    with pytest.raises(Leakage, match="t1 is also in the model's pretraining set big"):
        check_leakage(dataset(), [source(), source(volume_sha256=(seen,))])
    with pytest.raises(Leakage, match="patient group-t1"):
        check_leakage(dataset(), [source(groups=("group-t1",))])
    check_leakage(dataset(), [source(groups=("group-a",))])  # seen again in train: allowed


BRAIN = DatasetDeclaration.model_validate(
    {
        "name": "brain",
        "modalities": ["t1w", "label"],
        "labels": [
            {"name": "image", "values": {"1": "brain"}},
            {"name": "hippocampus", "values": {"1": "anterior", "2": "posterior"}},
        ],
        "classes": [{"name": "atrophy"}, {"name": "present", "label": "hippocampus"}],
    }
)


def brain_case(name: str, **fields: Any) -> Case:
    def ref(kind: str) -> StoredObject:
        content = hashlib.sha256(f"{name} {kind}".encode())
        return StoredObject(key=f"volumes/b/{name}/{kind}.nii.gz", sha256=content.hexdigest())

    content: dict[str, Any] = {
        "id": name,
        "group": f"g-{name}",
        "volumes": {kind: ref(kind) for kind in ("t1w", "label", "image", "hippocampus")},
        "classes": {"atrophy": name == "b1"},
        "numbers": {"age_years": 61.5},
        "strata": {"scanner": "Vendor A (3T)", "site": "12"},
    }
    return Case.model_validate(content | fields)


def brain(**fields: Any) -> DatasetManifest:
    content = {"id": "b", "declaration": BRAIN, "train": (brain_case("b1"),), "test": (brain_case("b2"),)}
    return DatasetManifest.model_validate(content | fields)


def test_a_dataset_of_another_organ_comes_back_whatever_its_volumes_are_called(store: ObjectStore) -> None:
    digest = save_dataset(store, brain())
    assert load_dataset(store, "b", digest) == brain()


def test_a_datalist_without_a_declaration_is_prostate_mpmri_whose_digest_stays() -> None:
    datalist = to_datalist(dataset())
    assert "declaration" not in datalist
    assert from_datalist(datalist, "d") == dataset()
    assert dataset().digest() == "ce173103a4f4e1cf6402b8e3d57cca2caf4e60cee6d0819552243fca76cc5d56"


def test_monai_reads_the_datalist(tmp_path: Path) -> None:
    decathlon = pytest.importorskip("monai.data.decathlon_datalist")
    path = tmp_path / "dataset.json"
    path.write_bytes(canonical_json(to_datalist(brain())))
    (item,) = decathlon.load_decathlon_datalist(str(path), data_list_key="training", base_dir="/b")
    assert item["image"] == ["/b/volumes/b/b1/t1w.nii.gz", "/b/volumes/b/b1/label.nii.gz"]
    assert item["label"] == "/b/volumes/b/b1/hippocampus.nii.gz"
    assert item["classes"] == {"atrophy": True}
    properties = decathlon.load_decathlon_properties(str(path), ["modality", "labels", "numTraining"])
    assert properties["labels"] == {"0": "background", "1": "anterior", "2": "posterior"}
    assert properties["modality"] == {"0": "t1w", "1": "label"}


@pytest.mark.parametrize("modality", ["t1w", "label"])
def test_splits_share_no_image_of_any_declared_modality(modality: str) -> None:
    first, second = brain_case("b1"), brain_case("b2")
    shared = second.model_copy(update={"volumes": second.volumes | {modality: first.volumes[modality]}})
    with pytest.raises(BadDataset, match=r"train and test share volume \w{12}… \(b1 and b2\)"):
        check_splits(brain(test=(shared,)))
    with pytest.raises(BadDataset, match=r"\(line 2 and line 3\)"):
        check_splits(brain(test=(shared,)), {"b1": "line 2", "b2": "line 3"})
    equal_maps = second.model_copy(update={"volumes": second.volumes | {"image": first.volumes["image"]}})
    check_splits(brain(test=(equal_maps,)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"volumes": {"t2w": {"key": "k", "sha256": "0" * 64}}}, "case x has t2w, which the dataset does not declare"),
        ({"classes": {"present": True}}, "case x has present, which the dataset does not declare"),
        ({"classes": {"other": True}}, "case x has other"),
        ({"numbers": {"age_years": float("nan")}}, "finite"),
        ({"numbers": {"age_years": float("inf")}}, "finite"),
        ({"numbers": {f"n{i}": 0.0 for i in range(65)}}, "64"),
        ({"strata": {"Site": "a"}}, "pattern"),
        ({"strata": {"site": ""}}, "at least 1"),
        ({"strata": {"site": "a" * 65}}, "at most 64"),
        ({"strata": {"site": "a\nb"}}, "printable"),
        ({"strata": {"site": "a\u202eb"}}, "printable"),
        ({"strata": {"site": "=HYPERLINK()"}}, "letter or digit"),
        ({"strata": {"site": "a "}}, "surrounding spaces"),
        ({"strata": {f"s{i}": "a" for i in range(17)}}, "16"),
        ({"numbers": {"age": 1e300}}, "less than or equal to 1000000000000000"),
        ({"numbers": {"age": -1e300}}, "greater than or equal to"),
    ],
)
def test_what_a_case_states_is_declared_and_bounded(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        brain(test=(brain_case("x", **fields),))


def test_nested_json_and_a_large_file_affect_their_own_dataset_alone(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("datasets/nested/dataset.json", b"[" * 200_000)
    with pytest.raises(PreconditionFailed, match="not JSON"):
        load_dataset(store, "nested")
    monkeypatch.setattr(object_store, "MAX_DOCUMENT_BYTES", 1000)
    store.put("datasets/large/dataset.json", b" " * 1001)
    with pytest.raises(PreconditionFailed, match="the object has 1001 bytes, the limit is 1000"):
        load_dataset(store, "large")


def test_a_stratum_that_tells_patients_apart_is_refused() -> None:
    cases = [brain_case(f"x{i}", strata={"scanner": f"serial {i}"}) for i in range(65)]
    brain(test=(), train=cases[:64])
    with pytest.raises(ValidationError, match="stratum scanner has more than 64 different values"):
        brain(train=cases[:32], test=cases[32:])
    numbers = [brain_case(f"x{i}", numbers={f"n{i}": 0.0}) for i in range(65)]
    with pytest.raises(ValidationError, match="more than 64 numbers or 16 strata"):
        brain(train=numbers, test=())
