"""Test of the mix of strata: do more studies come from another scanner than in the reference?

For each stratum of the scoring rows, and for all others as one, let x be 1 for rows of the stratum and 0 for the rest.
Without a change, calibration rows and stream are draws of one probability p. The evidence against this is

    E = m(calibration) · m(stream) / max over p of p(calibration and stream)

where m is the probability of such a sequence under a Beta(½, ½) prior (Krichevsky and Trofimov, 1981). For the true p,
m·m/p is a martingale whose expectation is 1, and E is never above it: E ever reaches c with a probability of at most
1/c (Ville, 1939). Features do not enter, and the test never raises the alarm for drift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

OTHER = ""
"""Stands for every stratum that the scoring rows do not have."""


class StratumMix:
    """Counts and evidence of an epoch.

    Args:
        strata: of the scoring rows; empty for no test.
        calibration: number of calibration rows per stratum.

    Attributes:
        calibration: the same by stratum of the test.
        stream: number of rows of the stream by stratum.
        largest_log_evidence: ln of the largest E so far.
    """

    def __init__(self, strata: Sequence[str], calibration: Mapping[str, int]) -> None:
        labels = [*strata, OTHER] if strata else []
        self.calibration, self.stream = dict.fromkeys(labels, 0), dict.fromkeys(labels, 0)
        for stratum, count in calibration.items():
            if strata:
                self.calibration[self._get_label(stratum)] += count
        self.largest_log_evidence = 0.0

    def add(self, stratum: str) -> None:
        """Counts a row; an empty stratum is unknown and not counted."""
        if not stratum or not self.stream:
            return
        self.stream[self._get_label(stratum)] += 1
        calibration, stream = sum(self.calibration.values()), sum(self.stream.values())
        for label, count in self.stream.items():
            log_evidence = get_log_evidence(self.calibration[label], calibration, count, stream)
            self.largest_log_evidence = max(self.largest_log_evidence, log_evidence)

    def _get_label(self, stratum: str) -> str:
        return stratum if stratum in self.stream else OTHER


def get_log_evidence(first: int, first_total: int, second: int, second_total: int) -> float:
    """Returns ln E of two sequences from their numbers of ones and their lengths."""
    ones, total = first + second, first_total + second_total
    largest = sum(count * math.log(count / total) for count in (ones, total - ones) if count)
    return _get_log_mixture(first, first_total) + _get_log_mixture(second, second_total) - largest


def _get_log_mixture(ones: int, total: int) -> float:
    """Returns ln of the probability of a sequence with so many ones under a Beta(½, ½) prior."""
    return math.lgamma(ones + 0.5) + math.lgamma(total - ones + 0.5) - math.lgamma(total + 1.0) - math.log(math.pi)
