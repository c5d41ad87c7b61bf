"""Datasets of phantoms in object storage.

Knows phantoms, ids and the datalist. Knows nothing of gRPC or models. The same seed and counts give the same bytes,
hence the same dataset digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from vfmalign.core.domain.artifacts import SPLITS, Case, Dataset, Split, VolumeKind, VolumeRef, dataset_key, volume_key
from vfmalign.core.domain.errors import BadDataset, Conflict
from vfmalign.core.storage.datasets import load_dataset, save_dataset
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.imaging.phantoms.rendering import PhantomSpec, generate_case
from vfmalign.imaging.volumes import encode

Progress = Callable[[str, int, int], None]

SPLIT_STRIDE = 1_000_000
"""Indices of a split start at its place in `SPLITS` times this: its size leaves the other splits' cases alone."""


def synthesise_dataset(
    store: ObjectStore,
    dataset_id: str,
    seed: int,
    counts: Mapping[Split, int],
    *,
    progress: Progress | None = None,
    spec: PhantomSpec | None = None,
) -> Dataset:
    """Generates a dataset of phantoms, one patient a case, and uploads it.

    Args:
        store: where the volumes and the datalist go.
        dataset_id: the dataset's id.
        seed: of the whole set.
        counts: number of cases in each split.
        progress: called as `progress("generate", done, total)` after every case.
        spec: see `phantoms.PhantomSpec`.

    Returns:
        The dataset; where it exists with the same content nothing is written.

    Raises:
        BadDataset: no case is asked for, or more than `SPLIT_STRIDE` in a split.
        Conflict: the dataset exists with other content.
    """
    total = sum(counts.values())
    if total < 1 or any(not 0 <= count <= SPLIT_STRIDE for count in counts.values()):
        raise BadDataset("the numbers of cases must be 0 or more, and one of them at least 1", field="counts")
    # An existing dataset's volumes are only compared: writing first would damage another set of the same id.
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
    dataset = Dataset.model_validate({"id": dataset_id, "phantom": True, **lists})
    if not exists:
        save_dataset(store, dataset)
    elif load_dataset(store, dataset_id).digest() != dataset.digest():
        raise Conflict("exists with other content", subject=f"dataset {dataset_id}", remedy="choose another dataset id")
    return dataset


def _encoded_case(seed: int, index: int, spec: PhantomSpec | None) -> tuple[str, dict[VolumeKind, bytes]]:
    case = generate_case(seed, index, spec)
    return f"phantom-{seed}-{index:07d}", {kind: encode(volume) for kind, volume in sorted(case.volumes.items())}
