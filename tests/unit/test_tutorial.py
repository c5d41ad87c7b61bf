"""The numbers of patients in the tutorial follow from its shares and from what a verdict needs."""

from __future__ import annotations

import re
from pathlib import Path

from vfmalign.core.domain.datasets import SPLITS
from vfmalign.core.domain.patients import MIN_FOR_CLAIM, MIN_GROUPS
from vfmalign.imaging.datasets.splits import split_groups

PAGE = (Path(__file__).resolve().parents[2] / "docs/tutorial.md").read_text()
SHARES = {split: float(share) for split in SPLITS for share in re.findall(rf"--share {split}=(\S+)", PAGE)}


def count_test_patients(patients: int) -> int:
    groups = [str(number) for number in range(patients)]
    return list(split_groups(groups, SHARES, seed=0).values()).count("test")


def test_the_stated_numbers_of_patients_are_the_smallest_that_suffice() -> None:
    opening, _, rest = PAGE.partition("\n## ")
    (enough_to_follow,) = map(int, re.findall(r"(\d+) patients are enough to follow", opening))
    assert count_test_patients(enough_to_follow) >= MIN_GROUPS
    (enough_to_pass,) = map(int, re.findall(r"you need at\sleast\s(\d+)", opening))
    assert count_test_patients(enough_to_pass) == MIN_FOR_CLAIM > count_test_patients(enough_to_pass - 1)
    assert f"need {MIN_FOR_CLAIM} test patients" in opening
    gate = rest.partition("## 7. Gate a pipeline")[2]
    assert f"fewer than {enough_to_pass} patients has fewer than {MIN_FOR_CLAIM} in `test`" in gate
