"""Verdict of a check: a label and the sentence that explains it.

The verdict compares the interval of `rpg_specialised` with 0. Shift, p-values and convergence do not enter it.
"""

from __future__ import annotations

from vfmalign.client.messages.checks import Gain, VerdictLabel
from vfmalign.core.domain.documents import pluralise
from vfmalign.core.domain.record import Record
from vfmalign.finetuning.analysis.gain import MIN_GROUPS


class Verdict(Record):
    """One of four labels, and the reason."""

    label: VerdictLabel
    reason: str


def decide_verdict(gain: Gain, *, held_out: bool) -> Verdict:
    """Derives the verdict from the gain over the specialised network.

    Args:
        gain: gain over the specialised baseline.
        held_out: whether the test cases were kept apart from training, validation and pretraining.
    """
    if not held_out:
        return Verdict(label="insufficient_data", reason="no case was held out: the scores are descriptive only")
    if gain.groups < MIN_GROUPS:
        return Verdict(
            label="insufficient_data",
            reason=f"{pluralise(gain.groups, 'test patient')}; a verdict needs at least {MIN_GROUPS}",
        )
    interval = gain.relative_percent.interval
    if interval is None or gain.relative_percent.value is None:
        return Verdict(label="insufficient_data", reason=gain.relative_percent.absent_reason)
    description = (
        f"relative gain over the specialised network {gain.relative_percent.value:+.1f} % "
        f"({100 * interval.level:.0f} % interval {interval.lower:+.1f} to {interval.upper:+.1f} %)"
    )
    if interval.lower > 0:
        return Verdict(label="gain", reason=f"{description}: above zero")
    if interval.upper < 0:
        return Verdict(label="harm", reason=f"{description}: below zero")
    return Verdict(label="no_clear_gain", reason=f"{description}: includes zero")
