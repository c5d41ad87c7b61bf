"""Finds and removes everything that this service stores about a patient.

The patient's cases are removed from `dataset.json`, which changes the digest of `dataset.json`. If an object was
computed from a version of a dataset with the patient, the whole object is deleted. `dataset.json` changes first. From
then on, nothing new is computed from the old version, because requests for the old version contain the old digest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from vfmalign.client.messages.erasure import ErasedDataset, ErasedObject
from vfmalign.core.domain.datasets import SPLITS, Case, Curation, DatasetManifest
from vfmalign.core.domain.errors import DataLoss, InvalidInput, NotFound, PreconditionFailed, StoreRefused
from vfmalign.core.domain.patients import MIN_FOR_CLAIM
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.formats.documents import pluralise
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.core.storage.datasets import from_datalist, list_datasets, load_dataset, to_datalist
from vfmalign.core.storage.deletion import (
    Deleted,
    Kind,
    delete_below,
    delete_marked,
    is_being_deleted,
    measure_below,
    record_deletion,
)
from vfmalign.core.storage.feature_sets import is_feature_set_id, read_manifest, read_unfinished
from vfmalign.core.storage.keys import (
    FEATURES,
    INCOMING,
    OUTBOX,
    STUDY_UPLOADS,
    UPLOADS,
    dataset_key,
    dataset_prefix,
    erasures_prefix,
    features_prefix,
    is_outbox_key,
    volumes_prefix,
)
from vfmalign.core.storage.model_cards import list_model_ids, load_card
from vfmalign.core.storage.provenance import read_provenance, record_provenance
from vfmalign.core.storage.store.object_store import MAX_DOCUMENT_BYTES, ObjectStore
from vfmalign.erasure.receipts import Plan, StoredErasure
from vfmalign.features.deletion import PREFIXES
from vfmalign.features.extraction.study_store import read_group
from vfmalign.features.outbox.entries import MAX_ENTRY_BYTES, OutboxEntry

_EXTRACTION_S = 3600.0
"""An uncommitted feature set of an earlier version may belong to a running extraction if an object is younger."""
_UPLOADS_EXPIRE = "of anybody: files name no patient; they are deleted when they are published or expire"


class FeaturesEraser:
    """Finds and removes everything that the feature service stores about a patient.

    Args:
        store: objects of the tenant.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def plan(self, erasure: StoredErasure) -> Plan:
        """See `Eraser`."""
        objects: list[ErasedObject] = []
        datasets, identifiers = list(erasure.receipt.datasets), list(erasure.identifiers)
        for name in list_datasets(self._store):
            try:
                dataset = self._find_dataset(name, erasure)
            except PreconditionFailed:
                objects.append(
                    _keep("dataset", name, 0, "its dataset.json cannot be read; restore it, then erase again")
                )
                continue
            if dataset is None:
                continue
            cases = list_cases(dataset, erasure)
            datasets.append(ErasedDataset(dataset_id=dataset.id, dataset_digest=dataset.digest()))
            identifiers += erasure.digest_all(ref.sha256 for case in cases for ref in dataset.images(case).values())
            objects.append(_describe_change(dataset, erasure, self._measure_cases(dataset.id, cases)))
        datasets += self._list_older_versions(erasure)
        found = erasure.joined(Plan(datasets=datasets, identifiers=identifiers))
        objects += [*self._plan_results(found), *self._list_unassignable()]
        return Plan(_add_equal(objects), datasets, identifiers)

    def _plan_results(self, erasure: StoredErasure) -> Iterator[ErasedObject]:
        """Returns what was computed from the datasets, and what waits to be stored or observed."""
        for set_id in self._list_feature_sets(erasure):
            yield _remove("feature set", set_id, measure_below(self._store, PREFIXES["features"](set_id)))
        for study in self._list_studies(erasure):
            yield _remove("stored study", "", measure_below(self._store, [features_prefix(study)]))
        for model in self._list_models(erasure):
            if erasure.receipt.models == "delete":
                yield _remove("model", model, measure_below(self._store, PREFIXES["models"](model)))
            else:
                yield _keep("model", model, 1, "the model was trained on the patient; its card keeps the group")
        prefixes, unknown_files = self._list_imports(erasure)
        for prefix in prefixes:
            import_id = prefix.split("/")[2 if prefix.startswith(INCOMING) else 1]
            if (measured := measure_below(self._store, [prefix])).objects:
                yield _remove("import", import_id, measured)
        if unknown_files:
            yield _keep("upload of imports", "", unknown_files, _UPLOADS_EXPIRE)
        for key in self._list_observations(erasure):
            yield _remove("waiting observation", key.split("/")[1], Deleted(1, self._store.size_bytes(key) or 0))

    def remove(self, erasure: StoredErasure) -> bool:
        """See `Eraser`."""
        is_complete = True
        for name in list_datasets(self._store):
            with suppress(PreconditionFailed):
                is_complete &= self._remove_cases(name, erasure)
        for name in {dataset.dataset_id for dataset in erasure.receipt.datasets}:
            remove_unused_volumes(self._store, name)
        for set_id in self._list_feature_sets(erasure):
            is_complete &= self._delete("features", set_id)
        for study in self._list_studies(erasure):
            is_complete &= self._delete("features", study)
        if erasure.receipt.models == "delete":
            for model in self._list_models(erasure):
                is_complete &= self._delete("models", model)
        for prefix in self._list_imports(erasure)[0]:
            record_deletion("imports", delete_below(self._store, [prefix]))
        for key in self._list_observations(erasure):
            self._store.delete(key)
        return is_complete

    # --- datasets ---

    def _find_dataset(self, name: str, erasure: StoredErasure) -> DatasetManifest | None:
        """Returns a dataset if it contains the patient.

        Raises:
            PreconditionFailed: it cannot be read.
        """
        try:
            dataset = load_dataset(self._store, name)
        except NotFound:  # deleted meanwhile
            return None
        return dataset if list_cases(dataset, erasure) else None

    def _list_older_versions(self, erasure: StoredErasure) -> Iterator[ErasedDataset]:
        """Returns versions of deleted or replaced datasets: feature sets and cards of trained models list patients."""
        for name in self._list_folders(is_feature_set_id):
            with suppress(NotFound, DataLoss):
                manifest = read_manifest(self._store, name)
                if any(map(erasure.matches, set(manifest.groups))):
                    request = manifest.request
                    yield ErasedDataset(dataset_id=request.dataset_id, dataset_digest=request.dataset_digest)
        for model in list_model_ids(self._store):
            with suppress(NotFound, PreconditionFailed):
                for source in load_card(self._store, model).pretraining:
                    if any(map(erasure.matches, source.groups)):
                        yield ErasedDataset(dataset_id=source.dataset_id, dataset_digest=source.dataset_digest)

    def _measure_cases(self, dataset_id: str, cases: Iterable[Case]) -> Deleted:
        prefix = volumes_prefix(dataset_id)
        return measure_below(self._store, [f"{prefix}{case.id}/" for case in cases])

    def _remove_cases(self, name: str, erasure: StoredErasure) -> bool:
        """Removes the patient's cases from a dataset; deletes a dataset without other cases.

        Returns:
            False if the dataset has changed meanwhile, or is in use and has to be deleted.
        """
        etag = self._store.get_etag(dataset_key(name))
        dataset = self._find_dataset(name, erasure)
        if dataset is None or etag is None:
            return True
        smaller = _without_patient(dataset, erasure)
        if not any(smaller.split(split) for split in SPLITS):
            return self._delete("datasets", name)
        provenance = read_provenance(self._store, dataset_prefix(name), dataset.digest())
        record_provenance(self._store, dataset_prefix(name), smaller.digest(), provenance)
        return self._store.replace(dataset_key(name), etag, canonical_json(to_datalist(smaller)))

    # --- what was computed from them ---

    def _list_feature_sets(self, erasure: StoredErasure) -> list[str]:
        """Returns the ids of feature sets of the affected versions, and of abandoned ones, which name no version."""
        versions = {(one.dataset_id, one.dataset_digest) for one in erasure.receipt.datasets}
        if not versions:
            return []
        found = []
        for name in self._list_folders(is_feature_set_id):
            try:
                request = read_manifest(self._store, name).request
            except NotFound:
                unfinished = read_unfinished(self._store, name)
                if unfinished is None:  # begun by an earlier version
                    if not self._is_young(name) or is_being_deleted(self._store, "features", name):
                        found.append(name)
                    continue
                request = unfinished
            except DataLoss:
                found.append(name)  # nobody can read it, and extraction computes it again
                continue
            if (request.dataset_id, request.dataset_digest) in versions:
                found.append(name)
        return found

    def _is_young(self, set_id: str) -> bool:
        limit = datetime.now(UTC) - timedelta(seconds=_EXTRACTION_S)
        prefix = features_prefix(set_id)
        return self._store.sizes_bytes(prefix) != self._store.sizes_bytes(prefix, before=limit)

    def _list_studies(self, erasure: StoredErasure) -> list[str]:
        return [
            name
            for name in self._list_folders(lambda name: not is_feature_set_id(name))
            if erasure.matches(read_group(self._store, name))
        ]

    def _list_folders(self, accepts: Callable[[str], bool]) -> list[str]:
        keys = self._store.list(FEATURES)
        return [name for name in dict.fromkeys(key.split("/")[1] for key in keys) if accepts(name)]

    def _list_models(self, erasure: StoredErasure) -> list[str]:
        def is_trained_on_patient(model: str) -> bool:
            try:
                card = load_card(self._store, model)
            except (NotFound, PreconditionFailed):
                return False
            return any(erasure.matches(group) for source in card.pretraining for group in source.groups)

        return [model for model in list_model_ids(self._store) if is_trained_on_patient(model)]

    # --- uploads and observations ---

    def _list_imports(self, erasure: StoredErasure) -> tuple[list[str], int]:
        """Returns prefixes of unpublished imports with the patient, and the number of files that nobody can assign.

        An import has the patient if it has a volume of the patient, or a datalist with the group.
        """
        found: dict[str, None] = {}
        unknown: defaultdict[str, int] = defaultdict(int)
        named: set[str] = set()
        for key in self._store.list(INCOMING):
            if key.startswith(STUDY_UPLOADS):
                continue
            area, _, sha256 = key.rpartition("/")
            unknown[area] += 1
            dataset = self._read_datalist(key)
            cases = [] if dataset is None else list_cases(dataset, erasure)
            if cases or erasure.has_identifier(sha256):
                found[f"{area}/"] = None
            if dataset is not None:
                named.add(area)
                if not self._store.exists(dataset_key(dataset.id)):  # an interrupted publication may have left them
                    found |= {f"{volumes_prefix(dataset.id)}{case.id}/": None for case in cases}
        files = sum(count for area, count in unknown.items() if area not in named and f"{area}/" not in found)
        return list(found), files

    def _read_datalist(self, key: str) -> DatasetManifest | None:
        """Returns the dataset of an uploaded datalist; None for another file."""
        try:
            if self._store.first(key, 1) != b"{":
                return None
            content = parse_json(self._store.get(key, max_bytes=MAX_DOCUMENT_BYTES), MAX_DOCUMENT_BYTES)
            return from_datalist(content, str(content.get("name"))) if isinstance(content, dict) else None
        except (NotFound, InvalidInput, PreconditionFailed, ValueError):
            return None

    def _list_observations(self, erasure: StoredErasure) -> list[str]:
        found = []
        for key in filter(is_outbox_key, self._store.list(OUTBOX)):
            try:
                entry = OutboxEntry.from_bytes(self._store.get(key, max_bytes=MAX_ENTRY_BYTES))
            except (NotFound, InvalidInput):
                continue
            if erasure.matches(entry.observation.study.group):
                found.append(key)
        return found

    def _list_unassignable(self) -> Iterator[ErasedObject]:
        """Returns what stays because it cannot be assigned to a patient."""
        for kind, prefix in (("uploaded study", STUDY_UPLOADS), ("uploaded array", UPLOADS)):
            if count := len(self._store.sizes_bytes(prefix)):
                yield _keep(kind, "", count, _UPLOADS_EXPIRE)
        stored = self._list_folders(lambda name: not is_feature_set_id(name))
        if count := sum(1 for name in stored if not read_group(self._store, name)):
            yield _keep("stored study", "without group", count, "stored by an earlier version; delete it by its id")
        if note := self._describe_versions():
            yield _keep("object versions", "", 0, note)

    def _describe_versions(self) -> str:
        try:
            if not any(map(self._store.has_versions, (erasures_prefix("features"), "datasets/"))):
                return ""
        except StoreRefused:
            return "unknown: allow ListBucketVersions to the keys of features, and erase again"
        return "the bucket keeps versions of deleted objects until its lifecycle rule removes them"

    def _delete(self, kind: Kind, object_id: str) -> bool:
        """Deletes an object; returns False if an unfinished operation uses it."""
        try:
            delete_marked(self._store, kind, object_id, PREFIXES[kind](object_id))
        except PreconditionFailed:
            return False
        return True


