"""Manifests of feature sets in the bucket, with the parts that they name."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save
from tests.fuzz.harness import Target
from tests.fuzz.memory_store import MemoryStore

from vfmalign.core.domain.models import Layer, Preprocessing
from vfmalign.core.storage.feature_sets import FeatureRequest, Manifest, PartRef, read_feature_set, read_part
from vfmalign.core.storage.keys import features_prefix, manifest_key
from vfmalign.core.storage.safetensors_header import MalformedHeader, parse_header

_REQUEST = FeatureRequest(
    model_id="m",
    model_sha256="a" * 64,
    dataset_id="d",
    dataset_digest="b" * 64,
    split="test",
    layers=("stages.3",),
    preprocessing=Preprocessing(modalities=("t2w",), spacing_mm=None, shape_dhw=(8, 8, 8)),
)
_SET = _REQUEST.feature_set_id()
_PART = save({"stages.3": np.ones((2, 3), np.float32)}, {"start_row": "0"})


def run(data: bytes) -> None:
    """Reads a set whose manifest is the input, then a set whose part is the input."""
    if data[:1] == b"{":
        manifest = _make_manifest(_PART)
        store = MemoryStore({manifest.parts[0].key: _PART, manifest_key(_SET): data})
        read_feature_set(store, _SET)
        return
    manifest = _make_manifest(data)
    with contextlib.suppress(MalformedHeader):
        parse_header(data, len(data))
    read_part(MemoryStore({manifest.parts[0].key: data}), manifest, 0)


def make_seeds() -> Mapping[str, bytes]:
    """A valid manifest and a valid part, and parts of other layers, types and sizes."""
    return {
        "manifest": _make_manifest(_PART).to_json(),
        "part": _PART,
        "other_layer": save({"stages.2": np.ones((2, 3), np.float32)}, {"start_row": "0"}),
        "other_type": save({"stages.3": np.ones((2, 3), np.float16)}, {"start_row": "0"}),
        "trailing": _PART + bytes(8),
        "no_header": json.dumps({}).encode(),
    }


def _make_manifest(part: bytes) -> Manifest:
    sha256 = hashlib.sha256(part).hexdigest()
    key = f"{features_prefix(_SET)}part-{sha256}.safetensors"
    ref = PartRef(key=key, sha256=sha256, start_row=0, rows=2, size_bytes=len(part))
    return Manifest(
        request=_REQUEST,
        parts=(ref,),
        layers=(Layer(name="stages.3", channels=3),),
        rows=2,
        case_ids=("c-1", "c-2"),
        groups=("g-1", "g-2"),
        software={"torch": "2"},
    )


TARGET = Target(run, make_seeds, words=("stages.3", "F32", "data_offsets", "start_row", "parts", "case_ids", "rows"))
