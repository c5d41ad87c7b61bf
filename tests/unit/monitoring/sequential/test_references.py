"""References: which rows are kept, and which are refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from vfmalign.core.domain.errors import BadTensor, InvalidInput
from vfmalign.monitoring.sequential import Reference, get_channel_shifts, prepare_reference
from vfmalign.monitoring.sequential.draws import Draws

NAMES = [f"p{patient}" for patient in range(90)]
ROWS = np.random.default_rng(0).normal(size=(90, 5))


def prepare(rows: Any = ROWS, patients: Any = NAMES, strata: Any = None, seed: int = 0) -> Reference:
    return prepare_reference(rows, patients, Draws(seed, 1), strata)


def get_rows(reference: Reference) -> np.ndarray:
    z = np.concatenate([reference.scorer.scoring_SD, reference.calibration_CD])
    return z * reference.scorer.scale_D + reference.scorer.mean_D


def test_a_third_of_the_patients_scores_and_the_rest_calibrates() -> None:
    reference = prepare()
    assert len(reference.scorer.scoring_SD) == 30
    assert len(reference.calibration_CD) == 60
    np.testing.assert_allclose(np.sort(get_rows(reference), axis=0), np.sort(ROWS, axis=0), atol=1e-12)
    np.testing.assert_allclose(reference.scorer.scoring_SD.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(reference.scorer.scoring_SD.std(axis=0, ddof=1), 1.0)


def test_the_split_follows_from_the_seed_and_not_from_the_features() -> None:
    first, same, other = prepare(), prepare(ROWS * 2.0 + 1.0), prepare(seed=1)
    np.testing.assert_allclose(first.calibration_CD, same.calibration_CD, atol=1e-9)
    assert not np.array_equal(first.calibration_CD, other.calibration_CD)


def test_the_first_row_of_each_patient_is_kept() -> None:
    rows, patients = np.concatenate([ROWS, ROWS + 100.0]), NAMES + NAMES
    np.testing.assert_array_equal(prepare(rows, patients).calibration_CD, prepare().calibration_CD)
    assert prepare(rows, patients, ["a"] * 90 + ["b"] * 90).strata == ("a",) * 60


def count_scoring_rows(strata: list[str], seed: int) -> dict[str, int]:
    """Counts the scoring rows of each stratum: those that are no calibration rows."""
    rows = np.random.default_rng(seed).normal(size=(len(strata), 2))
    reference = prepare(rows, [f"p{row}" for row in range(len(rows))], strata, seed)
    assert len(reference.strata) == len(reference.calibration_CD) == len(rows) - len(rows) // 3
    return dict(Counter(strata) - Counter(reference.strata))


@pytest.mark.parametrize("sizes", [(100, 50), (117, 3), (60, 61), (31, 29), (40, 40, 40), (30, 60, 90), (25,) * 4])
@pytest.mark.parametrize("seed", range(8))
def test_a_third_of_every_stratum_scores(sizes: tuple[int, ...], seed: int) -> None:
    strata = [f"s{number}" for number, size in enumerate(sizes) for _ in range(size)]
    strata = np.random.default_rng(seed).permutation(strata).tolist()
    scoring = count_scoring_rows(strata, seed)
    for number, size in enumerate(sizes):
        assert abs(scoring[f"s{number}"] - size / 3) <= 1.0


def test_many_strata_have_about_their_share_of_the_scoring_rows() -> None:
    strata = ["large"] * 150 + [f"s{row % 31}" for row in range(93)]
    scoring = count_scoring_rows(strata, seed=1)
    assert abs(scoring["large"] - 50) <= 3
    assert all(scoring.get(f"s{number}", 0) in {0, 1, 2} for number in range(31))


def test_each_calibration_row_has_its_stratum() -> None:
    names = ["left" if row[0] < 0.0 else "right" for row in ROWS]
    reference = prepare(strata=names)
    first_D = reference.calibration_CD[:, 0] * reference.scorer.scale_D[0] + reference.scorer.mean_D[0]
    assert reference.strata == tuple("left" if value < 0.0 else "right" for value in first_D)
    assert reference.is_stratified
    assert prepare(strata=names).strata == reference.strata
    assert prepare(ROWS[:, ::-1] + 3.0, strata=names).strata == reference.strata
    assert prepare(strata=names, seed=1).strata != reference.strata


@pytest.mark.parametrize("strata", [None, [""] * 90])
def test_a_reference_without_strata_is_split_as_one(strata: Any) -> None:
    reference = prepare(strata=strata)
    assert (reference.strata, reference.is_stratified) == (("",) * 60, False)
    np.testing.assert_array_equal(reference.calibration_CD, prepare(strata=["a"] * 90).calibration_CD)


def test_too_many_strata_are_refused() -> None:
    with pytest.raises(InvalidInput, match="the reference has 33 strata"):
        prepare(strata=[str(row % 33) for row in range(90)])


def test_scoring_rows_are_bounded() -> None:
    rows = np.random.default_rng(1).normal(size=(3300, 2))
    reference = prepare(rows, [f"p{row}" for row in range(3300)])
    assert (len(reference.scorer.scoring_SD), len(reference.calibration_CD)) == (1000, 2300)


def test_constant_channels_get_a_tenth_of_the_median_scale() -> None:
    rows = ROWS.copy()
    rows[:, 1] = 3.7
    reference = prepare(rows)
    others = np.delete(reference.scorer.scale_D, 1)
    assert reference.scorer.scale_D[1] == pytest.approx(0.1 * np.median(others))
    assert np.abs(reference.calibration_CD[:, 1]).max() < 1e-9


@pytest.mark.parametrize(
    ("rows", "patients", "error", "message"),
    [
        (ROWS[:59], NAMES[:59], InvalidInput, "rows of 59 patients; give one row of each of 60 to 20,000"),
        (ROWS, ["a"] * 90, InvalidInput, "rows of 1 patients"),
        (ROWS, NAMES[:80], InvalidInput, "expected 90 values, got 80"),
        (ROWS[0], NAMES, BadTensor, "expected a matrix of real numbers, got 1 axes"),
        (ROWS[:, :0], NAMES, BadTensor, "expected a matrix"),
        (ROWS.astype(str), NAMES, BadTensor, "expected a matrix of real numbers, got 2 axes of <U"),
        (np.where(np.arange(90)[:, None] == 7, np.nan, ROWS), NAMES, BadTensor, "row 7 has a value that is not finite"),
        (np.ones((90, 5)), NAMES, BadTensor, "every channel is constant"),
        (ROWS * 1e200, NAMES, BadTensor, "values overflow"),
        (ROWS * 1e-170, NAMES, BadTensor, "values overflow or underflow"),
        (np.repeat([[0.1, 0.2], [5.0, 7.0]], [70, 20], axis=0), NAMES, BadTensor, "pairs of rows are identical"),
    ],
)
def test_unusable_references_are_refused(rows: Any, patients: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        prepare(rows, patients)
    assert message in str(caught.value)


def test_channels_are_ordered_by_their_share_of_the_shift() -> None:
    reference = prepare()
    moved = np.random.default_rng(2).normal(size=(400, 5)) + np.array([0.0, 0.0, -2.0, 1.0, 0.0])
    shifts = get_channel_shifts(reference, np.concatenate([moved, np.full((3, 5), np.nan)]), top=2)
    assert [one.channel for one in shifts] == [2, 3]
    assert shifts[0].shift_sd == pytest.approx(-2.0, rel=0.5)
    assert 0.6 < shifts[0].share < 0.95
    assert sum(one.share for one in get_channel_shifts(reference, moved)) == pytest.approx(1.0)


@pytest.mark.parametrize("rows", [np.zeros((3, 4)), np.full((3, 5), np.nan)])
def test_channels_need_finite_rows_of_the_same_width(rows: np.ndarray) -> None:
    with pytest.raises(BadTensor, match="expected finite rows of 5 channels"):
        get_channel_shifts(prepare(), rows)
