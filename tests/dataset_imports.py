"""Imports of datasets into a store at hand: what the client does, then what the feature service does."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from vfmalign.cli.imports import to_stored_datalist
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.runtime.work_context import UNLIMITED
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.uploads import UploadArea
from vfmalign.features.erasure import check_not_erased, make_erasures
from vfmalign.features.imports.datasets import publish_dataset
from vfmalign.imaging.datasets.discovery import DiscoveredDataset, ImportOptions
from vfmalign.imaging.datasets.importer import DatasetToImport, prepare_discovered, prepare_import
from vfmalign.imaging.datasets.layouts.sources import ProgressCallback


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
    """Imports a folder or a CSV file."""
    checked = prepare_import(path, dataset_id, options, mapping_path=mapping_path, salt=salt, progress=progress)
    return publish(checked, store, progress)


def import_discovered(
    discovered: DiscoveredDataset, store: ObjectStore, dataset_id: str, options: ImportOptions, *, mapping_path: Path
) -> DatasetManifest:
    """Imports cases that were discovered."""
    return publish(prepare_discovered(discovered, dataset_id, options, mapping_path=mapping_path), store)


def publish(
    checked: DatasetToImport,
    store: ObjectStore,
    progress: ProgressCallback | None = None,
    import_id: str = "import-1",
) -> DatasetManifest:
    """Uploads and publishes a checked dataset."""
    uploads = UploadArea(store, "https://idp.example#ada", import_id)
    report = progress or (lambda stage, done, total: None)
    for done, volumes in enumerate(checked.encode_cases(), start=1):
        for data in volumes:
            upload(uploads, data)
        report("upload", done, len(checked.discovered.cases))
    datalist_sha256 = upload(uploads, to_stored_datalist(checked.dataset))
    check_patients = partial(check_not_erased, make_erasures(store))
    return publish_dataset(
        uploads, checked.dataset.id, datalist_sha256, report, UNLIMITED, check_patients=check_patients
    )


def upload(uploads: UploadArea, data: bytes) -> str:
    """Stores a file as a client's upload; returns its digest."""
    sha256 = hashlib.sha256(data).hexdigest()
    uploads.store.put(uploads.key(sha256), data)
    return sha256
