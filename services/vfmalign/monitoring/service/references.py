"""Reads the reference of a monitor from a stored feature set. The reference has one row per patient.

Legend: the axes of arrays are G patients and C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfmalign.client.messages.monitors import FeatureOrigin, MonitorReference, MonitorSpec
from vfmalign.core.domain.errors import BadOption, TooLarge
from vfmalign.core.formats.documents import list_differences
from vfmalign.core.storage.feature_sets import Manifest, read_named, read_part
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.monitoring.feature_rows import get_first_rows, get_origin, read_strata
from vfmalign.monitoring.sequential import MonitorOptions

MAX_REFERENCE_BYTES = 2**27
"""Maximum bytes of the rows of one reference, summed over all layers that a monitor observes: 20,000 rows of 1,677
channels. Preparing it temporarily takes 9 times as much memory. The leader keeps the rows of four references, beside
the states of monitors (`VFMALIGN_MONITORING__MEMORY_BYTES`)."""

MAX_CHANNELS = 4096
"""Maximum channels of the layer that raises the alarm: a state keeps 20,000 rows in float64, which take 640 MiB."""


@dataclass(frozen=True)
class LoadedReference:
    """A reference in memory.

    Attributes:
        pinned: name of the feature set, with the digest of its manifest.
        origin: origin of its features.
        model_id: id of the model that produced the features.
        layers: maps each layer to an array (G, C) of features. The first layer raises the alarm.
        patients: patient of each row.
        strata: stratum of each row; None if the monitor has no strata.
    """

    pinned: MonitorReference
    origin: FeatureOrigin
    model_id: str
    layers: dict[str, NDArray[np.float32]]
    patients: list[str]
    strata: list[str] | None

    @property
    def size_bytes(self) -> int:
        """Size of the reference's features in bytes."""
        return sum(rows_GC.nbytes for rows_GC in self.layers.values())


def make_options(spec: MonitorSpec) -> MonitorOptions:
    """Returns the options that the state of a monitor is created with.

    Raises:
        BadOption: some options exclude each other.
    """
    try:
        return MonitorOptions(
            alpha=spec.alpha,
            run_length=spec.run_length or None,
            patient_window_days=spec.patient_window_days or None,
            first_patients=spec.first_patients or None,
            seed=spec.seed,
        )
    except BadOption as error:
        raise BadOption(error.message, field=f"spec.{error.field}", remedy=error.remedy) from None


def load_reference(
    store: ObjectStore, reference: MonitorReference, layer: str, descriptive: Sequence[str], stratum: str
) -> LoadedReference:
    """Reads a reference.

    Args:
        store: object store of the tenant.
        reference: the feature set.
        layer: layer that raises the alarm; empty for the first layer of the set.
        descriptive: names of additional layers, which do not raise alarms.
        stratum: name of the stratum, such as `scanner`; empty if the monitor has no strata.

    Raises:
        BadOption: the set does not have a requested layer, or its dataset does not have the stratum.
        DataLoss: the set is damaged.
        DigestMismatch: the digest of the set's manifest differs from the digest in `reference`.
        InvalidInput: the features come from random weights.
        NotFound: the feature set does not exist.
        TooLarge: the rows of the set exceed `MAX_REFERENCE_BYTES` or `MAX_CHANNELS`.
    """
    committed = read_named(store, reference.feature_set_id, reference.manifest_sha256)
    manifest = committed.manifest
    names = _choose_layers(manifest, layer, descriptive)
    rows = np.array(get_first_rows(manifest.groups))
    by_layer = {spec.name: spec.channels for spec in manifest.layers}
    if by_layer[names[0]] > MAX_CHANNELS:
        raise TooLarge(
            f"its layer `{names[0]}` has {by_layer[names[0]]:,} channels, and a layer that raises the alarm has at "
            f"most {MAX_CHANNELS:,}",
            subject=f"feature set {reference.feature_set_id}",
            remedy="choose another layer, and name this one as a descriptive layer",
        )
    channels = sum(by_layer[name] for name in names)
    if (size := 4 * len(rows) * channels) > MAX_REFERENCE_BYTES:
        raise TooLarge(
            f"one row of each patient takes {size:,} bytes, and at most {MAX_REFERENCE_BYTES:,} are read",
            subject=f"feature set {reference.feature_set_id}",
            remedy="name fewer layers, or extract a reference of fewer patients",
        )
    strata = read_strata(store, manifest, stratum, "spec.stratum") if stratum else None
    return LoadedReference(
        pinned=MonitorReference(feature_set_id=reference.feature_set_id, manifest_sha256=committed.sha256),
        origin=get_origin(manifest.request),
        model_id=manifest.request.model_id,
        layers=_read_rows(store, manifest, names, rows),
        patients=[manifest.groups[row] for row in rows],
        strata=None if strata is None else [strata[row] for row in rows],
    )


def list_changed_fields(created: Mapping[str, Any], request: MonitorSpec) -> list[str]:
    """Returns the names of the fields whose values differ between a request and the existing monitor with the same id.

    Args:
        created: spec of the existing monitor. It includes the values that were filled in from its reference.
        request: requested spec.
    """
    changed = list_differences(dict(created), request.model_dump(mode="json"))
    filled = {"layer": request.layer, "reference.manifest_sha256": request.reference.manifest_sha256}
    # A request may leave these fields out. Such fields are reported as different only if no other field differs.
    return [name for name in changed if filled.get(name, name)] or changed


def _choose_layers(manifest: Manifest, layer: str, descriptive: Sequence[str]) -> list[str]:
    known = [spec.name for spec in manifest.layers]
    names = [layer or known[0], *descriptive]
    for name, field in zip(names, ["spec.layer"] + ["spec.descriptive_layers"] * len(descriptive), strict=True):
        if name not in known:
            problem = f"the feature set has no layer `{name}`"
            raise BadOption(problem, field=field, remedy=f"choose from {', '.join(known[:16])}")
    if len(set(names)) != len(names):
        raise BadOption("a layer is named twice", field="spec.descriptive_layers", remedy="name each layer once")
    return names


def _read_rows(
    store: ObjectStore, manifest: Manifest, names: Sequence[str], rows: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Reads the chosen rows part by part, so that no other rows stay in memory."""
    chosen: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    for index, part in enumerate(manifest.parts):
        inside = rows[(rows >= part.start_row) & (rows < part.start_row + part.rows)] - part.start_row
        if len(inside):
            layers = read_part(store, manifest, index)
            for name in names:
                chosen[name].append(layers[name][inside])
    return {name: np.concatenate(arrays) for name, arrays in chosen.items()}
