"""One-sentence summary of a check. The report, the terminal and the API show this sentence first."""

from __future__ import annotations

from collections.abc import Mapping

from vfmalign.analysis.checks.records import CheckAnalysis
from vfmalign.analysis.checks.verdict import SCRATCH, SPECIALISED, format_score
from vfmalign.client.messages.checks import Gain, VerdictLabel
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.patients import MIN_SEEDS
from vfmalign.core.formats.documents import pluralise

_RELATIONS: Mapping[VerdictLabel, str] = {
    "gain": "better than",
    "equivalent": "as good as",
    "harm": "worse than",
    "inconclusive": "not shown to be better than",
}


def write_summary(result: CheckAnalysis) -> str:
    """Returns one sentence that contains both answers of a check.

    With too few trainings, the sentence states only the differences.
    """
    metric, verdict, pretraining = result.metric, result.verdict, result.pretraining
    differences = {
        name: f"{name} ({_format_difference(gain, metric)})"
        for name, gain in ((SPECIALISED, result.rpg_specialised), (SCRATCH, result.rpg_scratch))
    }
    if verdict.undecidable:
        return f"No verdict: {verdict.reason}."
    if result.trainings < MIN_SEEDS:
        trainings, end = pluralise(result.trainings, "training"), "s" if result.trainings == 1 else ""
        return (
            f"{trainings} {'on phantoms ' if result.phantom else ''}decide{end} nothing: the difference to "
            f"{' and to '.join(differences.values())} may be chance."
        )
    first = f"{_RELATIONS[verdict.label]} {differences[SPECIALISED]}"
    first = first[0].upper() + first[1:]
    if pretraining is None or pretraining.undecidable:
        return f"{first}; whether pretraining helps was not assessed."
    labels = {verdict.label, pretraining.label}
    link = "and" if len(labels) == 1 or labels == {"harm", "inconclusive"} else "but"
    return f"{first}, {link} {_RELATIONS[pretraining.label]} {differences[SCRATCH]}."


def _format_difference(gain: Gain, metric: MetricSpec) -> str:
    value, interval = gain.absolute.value, gain.absolute.interval
    if value is None:
        return "undefined"
    unit = f" {metric.unit}" if metric.unit else ""
    if interval is None:
        return f"{format_score(value, metric, '+')}{unit}, no interval"
    lower, upper = (format_score(end, metric, "+") for end in (interval.lower, interval.upper))
    return f"{format_score(value, metric, '+')}{unit}, {lower} to {upper}{unit}"