def remove_unused_volumes(store: ObjectStore, dataset_id: str) -> None:
    """Deletes each volume in the folder of a dataset that belongs to none of the dataset's cases."""
    try:
        dataset = load_dataset(store, dataset_id)
    except NotFound:
        return  # deleted with its volumes, or being published again
    kept = {ref.key for split in SPLITS for case in dataset.split(split) for ref in case.volumes.values()}
    unused = {key: size for key, size in store.sizes_bytes(volumes_prefix(dataset_id)).items() if key not in kept}
    for key in unused:
        store.delete(key)
    record_deletion("datasets", Deleted(len(unused), sum(unused.values())))


def list_cases(dataset: DatasetManifest, erasure: StoredErasure) -> list[Case]:
    """Returns the cases of the patient in all splits."""
    groups = {case.group for split in SPLITS for case in dataset.split(split)}
    erased = {group for group in groups if erasure.matches(group)}
    return [case for split in SPLITS for case in dataset.split(split) if case.group in erased]


def _without_patient(dataset: DatasetManifest, erasure: StoredErasure) -> DatasetManifest:
    erased = {case.id for case in list_cases(dataset, erasure)}
    splits: dict[str, object] = {
        split: tuple(case for case in dataset.split(split) if case.id not in erased) for split in SPLITS
    }
    chosen = {name: series for name, series in dataset.curation.chosen.items() if name not in erased}
    curation = Curation(excluded=dataset.curation.excluded, unusable=dataset.curation.unusable, chosen=chosen)
    return dataset.model_copy(update=splits | {"curation": curation})


