"""Publication of an uploaded dataset.

All volumes are decoded and checked before the first volume is stored. The checks are the same as in the client's
import. The datalist is written last and commits the dataset. Several processes may publish the same id at once.
Therefore, volumes are replaced only if their dataset is committed and the import restores it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from vfmalign.core.domain.datasets import SPLITS, Case, DatasetManifest
from vfmalign.core.domain.declarations import LabelMap, VolumeKind
from vfmalign.core.domain.errors import (
    BadDataset,
    BadOption,
    Conflict,
    DigestMismatch,
    InvalidInput,
    NotFound,
    PreconditionFailed,
)
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.core.storage.datasets import check_splits, from_datalist, load_dataset, save_dataset, to_datalist
from vfmalign.core.storage.deletion import check_not_deleted
from vfmalign.core.storage.keys import dataset_key, dataset_prefix, volume_key
from vfmalign.core.storage.provenance import Provenance, record_provenance
from vfmalign.core.storage.store.object_store import MAX_DOCUMENT_BYTES, ObjectStore
from vfmalign.core.storage.uploads import UploadArea
from vfmalign.features.erasure import discard
from vfmalign.imaging.datasets.label_maps import check_label_map
from vfmalign.imaging.dicom.rules import parse_selections
from vfmalign.imaging.grid import check_study
from vfmalign.imaging.volumes import MAX_ENCODED_BYTES, Volume, check_encoding, check_study_size, decode

_IMPORT = "import the dataset with `vfmalign dataset import`"
Report = Callable[[str, int, int], None]
"""Called as `report(phase, done, total)`."""


def publish_dataset(
    uploads: UploadArea,
    dataset_id: str,
    datalist_sha256: str,
    report: Report,
    context: WorkContext,
    *,
    check_patients: Callable[[DatasetManifest], None],
    created_by: str = "",
) -> DatasetManifest:
    """Checks and stores an uploaded dataset.

    Args:
        uploads: uploads that contain the datalist and every volume that the datalist names.
        dataset_id: id of the dataset.
        datalist_sha256: digest of the datalist.
        report: called after every case in the phases `verify` and `publish`.
        context: checked before every volume.
        check_patients: raises PreconditionFailed if a patient was erased.
        created_by: `Identity.key` of the caller.

    Returns:
        The dataset. If an earlier call published the dataset and deleted its uploads, nothing is read or written.

    Raises:
        BadDataset: the datalist does not have the format that an import writes.
        BadVolume: a volume is unusable. The error names the generated id of the case and the kind of the volume.
        Conflict: the dataset exists with different content, or another publication of its id stored a different volume.
        PreconditionFailed: a file was not uploaded, or its content differs; or a patient was erased.
        Unavailable: a dataset with this id is being deleted.
    """
    store = uploads.store
    data = uploads.find(datalist_sha256, MAX_DOCUMENT_BYTES)
    if data is None:
        if not _is_published(store, dataset_id, datalist_sha256):
            raise uploads.missing(datalist_sha256)
        return load_dataset(store, dataset_id)
    dataset = parse_datalist(data, dataset_id)
    try:
        check_patients(dataset)
    except PreconditionFailed:
        uploads.clear(datalist_sha256)
        raise
    check_not_deleted(store, "datasets", dataset_id)
    is_committed = _check_id_is_free(store, dataset)
    cases = list({case.id: case for split in SPLITS for case in dataset.split(split)}.values())
    for done, case in enumerate(cases, start=1):
        _check_case(uploads, dataset, case, context)
        report("verify", done, len(cases))
    try:
        _store_volumes(uploads, dataset, cases, report, context, replace=is_committed)
        check_not_deleted(store, "datasets", dataset_id)  # its deletion may have begun meanwhile
        if not is_committed:
            record_provenance(store, dataset_prefix(dataset_id), dataset.digest(), Provenance.of(created_by))
        save_dataset(store, dataset)
    finally:
        try:
            check_patients(dataset)
        except PreconditionFailed:
            discard(store, dataset, is_new=not is_committed)
            raise
    uploads.clear(datalist_sha256)
    return dataset


def _store_volumes(
    uploads: UploadArea,
    dataset: DatasetManifest,
    cases: Sequence[Case],
    report: Report,
    context: WorkContext,
    *,
    replace: bool,
) -> None:
    for done, case in enumerate(cases, start=1):
        for ref in case.volumes.values():
            context.checkpoint()
            # Copied by this process, not by the store: the client might replace an upload after its check.
            data = uploads.read(ref.sha256, MAX_ENCODED_BYTES)
            if replace:
                uploads.store.put(ref.key, data)
            else:
                _add_volume(uploads.store, dataset.id, ref, data)
        report("publish", done, len(cases))


def parse_datalist(data: bytes, dataset_id: str) -> DatasetManifest:
    """Parses a client's datalist, which must have the canonical form in which datalists are stored.

    Raises:
        BadDataset: the datalist is not canonical, its DICOM rules are unusable, its splits overlap, or the keys of a
            case do not match its id.
    """
    subject = f"dataset {dataset_id}"
    try:
        dataset = from_datalist(parse_json(data, MAX_DOCUMENT_BYTES), dataset_id)
    except PreconditionFailed as error:
        raise BadDataset(error.message, subject=subject, remedy="write it as docs/datasets.md says") from None
    except ValueError:
        raise BadDataset("the datalist is not JSON", subject=subject, remedy="upload a datalist") from None
    if canonical_json(to_datalist(dataset)) != data:
        raise BadDataset(
            "the datalist has unknown fields, or is not canonical JSON",
            subject=subject,
            remedy="write it with `vfmalign dataset import`, or as described in docs/datasets.md",
        )
    if dataset.selections:
        try:
            parse_selections(dataset.selections, dataset.declaration)
        except BadOption as error:
            raise BadDataset(
                f"{error.field}: {error.message}", subject=subject, remedy=error.remedy or _IMPORT
            ) from None
    check_splits(dataset)
    first: dict[str, Case] = {}
    for case in (case for split in SPLITS for case in dataset.split(split)):
        keys = {kind: volume_key(dataset_id, case.id, kind) for kind in case.volumes}
        if {kind: ref.key for kind, ref in case.volumes.items()} != keys or first.setdefault(case.id, case) != case:
            raise BadDataset(
                f"the volume keys of case {case.id} do not match its id, or the case differs between splits",
                subject=subject,
                remedy="name volumes `volumes/<dataset>/<case>/<kind>.nii.gz`, and repeat a case without changes",
            )
    return dataset


def _is_published(store: ObjectStore, dataset_id: str, datalist_sha256: str) -> bool:
    try:
        data = store.get(dataset_key(dataset_id), max_bytes=MAX_DOCUMENT_BYTES)
    except NotFound:
        return False
    return hashlib.sha256(data).hexdigest() == datalist_sha256


def _check_id_is_free(store: ObjectStore, dataset: DatasetManifest) -> bool:
    """Rejects the id of another dataset; returns whether the dataset is committed, to restore its volumes."""
    if not store.exists(dataset_key(dataset.id)):
        return False
    dataset.check_is_stored(load_dataset(store, dataset.id).digest())
    return True


def _add_volume(store: ObjectStore, dataset_id: str, ref: StoredObject, data: bytes) -> None:
    """Stores a volume of an uncommitted dataset; another publication may have committed its id meanwhile."""
    if store.put_if_absent(ref.key, data):
        return
    try:
        store.get(ref.key, sha256=ref.sha256, max_bytes=len(data))
    except (DigestMismatch, InvalidInput):
        raise Conflict(
            "another running or interrupted publication of this id stored different volumes",
            subject=f"dataset {dataset_id}",
            remedy=f"choose another dataset id, or ask an operator whether volumes/{dataset_id}/ can be deleted",
        ) from None


def _check_case(uploads: UploadArea, dataset: DatasetManifest, case: Case, context: WorkContext) -> None:
    """Checks the volumes of a case, with two of them in memory at a time."""
    declaration = dataset.declaration
    labels = {label.name: label for label in declaration.labels}
    reference = declaration.modalities[0]
    study: dict[str, Volume] = {}
    sizes_bytes: list[int] = []
    for kind in sorted(case.volumes, key=lambda kind: (kind != reference, kind)):
        context.checkpoint()
        study = {name: first for name, first in study.items() if name == reference}
        study[kind] = _read_volume(uploads, case, kind, labels.get(kind), context)
        sizes_bytes.append(study[kind].size_bytes)
        check_study_size(sizes_bytes, case.id)
        check_study(study, reference, case.id)
    if not case.volumes:
        check_study({}, reference, case.id)


def _read_volume(
    uploads: UploadArea, case: Case, kind: VolumeKind, label: LabelMap | None, context: WorkContext
) -> Volume:
    name = f"{case.id}/{kind}"
    data = uploads.read(case.volumes[kind].sha256, MAX_ENCODED_BYTES)
    volume = decode(data, name, kind, is_label=label is not None, context=context)
    check_encoding(data, volume, name)
    if label is not None:
        check_label_map(volume, label, name)
    return volume
