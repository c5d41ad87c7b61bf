"""Strata are the models of a task or the tasks of a model; units without both values are left out."""

from dataclasses import replace

import pytest

from vfmalign.finetuning.experiments.analysis.points import SHIFT, get_gain, make_points
from vfmalign.finetuning.experiments.analysis.strata import get_stratum_and_unit, make_strata


@pytest.mark.parametrize(("design", "names"), [("within_task", ("t", "m")), ("within_model", ("m", "t"))])
def test_points_and_averages_belong_to_the_same_stratum(small, make_cells, design, names):
    average = small.averages[0].model_copy(update={"model": "m", "task": "t"})
    point = replace(make_points(make_cells(1, 1))[0], model="m", task="t")
    assert get_stratum_and_unit(average, design) == get_stratum_and_unit(point, design) == names


def test_a_stratum_holds_the_units_with_both_values_by_name(make_cells, with_numbers):
    cells = make_cells(4, 2)
    cells[0] = with_numbers(cells[0], gain=None)
    points = make_points(cells)
    strata = {stratum.name: stratum for stratum in make_strata(points, "within_task", SHIFT.get, get_gain)}
    assert list(strata) == sorted({cell.task for cell in cells})
    models = sorted({cell.model for cell in cells})
    assert strata[cells[0].task].units == tuple(model for model in models if model != cells[0].model)
    assert strata[cells[1].task].units == tuple(models)
    by_model = make_strata(points, "within_model", SHIFT.get, get_gain)
    assert {stratum.name: len(stratum.units) for stratum in by_model}[cells[0].model] == 1
