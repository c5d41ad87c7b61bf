"""Reads and writes datasets in object storage. Checks datasets for overlapping splits and leakage.

`datasets/<id>/dataset.json` is a datalist in the format of the Medical Segmentation Decathlon, which MONAI can read.
Each item also has ids, groups, digests, label maps, classes, grades, numbers and strata. The key `declaration` lists
the modalities, label maps, classes, grades and numbers of the cases. Without this key, the declaration of prostate
mpMRI applies.

`selections` contains the rules that chose the DICOM series. `curation` contains the user's decisions about individual
studies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from pydantic import ValidationError

from vfmalign.core.domain.datasets import SPLITS, Case, Curation, DatasetManifest, Split
from vfmalign.core.domain.declarations import DatasetDeclaration, get_declaration
from vfmalign.core.domain.errors import BadDataset, Conflict, Leakage, NotFound, PreconditionFailed
from vfmalign.core.domain.models import PretrainingDataset
from vfmalign.core.domain.record import canonical_json, describe_invalid
from vfmalign.core.storage.keys import dataset_key
from vfmalign.core.storage.store.object_store import ObjectStore

_LISTS: dict[Split, str] = {"pretrain": "pretraining", "train": "training", "val": "validation", "test": "test"}
_PROSTATE = "prostate_mpmri"
_FACTS = ("classes", "grades", "numbers", "strata")
_FOLDER, _FILE = "datasets/", "/dataset.json"


def load_dataset(store: ObjectStore, dataset_id: str, digest: str | None = None) -> DatasetManifest:
    """Reads a dataset.

    Args:
        store: the object store.
        dataset_id: its id.
        digest: expected digest. If None or empty, any digest is accepted.

    Raises:
        NotFound: no dataset has this id.
        PreconditionFailed: the digest differs, or `dataset.json` is damaged.
    """
    key = dataset_key(dataset_id)
    try:
        content = store.get_json(key)
    except NotFound:
        raise NotFound(
            "not found",
            subject=f"dataset {dataset_id}",
            remedy="run `vfmalign dataset list` to see the available ids",
        ) from None
    dataset = from_datalist(content, dataset_id)
    if digest and dataset.digest() != digest:
        raise PreconditionFailed(
            f"its digest is {dataset.digest()[:12]}…, expected {digest[:12]}…",
            subject=f"dataset {dataset_id}",
            remedy="request the stored digest, or import the data under a new id",
            reason="DIGEST_MISMATCH",
        )
    return dataset


def list_datasets(store: ObjectStore) -> Iterator[str]:
    """Returns the ids of all stored datasets, in alphabetical order."""
    for key in store.list(_FOLDER):
        if key.endswith(_FILE):
            yield key.removeprefix(_FOLDER).removesuffix(_FILE)


def save_dataset(store: ObjectStore, dataset: DatasetManifest) -> str:
    """Writes the description of a dataset, which commits the dataset. The volumes must already be stored.

    Returns:
        The digest.

    Raises:
        BadDataset: splits overlap.
        Conflict: a dataset with this id but other content exists.
    """
    check_splits(dataset)
    key = dataset_key(dataset.id)
    if not store.put_if_absent(key, canonical_json(to_datalist(dataset))):
        stored = from_datalist(store.get_json(key), dataset.id)
        if stored.digest() != dataset.digest():
            raise Conflict(
                "the id exists with other content", subject=f"dataset {dataset.id}", remedy="choose another id"
            )
    return dataset.digest()


def to_datalist(dataset: DatasetManifest) -> dict[str, object]:
    """Converts a dataset to a datalist. Paths in the datalist are keys of the bucket.

    `label` of an item is the case's last label map. A segmentation draws this map over the other maps.
    """
    declaration = dataset.declaration
    values = declaration.labels[-1].values if declaration.labels else {}
    content: dict[str, object] = {
        "name": dataset.id,
        "held_out": dataset.held_out,
        "phantom": dataset.phantom,
        "modality": {str(channel): modality for channel, modality in enumerate(declaration.modalities)},
        "labels": {"0": "background"} | {str(value): name for value, name in sorted(values.items())},
    }
    if declaration != get_declaration(_PROSTATE):
        # Omitted for the built-in prostate declaration, so that a change of its file does not change stored digests.
        content["declaration"] = declaration.model_dump(mode="json")
    if dataset.selections:
        content["selections"] = dataset.selections
    if dataset.curation != Curation():
        content["curation"] = dataset.curation.model_dump(mode="json")
    for split in SPLITS:
        content[_LISTS[split]] = [_to_item(dataset, case) for case in dataset.split(split)]
        content[f"num{_LISTS[split].capitalize()}"] = len(dataset.split(split))
    return content


def from_datalist(content: Any, dataset_id: str) -> DatasetManifest:
    """Converts a datalist to a dataset.

    Raises:
        PreconditionFailed: a field is missing or invalid.
    """
    try:
        fields: dict[str, object] = {split: [_from_item(item) for item in content[_LISTS[split]]] for split in SPLITS}
        fields |= {"id": dataset_id, "held_out": content["held_out"], "phantom": content["phantom"]}
        if "declaration" in content:
            fields["declaration"] = DatasetDeclaration.model_validate(content["declaration"])
        fields |= {name: content[name] for name in ("selections", "curation") if name in content}
        return DatasetManifest.model_validate(fields)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        detail = f": {describe_invalid(error)}" if isinstance(error, ValidationError) else ""
        raise PreconditionFailed(
            f"dataset.json is not a datalist of this version{detail}",
            subject=f"dataset {dataset_id}",
            remedy="import the dataset again",
        ) from None


def check_splits(dataset: DatasetManifest, labels: Mapping[str, str] | None = None) -> None:
    """Checks that splits share no case, patient or volume, and that no split lists a case twice.

    Args:
        dataset: the dataset.
        labels: maps case ids to the names in the error. None to use the ids.

    Raises:
        BadDataset: the splits of a held-out dataset overlap, or a split lists a case twice.
    """
    for split in SPLITS:
        ids = [case.id for case in dataset.split(split)]
        if len(set(ids)) != len(ids):
            raise BadDataset(
                f"a case is listed twice in {split}", subject=f"dataset {dataset.id}", remedy="list it once"
            )
    if not dataset.held_out:
        return
    for first, second in combinations(SPLITS, 2):
        cases = [_identities(dataset, dataset.split(split)) for split in (first, second)]
        if shared := min(cases[0].keys() & cases[1].keys(), default=None):
            owner, other = (labels[ids[shared]] if labels else ids[shared] for ids in cases)
            raise BadDataset(
                f"{first} and {second} share {shared} ({owner} and {other})",
                subject=f"dataset {dataset.id}",
                remedy="put both cases into one split, or remove one of them",
            )


def check_leakage(dataset: DatasetManifest, pretraining: Sequence[PretrainingDataset]) -> None:
    """Checks that no test case is in `train`, in `val` or in the model's pretraining data.

    If the dataset is not held out, test cases may also be in other splits.

    Raises:
        Leakage: a test case is in `train`, `val` or pretraining data. The error names the case and the data.
    """
    seen: list[tuple[str, set[str]]] = []
    if dataset.held_out:
        seen = [(split, set(_identities(dataset, dataset.split(split)))) for split in ("train", "val")]
    for source in pretraining:
        known = {f"volume {digest[:12]}…" for digest in source.volume_sha256}
        known |= {f"patient {group}" for group in source.groups}
        seen.append((f"the model's pretraining set {source.dataset_id}", known))
    for case in dataset.test:
        for where, known in seen:
            shared = _identities(dataset, [case]).keys() & known
            if shared:
                raise Leakage(
                    f"test case {case.id} is also in {where} ({sorted(shared)[0]})",
                    subject=f"dataset {dataset.id}",
                    remedy="remove the patient from test, or choose a model that was not trained on it",
                )


def _identities(dataset: DatasetManifest, cases: Iterable[Case]) -> dict[str, str]:
    """Names that two splits must not share, with the id of a case that has them.

    They are patients, cases and image volumes. Empty label maps may be equal.
    """
    owners: dict[str, str] = {}
    for case in cases:
        names = [f"patient {case.group}", f"case {case.id}"]
        names += [f"volume {ref.sha256[:12]}…" for ref in dataset.images(case).values()]
        owners |= dict.fromkeys(names, case.id)
    return owners


def _to_item(dataset: DatasetManifest, case: Case) -> dict[str, object]:
    images, label_maps = dataset.images(case), dataset.label_maps(case)
    keys = {kind: ref.key for kind, ref in label_maps.items()}
    item: dict[str, object] = {
        "case": case.id,
        "group": case.group,
        "image": [ref.key for ref in images.values()],
        "modality": list(images),
        "label_maps": keys,
        "sha256": {kind: ref.sha256 for kind, ref in case.volumes.items()},
    }
    if keys:
        item["label"] = list(keys.values())[-1]
    if case.series:
        item["series"] = [taken.model_dump(mode="json") for taken in case.series]
    return item | {name: values for name in _FACTS if (values := getattr(case, name))}


def _from_item(item: dict[str, Any]) -> dict[str, object]:
    keys: dict[str, str] = dict(zip(item["modality"], item["image"], strict=True)) | item["label_maps"]
    volumes = {kind: {"key": key, "sha256": item["sha256"][kind]} for kind, key in keys.items()}
    facts: dict[str, object] = {name: item[name] for name in (*_FACTS, "series") if name in item}
    return {"id": item["case"], "group": item["group"], "volumes": volumes, **facts}
