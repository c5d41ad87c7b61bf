"""The reference of an epoch. The reference is fixed before the first row of the epoch arrives.

A reference uses the first row of each patient, whatever the features of this row are. A seeded draw selects a third of
the patients of each stratum. The rows of these patients are the scoring rows. They define the scale, the bandwidth and
the scores. The rows of all other patients are calibration rows. The rows of the stream are ranked among the calibration
rows. Rows are standardised as for MMD² (docs/numbers.md), but no channel is left out. If a channel is constant in the
scoring rows, its scale is a tenth of the median standard deviation. Its first change therefore counts.

Legend: the axes of arrays are N rows, D channels, G patients, S scoring rows and C calibration rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vfmalign.core.domain.errors import BadTensor, InvalidInput
from vfmalign.monitoring.sequential.draws import Draws, Purpose
from vfmalign.monitoring.sequential.row_scores import RowScorer, get_squared_distances

Array = NDArray[np.float64]

MIN_PATIENTS = 60
MAX_PATIENTS = 20_000
MAX_STRATA = 32
MAX_SCORING_ROWS = 1000
"""Maximum number of scoring rows. Each costs time for every row; further patients help more in calibration."""
SMALLEST_SCALE = 0.1
"""Minimum scale of a channel, relative to the median standard deviation of the channels that vary."""
SMALLEST_BANDWIDTH = 1e-9
"""Median squared distance below which rows are identical except for rounding. Different rows have about 2·D."""


@dataclass(frozen=True)
class Reference:
    """A prepared reference.

    Attributes:
        scorer: scale, bandwidth and scoring rows.
        calibration_CD: standardised calibration rows.
        patients: digest of each patient that has a row in the reference.
        strata: stratum of each calibration row; empty if it is unknown.
    """

    scorer: RowScorer
    calibration_CD: Array
    patients: frozenset[int]
    strata: tuple[str, ...]

    @property
    def is_stratified(self) -> bool:
        """Whether the reference has a known stratum.

        If the reference has no stratum, the strata of the stream are ignored.
        """
        return any(self.strata)


def prepare_reference(
    rows_ND: ArrayLike, patients: Sequence[str], draws: Draws, strata: Sequence[str] | None = None
) -> Reference:
    """Prepares the reference of an epoch.

    Args:
        rows_ND: features of the reference. Only the first row of each patient is used.
        patients: patient of each row.
        draws: random numbers of the epoch.
        strata: stratum of each row, such as the scanner; empty if it is unknown.

    Raises:
        BadTensor: the rows are not a finite matrix, no channel varies, values overflow, or most rows are identical.
        InvalidInput: the number of names differs from the number of rows, there are fewer than 60 or more than 20,000
            patients, or there are more than 32 strata.
    """
    rows_ND = check_rows(rows_ND, "reference")
    check_names(len(rows_ND), patients, "reference.patients")
    if strata is not None:
        check_names(len(rows_ND), strata, "reference.strata")
    if not np.isfinite(rows_ND).all():
        row = int(np.argmin(np.isfinite(rows_ND).all(axis=1)))
        raise BadTensor(f"row {row} has a value that is not finite", subject="reference", remedy="leave this row out")
    first = {patient: row for row, patient in reversed(list(enumerate(patients)))}
    kept = sorted(first.values())
    if not MIN_PATIENTS <= len(kept) <= MAX_PATIENTS:
        raise InvalidInput(
            f"the reference has rows of {len(kept):,} patients",
            field="reference.patients",
            remedy=f"give one row of each of {MIN_PATIENTS} to {MAX_PATIENTS:,} patients",
        )
    if strata is not None and len({*strata}) > MAX_STRATA:
        raise InvalidInput(
            f"the reference has {len({*strata}):,} strata",
            field="reference.strata",
            remedy=f"join strata until there are at most {MAX_STRATA}",
        )
    named = [strata[row] if strata is not None else "" for row in kept]
    order = _order_by_stratum(draws.draw_uniforms(Purpose.SPLIT, 0, len(kept)), named)
    rows_GD = rows_ND[kept][order]
    scoring = min(len(kept) // 3, MAX_SCORING_ROWS)
    scorer = make_scorer(rows_GD[:scoring])
    return Reference(
        scorer=scorer,
        calibration_CD=np.stack([scorer.standardise(row_D) for row_D in rows_GD[scoring:]]),
        patients=frozenset(get_patient_digest(patient) for patient in first),
        strata=tuple(named[place] for place in order[scoring:]),
    )


def _order_by_stratum(uniforms_G: Array, strata: Sequence[str]) -> NDArray[np.intp]:
    """Returns a random order in which every prefix has about the same share of each stratum."""
    key_G = np.empty(len(strata))
    for name in dict.fromkeys(strata):
        place = np.flatnonzero([stratum == name for stratum in strata])
        rank = np.argsort(np.argsort(uniforms_G[place], kind="stable"), kind="stable")
        key_G[place] = (rank + uniforms_G[place]) / len(place)
    return np.argsort(key_G, kind="stable")


def make_scorer(rows_SD: Array) -> RowScorer:
    """Builds the object that scores new rows. It is built from the scoring rows of the reference.

    Raises:
        BadTensor: no channel varies, values overflow or underflow, or at least half of all pairs of rows are identical.
    """
    varies_D = rows_SD.max(axis=0) > rows_SD.min(axis=0)
    if not varies_D.any():
        raise BadTensor("every channel is constant", subject="reference", remedy="check the encoder and its input")
    with np.errstate(over="ignore", invalid="ignore"):
        sd_D = np.where(varies_D, rows_SD.std(axis=0, ddof=1), 0.0)
        scale_D = np.maximum(sd_D, SMALLEST_SCALE * np.median(sd_D[varies_D]))
    if not (np.isfinite(scale_D).all() and scale_D.min() > 0.0):
        raise BadTensor("values overflow or underflow", subject="reference", remedy="check the encoder and its input")
    mean_D = rows_SD.mean(axis=0)
    scoring_SD = (rows_SD - mean_D) / scale_D
    distances_SS = get_squared_distances(scoring_SD, scoring_SD)
    bandwidth = float(np.median(distances_SS[np.triu_indices(len(rows_SD), 1)]))
    if not bandwidth >= SMALLEST_BANDWIDTH:  # NaN is rejected as well
        raise BadTensor(
            "at least half of all pairs of rows are identical",
            subject="reference",
            remedy="give rows of different patients",
        )
    return RowScorer(mean_D, scale_D, scoring_SD, bandwidth)


def get_patient_digest(patient: str) -> int:
    """Returns the first 64 bits of the digest of a patient's id.

    If these bits are equal for two patients, the two count as one patient.
    """
    return int.from_bytes(hashlib.blake2b(patient.encode(), digest_size=8).digest(), "little")


def check_rows(rows_ND: ArrayLike, subject: str) -> Array:
    """Returns rows as float64.

    Raises:
        BadTensor: the rows are not a matrix of real numbers.
    """
    rows = np.asarray(rows_ND)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or rows.shape[1] == 0:
        raise BadTensor(
            f"expected a matrix of real numbers, got {rows.ndim} axes of {rows.dtype}",
            subject=subject,
            remedy="pass a matrix of rows and channels",
        )
    return rows.astype(np.float64)


def check_names(rows: int, names: Sequence[object], field: str) -> None:
    """Raises InvalidInput if the number of names differs from the number of rows."""
    if len(names) != rows:
        raise InvalidInput(
            f"expected {rows:,} values, got {len(names):,}", field=field, remedy="pass one value per row"
        )
