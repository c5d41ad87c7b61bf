"""Finds structures that a model's field of view cuts, and the share of each structure in the field of view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import Field

from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.record import Id, Record
from vfmalign.core.formats.documents import pluralise

CAUTION_BELOW = 0.98
"""A structure counts as cut if less than this share of it lies inside."""
REFUSE_BELOW = 0.9
"""A case is rejected if less than this share of a structure lies inside, unless the request allows cut organs."""
MAX_NAMED = 5
"""Maximum number of cases that one sentence names."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class CaseInside(Record):
    """Shares of a case's structures that lie in the field of view.

    Attributes:
        case: id of the case.
        split: a split that contains the case.
        inside: maps each structure to the share of its voxels in the field of view, from 0 to 1. Structures that the
            case does not have are omitted.
    """

    case: Id
    split: Split
    inside: dict[VolumeKind, Share]


class CutStructure(Record):
    """A structure that the field of view cuts. `inside` is the share of the structure's voxels in the field of view."""

    case_id: Id
    split: Split
    structure: VolumeKind
    inside: Share


def list_cut(cases: Iterable[CaseInside], below: float = CAUTION_BELOW) -> tuple[CutStructure, ...]:
    """Returns the structures whose share in the field of view is below a limit, the smallest share first."""
    cut = [
        CutStructure(case_id=case.case, split=case.split, structure=structure, inside=share)
        for case in cases
        for structure, share in case.inside.items()
        if share < below
    ]
    return tuple(sorted(cut, key=lambda one: (one.inside, one.case_id, one.structure, one.split)))


def count_cases(cut: Iterable[CutStructure]) -> int:
    """Returns the number of different cases."""
    return len({one.case_id for one in cut})


def describe_cut(cut: Iterable[CutStructure], labels: Mapping[str, str] | None = None) -> str:
    """Names the cases with the smallest shares, and for each case the structure with its smallest share.

    Args:
        cut: see `list_cut`.
        labels: maps case ids to the names in the text. None to use the ids.
    """
    lowest: dict[str, CutStructure] = {}
    for one in cut:
        lowest.setdefault(one.case_id, one)
    named = [
        f"{labels[one.case_id] if labels else one.case_id} ({one.structure} {format_share(one.inside)})"
        for one in list(lowest.values())[:MAX_NAMED]
    ]
    more = len(lowest) - len(named)
    return "; ".join(named) + (f"; and {pluralise(more, 'more case')}" if more else "")


def report_cut(cases: Sequence[CaseInside], below: float, model: str, labels: Mapping[str, str] | None = None) -> str:
    """Describes the cases in which a model's field of view contains less than a given share of a structure.

    Args:
        cases: the cases.
        below: the share.
        model: id of the model.
        labels: see `describe_cut`.

    Returns:
        A sentence without a full stop, or an empty text if there is no such case.
    """
    if not (cut := list_cut(cases, below)):
        return ""
    return (
        f"less than {format_share(below)} of a structure lies in the field of view of {model} in "
        f"{count_cases(cut)} of {len({case.case for case in cases})} cases: {describe_cut(cut, labels)}"
    )


def format_share(share: float) -> str:
    """Returns a share in whole per cent. The share is rounded down, so that cut structures never show 100 %."""
    return f"{int(100 * share + 1e-9)} %"
