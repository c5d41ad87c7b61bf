"""Between two checks of the context lies a bounded amount of work, whatever a comparison is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from tests.mmd_options import make_options
from torch.utils.flop_counter import FlopCounterMode

from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.comparison import samples
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine import ordered_pool, products, rows
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.row_streams import ArrayRows
from vfmalign.mmd.statistics import permutations, similarity

ROWS, CHANNELS = 96, 600
MAX_FLOP = 2**21
"""In place of 2³³, so that small samples have products that must be split."""


@pytest.fixture
def measure_gap(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[WorkContext], object]], int]:
    """Returns the largest number of floating-point operations between two checks of some work."""
    for module in (products, similarity):
        monkeypatch.setattr(module, "MAX_FLOP_UNCHECKED", MAX_FLOP)
    monkeypatch.setattr("vfmalign.mmd.engine.permuted_sums._PERMUTATIONS_AT_ONCE", 128)
    monkeypatch.setattr(ordered_pool, "_MAX_THREADS", 1)  # a counter sees its own thread only

    def measure(work: Callable[[WorkContext], object]) -> int:
        counter, totals = FlopCounterMode(display=False), [0]

        def is_cancelled() -> bool:
            totals.append(counter.get_total_flops())
            return False

        with counter:
            work(WorkContext(is_cancelled=is_cancelled))
            totals.append(counter.get_total_flops())
        assert totals[-1] > 10 * MAX_FLOP, "too little work to tell"
        return int(np.diff(totals).max())

    return measure


@pytest.mark.parametrize("streamed", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize(
    "options",
    [
        {"pairing": "paired", "permutations": 1500},
        {"pairing": "independent", "permutations": 200, "aggregated": True},
        {"pairing": "paired", "estimator": "random_fourier", "permutations": 600, "frequencies": 256},
        {"pairing": "independent", "estimator": "random_fourier", "permutations": 600, "frequencies": 256},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_a_comparison_checks_its_context_between_bounded_products(
    measure_gap: Callable[..., int], options: Mapping[str, Any], streamed: bool
) -> None:
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(ROWS, CHANNELS)).astype(np.float32) for _ in range(3)]
    x, y = (
        Sample(name, {"l": ArrayRows(rows_NC) if streamed else rows_NC})
        for name, rows_NC in zip("xy", features, strict=False)
    )
    reference = Sample("reference", {"l": features[2]})
    asked = make_options(**options)

    def work(context: WorkContext) -> None:
        compare(x, y, reference, asked, ComputeConfig(tile_shape=(64, 96), context=context))

    assert measure_gap(work) <= MAX_FLOP


def test_a_product_in_blocks_of_rows_has_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    a_IK, b_KJ = torch.randn(60, 700, generator=generator), torch.randn(700, 90, generator=generator)
    for dtype in (torch.float32, torch.float64):
        a, b = a_IK.to(dtype), b_KJ.to(dtype)
        whole = products.multiply(a, b, WorkContext())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "MAX_FLOP_UNCHECKED", 2 * 700 * 90 * 16)
            assert torch.equal(products.multiply(a, b, WorkContext()), whole)


def count_checks(work: Callable[[WorkContext], object]) -> int:
    checks: list[None] = []
    work(WorkContext(is_cancelled=lambda: checks.append(None) is not None))
    return len(checks)


def test_steps_outside_products_check_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    features_NC = np.random.default_rng(1).normal(size=(300, 50))
    monkeypatch.setattr(permutations, "_SIGNS_AT_ONCE", 2000)
    monkeypatch.setattr(permutations, "_KEYS_AT_ONCE", 8000)
    monkeypatch.setattr(rows, "_BLOCK_BYTES", 8 * 50 * 30)
    monkeypatch.setattr(rows, "_CENTRE_CHANNELS", 10)
    drawn = permutations.draw_swaps(40, 500, 3)
    assert count_checks(lambda context: permutations.draw_swaps(40, 500, 3, context)) == 10
    assert count_checks(lambda context: permutations.weighted_sums(np.ones((3, 40)), drawn, context)) == 20
    assert count_checks(lambda context: rows.standard_deviation(features_NC, features_NC.mean(axis=0), context)) == 10
    assert count_checks(lambda context: rows.central_point(features_NC, context)) == 5
    np.testing.assert_array_equal(rows.central_point(features_NC), np.median(features_NC, axis=0))


def test_swaps_drawn_a_few_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = permutations.draw_swaps(70, 333, seed=9).weights_GB
    monkeypatch.setattr(permutations, "_SIGNS_AT_ONCE", 700)
    np.testing.assert_array_equal(permutations.draw_swaps(70, 333, seed=9).weights_GB, whole)


def test_a_layer_checks_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_ROWS_AT_ONCE", 10)
    rng = np.random.default_rng(2)
    x, y = (Sample(name, {"l": ArrayRows(rng.normal(size=(200, 5)))}) for name in "xy")
    options = make_options(pairing="independent", fixed_sigma=2.0)

    def work(context: WorkContext) -> None:
        compare(x, y, None, options, ComputeConfig(tile_shape=(512, 512), context=context))

    assert count_checks(work) >= 400 // 10
