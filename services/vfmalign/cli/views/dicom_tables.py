"""Shows the contents of DICOM files and the series that rules select, as tables and as a JSON document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from vfmalign.cli.views.tables import new_table
from vfmalign.client.formatting import ABSENT
from vfmalign.core.formats.documents import pluralise

if TYPE_CHECKING:
    from vfmalign.imaging.dicom.candidates import Candidate
    from vfmalign.imaging.dicom.examinations import Segmentation, Study
    from vfmalign.imaging.dicom.selection import Choice
    from vfmalign.imaging.dicom.stacks import Stack

_COLUMNS = ("orientation", "slices", "b_value", "diffusion")
"""Attributes that come first, if a volume has them."""
_LAST = "SeriesDescription"
_USUAL = (
    "Modality",
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "ScanningSequence",
    "MRAcquisitionType",
    "ImageType",
)
"""Attributes that are shown if no rule names others."""
_MAX_COLUMNS = 9
_MAX_TEXT = 26
_MAX_VALUES = 3
"""Maximum number of values of an attribute, and of a series' volumes with one reason, that are listed one by one."""
_MAX_REASONS = 6
"""Maximum number of reasons of a rule that are listed."""
_ANY_WIDTH = 1_000
"""Width of a screen, in columns, that every table fits on."""


@dataclass(frozen=True)
class ShownStudy:
    """A study, and the candidates that the selections choose.

    Attributes:
        number: number of the study, from 1. An import numbers its cases in the same order.
        study: the study.
        choice: all candidates, and the candidates that the selections choose.
        attributes: attributes that the selections test.
        identity: identifiers of the study, if they may be printed.
    """

    number: int
    study: Study
    choice: Choice
    attributes: Sequence[str]
    identity: Mapping[str, str]

    @property
    def problems(self) -> tuple[str, ...]:
        """Reasons why the study cannot be imported."""
        return (*self.study.problems, *self.choice.problems)

    def list_taking(self, label: str) -> list[str]:
        """Returns the selections that choose a candidate."""
        return [name for name, reasons in self.choice.reasons.items() if reasons.get(label) == ""]


def to_study_document(shown: ShownStudy) -> dict[str, object]:
    """Converts a study to the JSON document that `vfmalign dicom show` prints."""
    study, choice = shown.study, shown.choice
    return {
        "study": shown.number,
        **shown.identity,
        "problems": list(shown.problems),
        "series": [
            {"series": series.label, "volumes": len(series.stacks), "problem": series.problem}
            for series in study.series
        ],
        "volumes": [_to_candidate_document(shown, candidate) for candidate in choice.images],
        "segmentations": [
            _to_candidate_document(shown, candidate) | {"segments": _list_segments(candidate)}
            for candidate in choice.segmentations
        ],
    }


def _to_candidate_document(
    shown: ShownStudy, candidate: Candidate[Stack] | Candidate[Segmentation]
) -> dict[str, object]:
    reasons = shown.choice.reasons.items()
    return {
        "volume": candidate.label,
        "problem": candidate.problem,
        "taken_as": shown.list_taking(candidate.label),
        "not_taken": {name: by_label[candidate.label] for name, by_label in reasons if by_label.get(candidate.label)},
        "attributes": candidate.printable,
    }


def _list_segments(candidate: Candidate[Segmentation]) -> list[dict[str, Any]]:
    return [
        {
            "number": segment.number,
            "label": candidate.screen(segment.label),
            "codes": [candidate.screen_code(code) for code in segment.codes],
        }
        for segment in candidate.item.segments
    ]


def show_study(shown: ShownStudy) -> list[RenderableType]:
    """Returns a study as tables: its volumes, its segmentations, and why each selection rejects the other series."""
    study, choice = shown.study, shown.choice
    identity = "".join(f", {name} {value}" for name, value in shown.identity.items())
    title = f"Study {shown.number}{identity}: {len(study.series)} series, {pluralise(len(choice.images), 'volume')}"
    parts: list[RenderableType] = [Text(title, style="bold"), _Volumes(shown)]
    if choice.segmentations:
        parts.append(_list_segmentations(shown))
    if choice.reasons:
        parts.append(_list_reasons(choice))
    # A series without images, such as one with only truncated files, has no volume that would name its problem.
    unusable = {series.label: series.problem for series in study.series if not series.stacks}
    unusable |= {candidate.label: candidate.problem for candidate in choice.images}
    for problem, labels in _group_by_reason(unusable).items():
        text = _join_labels(labels)
        parts.append(Text(f"{'series ' if text[0].isdigit() else ''}{text}: {problem}", style="yellow"))
    return [*parts, *(Text(f"problem: {problem}", style="red") for problem in shown.problems)]


