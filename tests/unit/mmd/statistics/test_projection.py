"""The two principal axes of a projection, and their interruption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vfmalign.core.domain.errors import Cancelled
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.engine.rows import Affine
from vfmalign.mmd.statistics.projection import project

CPU = torch.device("cpu")
AS_THEY_ARE = Affine()


def draw(rows: int, channels: int, seed: int = 0) -> NDArray[np.float64]:
    """Rows whose channels vary ever less."""
    return np.random.default_rng(seed).normal(size=(rows, channels)) / np.sqrt(np.arange(1.0, channels + 1.0))


@pytest.mark.parametrize(("rows", "channels"), [(9, 300), (300, 9), (300, 200), (100, 300)])
def test_axes_are_those_of_a_full_decomposition(rows: int, channels: int) -> None:
    x, y = draw(rows, channels), draw(7, channels, seed=1)
    projection = project([x, y], AS_THEY_ARE, CPU)
    _, singular, axes_AK = np.linalg.svd(x - x.mean(0), full_matrices=False)
    axes_2K = axes_AK[:2] * np.sign(np.take_along_axis(axes_AK[:2], np.abs(axes_AK[:2]).argmax(1)[:, None], 1))
    expected = (y - x.mean(0)) @ axes_2K.T
    np.testing.assert_allclose([(p.u, p.v) for p in projection.y], expected, atol=1e-7)
    share = np.square(singular[:2]) / np.square(singular).sum()
    np.testing.assert_allclose(projection.explained_variance, share, rtol=1e-9)


@pytest.mark.parametrize("side", [9, 200])
def test_an_axis_without_variance_has_coordinates_of_zero(side: int) -> None:
    line = np.outer(np.arange(side, dtype=float), np.ones(side))
    projection = project([line, line], AS_THEY_ARE, CPU)
    assert projection.explained_variance == pytest.approx((1.0, 0.0))
    assert {point.v for point in projection.x} == {0.0}
    constant = project([np.ones((side, side)), line], AS_THEY_ARE, CPU)
    assert constant.explained_variance == (0.0, 0.0)


def test_a_caller_who_leaves_ends_the_search_for_axes() -> None:
    x = draw(300, 200)
    checks = 0

    def leave_later() -> bool:
        nonlocal checks
        checks += 1
        return checks > 10

    with pytest.raises(Cancelled):
        project([x, x], AS_THEY_ARE, CPU, WorkContext(is_cancelled=leave_later))
    assert checks == 11
