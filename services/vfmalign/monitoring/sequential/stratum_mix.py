"""Test of the mix of strata: do more studies come from another scanner than in the reference?

The labels of reference and stream are draws from one distribution without drift. The evidence against this is

    E = m(reference) · m(stream) / max over p of p(reference and stream)

where m is the probability of labels under Dirichlet(½, …, ½) (Krichevsky and Trofimov, 1981) and p that of independent
draws. For the true p, m·m/p is a martingale whose expectation is 1, and E is never above it: E reaches 1/α at any time
with a probability of at most α, by Ville's inequality. Features do not enter, and the test raises no alarm for drift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

OTHER = ""
"""Stands for every stratum that the reference does not have."""


class StratumMix:
    """Counts of strata in the reference and in the stream of an epoch.

    Args:
        reference: number of patients per stratum of the reference.

    Attributes:
        reference: the same.
        stream: number of rows per stratum; the key "" counts those of strata that the reference does not have.
        largest_log_evidence: ln of the largest E so far.
    """

    def __init__(self, reference: Mapping[str, int]) -> None:
        self.reference = dict(reference)
        self.stream = dict.fromkeys([*self.reference, OTHER], 0)
        self.largest_log_evidence = 0.0

    @property
    def log_evidence(self) -> float:
        """Natural logarithm of E; 0 without strata."""
        if not self.reference:
            return 0.0
        reference = [self.reference.get(stratum, 0) for stratum in self.stream]
        both = [first + second for first, second in zip(reference, self.stream.values(), strict=True)]
        total = sum(both)
        largest = sum(count * math.log(count / total) for count in both if count)
        return _get_log_mixture(reference) + _get_log_mixture(list(self.stream.values())) - largest

    def add(self, stratum: str) -> None:
        """Counts a row; an empty stratum is unknown and not counted."""
        if not stratum or not self.reference:
            return
        self.stream[stratum if stratum in self.reference else OTHER] += 1
        self.largest_log_evidence = max(self.largest_log_evidence, self.log_evidence)


def _get_log_mixture(counts: Sequence[int]) -> float:
    """Returns ln of the probability of a sequence of labels with these counts under Dirichlet(½, …, ½)."""
    half = len(counts) / 2.0
    terms = sum(math.lgamma(count + 0.5) - math.lgamma(0.5) for count in counts)
    return math.lgamma(half) - math.lgamma(sum(counts) + half) + terms
