"""Reads the rows of a reference or stream from .npy files, or from feature sets with the strata of their datasets.

Legend: the axes of arrays are N rows and C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vfmalign.client.messages.mmd import UNNAMED_LAYER
from vfmalign.core.domain.errors import BadOption, BadTensor, InvalidInput
from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT, TENANT_OF_KEYS, TenantName
from vfmalign.core.runtime.settings import Settings, StoreSettings, parse
from vfmalign.core.storage.arrays import NPY, read_npy
from vfmalign.core.storage.feature_sets import read_feature_set, read_named
from vfmalign.core.storage.row_tables import DAY, OBSERVATION, PATIENT, parse_days, read_table
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.monitoring.feature_rows import read_strata

Array = NDArray[Any]


class LocalSettings(Settings):
    """Environment variables that are read in addition to the settings of the object storage."""

    tenant: TenantName = Field(default=DEFAULT_TENANT, description=TENANT_OF_KEYS)


@dataclass(frozen=True)
class Rows:
    """Feature rows, with the patient, stratum and day of each row.

    Attributes:
        layers: maps the name of each layer to its features (N, C). The primary layer is first. Features from .npy files
            have an empty name.
        observations: id of each row, unique among the rows of a stream.
        patients: patient of each row.
        strata: stratum of each row (empty if unknown); None if the rows have no strata.
        days: day of each row; None if the days are unknown.
        title: name of the source.
        origin: origin of the features of feature sets; None for .npy files.
        notes: assumptions about the rows.
    """

    layers: dict[str, Array]
    observations: list[str]
    patients: list[str]
    strata: list[str] | None
    days: list[int] | None
    title: str
    origin: tuple[object, ...] | None = None
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.observations)


def read_rows(sources: Sequence[str], table: str, by: str, name: str, *, needs_days: bool = False) -> Rows:
    """Reads the rows of one or several sources, in the order of the sources.

    Args:
        sources: .npy files, or feature sets.
        table: CSV file that describes the rows of the .npy files; empty if there is no such file.
        by: name of the stratum; empty if there are no strata.
        name: `reference` or `streams`, for errors.
        needs_days: whether the day of each row is required.

    Raises:
        VfmalignError: a source cannot be read, or the sources contradict each other.
    """
    are_files = {source.endswith(NPY) for source in sources}
    if len(are_files) > 1:
        raise BadOption("files and feature sets are mixed", field=name, remedy="give either .npy files or feature sets")
    if True in are_files:
        return _read_files([Path(source) for source in sources], table, by, name, needs_days=needs_days)
    table_name = _get_table_name(name)
    if table:
        raise BadOption("feature sets define their own patients and strata", field=table_name, remedy="leave it out")
    if needs_days:
        remedy = f"give .npy files and `{table_name}` with a column `{DAY}`, or leave out the window"
        raise BadOption("feature sets do not contain days", field="patient_window_days", remedy=remedy)
    store = ObjectStore(parse(StoreSettings)).of_tenant(parse(LocalSettings).tenant)
    return _join([_read_set(store, source, by, name) for source in sources], name)


def _read_files(paths: Sequence[Path], table: str, by: str, name: str, *, needs_days: bool) -> Rows:
    arrays = [read_npy(path, name) for path in paths]
    if len({array.shape[1] for array in arrays}) > 1:
        raise BadTensor("files have different numbers of channels", field=name, remedy="give features of one layer")
    features_NC = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    field_name = _get_table_name(name)
    columns = read_table(Path(table), len(features_NC), field_name) if table else {}
    if by and by not in columns:
        problem = "there is no column of this name" if columns else "arrays have no strata"
        raise InvalidInput(problem, field="by", remedy=f"add this column to the table of `{field_name}`")
    if by and name == "reference" and not any(columns[by]):
        raise InvalidInput(
            "no row of the reference has a value of this stratum", field="by", remedy="fill its column, or leave it out"
        )
    if needs_days and DAY not in columns:
        raise InvalidInput(
            "the days of the rows are unknown",
            field="patient_window_days",
            remedy=f"give `{field_name}` with a column `{DAY}`",
        )
    numbers = [f"row {number}" for number in range(1, len(features_NC) + 1)]
    side = name.removesuffix("s")
    assumed = f"each row of the {side} is assumed to be a patient of its own, because no table says otherwise"
    return Rows(
        layers={UNNAMED_LAYER: features_NC},
        observations=_check_unique(columns.get(OBSERVATION, numbers), field_name),
        patients=columns.get(PATIENT) or [f"{name} {number}" for number in numbers],
        strata=columns[by] if by else None,
        days=parse_days(columns[DAY], field_name) if needs_days else None,
        title=", ".join(path.name for path in paths),
        notes=() if columns else (assumed,),
    )


def _read_set(store: ObjectStore, source: str, by: str, name: str) -> Rows:
    feature_set, _, sha256 = source.partition("@")
    loaded = read_feature_set(store, feature_set, read_named(store, feature_set, sha256).sha256)
    manifest = loaded.manifest
    return Rows(
        layers=dict(loaded.layers),
        observations=list(manifest.case_ids),
        patients=list(manifest.groups),
        strata=read_strata(store, manifest, by, "by") if by else None,
        days=None,
        title=f"{manifest.request.dataset_id}, {manifest.request.split}",
        origin=(
            manifest.request.model_sha256,
            manifest.request.initialisation,
            manifest.request.init_seed,
            manifest.request.pooling,
            manifest.request.input_transform,
            manifest.request.preprocessing.content_digest(),
            manifest.request.format,
        ),
    )


def _join(parts: Sequence[Rows], name: str) -> Rows:
    first = parts[0]
    for part in parts[1:]:
        check_origin(first, part, name)
    if len(parts) == 1:
        return first
    names = [layer for layer in first.layers if all(layer in part.layers for part in parts)]
    return Rows(
        layers={layer: np.concatenate([part.layers[layer] for part in parts]) for layer in names},
        observations=_chain(parts, lambda part: part.observations),
        patients=_chain(parts, lambda part: part.patients),
        strata=None if first.strata is None else _chain(parts, lambda part: part.strata or []),
        days=None,
        title="; ".join(part.title for part in parts),
        origin=first.origin,
    )


def check_origin(first: Rows, other: Rows, name: str) -> None:
    """Raises BadOption if the models or the input preparations of two groups of rows differ."""
    if first.origin != other.origin:
        raise BadOption(
            "features of different models, weights or preprocessing cannot be compared",
            field=name,
            remedy="extract both with the same model and options, or give .npy files on both sides",
        )


def _chain(parts: Sequence[Rows], get: Callable[[Rows], list[str]]) -> list[str]:
    return [value for part in parts for value in get(part)]


def _get_table_name(name: str) -> str:
    return "reference_table" if name == "reference" else "stream_table"


def _check_unique(observations: list[str], field_name: str) -> list[str]:
    if len(set(observations)) != len(observations):
        raise InvalidInput("an observation id occurs twice", field=field_name, remedy="give each row its own id")
    return observations
