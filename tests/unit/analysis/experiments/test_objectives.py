"""Pairs of objectives with known differences."""

import numpy as np
import pytest

from vfmalign.analysis.experiments.objectives import compare_objectives, run_sign_test
from vfmalign.analysis.experiments.points import make_points


def test_objectives_are_compared_within_one_architecture_alone(make_cells):
    (pair,) = compare_objectives(make_points(make_cells(4, 5)))
    assert (pair.masked, pair.contrastive) == ("profound-tiny-mae", "profound-tiny-contrastive")
    assert len(pair.rows) == 5
    assert compare_objectives(make_points([c for c in make_cells(4, 5) if c.model_id != pair.masked])) == ()
    unknown = {pair.masked: {"objective": "unknown"}}
    cells = [cell.model_copy(update=unknown.get(cell.model_id, {})) for cell in make_cells(4, 5)]
    assert compare_objectives(make_points(cells)) == (), "an unknown objective is none of the two"


def test_differences_are_masked_minus_contrastive(make_cells, with_numbers):
    numbers = {"profound-tiny-mae": (0.1, 8.0, 0.25), "profound-tiny-contrastive": (0.3, 5.0, 0.5)}
    cells = [with_numbers(cell, *numbers[cell.model_id]) for cell in make_cells(2, 5)]
    cells[0] = with_numbers(cells[0], None, None, np.inf)
    (pair,) = compare_objectives(make_points(cells))
    row = pair.rows[0]
    assert (row.shift, row.gain, row.convergence) == pytest.approx((-0.2, 3.0, -0.25))
    assert (pair.shift.above, pair.shift.below, pair.shift.ties) == (0, 4, 0)
    assert (pair.convergence.below, pair.gain.above) == (4, 4)
    assert (pair.less_moved_gained_more, pair.both_known) == (4, 4)
    assert pair.gain.p_value.value is None
    assert "at least 6" in pair.gain.p_value.absent_reason


def test_sign_test_is_exact():
    assert run_sign_test([1.0] * 6).p_value.value == pytest.approx(2 * 0.5**6)
    assert run_sign_test([1.0] * 5 + [-1.0, 0.0, None]).p_value.value == pytest.approx(2 * 7 * 0.5**6)
    assert run_sign_test([1.0] * 5 + [0.0]).p_value.value is None
