"""The shares of α that epochs and their components may spend."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from vfmalign.monitoring.sequential import SEQUENTIAL, Component, thresholds


def test_epochs_spend_at_most_alpha() -> None:
    shares = [thresholds.get_epoch_share(epoch) for epoch in range(1, 100_001)]
    assert shares[:3] == pytest.approx([0.8, 0.1, 0.2 / 6])
    assert sum(shares) == pytest.approx(1.0 - 0.2 / 100_000, abs=1e-12)
    assert all(later <= earlier for earlier, later in pairwise(shares))


def test_components_share_the_alpha_of_an_epoch() -> None:
    assert tuple(thresholds.SHARES) == SEQUENTIAL
    assert {*Component} - {*SEQUENTIAL} == {Component.FIRST_PATIENTS}
    assert sum(thresholds.SHARES.values()) == pytest.approx(1.0, abs=1e-12)
    assert list(thresholds.SHARES.values()) == [0.4, 0.25, 0.25, 0.1]


@pytest.mark.parametrize("channels", [1, 32, 768])
def test_every_channel_has_a_threshold_of_its_own(channels: int) -> None:
    """The sum of the bounds, of D channels and the other components, is the α of the epoch."""
    limits = thresholds.get_log_thresholds(0.01, 2, channels)
    assert limits[Component.ROWS] == pytest.approx(math.log(1 / (0.4 * 0.001)))
    assert limits[Component.BLOCKS_OF_4] == limits[Component.BLOCKS_OF_16] == pytest.approx(math.log(1 / 0.00025))
    assert limits[Component.CHANNELS] == pytest.approx(math.log(channels / (0.1 * 0.001)))
    streams = {component: channels if component is Component.CHANNELS else 1 for component in SEQUENTIAL}
    assert sum(streams[name] * math.exp(-limit) for name, limit in limits.items()) == pytest.approx(0.001)


def test_the_test_of_the_first_patients_takes_its_share_from_the_first_epoch() -> None:
    limits = thresholds.get_log_thresholds(0.01, 1, 32, compares_first=True)
    assert limits[Component.FIRST_PATIENTS] == pytest.approx(math.log(1 / 0.001))
    assert limits[Component.ROWS] == pytest.approx(math.log(1 / (0.4 * 0.007)))
    streams = {component: 32 if component is Component.CHANNELS else 1 for component in Component}
    assert sum(streams[name] * math.exp(-limit) for name, limit in limits.items()) == pytest.approx(0.008)


def test_a_run_length_is_shared_in_the_same_way() -> None:
    limits = thresholds.get_log_run_length_thresholds(1000, channels=8)
    assert limits == {
        Component.ROWS: pytest.approx(math.log(1000 / 0.4)),
        Component.BLOCKS_OF_4: pytest.approx(math.log(4000)),
        Component.BLOCKS_OF_16: pytest.approx(math.log(4000)),
        Component.CHANNELS: pytest.approx(math.log(8 * 1000 / 0.1)),
    }
