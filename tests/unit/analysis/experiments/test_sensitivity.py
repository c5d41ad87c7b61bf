"""The ranking of the models with other layers, bandwidths and scalings, beside the main one."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from vfmalign.analysis.experiments.points import make_points
from vfmalign.analysis.experiments.sensitivity import VARIANT_LABELS, compare_variants, get_kendall_tau
from vfmalign.client.messages.common import Estimate, absent


def test_tau_is_kendall_s_with_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x_N, y_N = rng.integers(0, 5, (2, 7)).astype(float)
        assert get_kendall_tau(x_N, y_N) == pytest.approx(kendalltau(x_N, y_N).statistic)
    assert get_kendall_tau(np.ones(3), np.arange(3.0)) is None
    assert get_kendall_tau(np.ones(1), np.ones(1)) is None


def test_a_variant_that_ranks_like_the_main_shift_has_tau_1(make_cells):
    sensitivity = compare_variants(make_points(make_cells(5, 4, 2)))
    assert [variant.name for variant in sensitivity.variants] == list(VARIANT_LABELS)
    by_name = {variant.name: variant for variant in sensitivity.variants}
    for name in set(VARIANT_LABELS) - {"raw"}:
        assert by_name[name].tau == pytest.approx(1.0)
        assert by_name[name].rho == pytest.approx(sensitivity.rho)
        assert [task.models for task in by_name[name].tasks] == [5, 5, 5, 5]
    assert by_name["raw"].tau < 0.9
    assert "most from the main ranking for the choice “raw features”" in sensitivity.sentence


def test_a_reversed_ranking_is_minus_1_and_changes_the_sign(make_cells):
    cells = [
        cell.model_copy(update={"shift_variants": {"raw": Estimate(value=-cell.shift.value)}})
        for cell in make_cells(5, 2, noise=0.0)
    ]
    sensitivity = compare_variants(make_points(cells))
    raw = next(variant for variant in sensitivity.variants if variant.name == "raw")
    assert raw.tau == pytest.approx(-1.0)
    assert raw.rho == pytest.approx(-sensitivity.rho)
    assert sensitivity.sentence.endswith("changes its sign for raw features")


def test_absent_variants_have_no_tau(make_cells):
    cells = [cell.model_copy(update={"shift_variants": {}}) for cell in make_cells(3, 2)]
    sensitivity = compare_variants(make_points(cells))
    assert all(variant.tau is None and variant.rho is None for variant in sensitivity.variants)
    assert sensitivity.sentence.startswith("the checks hold no shift")
    cells = [cell.model_copy(update={"shift_variants": {"raw": absent("no")}}) for cell in make_cells(3, 2)]
    assert all(variant.tau is None for variant in compare_variants(make_points(cells)).variants)
