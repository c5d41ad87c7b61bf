"""Samples of features, and checks of how two samples relate: the same cases in the same order, or independent groups.

Error messages contain row numbers instead of labels, because labels in a request may contain patient identifiers.

Legend: N rows (cases), C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from vfmalign.client.messages.mmd import UNNAMED_LAYER, Pairing
from vfmalign.core.domain.errors import BadOption, BadTensor, CaseOrderMismatch
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.row_streams import FeatureArray, RowStream, to_numpy

Features: TypeAlias = FeatureArray | RowStream
_ENTRIES_AT_ONCE = 2**24
_ROWS_AT_ONCE = 256
"""Number of rows of a stream that are read between two checks of the context."""
_NAMED_LAYERS = 5


def get_shape(features: Features) -> tuple[int, ...]:
    """Returns the shape of an array, or the rows and channels of a stream."""
    return features.shape if isinstance(features, np.ndarray) else (features.rows, features.channels)


@dataclass(frozen=True)
class Sample:
    """Feature vectors of the same rows (cases) in one or more layers.

    Attributes:
        name: name of the sample in errors, as in the request: `x`, `y` or `reference`.
        layers: maps each layer to its features_NC, of type float16 to float64. These features are arrays, or streams if
            the layers do not fit into memory together.
        groups: group label (patient) of each row; empty if every row is its own group.
        case_ids: case id of each row; empty if the cases are unknown.
        source: field of `FeatureSource` that the request sets; None if the sample does not come from a request.
    """

    name: str
    layers: Mapping[str, Features]
    groups: tuple[str, ...] = ()
    case_ids: tuple[str, ...] = ()
    source: Literal["feature_set_id", "inline", "uploaded"] | None = None

    @property
    def rows(self) -> int:
        """Number of rows, which is the same for all layers."""
        return get_shape(next(iter(self.layers.values())))[0]

    @property
    def is_streamed(self) -> bool:
        """Whether the features of any layer are a stream."""
        return not all(isinstance(features, np.ndarray) for features in self.layers.values())

    def get_layer_path(self, layer: str) -> str:
        """Returns the path of this layer's field in the request, or `name` if there is no request."""
        if self.source == "inline":  # layers are in the order of the request
            return f"{self._path}.layers[{list(self.layers).index(layer)}].features"
        return f"{self._path}.object" if self.source == "uploaded" else self._path

    def get_label_path(self, labels: str) -> str:
        """Returns the path of the request's field that contains the labels (`groups` or `case_ids`)."""
        return self._path if self.source == "feature_set_id" else f"{self._path}.{labels}"

    @property
    def _path(self) -> str:
        return self.name if self.source is None else f"{self.name}.{self.source}"


def read_layer(features: Features, context: WorkContext) -> FeatureArray:
    """Returns one layer as an array. While it reads a stream, it checks `context` regularly.

    Raises:
        BadTensor: a stream contains NaN or infinity.
        DataLoss: a stored part of the features is missing or was changed.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    if isinstance(features, np.ndarray):
        return features
    array_NC: FeatureArray = np.empty((features.rows, features.channels), to_numpy(features.read(0, 1)).dtype)
    for start in range(0, features.rows, _ROWS_AT_ONCE):
        context.checkpoint()
        stop = min(start + _ROWS_AT_ONCE, features.rows)
        array_NC[start:stop] = to_numpy(features.read(start, stop))
    return array_NC


def check(sample: Sample, context: WorkContext = UNLIMITED) -> None:
    """Checks that the layers of a sample are consistent. Checks `context` between blocks of rows.

    Raises:
        BadTensor: the sample has no layer, a layer does not have two non-empty axes or contains NaN or infinity, or two
            layers differ in their number of rows.
    """
    if not sample.layers:
        raise BadTensor("has no layer", field=sample.name, remedy="send the features of at least one layer")
    rows: int | None = None
    for layer, features in sample.layers.items():
        if problem := _find_problem(features, rows, context):
            message, remedy = problem
            raise BadTensor(f"layer `{layer}`: {message}", field=sample.get_layer_path(layer), remedy=remedy)
        rows = get_shape(features)[0]
    for labels, what in ((sample.groups, "groups"), (sample.case_ids, "case_ids")):
        if labels and len(labels) != rows:
            raise BadTensor(
                f"has {len(labels)} {what} for {rows} rows",
                field=sample.get_label_path(what),
                remedy="send one label per row, or none",
            )


def _find_problem(features: Features, rows: int | None, context: WorkContext) -> tuple[str, str] | None:
    """Returns a layer's problem and the remedy. `rows` is the number of rows of the layers before it."""
    shape = get_shape(features)
    if len(shape) != 2 or 0 in shape:
        return f"expected shape [rows, channels], got {list(shape)}", "pool to one row per case"
    if rows not in (None, shape[0]):
        return f"has {shape[0]} rows, but the previous layers have {rows}", "send the same rows in every layer"
    if isinstance(features, np.ndarray) and (row := _find_non_finite_row(features, context)) is not None:
        return f"row {row} (from 0) contains NaN or infinity", "leave out rows without valid features"
    return None


