"""Channels that move most: their share of the displacement, MMD² without them, and the caution."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tests.mmd_options import make_options

from vfmalign.core.domain.errors import BadOption, Cancelled
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd import mmd2, mmd_test
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.comparison.top_channels import get_displacement
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.distributed import Communicator
from vfmalign.mmd.engine.row_streams import ArrayRows
from vfmalign.mmd.engine.rows import UNCHANGED, Affine


def pairs(rng, rows, channels, moved=()):
    """Reference, x and y: SDs around 1, small moves everywhere, and a common move of some channels."""
    sd = rng.uniform(0.5, 2.0, size=channels)
    reference, x = (rng.normal(size=(count, channels)) * sd + 3.0 for count in (rows + 7, rows))
    y = x + 0.05 * rng.normal(size=(rows, channels)) * sd
    for channel, distance in dict(moved).items():
        y[:, channel] += distance * sd[channel]
    return reference, x, y


def compute(reference, x, y, engine=None, wrap=np.asarray, **options):
    samples = Sample("x", {"features": wrap(x)}), Sample("y", {"features": wrap(y)})
    reference = None if reference is None else Sample("reference", {"features": reference})
    return compare(*samples, reference, make_options(**{"pairing": "paired", **options}), engine or ComputeConfig())


@pytest.fixture
def dominated(rng):
    """768 channels that hardly move, but for one that hardly varies (SD 0.01) and moves by 0.5."""
    sd = np.ones(768)
    sd[100] = 0.01
    reference, x = (rng.normal(size=(count, 768)) * sd for count in (400, 60))
    y = x + 0.1 * rng.normal(size=x.shape) * sd + 0.02 * sd
    y[:, 100] += 0.5
    return reference, x, y


def test_one_channel_that_hardly_varies_no_longer_determines_mmd2(brute, dominated):
    reference = dominated[0]
    layer = compute(*dominated).layers[0]
    # By its own SD the channel moves by 50, more than all rows are apart.
    by_sd = [(part - reference.mean(0)) / reference.std(0, ddof=1) for part in dominated]
    assert brute.estimators["unbiased_paired"](*by_sd[1:], brute.median(by_sd[0])) == pytest.approx(0.7236, abs=1e-3)
    assert layer.channels_at_floor == 1
    assert layer.standardised.mmd2.value == pytest.approx(0.00993, abs=1e-5)
    others = np.arange(768) != 100
    truth = compute(*(part[:, others] for part in dominated)).layers[0].standardised.mmd2.value
    assert truth == pytest.approx(0.000118, abs=1e-6)
    top = layer.top_channels
    assert top.count == 8
    assert top.displacement_share.value > 0.7
    assert top.shift_without.mmd2.value == pytest.approx(truth, abs=3e-6)
    share = f"{100 * top.displacement_share.value:.3g} %"
    assert top.caution.startswith(f"8 of 768 channels hold {share} of the mean squared displacement.")
    assert "0.0099, and 0.00012 without them" in top.caution


@pytest.mark.parametrize("rule", ["reference_median", "pooled_median", "fixed"])
@pytest.mark.parametrize("estimator", ["unbiased_paired", "biased"])
def test_share_and_mmd2_without_are_those_of_plain_formulas(brute, rng, estimator, rule):
    parts = pairs(rng, 23, 230, {5: 2.0, 77: -3.0, 200: 0.5})
    parts = [np.column_stack([part, np.full(len(part), 4.0)]) for part in parts]  # one is constant and does not count
    options = {"fixed_sigma": 20.0} if rule == "fixed" else {"bandwidth_rule": rule}
    layer = compute(*parts, estimator=estimator, permutations=50, **options).layers[0]
    fitted, x, y = brute.standardise(parts[0][:, :230], *(part[:, :230] for part in parts))
    displacement = np.square(y - x).mean(axis=0)
    top = np.argsort(displacement)[::-1][:3]
    assert set(top) == {5, 77, 200}
    assert layer.channels_excluded == 1
    assert layer.top_channels.count == 3
    share = layer.top_channels.displacement_share
    assert share.value == pytest.approx(displacement[top].sum() / displacement.sum(), rel=1e-12)
    assert share.interval is None
    assert share.absent_reason
    fitted, x, y = (np.delete(part, top, axis=1) for part in (fitted, x, y))
    sigma = {
        "reference_median": brute.median(fitted),
        "pooled_median": brute.median(np.concatenate([x, y])),
        "fixed": 20.0,
    }[rule]
    without = layer.top_channels.shift_without
    assert without.sigma == pytest.approx(sigma, rel=1e-12)
    assert without.mmd2.value == pytest.approx(brute.estimators[estimator](x, y, sigma), abs=1e-13)
    assert without.mmd2.interval is None
    assert "without an interval" in without.mmd2.absent_reason
    assert without.p_value.value is None
    assert "not tested" in without.p_value.absent_reason
    assert without.permutations == 0


def test_the_order_of_channels_changes_nothing(rng):
    parts = pairs(rng, 20, 150, {3: 2.0, 149: 0.7})
    shuffled = rng.permutation(150)
    one, other = (compute(*arrays).layers[0] for arrays in (parts, [part[:, shuffled] for part in parts]))
    assert one.top_channels.displacement_share == other.top_channels.displacement_share
    assert one.top_channels.count == other.top_channels.count == 2
    assert one.standardised.mmd2.value == pytest.approx(other.standardised.mmd2.value, rel=1e-10)
    without = (layer.top_channels.shift_without.mmd2.value for layer in (one, other))
    assert next(without) == pytest.approx(next(without), rel=1e-8, abs=1e-14)


@pytest.mark.parametrize(("channels", "cautioned"), [(99, False), (100, True)])
def test_a_caution_needs_a_hundred_channels(rng, channels, cautioned):
    top = compute(*pairs(rng, 12, channels, {4: 5.0})).layers[0].top_channels
    assert top.count == 1
    assert top.displacement_share.value > 0.9
    assert bool(top.caution) == cautioned


@pytest.mark.parametrize(("moves", "share", "cautioned"), [((3, 2.5, 2.5), 0.4186, False), ((3, 2, 2), 0.5294, True)])
def test_a_caution_needs_more_than_half_of_the_displacement(rng, moves, share, cautioned):
    reference, x = rng.normal(size=(30, 100)), rng.normal(size=(12, 100))
    y = x.copy()
    y[:, :3] += moves * reference[:, :3].std(0, ddof=1)
    top = compute(reference, x, y).layers[0].top_channels
    assert top.displacement_share.value == pytest.approx(share, abs=1e-4)
    assert bool(top.caution) == cautioned


def test_without_the_one_channel_that_varies_nothing_remains(rng):
    reference, x, y = (np.column_stack([np.ones(20), rng.normal(size=20)]) for _ in range(3))
    layer = compute(reference, x, y).layers[0]
    assert layer.channels_excluded == 1
    assert (layer.top_channels.count, layer.top_channels.displacement_share.value) == (1, 1.0)
    assert layer.top_channels.shift_without.mmd2.value is None
    assert "no channel remains" in layer.top_channels.shift_without.mmd2.absent_reason


def test_without_a_bandwidth_there_is_no_mmd2_without(rng):
    """The channel that remains is the same in most rows of the reference, so that its median distance is 0."""
    rare = np.zeros(30)
    rare[:2] = 5.0
    reference, x, y = (np.column_stack([rng.normal(size=30), rare]) for _ in range(3))
    without = compute(reference, x, y).layers[0].top_channels.shift_without
    assert without.mmd2.value is None
    assert "median distance" in without.mmd2.absent_reason


def test_constant_channels_alone_are_refused():
    constant = np.full((9, 4), 0.5)
    with pytest.raises(BadOption, match="no channel of layer `features` varies"):
        compute(constant, constant, constant, fixed_sigma=1.0)


def test_what_cannot_be_measured_says_why(rng):
    reference, x, y = pairs(rng, 40, 120)
    table = [
        ({}, (reference, x, x), "no channel moves"),
        ({"pairing": "independent"}, (reference, x, y), "are not pairs"),
        ({}, (reference[:1], x, y), "one row"),
        ({"estimator": "random_fourier"}, (reference, x, y), "`random_fourier` does not look for"),
    ]
    for options, parts, reason in table:
        top = compute(*parts, **options).layers[0].top_channels
        assert (top.count, top.displacement_share.value, top.caution) == (0, None, "")
        assert reason in top.displacement_share.absent_reason
        assert top.shift_without.mmd2 == top.displacement_share
    assert compute(None, x, y, fixed_sigma=3.0).layers[0].top_channels is None


def test_every_layer_has_its_own(rng):
    parts = [pairs(rng, 15, 110, {channel: 4.0}) for channel in (1, 60)]
    x, y, reference = (
        Sample(name, {"a": parts[0][at], "b": parts[1][at]}) for name, at in (("x", 1), ("y", 2), ("reference", 0))
    )
    layers = compare(x, y, reference, make_options("paired"), ComputeConfig()).layers
    for layer, one in zip(layers, parts, strict=True):
        alone = compute(*one).layers[0].top_channels
        assert layer.top_channels == alone


def test_the_library_gives_what_the_service_gives(rng):
    reference, x, y = pairs(rng, 20, 130, {7: 3.0})
    layer = compute(reference, x, y, permutations=60, seed=2).layers[0]
    result = mmd_test(x, y, pairing="paired", reference=reference, standardised=True, permutations=60, seed=2)
    assert (result.mmd2, result.sigma) == (layer.standardised.mmd2.value, layer.standardised.sigma)
    assert (result.interval, result.p_value) == (layer.standardised.mmd2.interval, layer.standardised.p_value.value)
    assert result.top_channels == layer.top_channels
    assert mmd2(x, y, pairing="paired", reference=reference, standardised=True) == result.mmd2
    raw = mmd_test(x, y, pairing="paired", reference=reference, permutations=60, seed=2)
    assert (raw.mmd2, raw.top_channels) == (layer.raw.mmd2.value, None)
    with pytest.raises(BadOption, match="standardised features need a reference") as error:
        mmd2(x, y, pairing="paired", standardised=True)
    assert error.value.field == "reference"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_count_as_they_are(rng, dtype):
    halves = [torch.from_numpy(part).to(dtype) for part in pairs(rng, 20, 130, {7: 3.0})]
    results = [
        mmd_test(x, y, pairing="paired", reference=reference, standardised=True, permutations=0)
        for reference, x, y in (halves, [part.double() for part in halves])
    ]
    assert results[0].mmd2 == pytest.approx(results[1].mmd2, rel=1e-9)
    tops = [result.top_channels for result in results]
    assert tops[0].displacement_share.value == pytest.approx(tops[1].displacement_share.value, rel=1e-12)
    assert tops[0].shift_without.mmd2.value == pytest.approx(tops[1].shift_without.mmd2.value, rel=1e-8, abs=1e-14)


class Counted:
    """A stream that counts its reads and remembers the largest."""

    def __init__(self, features):
        self._stream = ArrayRows(features)
        self.rows, self.channels = self._stream.rows, self._stream.channels
        self.read_rows = self.most = 0

    def read(self, start, stop):
        self.read_rows += stop - start
        self.most = max(self.most, stop - start)
        return self._stream.read(start, stop)


def test_rows_are_read_once_and_in_blocks(rng):
    _, x, y = pairs(rng, 900, 768)
    streams = Counted(x), Counted(y)
    expected = np.square(y - x).mean(axis=0)
    np.testing.assert_allclose(get_displacement(*streams, UNCHANGED, ComputeConfig()), expected, rtol=1e-12)
    assert {stream.read_rows for stream in streams} == {900}
    assert max(stream.most for stream in streams) * 768 * 8 <= 2**20


def test_streams_give_the_values_of_arrays(rng):
    parts = pairs(rng, 150, 120, {9: 3.0})
    small = ComputeConfig(memory_bytes=2**21, tile_shape=(16, 16))
    one = compute(*parts, engine=small, wrap=ArrayRows).layers[0].top_channels
    other = compute(*parts).layers[0].top_channels
    assert one.displacement_share == other.displacement_share
    assert one.shift_without.sigma == other.shift_without.sigma
    assert one.shift_without.mmd2.value == pytest.approx(other.shift_without.mmd2.value, rel=1e-9, abs=1e-14)


@dataclass(frozen=True)
class Alone(Communicator):
    """A process whose sums are not added to those of the others."""

    def all_reduce(self, *tensors):
        assert len(tensors) == 1


def test_processes_share_the_rows(rng):
    _, x, y = pairs(rng, 100, 7)
    affine = Affine(np.zeros(7), np.linspace(0.5, 2.0, 7), np.arange(7) != 2)
    whole = get_displacement(ArrayRows(x), ArrayRows(y), affine, ComputeConfig())
    assert whole[2] == 0.0
    streams = [(Counted(x), Counted(y)) for _ in range(3)]
    shares = [
        get_displacement(*pair, affine, ComputeConfig(communicator=Alone(rank, 3))) for rank, pair in enumerate(streams)
    ]
    np.testing.assert_allclose(sum(shares), whole, rtol=1e-12)
    assert [pair[0].read_rows for pair in streams] == [33, 33, 34]


def test_large_displacements_do_not_overflow():
    x = np.zeros((3, 1))
    y = np.full((3, 1), 1.3e154)
    assert get_displacement(ArrayRows(x), ArrayRows(y), UNCHANGED, ComputeConfig())[0] == pytest.approx(1.69e308)


def test_it_stops_between_blocks(rng):
    _, x, y = pairs(rng, 10, 3)
    calls = []

    def stop():
        calls.append(1)
        raise Cancelled("now")

    with pytest.raises(Cancelled):
        get_displacement(
            ArrayRows(x), ArrayRows(y), UNCHANGED, replace(ComputeConfig(), context=WorkContext(is_cancelled=stop))
        )
    assert len(calls) == 1
