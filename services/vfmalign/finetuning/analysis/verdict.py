"""The one word a check ends in, and the sentence that goes with it.

The verdict is the `rpg_specialised` interval against 0 and nothing else: no shift, p-value or convergence enters it
(design §5). Knows nothing of S3 or databases.
"""

from __future__ import annotations

from typing import Literal

from vfmalign.core.domain.artifacts import Record
from vfmalign.core.domain.documents import pluralise
from vfmalign.finetuning.analysis.estimates import MIN_GROUPS
from vfmalign.finetuning.analysis.gain import Gain

Word = Literal["gain", "no_clear_gain", "harm", "insufficient_data"]


class Verdict(Record):
    """Exactly one of four words, and why."""

    word: Word
    reason: str


def decide(gain: Gain, *, held_out: bool) -> Verdict:
    """Reads the verdict off the gain over the specialised network.

    Args:
        gain: over the specialised baseline.
        held_out: whether the test cases were kept apart from training, validation and pretraining.
    """
    if not held_out:
        return Verdict(word="insufficient_data", reason="no case was held out: the scores are descriptive only")
    if gain.groups < MIN_GROUPS:
        return Verdict(
            word="insufficient_data",
            reason=f"{pluralise(gain.groups, 'test patient')}; a verdict needs at least {MIN_GROUPS}",
        )
    interval = gain.relative.interval
    if interval is None or gain.relative.value is None:
        return Verdict(word="insufficient_data", reason=gain.relative.absent_reason)
    span = (
        f"relative gain over the specialised network {gain.relative.value:+.1f} % "
        f"({100 * interval.level:.0f} % interval {interval.lower:+.1f} to {interval.upper:+.1f} %)"
    )
    if interval.lower > 0:
        return Verdict(word="gain", reason=f"{span}: above zero")
    if interval.upper < 0:
        return Verdict(word="harm", reason=f"{span}: below zero")
    return Verdict(word="no_clear_gain", reason=f"{span}: includes zero")
