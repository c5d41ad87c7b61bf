"""Samples by id: reads feature sets from object storage, after checking that the comparison will fit into memory.

Knows the store and the feature-set format; nothing of gRPC or of estimators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfmalign.core.artifacts import is_id
from vfmalign.core.errors import BadOption
from vfmalign.core.feature_sets import FeatureSet, Manifest, read_feature_set, read_manifest
from vfmalign.core.store import ObjectStore
from vfmalign.mmd import limits
from vfmalign.mmd.limits import Extent
from vfmalign.mmd.results import Engine, Options
from vfmalign.mmd.samples import Sample


@dataclass(frozen=True)
class Stored:
    """A stored feature set; `name` is the request field that names it."""

    name: str
    feature_set: str


Source = Stored | Sample


def read(store: ObjectStore, given: Sequence[Source], options: Options, engine: Engine) -> list[Sample]:
    """Reads what is stored, every byte verified; a set that is named twice is read once.

    Raises:
        BadOption: an id that cannot be one.
        NotFound: no such feature set.
        DigestMismatch: its bytes are not those that were written.
        Exhausted: the comparison would not fit into memory; the manifests tell before features are read.
    """
    stored = [one for one in given if isinstance(one, Stored)]
    for one in stored:
        if not is_id(one.feature_set):
            raise BadOption("is not the id of a feature set", field=f"{one.name}.feature_set_id")
    manifests = {one.feature_set: read_manifest(store, one.feature_set) for one in stored}
    limits.refuse_too_large([_extent(one, manifests) for one in given], options, engine)
    sets = {feature_set: read_feature_set(store, feature_set) for feature_set in manifests}
    return [one if isinstance(one, Sample) else _sample(one.name, sets[one.feature_set]) for one in given]


def _extent(source: Source, manifests: Mapping[str, Manifest]) -> Extent:
    """The size of a sample, known before its features are."""
    if isinstance(source, Sample):
        return limits.extent_of(source)
    manifest = manifests[source.feature_set]
    channels = {layer.name: layer.channels for layer in manifest.layers}
    return Extent(manifest.rows, channels, len(set(manifest.groups)))


def _sample(name: str, features: FeatureSet) -> Sample:
    """A feature set as a sample."""
    return Sample(name, features.layers, features.manifest.groups, features.manifest.case_ids)
