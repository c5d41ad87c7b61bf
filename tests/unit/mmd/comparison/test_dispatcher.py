"""Linear, block and fourier as answers of one shape: the values are the estimators' own, bounds hold, refusals name."""

import numpy as np
import pytest
import torch

from vfmalign.core.domain.errors import BadOption, Cancelled
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.comparison.dispatcher import ESTIMATORS, AffineRows, compute_shift
from vfmalign.mmd.comparison.options import ComparisonOptions, ComputeConfig
from vfmalign.mmd.comparison.standardisation import Scaled
from vfmalign.mmd.engine import precision
from vfmalign.mmd.engine.kernels import KERNELS
from vfmalign.mmd.engine.row_streams import ArrayRows
from vfmalign.mmd.engine.rows import Affine
from vfmalign.mmd.single_pass.block import block_mmd2, linear_mmd2
from vfmalign.mmd.single_pass.fourier import fourier_mmd2

RAW = Scaled("raw", Affine(), 2.0)


@pytest.fixture
def samples(rng):
    x = rng.normal(size=(400, 6)).astype("f4")
    return x, (0.6 * x + 0.8 * rng.normal(size=x.shape) + 0.4).astype("f4")


def ask(x, y, estimator, scaled=RAW, engine=None, groups=(), **options):
    asked = ComparisonOptions(options.pop("pairing", "paired"), estimator=estimator, **options)
    return compute_shift(ArrayRows(x), ArrayRows(y), scaled, asked, engine or ComputeConfig(), groups_x=groups)


def test_values_are_the_estimators_own(samples):
    x, y = samples
    streams, kernel = (ArrayRows(x), ArrayRows(y)), KERNELS["gaussian"](2.0, 6)
    assert ask(x, y, "linear").mmd2 == linear_mmd2(*streams, kernel, paired=True).mmd2
    shift = ask(x, y, "block", block_rows=40, precision="exact")
    wanted = block_mmd2(*streams, kernel, paired=True, block_rows=40, precision="float64")
    assert (shift.mmd2, shift.p_value, shift.precision) == (wanted.mmd2, wanted.p_value, "float64")
    shift = ask(x, y, "random_fourier", frequencies=300, seed=4, permutations=50, precision="exact")
    found = fourier_mmd2(
        *streams, paired=True, sigma=2.0, frequencies=300, seed=4, permutations=50, precision="float64"
    )  # fmt: skip
    assert (shift.mmd2.value, shift.p_value) == (pytest.approx(found.mmd2.value, rel=1e-13), found.p_value)
    assert shift.approximation_error == pytest.approx(found.approximation_error, rel=1e-9)
    assert (shift.permutations, shift.enumerated) == (50, False)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rows_are_centred_scaled_and_chosen_as_they_come(samples, estimator):
    x, y = samples
    mean, sd, kept = x.mean(axis=0, dtype="f8"), np.arange(1.0, 7.0), np.array([1, 1, 0, 1, 1, 1], bool)
    scaled = Scaled("standardised", Affine(mean, sd, kept), 1.3)
    by_hand = [((part - mean) / sd)[:, kept] for part in (x, y)]
    plain = ask(*by_hand, estimator, Scaled("raw", Affine(), 1.3), precision="exact")
    assert ask(x, y, estimator, scaled, precision="exact").mmd2.value == pytest.approx(plain.mmd2.value, rel=1e-12)
    assert AffineRows(ArrayRows(torch.zeros(3, 6, dtype=torch.bfloat16)), scaled.affine).read(1, 3).shape == (2, 5)


@pytest.mark.parametrize("estimator", ["block", "random_fourier"])
@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_the_bound_on_rounding_holds(rng, monkeypatch, estimator, pairing):
    chosen = {"exact": "float64", "high": "float32"}
    monkeypatch.setattr("vfmalign.mmd.engine.precision.choose", lambda least, *_, **__: chosen[least])
    for scale in (1e-2, 1.0):
        x = rng.normal(size=(300, 40))
        y = x + scale * rng.normal(size=x.shape)
        scaled = Scaled("raw", Affine(), 6.0)
        low, high = (ask(x, y, estimator, scaled, precision=p, pairing=pairing) for p in ("high", "exact"))
        assert high.precision == "float64"
        assert abs(low.mmd2.value - high.mmd2.value) <= low.error_bound + high.error_bound
        if estimator != "random_fourier":
            assert low.precision == "float64" or abs(low.mmd2.value) >= 10 * low.error_bound


