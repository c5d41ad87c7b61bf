"""Candidates for a selection: the stacks and segmentations of a study, with texts that are safe to print."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from vfmalign.imaging.dicom.examinations import Segmentation, Series
from vfmalign.imaging.dicom.frames import DERIVED, KEYWORDS, AttributeValue
from vfmalign.imaging.dicom.rules.conditions import Attributes, Conditions, find_unmet, format_value
from vfmalign.imaging.dicom.screening import PrivateWords, screen_attributes, screen_code, screen_text
from vfmalign.imaging.dicom.stacks import Stack

T = TypeVar("T", Stack, Segmentation)

_MAX_LISTED = 5
_MAX_DIFFERENCES = 4
_TELLING = tuple(dict.fromkeys((*DERIVED, "SeriesDescription", "ImageType", "EchoTime", "RepetitionTime", *KEYWORDS)))
"""Attributes in the order in which they help a person to distinguish volumes."""


@dataclass(frozen=True, eq=False)
class Candidate(Generic[T]):
    """A stack or segmentation that a selection rule may choose.

    Attributes:
        label: name within the study, such as `series 6 (b_value 800)`.
        item: the stack or segmentation.
        private_words: private words of the candidate's study; see `Study`.
        problem: reason why the candidate cannot be used; empty otherwise.
        acquired_s: see `Series`.
    """

    label: str
    item: T
    private_words: PrivateWords
    problem: str = ""
    acquired_s: float | None = None

    def is_of(self, series: str) -> bool:
        """Returns whether the candidate belongs to the series with this number in printed tables."""
        return re.sub(r" \(.*\)|, (volume|object) \d+", "", self.label) == f"series {series}"

    def find_unmet(self, conditions: Conditions) -> str:
        """Returns the reason why the candidate's attributes do not meet the conditions; empty if they do."""
        return find_unmet(conditions, self.item.attributes, self.show)

    def screen(self, text: str) -> str:
        """Returns a text from the candidate's headers in a form that is safe to print."""
        return screen_text(text, self.private_words)

    def screen_code(self, code: str) -> str:
        """Returns a coded concept in a form that is safe to print."""
        return screen_code(code, self.private_words)

    @property
    def printable(self) -> dict[str, AttributeValue]:
        """Attributes of the candidate in a form that is safe to print."""
        return screen_attributes(self.item.attributes, self.private_words)

    def show(self, name: str) -> str:
        """Returns an attribute as a short text that is safe to print."""
        return show_attribute(self.item.attributes, name, self.private_words)


def show_attribute(attributes: Attributes, name: str, private_words: PrivateWords) -> str:
    """Returns an attribute as a short text that is safe to print."""
    return format_value(screen_attributes({name: attributes[name]}, private_words)[name])


def list_stacks(series: Series, private_words: PrivateWords) -> Iterable[Candidate[Stack]]:
    """Lists the stacks of a series. Each stack has a label that is unique within the study."""
    labels: Counter[str] = Counter()
    for stack in series.stacks:
        attributes = stack.attributes
        stated = [name for name in stack.divided_by if name in attributes]
        divided = ", ".join(f"{name} {show_attribute(attributes, name, private_words)}" for name in stated)
        label = f"{series.label} ({divided})" if divided else series.label
        labels[label] += 1
        numbered = label if labels[label] == 1 else f"{label}, volume {labels[label]}"
        yield Candidate(numbered, stack, private_words, series.problem or stack.problem, series.acquired_s)


def summarise_reasons(reasons: Mapping[str, str]) -> list[str]:
    """Returns each distinct reason with its candidates, such as `no b_value: series 3, series 9`."""
    labels: dict[str, list[str]] = {}
    for label, reason in reasons.items():
        if reason:
            labels.setdefault(reason, []).append(label)
    return [f"{reason}: {list_some(members, len(members), ', ')}" for reason, members in labels.items()]


def tell_apart(candidates: Sequence[Candidate[T]]) -> str:
    """Lists candidates with the attributes that distinguish them."""
    attributes = [candidate.item.attributes for candidate in candidates]
    differing = [name for name in _TELLING if len({values.get(name) for values in attributes}) > 1]
    differing = [name for name in differing if name != "SeriesNumber"]  # it is part of the label
    texts = [_describe(candidate, differing[:_MAX_DIFFERENCES]) for candidate in candidates[:_MAX_LISTED]]
    times = [candidate.acquired_s for candidate in candidates]
    stated = [time for time in times if time is not None]
    if differing:
        same = ""
    elif len(stated) == len(times) and max(stated) > min(stated):
        texts = [
            f"{text}{f', acquired {_format_span(time - min(stated))} later' if time > min(stated) else ''}"
            for text, time in zip(texts, stated, strict=False)
        ]
        same = "; no attribute differs: the series is repeated, and `prefer` can name the largest or smallest "
        same += "AcquisitionTime or SeriesNumber"
    else:
        same = "; no attribute differs, so perhaps a series is stored twice"
    return list_some(texts, len(candidates)) + same


def _format_span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _describe(candidate: Candidate[T], names: Iterable[str]) -> str:
    stated = candidate.item.attributes
    values = [f"{name} {candidate.show(name)}" if name in stated else f"no {name}" for name in names]
    return f"{candidate.label}: {', '.join(values)}" if values else candidate.label


def list_some(texts: Sequence[str], count: int, separator: str = "; ") -> str:
    """Lists the first few of `count` texts."""
    more = [f"and {count - _MAX_LISTED} more"] if count > _MAX_LISTED else []
    return separator.join([*texts[:_MAX_LISTED], *more])
