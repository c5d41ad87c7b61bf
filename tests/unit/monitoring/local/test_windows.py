"""Windows: which rows they hold, and which rows of the reference they are compared with."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from vfmalign.cli.drift_windows import NOT_FINITE, PERMUTATIONS, compute_windows
from vfmalign.mmd import mmd_test
from vfmalign.monitoring.local.inputs import Rows
from vfmalign.monitoring.local.windows import MAX_WINDOWS, Entered, choose_windows, list_comparisons


@pytest.mark.parametrize("rows", [0, 1, 99, 100, 101, 199, 200, 350, 1199, 1200, 1201, 5000, 123_456])
def test_windows_are_few_full_and_apart_and_end_with_the_last_row(rows: int) -> None:
    windows = choose_windows(rows, 100)
    assert len(windows) == (0 if not rows else max(1, min(MAX_WINDOWS, rows // 100)))
    if windows:
        assert windows[-1].stop == rows
        assert windows[0].start < 100
        assert {len(window) for window in windows} == {min(rows, 100)}
        assert all(earlier.stop <= later.start for earlier, later in pairwise(windows))
    assert choose_windows(rows, 0) == []


def make_rows(count: int, strata: list[str] | None, seed: int, patients: list[str] | None = None) -> Rows:
    random = np.random.default_rng(seed)
    layers = {"deep": random.normal(size=(count, 6)).astype("f4"), "shallow": random.normal(size=(count, 3))}
    names = [f"{seed}-{row}" for row in range(count)]
    return Rows(layers, names, patients or names, strata, None, "rows")


def test_one_row_of_each_patient_of_the_reference_is_compared_or_sets_the_scale() -> None:
    patients = [f"p{row // 2}" for row in range(60)]
    reference, stream = make_rows(60, None, 1, patients), make_rows(40, None, 2)
    entered = Entered([place for place in range(40) if place != 7], list(range(1, 40)), None)
    (window,) = list_comparisons(reference, stream, entered, 100)
    assert (window.first_row, window.last_row, window.rows, window.reference_rows) == (1, 39, 39, 20)
    kept = np.arange(0, 60, 2)
    assert np.array_equal(window.scale["deep"], reference.layers["deep"][kept[::3]])
    assert np.array_equal(window.x["deep"], reference.layers["deep"][np.delete(kept, np.s_[::3])])
    assert np.array_equal(window.y["deep"], np.delete(stream.layers["deep"], 7, axis=0))


def test_strata_are_compared_with_their_own_and_say_where_rows_are_too_few() -> None:
    strata = ["A" if row % 4 else "B" for row in range(120)]
    reference, stream = make_rows(120, strata, 1), make_rows(40, [*["A"] * 35, *["B"] * 4, "C"], 2)
    comparisons = list_comparisons(reference, stream, Entered(range(40), range(1, 41), stream.strata), 20)
    named = {one.stratum: one for one in comparisons}
    assert [one.stratum for one in comparisons] == ["", "", "A", "B"]
    assert (named["A"].first_row, named["A"].last_row, named["A"].rows) == (16, 35, 20)
    assert named["A"].reference_rows + named["B"].reference_rows == 80
    assert "needs 8 rows on each side, and here the stream has 4 and the reference 20" in named["B"].absent_reason
    assert [window.mmd2.value is None for window in compute_windows(comparisons[-1:], None, 0, lambda *_: None)] == [
        True, True,
    ]  # fmt: skip


def test_a_window_has_the_numbers_of_the_library() -> None:
    reference, stream = make_rows(90, None, 1), make_rows(50, None, 2)
    stream.layers["deep"][:] += 1
    (comparison,) = list_comparisons(reference, stream, Entered(range(50), range(1, 51), None), 50)
    found = {window.layer: window for window in compute_windows([comparison], None, 4, lambda *_: None)}
    for name in ("deep", "shallow"):
        x, y, scale = (side[name] for side in (comparison.x, comparison.y, comparison.scale))
        expected = mmd_test(
            x, y, pairing="independent", reference=scale, standardised=True, permutations=PERMUTATIONS, seed=4
        )  # fmt: skip
        assert expected.interval is not None
        assert found[name].mmd2.value == expected.mmd2
        assert found[name].mmd2.interval == expected.interval
        assert found[name].p_value.value == expected.p_value
    assert found["deep"].p_value.value == pytest.approx(1 / (PERMUTATIONS + 1))


def test_a_layer_that_is_not_finite_leaves_the_others() -> None:
    reference, stream = make_rows(90, None, 1), make_rows(64, None, 2)
    stream.layers["shallow"][3, 1] = np.nan  # a layer that does not raise the alarm
    comparisons = list_comparisons(reference, stream, Entered(range(64), range(1, 65), None), 32)
    assert [one.layers for one in comparisons] == [["deep", "shallow"]] * 2
    windows = compute_windows(comparisons, None, 0, lambda *_: None)
    assert [(one.layer, one.mmd2.value is None) for one in windows] == [
        ("deep", False), ("shallow", True), ("deep", False), ("shallow", False),
    ]  # fmt: skip
    assert windows[1].mmd2.absent_reason == NOT_FINITE


def test_a_comparison_that_fails_says_why_and_the_others_go_on() -> None:
    reference, stream = make_rows(90, None, 1), make_rows(64, None, 2)
    first, second = list_comparisons(reference, stream, Entered(range(64), range(1, 65), None), 32)
    first = replace(first, y={"deep": np.zeros((32, 5))})
    failed, *_, done = compute_windows([first, second], None, 0, lambda *_: None)
    assert "channels" in failed.mmd2.absent_reason
    assert done.mmd2.value is not None
