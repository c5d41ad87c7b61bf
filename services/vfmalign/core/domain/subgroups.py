"""Subgroups of patients that a sample does not contain: no interval and no test shows what happens to them."""

from __future__ import annotations

SUBGROUP_SHARE = 0.1


def describe_unseen_subgroup(patients: int) -> str:
    """Returns how often a sample of so many patients holds nobody of a subgroup of one in ten, 0.9ⁿ, in words."""
    chance = 100.0 * (1.0 - SUBGROUP_SHARE) ** patients
    text = f"{chance:.2g} %" if chance >= 0.1 else "below 0.1 %"
    return f"the chance that none of them belongs to a subgroup of one patient in ten is {text}"
