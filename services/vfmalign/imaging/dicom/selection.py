"""Choice of a study's volumes: one stack for each modality, and one segmentation for each label map.

The choice is never arbitrary. If two volumes meet a selection equally well, the study has a problem. The text of the
problem lists both volumes and the attributes that distinguish them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Generic, NamedTuple

from vfmalign.core.domain.declarations import DatasetDeclaration, LabelMap, VolumeKind
from vfmalign.core.domain.errors import BadOption
from vfmalign.imaging.dicom.candidates import Candidate, T, list_some, list_stacks, summarise_reasons, tell_apart
from vfmalign.imaging.dicom.examinations import Segmentation, Study
from vfmalign.imaging.dicom.refusals import DEFECTIVE, FRAMES_OF_REFERENCE, REFUSALS
from vfmalign.imaging.dicom.rules import Preference, Selection
from vfmalign.imaging.dicom.rules.conditions import ACQUISITION_TIME
from vfmalign.imaging.dicom.stacks import Stack

_CORRECT = "`vfmalign dicom show` lists the content of the study; correct the selection"


class ChosenLabelMap(NamedTuple):
    """Source of a label map.

    Attributes:
        segmentation: the segmentation.
        values: maps segment number to label map value.
        reference: image that defines the grid: an image on which the label map was drawn or, if there is none, the
            image of the first modality.
    """

    segmentation: Segmentation
    values: Mapping[int, int]
    reference: Stack


@dataclass(frozen=True, eq=False)
class Choice:
    """Volumes chosen from a study.

    Attributes:
        stacks: stack of each modality that has no problem.
        label_maps: source of each label map that the study contains.
        problems: reasons why volumes cannot be chosen, in addition to `Study.problems`; sentences without patients'
            names.
        lacks: modalities without a volume. `problems` also lists each of these modalities.
        reasons: maps each selection, and then each candidate's label, to the reason why the candidate was not chosen;
            empty if it was chosen.
        images, segmentations: the candidates, in their order.
        allowed: refusals that apply to the chosen volumes but that the user overrode; see `refusals`.
        notes: notes on volumes that replace a defective series, without patients' names.
    """

    stacks: Mapping[VolumeKind, Stack]
    label_maps: Mapping[VolumeKind, ChosenLabelMap]
    problems: tuple[str, ...]
    lacks: tuple[VolumeKind, ...]
    reasons: Mapping[VolumeKind, Mapping[str, str]]
    images: Sequence[Candidate[Stack]]
    segmentations: Sequence[Candidate[Segmentation]]
    allowed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose(
    study: Study,
    declaration: DatasetDeclaration,
    selections: Sequence[Selection],
    allowed: Collection[str] = (),
    chosen: Mapping[VolumeKind, str] = MappingProxyType({}),
) -> Choice:
    """Chooses a volume for each modality and label map.

    Args:
        study: the study.
        declaration: modalities and label maps to choose.
        selections: selections that pass `rules.check_selections` for the declaration. If empty, nothing is chosen.
        allowed: names of the refusals that the user overrode, as in the scan. If the names include `DEFECTIVE`, a
            usable volume replaces a defective volume that would be preferred.
        chosen: for each modality or label map, the number (as in tables) of the only series to choose from.

    Raises:
        BadOption: a number in `chosen` belongs to no series of the study.
    """
    accepts_defective = DEFECTIVE in allowed
    by_name = {selection.name: selection for selection in selections}
    images = [candidate for series in study.series for candidate in list_stacks(series, study.private_words)]
    segmentations = [Candidate(item.label, item, study.private_words) for item in study.segmentations]
    matches = {
        name: _match_stacks(by_name[name], _find_chosen(images, name, chosen), accepts_defective)
        for name in declaration.modalities
        if name in by_name
    }
    drawn = {
        label.name: _match_segmentations(
            by_name[label.name], label, _find_chosen(segmentations, label.name, chosen), accepts_defective
        )
        for label in declaration.labels
        if label.name in by_name
    }
    stacks = {name: match.chosen.item for name, match in matches.items() if match.chosen is not None}
    first = stacks.get(declaration.modalities[0])
    references = [*stacks.values(), *(image.item for image in images)]
    if first is None:
        drawn = {
            name: match.without_choice(f"no {declaration.modalities[0]} was chosen") for name, match in drawn.items()
        }
    label_maps = {
        name: ChosenLabelMap(match.chosen.item, match.values, _find_reference(match.chosen.item, references) or first)
        for name, match in drawn.items()
        if match.chosen is not None and first is not None
    }
    displaced = _find_displaced(stacks | {name: drawn.reference for name, drawn in label_maps.items()})
    is_allowed = FRAMES_OF_REFERENCE in allowed
    lifted = [FRAMES_OF_REFERENCE] if displaced and is_allowed else []
    notes = *(match.note for match in matches.values()), *(match.note for match in drawn.values())
    notes = tuple(filter(None, notes))
    lifted += [DEFECTIVE] if notes else []
    return Choice(
        stacks=stacks,
        label_maps=label_maps,
        problems=(
            *(match.problem for match in matches.values() if match.problem),
            *(match.problem for match in drawn.values() if match.problem and match.is_met),
            *([displaced] if displaced and not is_allowed else []),
        ),
        lacks=tuple(name for name, match in matches.items() if not match.is_met),
        reasons={name: match.reasons for name, match in matches.items()}
        | {name: match.reasons for name, match in drawn.items()},
        images=images,
        segmentations=segmentations,
        allowed=tuple(sorted({*lifted, *_list_allowed(study, stacks.values())})),
        notes=notes,
    )


def _find_chosen(
    candidates: Sequence[Candidate[T]], kind: VolumeKind, chosen: Mapping[VolumeKind, str]
) -> Sequence[Candidate[T]]:
    """The candidates of the series that the user names, or all."""
    named = [candidate for candidate in candidates if kind not in chosen or candidate.is_of(chosen[kind])]
    if kind in chosen and not named:
        raise BadOption(
            f"a study has no series {chosen[kind]} that {kind} could take",
            field="--choose",
            remedy="name a series by its number, as `vfmalign dicom show` prints it",
        )
    return named


@dataclass(frozen=True, eq=False)
class _Match(Generic[T]):
    """Result of one selection.

    Attributes:
        chosen: the chosen candidate; None if there is a problem.
        is_met: whether anything meets the conditions.
        problem: reason why nothing is chosen; empty otherwise.
        reasons: see `Choice`.
        values: values of the chosen segmentation, see `ChosenLabelMap`; empty for a stack.
        note: see `Choice`; empty if no defective volume is preferred.
    """

    chosen: Candidate[T] | None
    is_met: bool
    problem: str
    reasons: Mapping[str, str]
    values: Mapping[int, int] = field(default_factory=dict)
    note: str = ""

    def without_choice(self, reason: str) -> _Match[T]:
        """Returns the result without the chosen volume. `reason` is already a problem of the study."""
        if self.chosen is None:
            return self
        return replace(self, chosen=None, note="", reasons={**self.reasons, self.chosen.label: reason})


def _match_stacks(
    selection: Selection, candidates: Sequence[Candidate[Stack]], accepts_defective: bool
) -> _Match[Stack]:
    reasons = {candidate.label: candidate.find_unmet(selection.conditions) for candidate in candidates}
    return _match(selection, candidates, reasons, accepts_defective)


def _match_segmentations(
    selection: Selection,
    label_map: LabelMap,
    candidates: Sequence[Candidate[Segmentation]],
    accepts_defective: bool,
) -> _Match[Segmentation]:
    reasons: dict[str, str] = {}
    values: dict[str, Mapping[int, int]] = {}
    checked: list[Candidate[Segmentation]] = []
    for candidate in candidates:
        item, problem = candidate.item, ""
        reasons[candidate.label] = candidate.find_unmet(selection.conditions)
        if not reasons[candidate.label]:
            values[candidate.label], problem = _assign_segments(selection, item)
            reasons[candidate.label] = "" if problem else _find_missing(label_map, values[candidate.label])
        checked.append(replace(candidate, problem=problem))
    match = _match(selection, checked, reasons, accepts_defective)
    return match if match.chosen is None else replace(match, values=values[match.chosen.label])


def _assign_segments(selection: Selection, segmentation: Segmentation) -> tuple[dict[int, int], str]:
    """Returns the value of each segment that the selection names, and the problem of the segments."""
    values: dict[int, int] = {}
    for value, rule in sorted((selection.segments or {}).items()):
        for segment in filter(rule.matches, segmentation.segments):
            if values.setdefault(segment.number, value) != value:
                problem = f"its segment {segment.number} matches the values {values[segment.number]} and {value}"
                return values, problem
    return values, ""


def _find_missing(label_map: LabelMap, values: Mapping[int, int]) -> str:
    """Returns why segments do not form the label map. A map that may be empty needs only one structure, others all."""
    found = {label_map.values[value] for value in values.values()}
    missing = [name for name in label_map.structures if name not in found]
    if missing and not (label_map.may_be_empty and found):
        return f"no segment is {' or '.join(missing)}"
    return ""


def _match(
    selection: Selection, candidates: Sequence[Candidate[T]], reasons: dict[str, str], accepts_defective: bool
) -> _Match[T]:
    """Chooses among the candidates without a reason against them."""
    name = selection.name
    matching = [candidate for candidate in candidates if not reasons[candidate.label]]
    usable = [candidate for candidate in matching if not candidate.problem]
    preferred = _prefer(selection, matching, reasons)
    defective = [candidate for candidate in preferred if candidate.problem]
    causes = [f"{candidate.label}: {candidate.problem}" for candidate in (defective if usable else matching)]
    if usable and defective and accepts_defective:
        reasons |= {candidate.label: "" for candidate in usable}
        preferred = _prefer(selection, usable, reasons)
    reasons |= {candidate.label: candidate.problem for candidate in matching if candidate.problem}
    if usable and defective and not accepts_defective:
        reasons |= {c.label: "a series that meets the rule as well cannot be used" for c in preferred if not c.problem}
        problem = f"a series that the selection of {name} prefers, or takes equally well, cannot be used: "
        problem += f"{list_some(causes, len(causes))}; export it again, select another, or import the case without it "
        problem += "with --accept-defective"
    elif usable and len(preferred) == 1:
        note = f"{name} takes {preferred[0].label}, because others cannot be used: {list_some(causes, len(causes))}"
        return _Match(preferred[0], True, "", reasons, note=note if defective else "")
    elif usable:
        problem = f"{len(preferred)} volumes meet the selection of {name} equally well: {tell_apart(preferred)}; "
        problem += "add a condition or a preference that distinguishes them, or choose one with --choose"
        reasons |= {candidate.label: f"as good as {len(preferred) - 1} more" for candidate in preferred}
    elif matching:
        problem = f"the volumes that meet the selection of {name} cannot be used: {list_some(causes, len(causes))}; "
        problem += "export the series again, or select another"
    elif reasons:
        causes = summarise_reasons(reasons)
        problem = f"nothing meets the selection of {name}: {list_some(causes, len(causes))}; {_CORRECT}"
    else:
        problem = f"nothing meets the selection of {name}: the study holds no image; export it again"
    return _Match(None, bool(matching), problem, reasons)


def _prefer(selection: Selection, candidates: list[Candidate[T]], reasons: dict[str, str]) -> list[Candidate[T]]:
    """Returns the candidates that remain after all preferences; the others get a reason."""
    for preference in selection.prefer:
        candidates = _narrow(preference, candidates, reasons)
    return candidates


def _narrow(preference: Preference, candidates: list[Candidate[T]], reasons: dict[str, str]) -> list[Candidate[T]]:
    """Returns the candidates that a preference prefers, or all if it prefers none; the others get a reason."""
    if preference.conditions is not None:
        against = {candidate.label: candidate.find_unmet(preference.conditions) for candidate in candidates}
    else:
        against = _compare(preference, candidates)
    preferred = [candidate for candidate in candidates if not against[candidate.label]]
    if not preferred:
        return candidates
    reasons |= {label: f"another is preferred: {reason}" for label, reason in against.items() if reason}
    return preferred


def _compare(preference: Preference, candidates: Sequence[Candidate[T]]) -> dict[str, str]:
    """Returns why candidates do not have the largest or smallest value of an attribute."""
    keyword, sign, extreme = preference.largest or "", 1.0, "largest"
    if preference.smallest is not None:
        keyword, sign, extreme = preference.smallest, -1.0, "smallest"
    ranks: dict[str, float] = {}
    for candidate in candidates:
        value = candidate.item.attributes.get(keyword, ())
        if keyword == ACQUISITION_TIME and candidate.acquired_s is not None:
            value = candidate.acquired_s
        numbers = [sign * part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, float)]
        ranks |= {candidate.label: max(numbers)} if numbers else {}
    best = max(ranks.values(), default=0.0)
    return {
        candidate.label: ""
        if ranks.get(candidate.label) == best
        else f"{keyword} is {'' if keyword == ACQUISITION_TIME else f'{candidate.show(keyword)}, '}not the {extreme}"
        if candidate.label in ranks
        else f"no {keyword}"
        for candidate in candidates
    }


def _find_reference(segmentation: Segmentation, stacks: Iterable[Stack]) -> Stack | None:
    """The first volume of a series that the segmentation was drawn on."""
    drawn_on = (
        stack for stack in stacks if not stack.problem and stack.frames[0].series_uid in segmentation.references
    )
    return next(drawn_on, None)


def _find_displaced(volumes: Mapping[VolumeKind, Stack]) -> str:
    """Names volumes with unknown relative positions; a label map has the position of the image on which it is drawn."""
    kinds: dict[str, list[VolumeKind]] = {}
    for kind, stack in volumes.items():
        kinds.setdefault(stack.frame_of_reference_uid, []).append(kind)
    if len(set(volumes.values())) <= 1 or (len(kinds) == 1 and "" not in kinds):
        return ""
    groups = [", ".join(members) if uid else f"{', '.join(members)}: none stated" for uid, members in kinds.items()]
    return (
        f"{REFUSALS[FRAMES_OF_REFERENCE].text} ({'; '.join(groups)}), so that their relative positions are unknown; "
        f"register the series and export them again, or allow it with --allow {FRAMES_OF_REFERENCE}"
    )


def _list_allowed(study: Study, stacks: Iterable[Stack]) -> list[str]:
    """Names of the refusals that were lifted for the series of stacks."""
    used = {stack.frames[0].series_uid for stack in stacks}
    return [name for series in study.series if series.uid in used for name in series.allowed]
