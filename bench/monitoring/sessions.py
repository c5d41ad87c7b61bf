"""Streams without a change whose rows are not independent: sessions of scanners, autocorrelation, seasons.

The rows of a reference and its stream come from one process, the reference first. Scanners add an offset of their own,
which is drawn for each stream.

Legend: N rows, D channels, K scanners.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.monitoring.distributions import Array

SCANNERS = 4
SCANNER_SD = 0.5
"""Standard deviation between scanners, per channel, in standard deviations within a scanner."""
NIGHT_SD = 1.0
DAY_ROWS, NIGHT_ROWS = 24, 8
"""Studies of a day, from three scanners in any order, and of the night after it, from a fourth scanner alone."""
YEAR_ROWS = 365
SEASON_SD = 0.2


def draw_dependent(kind: str, rows: int, channels: int, rng: np.random.Generator) -> tuple[Array, list[str]]:
    """Draws rows and their strata.

    Args:
        kind: `runs L`, sessions of L studies from a scanner that is drawn anew for each; `rota L`, the same in a fixed
            order of scanners; `night`; `autocorrelation ρ` of each channel; `season` of 365 rows; or `exchangeable`.
        rows: number of rows.
        channels: number of channels.
        rng: draws all of them.

    Returns:
        The rows [N, D] and the scanner of each, which is empty for the last three kinds.
    """
    name, _, text = kind.partition(" ")
    if name in {"exchangeable", "autocorrelation"}:
        return _draw_autoregressive(float(text or 0.0), rows, channels, rng), [""] * rows
    rows_ND = rng.standard_normal((rows, channels))
    if name == "season":
        phase_D = rng.uniform(0.0, 2.0 * np.pi, channels)
        angle_ND = 2.0 * np.pi * np.arange(rows)[:, None] / YEAR_ROWS + phase_D
        return rows_ND + SEASON_SD * np.sin(angle_ND), [""] * rows
    scanner_N = _draw_scanners(name, int(text or 0), rows, rng)
    sd = NIGHT_SD if name == "night" else SCANNER_SD
    offset_KD = sd * rng.standard_normal((SCANNERS, channels))
    return rows_ND + offset_KD[scanner_N], [f"scanner-{scanner}" for scanner in scanner_N]


def _draw_autoregressive(rho: float, rows: int, channels: int, rng: np.random.Generator) -> Array:
    rows_ND = rng.standard_normal((rows, channels))
    for row in range(1, rows):
        rows_ND[row] = rho * rows_ND[row - 1] + np.sqrt(1.0 - rho**2) * rows_ND[row]
    return rows_ND


def _draw_scanners(name: str, length: int, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    row_N = np.arange(rows)
    if name == "night":
        is_night_N = row_N % (DAY_ROWS + NIGHT_ROWS) >= DAY_ROWS
        return np.where(is_night_N, SCANNERS - 1, rng.integers(0, SCANNERS - 1, rows))
    session_N = row_N // length
    if name == "rota":
        return session_N % SCANNERS
    return rng.integers(0, SCANNERS, session_N[-1] + 1)[session_N]
