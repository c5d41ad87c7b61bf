"""Datasets of phantoms in object storage. Equal seeds and counts give equal bytes, hence equal dataset digests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from vfmalign.core.domain.datasets import SPLITS, Case, DatasetManifest, Split, VolumeRef
from vfmalign.core.domain.declarations import VolumeKind, get_declaration
from vfmalign.core.domain.errors import BadDataset, Conflict
from vfmalign.core.storage.datasets import load_dataset, save_dataset
from vfmalign.core.storage.keys import dataset_key, volume_key
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.imaging.phantoms.rendering import PhantomSpec, generate_case
from vfmalign.imaging.volumes import encode

ProgressCallback = Callable[[str, int, int], None]

SPLIT_STRIDE = 1_000_000
"""Case indices of a split start at its position in `SPLITS` times this number, so that the size of one split does not
change the cases of another.
"""


def synthesise_dataset(
    store: ObjectStore,
    dataset_id: str,
    seed: int,
    counts: Mapping[Split, int],
    *,
    progress: ProgressCallback | None = None,
    spec: PhantomSpec | None = None,
) -> DatasetManifest:
    """Generate a dataset of phantoms with one patient per case, and upload it.

    Args:
        store: the deployment's object storage.
        dataset_id: the dataset's id.
        seed: seed of the whole set.
        counts: number of cases in each split.
        progress: called as `progress("generate", done, total)` after every case.
        spec: see `rendering.PhantomSpec`.

    Returns:
        The dataset. If it exists with the same content, nothing is written.

    Raises:
        BadDataset: no case is requested, or more than `SPLIT_STRIDE` in a split.
        Conflict: the dataset exists with different content.
    """
    total = sum(counts.values())
    if total < 1 or any(not 0 <= count <= SPLIT_STRIDE for count in counts.values()):
        raise BadDataset(
            "the number of cases is negative, too large, or 0 in every split",
            field="counts",
            remedy=f"use 0 to {SPLIT_STRIDE} cases a split, and at least one in all",
        )
    # If the dataset exists, volumes are only compared: writing them could damage a different dataset with the same id.
    exists = store.exists(dataset_key(dataset_id))
    done = 0
    lists: dict[str, list[Case]] = {}
    for place, name in enumerate(SPLITS):
        for number in range(counts.get(name, 0)):
            case_id, volumes = _encoded_case(seed, place * SPLIT_STRIDE + number, spec)
            refs = {}
            for kind, data in volumes.items():
                ref = VolumeRef(key=volume_key(dataset_id, case_id, kind), sha256=hashlib.sha256(data).hexdigest())
                refs[kind] = ref if exists else store.put(ref.key, data)
            lists.setdefault(name, []).append(Case(id=case_id, group=case_id, volumes=refs))
            done += 1
            if progress is not None:
                progress("generate", done, total)
    content = {"id": dataset_id, "phantom": True, "declaration": get_declaration("prostate_mpmri"), **lists}
    dataset = DatasetManifest.model_validate(content)
    if not exists:
        save_dataset(store, dataset)
    elif load_dataset(store, dataset_id).digest() != dataset.digest():
        raise Conflict(
            "the dataset exists with different content",
            subject=f"dataset {dataset_id}",
            remedy="choose another dataset id",
        )
    return dataset


def _encoded_case(seed: int, index: int, spec: PhantomSpec | None) -> tuple[str, dict[VolumeKind, bytes]]:
    case = generate_case(seed, index, spec)
    return f"phantom-{seed}-{index:07d}", {kind: encode(volume) for kind, volume in sorted(case.volumes.items())}
