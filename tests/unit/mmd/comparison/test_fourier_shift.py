"""Random Fourier features as a result: the values are the estimator's own, the bound holds, absences say why."""

import numpy as np
import pytest
import torch
from tests.mmd_options import make_options

from vfmalign.core.domain.errors import Cancelled
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.comparison.fourier_shift import AffineRows, approximate_shift
from vfmalign.mmd.comparison.standardisation import Scaled
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.row_streams import ArrayRows
from vfmalign.mmd.engine.rows import Affine
from vfmalign.mmd.single_pass.fourier import fourier_mmd2

RAW = Scaled("raw", Affine(), 2.0)


@pytest.fixture
def samples(rng):
    x = rng.normal(size=(400, 6)).astype("f4")
    return x, (0.6 * x + 0.8 * rng.normal(size=x.shape) + 0.4).astype("f4")


def ask(x, y, scaled=RAW, *, context=UNLIMITED, precision="high", **options):
    asked = make_options(estimator="random_fourier", **options)
    engine = ComputeConfig(precision=precision, context=context)
    return approximate_shift(ArrayRows(x), ArrayRows(y), scaled, asked, engine)


def test_values_are_the_estimators_own(samples):
    x, y = samples
    streams, options = (ArrayRows(x), ArrayRows(y)), {"frequencies": 300, "seed": 4, "permutations": 50}
    shift = ask(x, y, **options, precision="exact")
    found = fourier_mmd2(*streams, make_options(**options), ComputeConfig(), sigma=2.0, precision="float64")
    assert (shift.mmd2.value, shift.p_value) == (pytest.approx(found.mmd2.value, rel=1e-13), found.p_value)
    assert shift.approximation_error == pytest.approx(found.approximation_error, rel=1e-9)
    assert (shift.permutations, shift.enumerated) == (50, False)


def test_rows_are_centred_scaled_and_chosen_as_they_come(samples):
    x, y = samples
    mean, sd, kept = x.mean(axis=0, dtype="f8"), np.arange(1.0, 7.0), np.array([1, 1, 0, 1, 1, 1], bool)
    scaled = Scaled("standardised", Affine(mean, sd, kept), 1.3)
    by_hand = [((part - mean) / sd)[:, kept] for part in (x, y)]
    plain = ask(*by_hand, Scaled("raw", Affine(), 1.3), precision="exact")
    assert ask(x, y, scaled, precision="exact").mmd2.value == pytest.approx(plain.mmd2.value, rel=1e-12)
    assert AffineRows(ArrayRows(torch.zeros(3, 6, dtype=torch.bfloat16)), scaled.affine).read(1, 3).shape == (2, 5)


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_the_bound_on_rounding_holds(rng, monkeypatch, pairing):
    chosen = {"exact": "float64", "high": "float32"}
    monkeypatch.setattr("vfmalign.mmd.engine.precision.choose", lambda least, *_, **__: chosen[least])
    for scale in (1e-2, 1.0):
        x = rng.normal(size=(300, 40))
        y = x + scale * rng.normal(size=x.shape)
        low, high = (ask(x, y, Scaled("raw", Affine(), 6.0), precision=p, pairing=pairing) for p in ("high", "exact"))
        assert (low.precision, high.precision) == ("float32", "float64")
        assert abs(low.mmd2.value - high.mmd2.value) <= low.error_bound + high.error_bound


def test_what_is_not_computed_says_why(samples):
    shift = ask(*samples, aggregated=True, permutations=50)
    for absent, reason in ((shift.aggregated_p_value, "grid of bandwidths"), (shift.p_value_max_t, "over layers")):
        assert absent.value is None
        assert reason in absent.absent_reason
    without_bandwidth = ask(*samples, Scaled("raw", Affine(), 0.0, absent_reason="no bandwidth"))
    assert (without_bandwidth.mmd2.value, without_bandwidth.mmd2.absent_reason) == (None, "no bandwidth")


def test_the_engine_stops_it(samples):
    def stop():
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        ask(*samples, context=WorkContext(is_cancelled=stop))
