"""Import of a folder of NIfTI files as a dataset that contains no patient names.

The steps are discovery, pseudonymisation, splitting, validation and upload. Volumes are decoded, checked and encoded
again, which drops every text field of their headers. Nothing is uploaded before every case has passed validation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfmalign.core.domain.datasets import SPLITS, Case, DatasetManifest, Split, VolumeRef
from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.errors import BadDataset, BadVolume, Conflict, VfmalignError
from vfmalign.core.storage.datasets import check_splits, load_dataset, save_dataset
from vfmalign.core.storage.keys import dataset_key, volume_key
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.imaging.datasets.folders import CaseFolder, scan_folder
from vfmalign.imaging.datasets.identities import keyed_id, write_mapping
from vfmalign.imaging.datasets.splits import DEFAULT_SHARES, split_groups
from vfmalign.imaging.grid import check_study
from vfmalign.imaging.volumes import MAX_ENCODED_BYTES, Volume, decode, encode

ProgressCallback = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)` with the stage `validate` or `upload`, counting cases."""

_MAX_LISTED = 5


@dataclass(frozen=True)
class _PseudonymousCase:
    """A case on disk with the ids that replace its names in everything that is written."""

    id: str
    group: str
    source: CaseFolder


def import_folder(
    directory: Path,
    store: ObjectStore,
    dataset_id: str,
    *,
    mapping_path: Path,
    salt: bytes,
    shares: Mapping[Split, float] | None = None,
    splits: Mapping[str, Split] | None = None,
    patients: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> DatasetManifest:
    """Create a dataset from a folder and upload it.

    Args:
        directory: see `folders.scan_folder`.
        store: the deployment's object storage.
        dataset_id: id of the new dataset.
        mapping_path: local file that maps ids to patients (mode 0600); rows of other datasets are kept.
        salt: the machine's secret, see `identities.load_salt`.
        shares: share of the patients in each split; `splits.DEFAULT_SHARES` for None.
        splits: split of each folder, in place of `shares`; see `folders.read_splits`.
        patients: see `folders.scan_folder`.
        seed: seed of the split.
        progress: called after every case of each stage.

    Returns:
        The dataset. A single patient is placed in train, val and test alike, and the dataset is marked as not held out.

    Raises:
        BadDataset: cases cannot be used (listed by generated id and modality), or the splits cannot be made.
        Conflict: the dataset exists with different content.
    """
    report = progress or (lambda stage, done, total: None)
    cases = [_pseudonymise(source, dataset_id, salt) for source in scan_folder(directory, patients)]
    assigned = _assign_splits(cases, shares, splits, seed)
    rows = [(dataset_id, case.id, case.group, case.source.folder, case.source.patient) for case in cases]
    # Written before validation: its errors name cases by id, and the user looks the folder up in this file.
    write_mapping(mapping_path, dataset_id, rows)
    dataset = _build_dataset(dataset_id, cases, assigned, _validate(cases, dataset_id, report))
    check_splits(dataset)
    if store.exists(dataset_key(dataset_id)) and load_dataset(store, dataset_id).digest() != dataset.digest():
        raise Conflict(
            "the dataset exists with different content",
            subject=f"dataset {dataset_id}",
            remedy="choose another dataset id",
        )
    # An existing dataset is uploaded again: this restores volumes that were lost or damaged since.
    _upload(store, dataset, cases, report)
    save_dataset(store, dataset)
    return dataset


def _upload(
    store: ObjectStore, dataset: DatasetManifest, cases: Sequence[_PseudonymousCase], report: ProgressCallback
) -> None:
    """Upload all volumes, reading the files again and checking that they are those that were validated."""
    expected = {ref.key: ref for name in SPLITS for case in dataset.split(name) for ref in case.volumes.values()}
    for done, case in enumerate(cases, start=1):
        for kind in case.source.files:
            key = volume_key(dataset.id, case.id, kind)
            if store.put(key, encode(_read(case, kind))) != expected[key]:
                raise BadDataset(
                    "a file changed during the import", subject=f"{case.id}/{kind}", remedy="run the import again"
                )
        report("upload", done, len(cases))


def _pseudonymise(source: CaseFolder, dataset_id: str, salt: bytes) -> _PseudonymousCase:
    # Case ids belong to one dataset; group ids do not, so that one patient is recognised in several datasets.
    case_id = "c-" + keyed_id(salt, "case", dataset_id, source.folder)
    return _PseudonymousCase(case_id, "g-" + keyed_id(salt, "group", source.patient), source)


def _assign_splits(
    cases: Sequence[_PseudonymousCase],
    shares: Mapping[Split, float] | None,
    splits: Mapping[str, Split] | None,
    seed: int,
) -> dict[Split, list[_PseudonymousCase]]:
    """Cases of each split, ordered by id."""
    ordered = sorted(cases, key=lambda case: case.id)
    groups = {case.group for case in cases}
    if splits is None and len(groups) == 1:
        return {"train": ordered, "val": ordered, "test": ordered}
    if splits is None:
        by_group = split_groups(groups, shares or DEFAULT_SHARES, seed)
    else:
        folders = {case.source.folder for case in cases}
        missing, unknown = len(folders - set(splits)), len(set(splits) - folders)
        if missing or unknown:
            raise BadDataset(
                f"the splits leave out {missing} case folders and name {unknown} that do not exist", field="splits"
            )
        by_group = {case.group: splits[case.source.folder] for case in cases}
        if divided := [case.id for case in ordered if by_group[case.group] != splits[case.source.folder]]:
            raise BadDataset(
                f"the cases of one patient are in different splits ({divided[0]} and others of its patient)",
                field="splits",
                remedy="put all cases of a patient into one split",
            )
    assigned: dict[Split, list[_PseudonymousCase]] = {}
    for case in ordered:
        assigned.setdefault(by_group[case.group], []).append(case)
    return assigned


def _build_dataset(
    dataset_id: str,
    cases: Sequence[_PseudonymousCase],
    assigned: Mapping[Split, Sequence[_PseudonymousCase]],
    refs: Mapping[str, dict[VolumeKind, VolumeRef]],
) -> DatasetManifest:
    records = {case.id: Case(id=case.id, group=case.group, volumes=refs[case.id]) for case in cases}
    lists = {name: tuple(records[case.id] for case in members) for name, members in assigned.items()}
    held_out = sum(len(members) for members in lists.values()) == len(cases)
    return DatasetManifest.model_validate({"id": dataset_id, "held_out": held_out, **lists})


def _validate(
    cases: Sequence[_PseudonymousCase], dataset_id: str, report: ProgressCallback
) -> dict[str, dict[VolumeKind, VolumeRef]]:
    """Check every case and return the references of its future volumes."""
    refs: dict[str, dict[VolumeKind, VolumeRef]] = {}
    problems: list[str] = []
    for done, case in enumerate(cases, start=1):
        problems += [f"{case.id}: {problem}" for problem in case.source.problems]
        if not case.source.problems:
            try:
                refs[case.id] = _check_case(case, dataset_id)
            except VfmalignError as error:
                problems.append(str(error))
        report("validate", done, len(cases))
    if problems:
        more = f" | and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
        raise BadDataset(
            " | ".join(problems[:_MAX_LISTED]) + more,
            subject=f"dataset {dataset_id}",
            remedy="nothing was uploaded; correct these cases, whose folders are listed in the local mapping file",
        )
    return refs


def _check_case(case: _PseudonymousCase, dataset_id: str) -> dict[VolumeKind, VolumeRef]:
    volumes = {kind: _read(case, kind) for kind in sorted(case.source.files)}
    check_study(volumes, case.id)
    if "gland" in volumes and not volumes["gland"].array_XYZ.any():
        raise BadVolume("the gland mask is empty", subject=f"{case.id}/gland", remedy="remove or redraw it")
    return {
        kind: VolumeRef(key=volume_key(dataset_id, case.id, kind), sha256=hashlib.sha256(encode(volume)).hexdigest())
        for kind, volume in volumes.items()
    }


def _read(case: _PseudonymousCase, kind: VolumeKind) -> Volume:
    name = f"{case.id}/{kind}"
    path = case.source.files[kind]
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_ENCODED_BYTES else None
    except OSError as error:
        # The error's own message contains the path.
        raise BadVolume(f"cannot be read ({error.strerror or 'unknown reason'})", subject=name) from None
    if data is None:
        raise BadVolume(f"larger than {MAX_ENCODED_BYTES // 2**20} MiB", subject=name, remedy="crop the series first")
    return decode(data, name, kind)
