"""The shares of α that epochs may spend."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from vfmalign.monitoring.sequential import thresholds


def test_epochs_spend_at_most_alpha() -> None:
    shares = [thresholds.get_epoch_share(epoch) for epoch in range(1, 100_001)]
    assert shares[:3] == pytest.approx([0.8, 0.1, 0.2 / 6])
    assert sum(shares) == pytest.approx(1.0 - 0.2 / 100_000, abs=1e-12)
    assert all(later <= earlier for earlier, later in pairwise(shares))


def test_components_share_the_alpha_of_an_epoch() -> None:
    assert thresholds.get_log_martingale_threshold(0.01, 1) == pytest.approx(math.log(3 / 0.008))
    assert thresholds.get_log_mix_threshold(0.01, 2, strata=4) == pytest.approx(math.log(4 / 0.001))
