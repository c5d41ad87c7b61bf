"""Selects the rows that MMD² compares.

A window contains rows of the stream that are part of the evidence. MMD² compares the rows of a window with a reference
that has one row per patient. Every third row of the reference determines the scale and the bandwidth. Only the other
rows of the reference are compared, so the permutation test is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfmalign.core.domain.drift import Layers, WindowComparison
from vfmalign.monitoring.feature_rows import MIN_ROWS, get_first_rows
from vfmalign.monitoring.local.inputs import Rows

MAX_WINDOWS = 12


@dataclass(frozen=True)
class Entered:
    """Rows of the stream that are part of the evidence, in ascending order of their numbers.

    Attributes:
        places: index of each row in the features.
        numbers: number of each row in the epoch, starting at 1.
        strata: stratum of each row; None if the monitor has no strata.
    """

    places: Sequence[int]
    numbers: Sequence[int]
    strata: Sequence[str] | None


def choose_windows(rows: int, width: int) -> list[range]:
    """Returns the positions of windows of `width` rows.

    The last window is at the end of the stream. The distances between consecutive windows are equal.

    Windows do not overlap, and there are at most `MAX_WINDOWS`. If the stream is shorter than a window, the whole
    stream is one window.
    """
    if not width or not rows:
        return []
    count = max(1, min(MAX_WINDOWS, rows // width))
    stride = (rows - width) // (count - 1) if count > 1 else 0
    stops = [rows - stride * back for back in reversed(range(count))]
    return [range(max(0, stop - width), stop) for stop in stops]


def list_comparisons(reference: Rows, stream: Rows, entered: Entered, width: int) -> list[WindowComparison]:
    """Returns the comparisons for all windows and for the last rows of each stratum.

    Args:
        reference: rows of the reference.
        stream: rows of the stream.
        entered: rows of the stream that are part of the evidence.
        width: number of rows in a window; 0 if no windows are wanted.
    """
    if not width:
        return []
    strata = reference.strata
    kept = get_first_rows(reference.patients)
    compared = [place for number, place in enumerate(kept) if number % 3]
    layers = [
        layer
        for layer, rows in reference.layers.items()
        if layer in stream.layers and rows.shape[1] == stream.layers[layer].shape[1]
    ]
    scale, everyone = _take(reference, layers, kept[::3]), _take(reference, layers, compared)

    def compare(stratum: str, places: Sequence[int], x: Layers, reference_rows: int) -> WindowComparison:
        return WindowComparison(
            stratum=stratum,
            layers=layers,
            first_row=entered.numbers[places[0]] if places else 0,
            last_row=entered.numbers[places[-1]] if places else 0,
            rows=len(places),
            reference_rows=reference_rows,
            absent_reason=_find_reason(len(places), reference_rows),
            x=x,
            y=_take(stream, layers, [entered.places[place] for place in places]),
            scale=scale,
        )

    windows = choose_windows(len(entered.places), width)
    comparisons = [compare("", window, everyone, len(compared)) for window in windows]
    if strata is not None and entered.strata is not None:
        for stratum in sorted({name for name in strata if name}):
            places = [place for place, name in enumerate(entered.strata) if name == stratum][-width:]
            others = [place for place in compared if strata[place] == stratum]
            comparisons.append(compare(stratum, places, _take(reference, layers, others), len(others)))
    return comparisons


def _take(rows: Rows, layers: Sequence[str], places: Sequence[int]) -> Layers:
    """Returns the chosen rows, without layers in which they are not finite."""
    taken = {layer: np.ascontiguousarray(rows.layers[layer][list(places)]) for layer in layers}
    return {layer: features for layer, features in taken.items() if np.isfinite(features).all()}


def _find_reason(rows: int, reference_rows: int) -> str:
    """Returns the reason if a comparison is impossible; else empty."""
    if min(rows, reference_rows) >= MIN_ROWS:
        return ""
    return (
        f"a comparison needs {MIN_ROWS} rows on each side, and here the stream has {rows} and the reference "
        f"{reference_rows}"
    )
