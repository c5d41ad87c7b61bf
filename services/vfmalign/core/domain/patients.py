"""What few patients and trainings limit: intervals, verdicts, and subgroups that a sample does not contain."""

from __future__ import annotations

from vfmalign.core.formats.documents import pluralise

MIN_GROUPS = 8
"""Patients below which no interval, p-value or verdict is given."""
MIN_FOR_CLAIM = 17
"""Patients below which a verdict claims nothing: 0.8¹⁷ = 2.3 %, so that a subgroup of one in five is rarely missing."""
MIN_SEEDS = 3
"""Training seeds below which a verdict claims nothing: with fewer, the variation between trainings is hardly known."""
MIN_WITHOUT_CAUTION = 35
"""Patients below which a subgroup of one in ten is missing more often than in 2.5 % of the test sets: 0.9³⁵ = 2.5 %."""
MIN_PER_CLASS = 10
"""Patients of either class below which a two-class metric has no interval: with 4 to 9, it covers too rarely."""
SUBGROUP_SHARE = 0.1


def explain_few_patients(n_groups: int, fewest: int) -> str:
    """Returns why there is no interval; empty where there is one.

    Args:
        n_groups: number of patients.
        fewest: number of patients of the smaller class; equal to `n_groups` for metrics of one class.
    """
    if n_groups < MIN_GROUPS:
        return f"{pluralise(n_groups, 'patient')}: an interval needs at least {MIN_GROUPS}"
    if fewest < min(n_groups, MIN_PER_CLASS):
        return f"{pluralise(fewest, 'patient')} of one class: an interval needs at least {MIN_PER_CLASS} of each"
    return ""


def describe_unseen_subgroup(patients: int) -> str:
    """Returns in words how often a sample of n patients misses a subgroup of one patient in ten: 0.9ⁿ."""
    chance = 100.0 * (1.0 - SUBGROUP_SHARE) ** patients
    text = f"{chance:.2g} %" if chance >= 0.1 else "below 0.1 %"
    return f"the chance that none of them belongs to a subgroup of one patient in ten is {text}"