@pytest.mark.parametrize("pairing", ["paired", "independent"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_bound_of_blocks_holds_for_every_kernel(rng, monkeypatch, kernel, pairing):
    """Large products, and equal rows under a kernel without a slope at 0."""
    chosen = {"exact": "float64", "high": "float32"}
    monkeypatch.setattr(precision, "choose", lambda least, *_, **__: chosen[least])
    monkeypatch.setattr(precision, "SAFE_MULTIPLE_OF_BOUND", 0.0)
    for seed in range(8):
        x = rng.normal(size=(320, 48)) + (0.0, 3.0, 30.0)[seed % 3]
        y = x + (1e-2, 0.3)[seed % 2] * rng.normal(size=x.shape)
        x, y = (np.repeat(part[::8], 8, axis=0) if seed >= 4 else part for part in (x, y))
        scaled = Scaled("raw", Affine(), 5.0)
        low, high = (
            ask(x, y, "block", scaled, kernel=kernel, block_rows=80, precision=p, pairing=pairing)
            for p in ("high", "exact")
        )
        assert (low.precision, high.precision) == ("float32", "float64")
        assert abs(low.mmd2.value - high.mmd2.value) <= low.error_bound + high.error_bound, seed


@pytest.mark.parametrize("kernel", KERNELS)
def test_blocks_of_ordinary_samples_stay_in_float32(rng, monkeypatch, kernel):
    chosen = {"exact": "float64", "high": "float32"}
    monkeypatch.setattr(precision, "choose", lambda least, *_, **__: chosen[least])
    for _ in range(3):
        x, y = rng.normal(size=(800, 48)) + 0.5, 1.2 * rng.normal(size=(800, 48)) + 1.0
        shift = ask(x, y, "block", Scaled("raw", Affine(), 10.0), kernel=kernel, block_rows=200, pairing="independent")
        assert shift.precision == "float32"


@pytest.mark.parametrize("kernel", ["linear", "polynomial"])
@pytest.mark.parametrize("offset", [0.0, 30.0, 1e4])
def test_the_bound_of_linear_time_grows_with_the_products(rng, kernel, offset):
    """The sums of h against extended precision: kernel values of 1e9 leave nothing of a difference of 1e-6."""
    for seed in range(10):
        x = rng.normal(size=(400, 16)) + offset
        y = x + (1e-3, 0.5)[seed % 2] * (rng.normal(size=x.shape) + 1.0)
        shift = ask(x, y, "linear", kernel=kernel, pairing=("paired", "independent")[seed % 2])
        (x1, y1), (x2, y2) = ([part.astype(np.longdouble)[i::2] for part in (x, y)] for i in (0, 1))
        xx, yy, xy, yx = ((a * b).sum(axis=1) for a, b in ((x1, x2), (y1, y2), (x1, y2), (y1, x2)))
        if kernel == "polynomial":
            xx, yy, xy, yx = ((part / 16 + 1) ** 3 for part in (xx, yy, xy, yx))
        wanted = float((xx + yy - xy - yx).mean())
        assert abs(shift.mmd2.value - wanted) <= shift.error_bound
        assert shift.below_error_bound == (abs(shift.mmd2.value) <= shift.error_bound)
        if offset <= 30.0:
            assert not shift.below_error_bound


def test_what_does_not_go_together_is_said(samples):
    x, y = samples
    for estimator in ESTIMATORS:
        with pytest.raises(BadOption, match=f"`{estimator}` does not support the wild bootstrap") as caught:
            ask(x, y, estimator, method="wild_bootstrap")
        assert caught.value.field == "test.method"
        shift = ask(x, y, estimator, aggregated=True)
        assert shift.aggregated_p_value.value is None
        assert "read the rows once" in shift.aggregated_p_value.absent_reason
        absent = ask(x, y, estimator, Scaled("raw", Affine(), 0.0, absent_reason="no bandwidth"))
        assert (absent.mmd2.value, absent.mmd2.absent_reason) == (None, "no bandwidth")
    with pytest.raises(BadOption, match="groups of several rows"):
        ask(x, y, "linear", groups=[str(i // 2) for i in range(400)])
    shift = ask(x, y, "block", groups=[f"{i // 2:03d}" for i in range(400)])
    assert shift.mmd2.interval is not None


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_engine_stops_them(samples, estimator):
    def stop():
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        ask(*samples, estimator, engine=ComputeConfig(context=WorkContext(is_cancelled=stop)))
