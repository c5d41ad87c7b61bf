"""Problems that prevent the import of a dataset. Cases with the same problem are listed in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vfmalign.core.domain.errors import BadDataset
from vfmalign.imaging.datasets.layouts.sources import MAX_NAMED, list_some

_MAX_LISTED = 1_000


class Problem(NamedTuple):
    """A reason why a dataset cannot be imported.

    Attributes:
        text: the cause and its remedy, without patients' names.
        case: label of the case; empty for a problem of the whole dataset.
    """

    text: str
    case: str = ""

    def __str__(self) -> str:
        return f"{self.case}: {self.text}" if self.case else self.text


class UnusableCases(BadDataset):
    """A dataset that has problems.

    Attributes:
        problems: all problems. The error message has one line for each distinct problem.
        cases: labels of the cases with problems.
    """

    def __init__(self, dataset_id: str, problems: Sequence[Problem]) -> None:
        lines = _summarise(problems)
        more = [f"and {len(lines) - _MAX_LISTED} more"] if len(lines) > _MAX_LISTED else []
        super().__init__(
            "\n  ".join(["it cannot be imported:", *lines[:_MAX_LISTED], *more]),
            subject=f"dataset {dataset_id}",
            remedy="nothing was uploaded; correct these cases (their numbers follow the order of names)",
        )
        self.problems = tuple(map(str, problems))
        self.cases = frozenset(problem.case for problem in problems)


def _summarise(problems: Sequence[Problem]) -> list[str]:
    """Returns one line for each distinct problem, with the cases that have it."""
    cases_by_text: dict[str, list[str]] = {}
    for problem in problems:
        cases_by_text.setdefault(problem.text, []).append(problem.case)
    lines: list[str] = []
    for problem in problems:
        cases = cases_by_text[problem.text]
        if len(cases) <= MAX_NAMED:
            lines.append(str(problem))
        elif problem.case == cases[0]:
            lines.append(f"{len(cases)} cases ({list_some(cases)}): {problem.text}")
    return lines
