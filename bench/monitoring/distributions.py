"""Streams without and with a change.

Every stream has a seed of its own. Real features are drawn with replacement by patient, reference and stream together;
a patient who is drawn again counts as another one.

Legend: N rows, D channels, P patients.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GENERATED = ("gaussian", "t3", "log-normal")
REAL = "hippocampus"
SCANNERS = ("original", "contrast 0.9", "contrast 1.1")
SPARSE_CHANNELS = 3
NEW_SCANNER = "contrast 0.7, blur 1.5 mm"


def make_rng(seed: int) -> np.random.Generator:
    """Returns a generator that shares no numbers with the monitor's draws of the same seed."""
    return np.random.default_rng([seed, 77])


def draw(distribution: str, rows: int, channels: int, rng: np.random.Generator, features: str | None) -> Array:
    """Draws rows of one distribution; `channels` does not apply to real features."""
    if distribution == "gaussian":
        return rng.standard_normal((rows, channels))
    if distribution == "t3":
        return rng.standard_t(3.0, (rows, channels))
    if distribution == "log-normal":
        return rng.lognormal(size=(rows, channels))
    original_PD = load_features(str(features))["original"]
    return original_PD[rng.integers(0, len(original_PD), rows)]


def draw_changed(
    change: str, lengths: tuple[int, int, int], channels: int, rng: np.random.Generator, features: str | None
) -> tuple[Array, Array]:
    """Draws a reference and a stream that changes.

    Args:
        change: of generated rows `shift X` of X standard deviations in every channel, `sparse X` in three of them,
            `mixture X` of 1 SD in a share X of the rows, `direction X` of norm X in one random direction, `variance X`
            by this factor, or `t3 shift X`; of real features the name of a version of
            the volumes, or `scanner X`, where three scanners are followed by a new one in a share X of the rows.
        lengths: rows of the reference, of the stream before the change, and after it.
        channels: of generated rows.
        rng: draws all of them.
        features: file of the real features.
    """
    reference, before, after = lengths
    kind, _, text = change.rpartition(" ")
    rows = reference + before + after
    if kind in {"shift", "sparse", "mixture", "direction", "variance"}:
        all_ND = rng.standard_normal((rows, channels))
    elif kind == "t3 shift":
        all_ND = rng.standard_t(3.0, (rows, channels))
    else:
        return _draw_real(change, lengths, rng, str(features))
    amount, changed_ND = float(text), all_ND[reference + before :]
    if kind == "variance":
        changed_ND *= np.sqrt(amount)
    elif kind == "sparse":
        changed_ND[:, :SPARSE_CHANNELS] += amount
    elif kind == "mixture":
        changed_ND[rng.random(len(changed_ND)) < amount] += 1.0
    elif kind == "direction":
        direction_D = rng.standard_normal(channels)
        changed_ND += amount * direction_D / np.linalg.norm(direction_D)
    else:
        changed_ND += amount * (np.sqrt(3.0) if kind == "t3 shift" else 1.0)  # the variance of t3 is 3
    return all_ND[:reference], all_ND[reference:]


def get_log_likelihood_ratio(change: str, rows_ND: Array) -> Array:
    """Returns ln of the likelihood of each row after a change of generated Gaussian rows beside that before it."""
    kind, _, text = change.rpartition(" ")
    amount = float(text)
    if kind == "variance":
        squares_N = np.square(rows_ND).sum(axis=1)
        return np.asarray(0.5 * squares_N * (1.0 - 1.0 / amount) - 0.5 * rows_ND.shape[1] * np.log(amount))
    shift_D = np.zeros(rows_ND.shape[1])
    shift_D[: SPARSE_CHANNELS if kind == "sparse" else None] = 1.0 if kind == "mixture" else amount
    ratio_N = rows_ND @ shift_D - 0.5 * shift_D @ shift_D
    if kind == "mixture":
        return np.asarray(np.logaddexp(np.log(1.0 - amount), np.log(amount) + ratio_N))
    return np.asarray(ratio_N)


def _draw_real(
    change: str, lengths: tuple[int, int, int], rng: np.random.Generator, features: str
) -> tuple[Array, Array]:
    reference, before, _ = lengths
    rows = sum(lengths)
    versions = load_features(features)
    patients_N = rng.integers(0, len(versions["original"]), rows)
    kind, _, text = change.rpartition(" ")
    if kind == "scanner":
        scanner_N = rng.choice(SCANNERS, rows)
        is_new_N = (np.arange(rows) >= reference + before) & (rng.random(rows) < float(text))
        scanner_N = np.where(is_new_N, NEW_SCANNER, scanner_N)
    else:
        scanner_N = np.where(np.arange(rows) >= reference + before, change, "original")
    all_ND = np.stack([versions[scanner][patient] for scanner, patient in zip(scanner_N, patients_N, strict=True)])
    return all_ND[:reference], all_ND[reference:]


@lru_cache(maxsize=1)
def load_features(path: str) -> dict[str, Array]:
    """Returns the features [P, D] of every version of the volumes."""
    with np.load(Path(path), allow_pickle=False) as stored:
        return {name: stored[name].astype(np.float64) for name in stored.files}
