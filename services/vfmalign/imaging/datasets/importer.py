"""A user's folder of NIfTI files to a dataset in object storage that names no patient.

Knows the order of an import: find, name, split, validate, upload. Knows nothing of gRPC or models. Volumes are decoded,
checked and written anew, which leaves every text field of their headers behind; nothing is uploaded before every case
has passed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfmalign.core.domain.artifacts import SPLITS, Case, Dataset, Split, VolumeKind, VolumeRef, dataset_key, volume_key
from vfmalign.core.domain.errors import BadDataset, BadVolume, Conflict, VfmalignError
from vfmalign.core.storage.datasets import check_splits, load_dataset, save_dataset
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.imaging.datasets.folders import FoundCase, scan_folder
from vfmalign.imaging.datasets.identities import keyed_id, write_mapping
from vfmalign.imaging.datasets.splits import DEFAULT_SHARES, split_groups
from vfmalign.imaging.grid import check_study
from vfmalign.imaging.volumes import MAX_ENCODED_BYTES, Volume, decode, encode

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)` with the stage `validate` or `upload`, in cases."""

_MAX_LISTED = 5


@dataclass(frozen=True)
class _NamedCase:
    """A found case and the ids it goes by from here on."""

    case: str
    group: str
    found: FoundCase


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
    progress: Progress | None = None,
) -> Dataset:
    """Makes a dataset of a folder and uploads it.

    Args:
        directory: see `folders.scan_folder`.
        store: where the volumes and the datalist go.
        dataset_id: the new dataset's id.
        mapping_path: local file that says which id is whose (mode 0600); rows of other datasets in it are kept.
        salt: the machine's secret, see `identities.load_salt`.
        shares: share of the patients in each split; `splits.DEFAULT_SHARES` for None.
        splits: split of each folder instead, see `folders.read_splits`.
        patients: see `folders.scan_folder`.
        seed: of the split.
        progress: called after every case of each stage.

    Returns:
        The dataset. A single patient stands in train, val and test alike and the dataset is marked as not held out.

    Raises:
        BadDataset: cases that cannot be used (by generated id and modality), or splits that cannot be made.
        Conflict: the dataset exists with other content.
    """
    report = progress or (lambda stage, done, total: None)
    cases = [_named(found, dataset_id, salt) for found in scan_folder(directory, patients)]
    assigned = _assign(cases, shares, splits, seed)
    rows = [(dataset_id, n.case, n.group, n.found.folder, n.found.patient) for n in cases]
    write_mapping(mapping_path, dataset_id, rows)
    dataset = _dataset(dataset_id, cases, assigned, _validate(cases, dataset_id, report))
    check_splits(dataset)
    if store.exists(dataset_key(dataset_id)):
        if load_dataset(store, dataset_id).digest() == dataset.digest():
            return dataset
        raise Conflict("exists with other content", subject=f"dataset {dataset_id}", remedy="choose another dataset id")
    expected = {ref.key: ref for name in SPLITS for case in dataset.split(name) for ref in case.volumes.values()}
    for done, named in enumerate(cases, start=1):
        for kind in named.found.files:
            key = volume_key(dataset_id, named.case, kind)
            if store.put(key, encode(_read(named, kind))) != expected[key]:
                raise BadDataset(
                    "a file changed during the import", subject=f"{named.case}/{kind}", remedy="run it again"
                )
        report("upload", done, len(cases))
    save_dataset(store, dataset)
    return dataset


def _named(found: FoundCase, dataset_id: str, salt: bytes) -> _NamedCase:
    case = "c-" + keyed_id(salt, "case", dataset_id, found.folder)
    return _NamedCase(case, "g-" + keyed_id(salt, "group", found.patient), found)


def _assign(
    cases: Sequence[_NamedCase], shares: Mapping[Split, float] | None, splits: Mapping[str, Split] | None, seed: int
) -> dict[Split, list[_NamedCase]]:
    """The cases of each split, ordered by id."""
    ordered = sorted(cases, key=lambda named: named.case)
    groups = {named.group for named in cases}
    if splits is None and len(groups) == 1:
        return {"train": ordered, "val": ordered, "test": ordered}
    if splits is None:
        by_group = split_groups(groups, shares or DEFAULT_SHARES, seed)
    else:
        folders = {named.found.folder for named in cases}
        missing, unknown = len(folders - set(splits)), len(set(splits) - folders)
        if missing or unknown:
            raise BadDataset(
                f"the splits leave out {missing} case folders and name {unknown} that do not exist", field="splits"
            )
        by_group = {named.group: splits[named.found.folder] for named in cases}
        if torn := [n.case for n in ordered if by_group[n.group] != splits[n.found.folder]]:
            raise BadDataset(
                f"one patient's cases stand in two splits ({torn[0]} and others of its patient)",
                field="splits",
                remedy="give all cases of a patient one split",
            )
    assigned: dict[Split, list[_NamedCase]] = {}
    for named in ordered:
        assigned.setdefault(by_group[named.group], []).append(named)
    return assigned


def _dataset(
    dataset_id: str,
    cases: Sequence[_NamedCase],
    assigned: Mapping[Split, Sequence[_NamedCase]],
    refs: Mapping[str, dict[VolumeKind, VolumeRef]],
) -> Dataset:
    records = {named.case: Case(id=named.case, group=named.group, volumes=refs[named.case]) for named in cases}
    lists = {name: tuple(records[named.case] for named in members) for name, members in assigned.items()}
    held_out = sum(len(members) for members in lists.values()) == len(cases)
    return Dataset.model_validate({"id": dataset_id, "held_out": held_out, **lists})


def _validate(cases: Sequence[_NamedCase], dataset_id: str, report: Progress) -> dict[str, dict[VolumeKind, VolumeRef]]:
    """Checks every case and returns the references that its volumes will have."""
    refs: dict[str, dict[VolumeKind, VolumeRef]] = {}
    problems: list[str] = []
    for done, named in enumerate(cases, start=1):
        problems += [f"{named.case}: {problem}" for problem in named.found.problems]
        if not named.found.problems:
            try:
                refs[named.case] = _check_case(named, dataset_id)
            except VfmalignError as error:
                problems.append(str(error))
        report("validate", done, len(cases))
    if problems:
        more = f" | and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
        raise BadDataset(
            " | ".join(problems[:_MAX_LISTED]) + more,
            subject=f"dataset {dataset_id}",
            remedy="nothing was uploaded; the local mapping file says which folder an id is",
        )
    return refs


def _check_case(named: _NamedCase, dataset_id: str) -> dict[VolumeKind, VolumeRef]:
    volumes = {kind: _read(named, kind) for kind in sorted(named.found.files)}
    check_study(volumes, named.case)
    if "gland" in volumes and not volumes["gland"].array_XYZ.any():
        raise BadVolume("the gland mask is empty", subject=f"{named.case}/gland", remedy="leave it out or draw it")
    return {
        kind: VolumeRef(key=volume_key(dataset_id, named.case, kind), sha256=hashlib.sha256(encode(volume)).hexdigest())
        for kind, volume in volumes.items()
    }


def _read(named: _NamedCase, kind: VolumeKind) -> Volume:
    name = f"{named.case}/{kind}"
    path = named.found.files[kind]
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_ENCODED_BYTES else None
    except OSError as error:
        # The error's own text holds the path.
        raise BadVolume(f"cannot be read ({error.strerror or 'unknown reason'})", subject=name) from None
    if data is None:
        raise BadVolume(f"larger than {MAX_ENCODED_BYTES // 2**20} MiB", subject=name, remedy="crop it first")
    return decode(data, name, kind)
