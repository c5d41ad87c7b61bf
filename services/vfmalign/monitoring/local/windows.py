"""Which rows MMD² compares, and the files in which another process finds them.

A window holds rows of the stream that entered. It is compared with rows of the reference, one for each patient: every
third fixes scale and bandwidth, the others are compared, so that the permutation test is exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from vfmalign.monitoring.feature_rows import MIN_ROWS, get_first_rows
from vfmalign.monitoring.local.inputs import Rows

MAX_WINDOWS = 12
COMPARISONS = "comparisons.json"

Layers = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Entered:
    """Rows of the stream that entered, in the order of their numbers.

    Attributes:
        places: of each in the features.
        numbers: of each in the epoch, from 1.
        strata: of each; None without strata.
    """

    places: Sequence[int]
    numbers: Sequence[int]
    strata: Sequence[str] | None


def choose_windows(rows: int, width: int) -> list[range]:
    """Returns the places of windows of `width` rows, the last at the end and the others at equal distances before it.

    They do not overlap. There are at most `MAX_WINDOWS`; a shorter stream is one window.
    """
    if not width or not rows:
        return []
    count = max(1, min(MAX_WINDOWS, rows // width))
    stride = (rows - width) // (count - 1) if count > 1 else 0
    stops = [rows - stride * back for back in reversed(range(count))]
    return [range(max(0, stop - width), stop) for stop in stops]


class _RowFiles:
    """Writes chosen rows of both sides, each choice once."""

    def __init__(self, folder: Path, sides: Mapping[str, Layers]) -> None:
        self._folder, self._sides = folder, sides
        self._names: dict[tuple[str, tuple[int, ...]], str] = {}
        reference, stream = sides["reference"], sides["stream"]
        self.layers = [
            layer for layer, rows in reference.items() if layer in stream and rows.shape[1] == stream[layer].shape[1]
        ]

    def write(self, side: str, places: Sequence[int]) -> str:
        """Returns the name of the file of these rows; layers in which they are not finite are left out."""
        key = (side, tuple(places))
        if key not in self._names:
            self._names[key] = f"rows-{len(self._names)}.safetensors"
            rows = {layer: np.ascontiguousarray(self._sides[side][layer][list(places)]) for layer in self.layers}
            finite = {layer: features for layer, features in rows.items() if np.isfinite(features).all()}
            save_file(finite, self._folder / self._names[key])
        return self._names[key]


def write_comparisons(
    folder: Path, reference: Rows, stream: Rows, entered: Entered, width: int
) -> list[dict[str, Any]]:
    """Writes the features of every comparison, and what they are; returns the latter.

    Args:
        folder: for the files.
        reference: its rows.
        stream: its rows.
        entered: those of the stream that entered.
        width: rows of a window; 0 for no windows.
    """
    strata = reference.strata
    kept = get_first_rows(reference.patients)
    scale, compared = kept[::3], [place for number, place in enumerate(kept) if number % 3]
    files = _RowFiles(folder, {"reference": reference.layers, "stream": stream.layers})
    groups: list[tuple[str, Sequence[int], Sequence[int]]] = [
        ("", window, compared) for window in choose_windows(len(entered.places), width)
    ]
    if strata is not None and entered.strata is not None and width:
        for stratum in sorted({name for name in strata if name}):
            members = [place for place, name in enumerate(entered.strata) if name == stratum][-width:]
            groups.append((stratum, members, [place for place in compared if strata[place] == stratum]))
    comparisons: list[dict[str, Any]] = []
    for stratum, places, others in groups:
        reason = _find_reason(len(places), len(others))
        comparison: dict[str, Any] = {
            "stratum": stratum,
            "layers": files.layers,
            "first_row": entered.numbers[places[0]] if places else 0,
            "last_row": entered.numbers[places[-1]] if places else 0,
            "rows": len(places),
            "reference_rows": len(others),
            "absent_reason": reason,
        }
        if not reason:
            comparison["x"] = files.write("reference", others)
            comparison["y"] = files.write("stream", [entered.places[place] for place in places])
            comparison["reference"] = files.write("reference", scale)
        comparisons.append(comparison)
    (folder / COMPARISONS).write_text(json.dumps(comparisons))
    return comparisons


def _find_reason(rows: int, reference_rows: int) -> str:
    """Returns why there is no comparison; empty where there is one."""
    if min(rows, reference_rows) >= MIN_ROWS:
        return ""
    return (
        f"a comparison needs {MIN_ROWS} rows on each side, and here the stream has {rows} and the reference "
        f"{reference_rows}"
    )