def _find_non_finite_row(features_NC: FeatureArray, context: WorkContext) -> int | None:
    """Returns the first row that contains NaN or infinity; None if all values are finite."""
    rows, channels = features_NC.shape
    step = max(1, _ENTRIES_AT_ONCE // channels)
    for start in range(0, rows, step):
        if start:
            context.checkpoint()
        block_NC = features_NC[start : start + step]
        # A finite sum proves that all entries are finite, in a fraction of the time of checking each entry.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(block_NC.sum(dtype=np.float32)):
                continue
        finite_N = np.isfinite(block_NC).all(axis=1)
        if not finite_N.all():
            return start + int(finite_N.argmin())
    return None


def number_groups(sample: Sample) -> Sample:
    """Replaces group labels with ascending numbers, because the rows of streams cannot be sorted by label.

    Raises:
        BadOption: the rows of a group are not adjacent.
    """
    if not sample.groups:
        return sample
    labels_N = np.asarray(sample.groups)
    group_of_N = np.append(0, np.cumsum(labels_N[1:] != labels_N[:-1]))
    if group_of_N[-1] + 1 != len(set(sample.groups)):
        raise BadOption(
            f"the rows of a group of `{sample.name}` are not contiguous, but streams need contiguous groups",
            field=sample.get_label_path("groups"),
            remedy="sort the rows by group",
        )
    return replace(sample, groups=tuple(f"{group:012d}" for group in group_of_N))


def choose_first(x: Sample, y: Sample, groups: int) -> tuple[Sample, Sample, Sample]:
    """Returns x and y with one row per group, and a reference that contains a third of the groups of x.

    Args:
        x: sample to split: every third group moves to the reference, and the other groups stay in x.
        y: sample of which only the first `groups` groups are kept.
        groups: number of groups of y to keep.

    Raises:
        BadOption: the features are streams, or y has fewer than `groups` groups.
    """
    if x.is_streamed or y.is_streamed:
        raise BadOption(
            "the features do not fit into memory", field="first_groups", remedy="increase VFMALIGN_MMD__MEMORY_MIB"
        )
    rows_x, rows_y = _list_first_rows(x), _list_first_rows(y)
    if len(rows_y) < groups:
        raise BadOption(
            f"y has {len(rows_y):,} groups, fewer than {groups:,}", field="first_groups", remedy="choose fewer groups"
        )
    compared = [row for place, row in enumerate(rows_x) if place % 3]
    return _take(x, compared), _take(y, rows_y[:groups]), replace(_take(x, rows_x[::3]), name="reference")


def _list_first_rows(sample: Sample) -> list[int]:
    if not sample.groups:
        return list(range(sample.rows))
    first: dict[str, int] = {}
    for row, group in enumerate(sample.groups):
        first.setdefault(group, row)
    return list(first.values())


def _take(sample: Sample, rows: Sequence[int]) -> Sample:
    return replace(
        sample,
        layers={
            name: features[list(rows)] for name, features in sample.layers.items() if isinstance(features, np.ndarray)
        },
        groups=tuple(sample.groups[row] for row in rows) if sample.groups else (),
        case_ids=tuple(sample.case_ids[row] for row in rows) if sample.case_ids else (),
    )


def common_layers(samples: Sequence[Sample], selected: Sequence[str], primary: str) -> tuple[str, ...]:
    """Returns the layers to compare, with the primary layer first.

    These layers are the selected layers or, if none are selected, all layers that every sample has.

    Raises:
        BadOption: a sample lacks a selected layer, or the samples have no layer in common.
    """
    for layer in (*selected, *((primary,) if primary else ())):
        for sample in samples:
            if layer not in sample.layers:
                raise BadOption(
                    f"`{sample.name}` has no layer `{layer}`",
                    field="layers" if layer in selected else "primary_layer",
                    remedy=f"choose from {', '.join(sample.layers)}",
                )
    names = list(dict.fromkeys(selected)) or [
        layer for layer in samples[0].layers if all(layer in sample.layers for sample in samples[1:])
    ]
    if not names:
        text = ", ".join(f"{', '.join(list(sample.layers)[:_NAMED_LAYERS])} in `{sample.name}`" for sample in samples)
        raise BadOption(
            f"the samples have no layer in common, such as {text}",
            field="layers",
            remedy=f"use the same names for the same layers; an inline layer without a name is `{UNNAMED_LAYER}`",
        )
    if primary:
        names = [primary, *(layer for layer in names if layer != primary)]
    for layer in names:
        widths = {sample.name: get_shape(sample.layers[layer])[1] for sample in samples}
        if len(set(widths.values())) > 1:
            text = ", ".join(f"{width} in `{name}`" for name, width in widths.items())
            other = next(sample for sample in samples if widths[sample.name] != widths[samples[0].name])
            raise BadTensor(
                f"layer `{layer}` has different numbers of channels: {text}",
                field=other.get_layer_path(layer),
                remedy="send arrays with the same channels, or extract all samples with models of one architecture",
            )
    return tuple(names)


def check_relation(x: Sample, y: Sample, pairing: Pairing) -> None:
    """Checks that two samples match `pairing`.

    Raises:
        BadTensor: paired samples have different row counts.
        CaseOrderMismatch: paired samples are not the same cases in the same order.
        BadOption: independent samples share a group or a case, or the rows of one case are in different groups.
    """
    if pairing == "paired":
        _check_pairs(x, y)
        _check_groups_of_cases(replace(x if x.case_ids else y, groups=x.groups or y.groups))
    else:
        _check_independent(x, y)
        _check_groups_of_cases(x)
        _check_groups_of_cases(y)


def describe_shared_cases(x: Sample, y: Sample, reference: Sample) -> str:
    """Returns a caution if the reference shares cases or groups with x or y; empty otherwise.

    A shared case is not an error. The bias matters only with few rows and many channels, and samples of a single
    patient have no other reference.
    """
    for what, field in (("cases", "case_ids"), ("groups", "groups")):
        labels = set(getattr(reference, field))
        counts = {one.name: len(labels.intersection(getattr(one, field))) for one in (x, y)}
        if any(counts.values()):
            text = ", ".join(f"{count} with `{name}`" for name, count in counts.items())
            return (
                f"The reference shares {what} with the samples ({text}), so that standardised MMD² may be too large "
                "and its test may reject too often, most of all where rows are few and channels many. Use a reference "
                "of other cases."
            )
    return ""


def _check_pairs(x: Sample, y: Sample) -> None:
    """Checks that labelled samples have the same cases and groups in the same order. Rows are never reordered."""
    if x.rows != y.rows:
        raise BadTensor(
            f"paired samples need equal row counts, got {x.rows} and {y.rows}",
            field=y.name,
            remedy="send the same cases in the same order, or compare the samples as independent",
        )
    labels = (("case", "case_ids", x.case_ids, y.case_ids), ("group", "groups", x.groups, y.groups))
    for what, field, of_x, of_y in labels:
        if not of_x or not of_y:
            continue
        wrong = [row for row, (a, b) in enumerate(zip(of_x, of_y, strict=True)) if a != b]
        if wrong:
            raise CaseOrderMismatch(
                f"the {what} of {len(wrong)} of {x.rows} rows differs between `{x.name}` and `{y.name}`, "
                f"first in row {wrong[0]} (from 0)",
                subject=y.get_label_path(field),
                remedy="extract both feature sets from the same split in the same order",
            )


def _check_independent(x: Sample, y: Sample) -> None:
    """Checks that the samples share no group or case, because samples with a common patient are not independent."""
    for what, of_x, of_y in (("groups", x.groups, y.groups), ("cases", x.case_ids, y.case_ids)):
        shared = set(of_x) & set(of_y)
        if shared:
            first = next(row for row, label in enumerate(of_x) if label in shared)
            raise BadOption(
                f"{len(shared)} {what} occur in both samples, which are therefore not independent; the first is in row "
                f"{first} of `{x.name}` (from 0)",
                field="pairing",
                remedy=f"remove those {what} from one sample, or compare paired samples of the same cases",
            )


def _check_groups_of_cases(sample: Sample) -> None:
    """Checks that all rows of a case are in one group, because rows of one case depend on each other."""
    if len(set(sample.case_ids)) == len(sample.case_ids):
        return
    groups = sample.groups or tuple(map(str, range(sample.rows)))
    group_of_case: dict[str, str] = {}
    for row, (case, group) in enumerate(zip(sample.case_ids, groups, strict=True)):
        if group_of_case.setdefault(case, group) != group:
            raise BadOption(
                f"row {row} (from 0) repeats the case of an earlier row in another group, but rows of one case are not "
                "independent",
                field=sample.get_label_path("case_ids"),
                remedy="put all rows of a case into one group in `groups`, or give every row its own case",
            )
