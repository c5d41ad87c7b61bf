"""Limits for small samples: when intervals and verdicts are withheld, and how likely a sample misses a subgroup."""

from __future__ import annotations

from vfmalign.core.formats.documents import pluralise

MIN_GROUPS = 8
"""Minimum number of patients for an interval, p-value or verdict."""
MIN_FOR_CLAIM = 17
"""Minimum number of patients for a claim: 0.8¹⁷ = 2.3 % of such samples miss a subgroup of one patient in five."""
MIN_SEEDS = 3
"""Minimum number of training seeds for a claim: with fewer, the variation between trainings is hardly known."""
MIN_WITHOUT_CAUTION = 35
"""With fewer patients, more than 0.9³⁵ = 2.5 % of test sets miss a subgroup of one patient in ten."""
MIN_PER_CLASS = 10
"""Minimum number of patients in each class for an interval of a two-class metric: with 4 to 9, its coverage is low."""
SUBGROUP_SHARE = 0.1


def explain_few_patients(n_groups: int, fewest: int) -> str:
    """Returns the reason why an estimate has no interval, or an empty text if the estimate has an interval.

    Args:
        n_groups: number of patients.
        fewest: number of patients in the smaller class. For metrics of one class, equal to `n_groups`.
    """
    if n_groups < MIN_GROUPS:
        return f"{pluralise(n_groups, 'patient')}: an interval needs at least {MIN_GROUPS}"
    if fewest < min(n_groups, MIN_PER_CLASS):
        return f"{pluralise(fewest, 'patient')} of one class: an interval needs at least {MIN_PER_CLASS} of each"
    return ""


def describe_unseen_subgroup(patients: int) -> str:
    """States how often a sample of n patients misses a subgroup that contains 10 % of all patients: 0.9ⁿ."""
    chance = 100.0 * (1.0 - SUBGROUP_SHARE) ** patients
    text = f"{chance:.2g} %" if chance >= 0.1 else "below 0.1 %"
    return f"the chance that none of them belongs to a subgroup of one patient in ten is {text}"
