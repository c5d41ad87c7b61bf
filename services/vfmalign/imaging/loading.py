"""A stored case's volumes, read back verified.

Knows the object store's API and `volumes`. Knows nothing of grids or tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

from vfmalign.core.artifacts import Case, VolumeKind
from vfmalign.core.errors import NotFound
from vfmalign.core.store import ObjectStore
from vfmalign.imaging.volumes import MAX_ENCODED_BYTES, Volume, decode


def load_case(store: ObjectStore, case: Case, kinds: Sequence[VolumeKind]) -> dict[VolumeKind, Volume]:
    """Reads and decodes some of a case's volumes.

    Args:
        store: where the volumes are.
        case: the case, with a digest for every volume.
        kinds: what to read, such as `("t2w", "dwi", "adc", "gland")`.

    Raises:
        NotFound: the case or the store lacks a volume.
        DigestMismatch: a stored volume is not the one the dataset was made of.
        BadVolume: a stored volume cannot be used.
    """
    volumes: dict[VolumeKind, Volume] = {}
    for kind in kinds:
        if kind not in case.volumes:
            raise NotFound(f"no {kind} volume", subject=f"case {case.id}", remedy="import the dataset with it")
        ref = case.volumes[kind]
        data = store.get(ref.key, sha256=ref.sha256, max_bytes=MAX_ENCODED_BYTES)
        volumes[kind] = decode(data, store.uri(ref.key), kind)
    return volumes