def _describe_change(dataset: DatasetManifest, erasure: StoredErasure, volumes: Deleted) -> ErasedObject:
    smaller = _without_patient(dataset, erasure)
    counts = {split: len({case.group for case in smaller.split(split)}) for split in SPLITS}
    if not any(counts.values()):
        return _remove("dataset", dataset.id, Deleted(volumes.objects + 1, volumes.size_bytes))
    notes = [f"{split} is empty now" for split in SPLITS if dataset.split(split) and not counts[split]]
    if 0 < counts["test"] < MIN_FOR_CLAIM <= len({case.group for case in dataset.test}):
        notes.append(f"test has {pluralise(counts['test'], 'patient')}, too few for a verdict")
    return ErasedObject(
        kind="dataset",
        id=dataset.id,
        outcome="changed",
        count=volumes.objects,
        size_bytes=volumes.size_bytes,
        note="; ".join(notes),
    )


def _remove(kind: str, object_id: str, deleted: Deleted) -> ErasedObject:
    return ErasedObject(
        kind=kind, id=object_id, outcome="removed", count=deleted.objects, size_bytes=deleted.size_bytes
    )


def _keep(kind: str, object_id: str, count: int, note: str) -> ErasedObject:
    return ErasedObject(kind=kind, id=object_id, outcome="kept", count=count, note=note)


def _add_equal(objects: Sequence[ErasedObject]) -> list[ErasedObject]:
    """Returns one entry for all objects of a kind with the same id, such as observations of one monitor."""
    joined: dict[tuple[str, str], ErasedObject] = {}
    for one in objects:
        known = joined.setdefault((one.kind, one.id), one)
        if known is not one:
            numbers = {"count": known.count + one.count, "size_bytes": known.size_bytes + one.size_bytes}
            joined[one.kind, one.id] = known.model_copy(update=numbers)
    return list(joined.values())
