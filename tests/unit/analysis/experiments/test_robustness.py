"""Correlations without the units that decide their sign, and with one specialised network per task and seed."""

import numpy as np
import pytest

from vfmalign.analysis.experiments.rank_correlation import Stratum
from vfmalign.analysis.experiments.robustness import count_baselines, find_reversal, use_common_baselines
from vfmalign.core.domain.scores import aggregate_scores


def stratify(*rows):
    units = tuple("abcdef"[: len(rows[0][0])])
    return [
        Stratum(f"t{place}", units, np.array(x, dtype=float), np.array(y, dtype=float))
        for place, (x, y) in enumerate(rows)
    ]


def test_the_fewest_units_that_turn_the_sign_are_named():
    # Without e, y falls with x.
    reversal = find_reversal(stratify(([1, 2, 3, 4, 9], [3, 4, 2, 1, 99])))
    assert reversal.without == ("e",)
    assert reversal.rho == pytest.approx(-0.8)


def test_two_units_are_left_out_where_one_does_not_turn_the_sign():
    reversal = find_reversal(stratify(([1, 2, 3, 4, 8, 9], [4, 3, 2, 1, 98, 99])))
    assert reversal.without == ("e", "f")
    assert reversal.rho == pytest.approx(-1)


def test_a_clear_order_has_no_reversal():
    assert find_reversal(stratify(([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]), ([1, 2, 3, 4, 5], [1, 2, 3, 5, 4]))) is None
    assert find_reversal([]) is None


def test_three_units_stay():
    assert find_reversal(stratify(([1, 2, 3], [1, 3, 2]))) is None


def test_equal_baselines_change_nothing(make_cells):
    one = make_cells(3, 2)
    shared = {cell.task: cell.scores["specialised"] for cell in one}
    cells = [cell.model_copy(update={"scores": cell.scores | {"specialised": shared[cell.task]}}) for cell in one]
    assert count_baselines(cells).model_dump() == {"several": 0, "total": 2}
    assert use_common_baselines(cells) == sorted(cells, key=lambda cell: (cell.task, cell.model_id))


def test_gains_are_recomputed_over_the_baseline_of_the_first_model(make_cells):
    cells = make_cells(3, 2)
    assert count_baselines(cells).model_dump() == {"several": 2, "total": 2}
    common = use_common_baselines(cells)
    first = min(cells, key=lambda cell: cell.model_id)
    for task in {cell.task for cell in cells}:
        baseline = next(c.scores["specialised"] for c in cells if (c.task, c.model_id) == (task, first.model_id))
        for cell in common:
            if cell.task == task:
                score = aggregate_scores(cell.metric, cell.scores["pretrained"])
                reference = aggregate_scores(cell.metric, baseline)
                assert cell.gain.value == pytest.approx(100 * (score - reference) / reference)
    assert use_common_baselines(cells[::-1]) == common
