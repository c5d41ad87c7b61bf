"""Import of a dataset from disk into object storage, without patients' names.

Volumes are decoded, checked and encoded again, which drops every text field of their headers. Nothing is uploaded
before every case has passed validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vfmalign.core.domain.datasets import SPLITS, DatasetManifest
from vfmalign.core.domain.errors import BadDataset, Conflict
from vfmalign.core.storage.datasets import load_dataset, save_dataset
from vfmalign.core.storage.keys import dataset_key, volume_key
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.imaging.datasets.identities import write_mapping
from vfmalign.imaging.datasets.preparation import (
    DiscoveredDataset,
    ImportOptions,
    ProgressCallback,
    discover,
    prepare,
    read_volumes,
)
from vfmalign.imaging.volumes import encode

_MAX_LISTED = 1_000


def import_dataset(
    path: Path,
    store: ObjectStore,
    dataset_id: str,
    options: ImportOptions | None = None,
    *,
    mapping_path: Path,
    salt: bytes,
    progress: ProgressCallback | None = None,
) -> DatasetManifest:
    """Create a dataset from a folder or a CSV file and upload it.

    Args:
        path: see `layouts.LAYOUTS`.
        store: the deployment's object storage.
        dataset_id: id of the new dataset.
        options: layout, declaration, splits and patients.
        mapping_path: local file that maps ids to patients (mode 0600); rows of other datasets are kept.
        salt: the machine's secret, see `identities.load_salt`.
        progress: called after every case of each stage.

    Returns:
        The dataset. A single patient is placed in train, val and test alike, and the dataset is marked as not held out.

    Raises:
        BadDataset: cases cannot be used (listed by generated id or line), or the splits cannot be made.
        Conflict: the dataset exists with different content.
    """
    chosen = options or ImportOptions()
    discovered = discover(path, dataset_id, salt, chosen)
    return import_discovered(discovered, store, dataset_id, chosen, mapping_path=mapping_path, progress=progress)


def import_discovered(
    discovered: DiscoveredDataset,
    store: ObjectStore,
    dataset_id: str,
    options: ImportOptions,
    *,
    mapping_path: Path,
    progress: ProgressCallback | None = None,
) -> DatasetManifest:
    """Create a dataset from cases that were discovered, and upload it; see `import_dataset`."""
    report = progress or (lambda stage, done, total: None)
    rows = [(dataset_id, case.id, case.group, case.source.name, case.patient) for case in discovered.cases]
    # Written before validation: its errors name cases by id, and the user looks the folder up in this file.
    write_mapping(mapping_path, dataset_id, rows)
    prepared = prepare(discovered, dataset_id, options, report)
    if prepared.problems:
        raise _list_problems(prepared.problems, dataset_id)
    dataset = prepared.dataset
    if store.exists(dataset_key(dataset_id)) and load_dataset(store, dataset_id).digest() != dataset.digest():
        raise Conflict(
            "the dataset exists with different content",
            subject=f"dataset {dataset_id}",
            remedy="choose another dataset id",
        )
    # An existing dataset is uploaded again: this restores volumes that were lost or damaged since.
    _upload(store, dataset, discovered, report)
    save_dataset(store, dataset)
    return dataset


def _upload(
    store: ObjectStore, dataset: DatasetManifest, discovered: DiscoveredDataset, report: ProgressCallback
) -> None:
    """Upload all volumes, reading the files again and checking that they are those that were validated."""
    expected = {ref.key: ref for name in SPLITS for case in dataset.split(name) for ref in case.volumes.values()}
    for done, case in enumerate(discovered.cases, start=1):
        for kind, volume in read_volumes(case, dataset.declaration).items():
            key = volume_key(dataset.id, case.id, kind)
            if store.put(key, encode(volume)) != expected[key]:
                raise BadDataset(
                    "a file changed during the import", subject=f"{case.id}/{kind}", remedy="run the import again"
                )
        report("upload", done, len(discovered.cases))


def _list_problems(problems: Sequence[str], dataset_id: str) -> BadDataset:
    more = f" | and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
    return BadDataset(
        " | ".join(problems[:_MAX_LISTED]) + more,
        subject=f"dataset {dataset_id}",
        remedy="nothing was uploaded; correct these cases, whose folders are listed in the local mapping file",
    )
