"""Subsets of the training cases, for experiments on label efficiency.

A seed puts the patients of `train` in an order, and a subset is the beginning of this order. The subset of a smaller
number is therefore part of the subset of a larger number. The order depends on the dataset, the classes and the seed
alone, and so all models and networks of a seed have the same subset.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from vfmalign.core.domain.errors import BadOption


def draw_subset(groups: Sequence[str], strata: Sequence[str], count: int, seed: int) -> list[int]:
    """Draws the smallest subset of whole patients that has at least `count` cases.

    The patients of each stratum are in random order. Adams' method of apportionment merges these orders: the next
    patient comes from the stratum with the largest quotient of its patients and its drawn patients. The subset
    therefore begins with one patient of each stratum, and then becomes proportional.

    Args:
        groups: patient of each case.
        strata: class of each case, by which the draw is stratified; equal for all cases without classes. A patient with
            cases of several classes belongs to the last of these classes, in alphabetical order.
        count: number of cases.
        seed: seed of the order.

    Returns:
        Indices of the drawn cases, in ascending order.

    Raises:
        BadOption: there are fewer cases than `count`, or a class would have no case. The error states the counts.
    """
    if count > len(groups):
        raise BadOption(
            f"{count} training cases are more than the {len(groups)} of `train`",
            field="spec.train_cases",
            remedy=f"choose at most {len(groups)}, or 0 for all (`all`)",
        )
    members: defaultdict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    # Hashes order the patients, because their order must stay the same in all later versions of Python and NumPy.
    order = sorted(members, key=lambda group: hashlib.sha256(f"{seed}/training cases/{group}".encode()).digest())
    waiting: defaultdict[str, list[str]] = defaultdict(list)
    for group in order:
        waiting[max(strata[place] for place in members[group])].append(group)
    drawn: list[int] = []
    taken: Counter[str] = Counter()
    while len(drawn) < count:
        quotients = [
            (len(patients) / taken[stratum] if taken[stratum] else float("inf"), len(patients), stratum)
            for stratum, patients in waiting.items()
            if taken[stratum] < len(patients)
        ]
        stratum = max(quotients)[-1]
        drawn += members[waiting[stratum][taken[stratum]]]
        taken[stratum] += 1
    _check_classes(Counter(strata), Counter(strata[place] for place in drawn), count)
    return sorted(drawn)


def _check_classes(of_train: Counter[str], of_subset: Counter[str], count: int) -> None:
    if missing := sorted(set(of_train) - set(of_subset)):
        counts = ", ".join(f"{of_subset[name]} of {of_train[name]} {name}" for name in sorted(of_train))
        raise BadOption(
            f"{count} training cases have no case that is {missing[0]}; they are {counts}",
            field="spec.train_cases",
            remedy="choose a larger number",
        )
