"""Strata are the models of a task or the tasks of a model; units without both values are left out."""

from dataclasses import replace

import numpy as np
import pytest

from vfmalign.analysis.experiments.points import SHIFT, get_gain, make_points
from vfmalign.analysis.experiments.rank_correlation import Stratum
from vfmalign.analysis.experiments.strata import (
    get_stratum_and_unit,
    make_strata,
    select_common_units,
    summarise_strata,
)


@pytest.mark.parametrize(("design", "names"), [("within_task", ("t", "m")), ("within_model", ("m", "t"))])
def test_points_and_averages_belong_to_the_same_stratum(small, make_cells, design, names):
    average = small.averages[0].model_copy(update={"model_id": "m", "task": "t"})
    point = replace(make_points(make_cells(1, 1))[0], model_id="m", task="t")
    assert get_stratum_and_unit(average, design) == get_stratum_and_unit(point, design) == names


def test_a_stratum_holds_the_units_with_both_values_by_name(make_cells, with_numbers):
    cells = make_cells(4, 2)
    cells[0] = with_numbers(cells[0], gain=None)
    points = make_points(cells)
    strata = {stratum.name: stratum for stratum in make_strata(points, "within_task", SHIFT.get, get_gain)}
    assert list(strata) == sorted({cell.task for cell in cells})
    models = sorted({cell.model_id for cell in cells})
    assert strata[cells[0].task].units == tuple(model for model in models if model != cells[0].model_id)
    assert strata[cells[1].task].units == tuple(models)
    by_model = make_strata(points, "within_model", SHIFT.get, get_gain)
    assert {stratum.name: len(stratum.units) for stratum in by_model}[cells[0].model_id] == 1


def stratum(name, **pairs):
    return Stratum(name, tuple(pairs), *np.array(list(pairs.values()), dtype=float).T)


def test_units_that_a_stratum_lacks_are_left_out_of_all():
    strata = [
        stratum("first", a=(1, 4), b=(2, 3), c=(3, 2), d=(4, 1)),
        stratum("second", a=(1, 1), c=(2, 2), d=(3, 5)),
        stratum("third", a=(1, 2), b=(2, 3), d=(3, 1)),
    ]
    used = select_common_units(strata)
    assert [one.name for one in used] == ["first", "second", "third"]
    assert {one.units for one in used} == {("a", "d")}
    assert [tuple(one.x_N) for one in used] == [(1, 4), (1, 3), (1, 3)]
    assert [tuple(one.y_N) for one in used] == [(4, 1), (1, 5), (2, 1)]
    assert [one.pairs for one in summarise_strata(strata, used)] == [4, 3, 3]


def test_a_stratum_without_a_rank_correlation_removes_no_unit():
    strata = [
        stratum("whole", a=(1, 3), b=(2, 2), c=(3, 1)),
        stratum("single", a=(1, 1)),
        stratum("tied", a=(1, 1), b=(2, 1)),
    ]
    used = select_common_units(strata)
    assert [one.units for one in used] == [("a", "b", "c")]
    assert [one.used for one in summarise_strata(strata, used)] == [True, False, False]
    assert select_common_units(strata[1:]) == []


def test_a_stratum_that_loses_its_rank_correlation_gives_back_the_units_that_it_removed():
    """Of the units that all share, `third` has tied outcomes; without it, all six units are common."""
    whole = {name: (place, -place) for place, name in enumerate("abcdef")}
    strata = [stratum("first", **whole), stratum("second", **whole), stratum("third", a=(1, 0), b=(2, 0), x=(3, 5))]
    assert [one.rho is None for one in strata] == [False] * 3
    used = select_common_units(strata)
    assert [(one.name, one.units) for one in used] == [("first", tuple("abcdef")), ("second", tuple("abcdef"))]
    assert [one.used for one in summarise_strata(strata, used)] == [True, True, False]


def test_strata_that_share_no_two_units_have_no_rank_correlation():
    assert select_common_units([stratum("x", a=(1, 1), b=(2, 2)), stratum("y", b=(1, 1), c=(2, 2))]) == []