@dataclass(frozen=True)
class _Volumes:
    """The table of a study's series, without the attributes for which the screen is too narrow."""

    shown: ShownStudy

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders the table."""
        images = self.shown.choice.images
        columns = _choose_columns(images, self.shown.attributes)
        divided = {name for image in images for name in image.item.divided_by}
        optional = [name for name in columns if name not in (*_COLUMNS, _LAST) and name not in divided]
        hidden: list[str] = []
        table = _list_volumes(self.shown, columns)
        while optional and console.measure(table, options=options.update(width=_ANY_WIDTH)).maximum > options.max_width:
            hidden.insert(0, optional.pop())
            table = _list_volumes(self.shown, [name for name in columns if name not in hidden])
        yield table
        if hidden:
            yield Text(f"hidden columns (use a wider screen or --json): {', '.join(hidden)}", style="dim")


def _list_volumes(shown: ShownStudy, columns: Sequence[str]) -> Table:
    images = shown.choice.images
    headers = [re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", name) for name in columns]
    table = new_table("", "series", *headers, "taken\nas", whole=["series", "taken\nas"])
    table.title, table.collapse_padding = None, True
    for name, column in zip(columns, table.columns[1:], strict=False):
        is_number = all(isinstance(image.item.attributes.get(name, 0.0), float) for image in images)
        column.justify = "right" if is_number else "left"
        column.no_wrap, column.overflow, column.max_width = True, "ellipsis", _MAX_TEXT
    for series, members in _group_by_series(images).items():
        values = [_join_values(members, name) for name in columns]
        taken = dict.fromkeys(name for image in members for name in shown.list_taking(image.label))
        label = f"{series} ×{len(members)}" if len(members) > 1 else series
        table.add_row(label, *map(Text, values), Text(", ".join(taken), "green"))
    return table


def _group_by_series(images: Sequence[Candidate[Stack]]) -> dict[str, list[Candidate[Stack]]]:
    groups: dict[str, list[Candidate[Stack]]] = {}
    for image in images:
        groups.setdefault(_get_series(image.label), []).append(image)
    return groups


def _join_values(images: Sequence[Candidate[Stack]], name: str) -> str:
    """The values of an attribute in the volumes of a series, of many the first and the last."""
    shown = (image.show(name) if name in image.item.attributes else ABSENT for image in images)
    values = list(dict.fromkeys(shown))
    return ", ".join(values) if len(values) <= _MAX_VALUES else f"{values[0]} … {values[-1]}"


def _choose_columns(images: Sequence[Candidate[Stack]], tested: Iterable[str]) -> list[str]:
    """Returns attributes that differ between volumes and that divide series or that rules test, and the description."""
    divided = [name for image in images for name in image.item.divided_by]
    names = dict.fromkeys((*_COLUMNS, *divided, *(tested or _USUAL)))
    differing = [
        name
        for name in names
        if name != _LAST and (len({image.item.attributes.get(name) for image in images}) > 1 or name in _COLUMNS[:2])
    ]
    is_shown = any(image.private_words is None for image in images)  # a column of hidden text says nothing
    return [*differing[: _MAX_COLUMNS - 1], _LAST] if is_shown else differing[:_MAX_COLUMNS]


def _list_segmentations(shown: ShownStudy) -> Table:
    table = new_table("", "segmentation", "segments", "taken as")
    for candidate in shown.choice.segmentations:
        segments = [
            f"{segment['number']} {segment['label']}"
            + (f" ({', '.join(segment['codes'])})" if segment["codes"] else "")
            for segment in _list_segments(candidate)
        ]
        taken = Text(", ".join(shown.list_taking(candidate.label)), style="green")
        table.add_row(_shorten(candidate.label), Text("; ".join(segments)), taken)
    return table


def _list_reasons(choice: Choice) -> Table:
    table = new_table("", "rule", "takes", "why not the others, by series", whole=["rule", "takes"])
    table.title = None
    for name, reasons in choice.reasons.items():
        taken = [_shorten(label) for label, reason in reasons.items() if not reason]
        others = [f"{_join_labels(labels)}: {reason}" for reason, labels in _group_by_reason(reasons).items()]
        if len(others) > _MAX_REASONS:
            others[_MAX_REASONS:] = [f"and {len(others) - _MAX_REASONS} more reasons, which --json lists"]
        why = "; ".join(others) if reasons else f"the study holds no {'segmentation' if choice.images else 'image'}"
        table.add_row(name, ", ".join(taken) or Text("nothing", style="yellow"), Text(why))
    return table


def _group_by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Candidates by the reason against them; volumes of a series that share it are named or counted together."""
    by_series: dict[str, dict[str, list[str]]] = {}
    for label, reason in reasons.items():
        by_series.setdefault(_get_series(label), {}).setdefault(reason, []).append(_shorten(label))
    groups: dict[str, list[str]] = {}
    for series, by_reason in by_series.items():
        for reason, labels in by_reason.items():
            counted = f"{series} ({len(labels)} volumes)" if len(by_reason) > 1 else series
            is_short = len(by_reason) > 1 and len(labels) <= _MAX_VALUES
            if reason:
                groups.setdefault(reason, []).extend(labels if is_short else [counted])
    return groups


def _join_labels(labels: Sequence[str]) -> str:
    """Lists candidates, series of consecutive numbers as `10–33`."""
    runs: list[list[str]] = []
    for label in labels:
        follows = runs and label.isdecimal() and runs[-1][-1].isdecimal() and int(label) == int(runs[-1][-1]) + 1
        runs[-1].append(label) if follows else runs.append([label])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > _MAX_VALUES else ", ".join(run) for run in runs)


def _get_series(label: str) -> str:
    """The series of a candidate, such as `6` of `series 6 (b_value 800)`; columns show what divides it."""
    return re.sub(r"( \(.*\))?(, volume \d+)?$", "", _shorten(label))


def _shorten(label: str) -> str:
    return label.removeprefix("series ")
