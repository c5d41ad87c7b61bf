"""Datasets in object storage: the datalist as MONAI reads it, its digest, its splits and what may not overlap.

Knows the JSON of `datasets/<id>/dataset.json` (the Medical Segmentation Decathlon's datalist with our ids, groups and
digests beside each item). Knows nothing of voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

from vfmalign.core.domain.artifacts import (
    MODALITIES,
    SPLITS,
    Case,
    Dataset,
    Pretraining,
    Split,
    VolumeKind,
    VolumeRef,
    canonical_json,
    dataset_key,
)
from vfmalign.core.domain.errors import BadDataset, Conflict, Leakage, NotFound, PreconditionFailed
from vfmalign.core.storage.object_store import ObjectStore

_LISTS: dict[Split, str] = {"pretrain": "pretraining", "train": "training", "val": "validation", "test": "test"}
_LABELS: dict[VolumeKind, str] = {"lesions": "label", "gland": "gland"}
_FOLDER, _FILE = "datasets/", "/dataset.json"
_GENERATED = "phantom-"
"""What generated patients are called. Asked of datalists alone that were written before they said what they hold."""


def load_dataset(store: ObjectStore, dataset_id: str, digest: str | None = None) -> Dataset:
    """Reads a dataset.

    Args:
        store: the object store.
        dataset_id: its id.
        digest: the digest it must have; None or empty accepts what is stored.

    Raises:
        NotFound: there is none of this id.
        PreconditionFailed: it has another digest, or is not a datalist of ours.
    """
    key = dataset_key(dataset_id)
    try:
        content = store.get_json(key)
    except NotFound:
        raise NotFound(
            "there is no such dataset", subject=f"dataset {dataset_id}", remedy="import it, or check its id"
        ) from None
    dataset = from_datalist(content, dataset_id)
    if digest and dataset.digest() != digest:
        raise PreconditionFailed(
            f"its digest is {dataset.digest()[:12]}…, expected {digest[:12]}…",
            subject=f"dataset {dataset_id}",
            remedy="ask for the stored digest, or import the data under a new id",
            reason="DIGEST_MISMATCH",
        )
    return dataset


def list_datasets(store: ObjectStore) -> Iterator[str]:
    """Ids of all stored datasets, in order."""
    for key in store.list(_FOLDER):
        if key.endswith(_FILE):
            yield key.removeprefix(_FOLDER).removesuffix(_FILE)


def save_dataset(store: ObjectStore, dataset: Dataset) -> str:
    """Writes a dataset once, after its volumes: that write is its commit.

    Returns:
        Its digest.

    Raises:
        BadDataset: splits overlap.
        Conflict: another dataset has this id.
    """
    check_splits(dataset)
    key = dataset_key(dataset.id)
    if not store.put_if_absent(key, canonical_json(to_datalist(dataset))):
        stored = from_datalist(store.get_json(key), dataset.id)
        if stored.digest() != dataset.digest():
            raise Conflict("another dataset has this id", subject=f"dataset {dataset.id}", remedy="choose another id")
    return dataset.digest()


def to_datalist(dataset: Dataset) -> dict[str, Any]:
    """The datalist of a dataset; paths are keys of the bucket."""
    content: dict[str, Any] = {
        "name": dataset.id,
        "held_out": dataset.held_out,
        "phantom": dataset.phantom,
        "modality": {str(channel): modality for channel, modality in enumerate(MODALITIES)},
        "labels": {"0": "background", "1": "lesion"},
    }
    for split in SPLITS:
        content[_LISTS[split]] = [_to_item(case) for case in dataset.split(split)]
        content[f"num{_LISTS[split].capitalize()}"] = len(dataset.split(split))
    return content


def from_datalist(content: Any, dataset_id: str) -> Dataset:
    """The dataset behind a datalist; an old one that does not say so holds phantoms where every patient is called so.

    Raises:
        PreconditionFailed: fields are missing or wrong.
    """
    try:
        splits = {split: tuple(_from_item(item) for item in content[_LISTS[split]]) for split in SPLITS}
        patients = [case.group for cases in splits.values() for case in cases]
        generated = bool(patients) and all(patient.startswith(_GENERATED) for patient in patients)
        phantom = content.get("phantom", generated)
        return Dataset(id=dataset_id, held_out=content["held_out"], phantom=phantom, **splits)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise PreconditionFailed(
            "its dataset.json is not a datalist of this version",
            subject=f"dataset {dataset_id}",
            remedy="import the dataset again",
        ) from None


def check_splits(dataset: Dataset) -> None:
    """Makes sure that no case, patient or volume stands in two splits, and no case twice in one.

    Raises:
        BadDataset: one does, and the dataset does not say that nothing is held out.
    """
    for split in SPLITS:
        ids = [case.id for case in dataset.split(split)]
        if len(set(ids)) != len(ids):
            raise BadDataset(f"a case stands twice in {split}", subject=f"dataset {dataset.id}", remedy="list it once")
    if not dataset.held_out:
        return
    for first, second in combinations(SPLITS, 2):
        shared = _identities(dataset.split(first)) & _identities(dataset.split(second))
        if shared:
            raise BadDataset(
                f"{first} and {second} share {sorted(shared)[0]}",
                subject=f"dataset {dataset.id}",
                remedy="put every patient into one split",
            )


def find_leakage(dataset: Dataset, pretraining: Sequence[Pretraining]) -> None:
    """Makes sure that no test case was seen before: in `train`, in `val` or in the model's pretraining.

    A dataset that says that nothing is held out is not checked against its own splits.

    Raises:
        Leakage: naming the case and where it was seen.
    """
    seen: list[tuple[str, set[str]]] = []
    if dataset.held_out:
        seen = [(split, _identities(dataset.split(split))) for split in ("train", "val")]
    for source in pretraining:
        known = {f"volume {digest[:12]}…" for digest in source.volume_sha256}
        known |= {f"patient {group}" for group in source.groups}
        seen.append((f"the model's pretraining set {source.dataset}", known))
    for case in dataset.test:
        for where, known in seen:
            shared = _identities([case]) & known
            if shared:
                raise Leakage(
                    f"test case {case.id} is also in {where} ({sorted(shared)[0]})",
                    subject=f"dataset {dataset.id}",
                    remedy="take the patient out of test, or choose a model that has not seen it",
                )


def _identities(cases: Iterable[Case]) -> set[str]:
    """What two splits may not share: patients, cases and image volumes (empty label maps are alike)."""
    names: set[str] = set()
    for case in cases:
        names |= {f"patient {case.group}", f"case {case.id}"}
        names |= {f"volume {case.volumes[kind].sha256[:12]}…" for kind in MODALITIES if kind in case.volumes}
    return names


def _to_item(case: Case) -> dict[str, Any]:
    present = [modality for modality in MODALITIES if modality in case.volumes]
    item: dict[str, Any] = {
        "case": case.id,
        "group": case.group,
        "image": [case.volumes[modality].key for modality in present],
        "modality": list(present),
        "sha256": {kind: ref.sha256 for kind, ref in case.volumes.items()},
    }
    for kind, name in _LABELS.items():
        if kind in case.volumes:
            item[name] = case.volumes[kind].key
    return item


def _from_item(item: dict[str, Any]) -> Case:
    keys: dict[str, str] = dict(zip(item["modality"], item["image"], strict=True))
    keys |= {kind: item[name] for kind, name in _LABELS.items() if name in item}
    volumes = {kind: VolumeRef(key=key, sha256=item["sha256"][kind]) for kind, key in keys.items()}
    return Case.model_validate({"id": item["case"], "group": item["group"], "volumes": volumes})
