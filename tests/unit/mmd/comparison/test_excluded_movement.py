"""Channels that do not vary in the reference and move all the same: how many, how far, and the caution."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.mmd_options import make_options

from vfmalign.core.domain.errors import Cancelled
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd import mmd2, mmd_test
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.excluded_movement import get_marginal_displacement
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.distributed import Communicator
from vfmalign.mmd.engine.row_streams import ArrayRows
from vfmalign.mmd.engine.rows import Affine


def compute(reference, x, y, engine=None, wrap=np.asarray, **options):
    samples = Sample("x", {"features": wrap(x)}), Sample("y", {"features": wrap(y)})
    reference = None if reference is None else Sample("reference", {"features": reference})
    options = make_options(**{"pairing": "paired", **options})
    return compare(*samples, reference, options, engine or ComputeConfig()).layers[0]


@pytest.fixture
def dead(rng):
    """128 channels of different SDs that do not move; the last 16 are dead in the reference and x, and alive in y."""
    sd = np.linspace(0.5, 2.0, 128)
    reference, x = (rng.normal(size=(rows, 128)) * sd for rows in (90, 60))
    y = x + 1e-4 * rng.normal(size=x.shape)
    reference[:, 112:], x[:, 112:] = 0.25, 0.25
    y[:, 112:] = 0.25 + np.maximum(rng.normal(size=(60, 16)), 0.0) * 10.0
    return reference, x, y


def displacement(reference, x, y, channels, *, paired):
    """The documented formula."""
    sd = reference.std(axis=0, ddof=1)
    x, y = x[:, channels], y[:, channels]
    if paired:
        squares = np.square(y - x).mean(axis=0)
    else:
        squares = np.square(y.mean(axis=0) - x.mean(axis=0)) + np.square(y.std(axis=0) - x.std(axis=0))
    return np.sqrt(squares.mean()) / np.median(sd[sd > 0.0])


@pytest.mark.parametrize("estimator", [None, "random_fourier"])
@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_dead_channels_that_come_alive_are_counted_and_cautioned_about(dead, pairing, estimator):
    layer = compute(*dead, pairing=pairing, estimator=estimator, permutations=99)
    moved = layer.excluded_movement
    if estimator is None and pairing == "paired":
        assert layer.standardised.p_value.value > 0.05  # what the reader would otherwise rely on
        assert layer.raw.p_value.value == 0.01
    assert (layer.channels_excluded, moved.count) == (16, 16)
    expected = displacement(*dead, np.arange(112, 128), paired=pairing == "paired")
    assert moved.displacement.value == pytest.approx(expected, rel=1e-9)
    assert moved.displacement.interval is None
    assert moved.displacement.absent_reason
    assert moved.caution.startswith(f"16 of 128 channels did not vary in the reference and moved by {expected:.2g} SDs")
    assert f"MMD² of the raw features, {layer.raw.mmd2.value:.2g}, includes them" in moved.caution


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_channels_that_stay_as_they_are_and_channels_at_the_floor_do_not_count(rng, pairing):
    reference, x, y = (rng.normal(size=(40, 9)) for _ in range(3))
    for part in (reference, x, y):
        part[:, :3] = 1.0 / 3.0
        part[:, 3] = 5.0 + 1e-8 * part[:, 3]  # below 1e-6 of the median SD: excluded, moves by rounding alone
        part[:, 4] *= 0.01  # at the smallest scale: its movement is part of the standardised MMD²
    y[:, 4] += 3.0
    x[:, 1], y[:, 1] = 1e4 / 3.0, 1e4 / 3.0  # elsewhere in the reference, the same in both samples
    layer = compute(reference, x, y, pairing=pairing)
    assert (layer.channels_excluded, layer.channels_at_floor) == (4, 1)
    moved = layer.excluded_movement
    assert (moved.count, moved.displacement.value, moved.caution) == (0, None, "")
    assert "no channel that standardisation excludes moves" in moved.displacement.absent_reason
    y[:, 3] += 0.5
    assert compute(reference, x, y, pairing=pairing).excluded_movement.count == 1


@pytest.mark.parametrize(("distance", "cautioned"), [(0.0499, False), (0.0501, True)])
def test_the_caution_begins_where_the_channels_together_move_by_a_tenth_of_the_median_sd(rng, distance, cautioned):
    reference, x = rng.normal(size=(30, 12)), rng.normal(size=(20, 12))
    reference[:, :6], x[:, :6] = 2.0, 2.0
    y = x.copy()
    y[:, :4] += distance * np.median(reference[:, 6:].std(axis=0, ddof=1))  # the norm of four is twice one
    moved = compute(reference, x, y).excluded_movement
    assert moved.count == 4
    assert moved.displacement.value == pytest.approx(distance, rel=1e-9)
    assert bool(moved.caution) == cautioned


def test_what_cannot_be_measured_says_why(dead, rng):
    reference, x, y = dead
    assert compute(None, x, y, fixed_sigma=3.0).excluded_movement is None
    one_row = compute(reference[:1], x, y).excluded_movement
    assert (one_row.count, one_row.caution) == (0, "")
    assert "one row" in one_row.displacement.absent_reason
    others = compute(*(part[:, :100] for part in dead)).excluded_movement
    assert "no channel that standardisation excludes moves" in others.displacement.absent_reason


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_a_movement_beyond_the_range_of_a_double_is_absent_with_the_reason(dead, pairing):
    reference, x, y = (part * 1e-140 for part in dead)
    y[0, 120] = 1e30
    moved = compute(reference, x, y, pairing=pairing, fixed_sigma=1.0).excluded_movement
    assert (moved.count, moved.displacement.value, moved.caution) == (16, None, "")
    assert "beyond the range of a double" in moved.displacement.absent_reason


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_streams_give_the_values_of_arrays(dead, pairing):
    small = ComputeConfig(memory_bytes=2**21, tile_shape=(16, 16))
    one = compute(*dead, pairing=pairing, engine=small, wrap=ArrayRows).excluded_movement
    other = compute(*dead, pairing=pairing).excluded_movement
    assert one.displacement.value == pytest.approx(other.displacement.value, rel=1e-12)
    assert (one.count, one.caution) == (other.count, other.caution)


class Recorded(Communicator):
    """A process that keeps its sums, and then takes those of all processes."""

    def __init__(self, rank, world_size, sums, total):
        super().__init__(rank, world_size)
        object.__setattr__(self, "parts", (sums, iter(total)))

    def all_reduce(self, *tensors):
        (tensor,) = tensors
        self.parts[0].append(tensor.clone())
        tensor.copy_(next(self.parts[1], tensor))


def test_processes_share_the_rows(rng):
    x, y = ArrayRows(rng.normal(size=(100, 7))), ArrayRows(2.0 * rng.normal(size=(55, 7)) + 1.0)
    affine = Affine(sd_C=np.full(7, 0.5), channel_mask_C=np.arange(7) != 2)
    whole = get_marginal_displacement(x, y, affine, ComputeConfig())
    sums = [[], [], []]
    for rank, own in enumerate(sums):
        get_marginal_displacement(x, y, affine, ComputeConfig(communicator=Recorded(rank, 3, own, [])))
    total = [sum(parts) for parts in zip(*sums, strict=True)]
    shared = ComputeConfig(communicator=Recorded(0, 3, [], total))
    np.testing.assert_allclose(get_marginal_displacement(x, y, affine, shared), whole, rtol=1e-12)
    assert whole[2] == 0.0
    assert (np.delete(whole, 2) > 1.0).all()


def test_it_stops_between_blocks(rng):
    def stop():
        raise Cancelled("now")

    x = ArrayRows(rng.normal(size=(10, 3)))
    engine = replace(ComputeConfig(), context=WorkContext(is_cancelled=stop))
    with pytest.raises(Cancelled):
        get_marginal_displacement(x, x, Affine(sd_C=np.ones(3)), engine)


def test_the_library_gives_what_the_service_gives(dead):
    reference, x, y = (torch.from_numpy(part.astype(np.float32)) for part in dead)
    result = mmd_test(x, y, pairing="paired", reference=reference, standardised=True, permutations=0)
    assert result.excluded_movement == compute(*(part.numpy() for part in (reference, x, y))).excluded_movement
    assert mmd_test(x, y, pairing="paired", reference=reference, permutations=0).excluded_movement is None
    assert mmd2(x, y, pairing="paired", reference=reference, standardised=True) == result.mmd2
