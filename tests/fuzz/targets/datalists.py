"""Datalists in the bucket: `dataset.json` of a stored dataset, and the message that shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.fuzz.harness import Target
from tests.fuzz.memory_store import MemoryStore

from vfmalign.client.dataset_description import describe_dataset
from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.declarations import DatasetDeclaration
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.storage.datasets import check_splits, load_dataset, to_datalist
from vfmalign.core.storage.keys import dataset_key


def run(data: bytes) -> None:
    """Reads a dataset, shows it and checks its splits."""
    dataset = load_dataset(MemoryStore({dataset_key("d"): data}), "d")
    describe_dataset(dataset).to_proto()
    dataset.digest()
    check_splits(dataset)


def make_seeds() -> Mapping[str, bytes]:
    """Datasets of prostate and of another organ."""
    prostate = DatasetManifest(id="d", train=(_make_case("a", "t2w", "lesions"),), test=(_make_case("b", "t2w"),))
    declaration = DatasetDeclaration.model_validate(
        {
            "name": "brain",
            "modalities": ["t1w", "flair"],
            "labels": [{"name": "hippocampus", "values": {1: "anterior", 2: "posterior"}}],
            "classes": [{"name": "atrophy"}, {"name": "large", "label": "hippocampus", "at_least": 2}],
            "defaults": {"segmentation": {"labels": ["hippocampus"]}},
        }
    )
    facts = {"classes": {"atrophy": True}, "numbers": {"age": 61.5}, "strata": {"scanner": "A 3T"}}
    case = _make_case("c", "t1w", "flair", "hippocampus").model_copy(update=facts)
    brain = DatasetManifest(id="d", declaration=declaration, val=(case,))
    return {
        "prostate": json.dumps(to_datalist(prostate)).encode(),
        "brain": json.dumps(to_datalist(brain)).encode(),
        "empty": b"{}",
        "nested": b"[" * 3000,
    }


def _make_case(name: str, *kinds: str) -> Case:
    refs = {kind: StoredObject(key=f"volumes/d/{name}/{kind}.nii.gz", sha256=(name * 64)[:64]) for kind in kinds}
    return Case(id=f"c-{name}", group=f"g-{name}", volumes=refs)


TARGET = Target(
    run,
    make_seeds,
    words=("declaration", "label_maps", "modality", "sha256", "group", "held_out", "phantom", "numbers", "strata"),
    is_json=True,
)
