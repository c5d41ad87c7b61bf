"""Formats sentences and numbers about a monitor for its page and the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from vfmalign.client.formatting import ABSENT, format_interval, format_number
from vfmalign.client.messages.monitors import EpochStart
from vfmalign.core.formats.documents import pluralise
from vfmalign.reports.drift.document import COMPONENT_LABELS, Component, DriftDocument, StratumMix, Window
from vfmalign.reports.drift.live import Acknowledgement

WINDOWS_NOTE = (
    "Intervals have a level of 95 %. MMD² describes: α does not cover it, and p is not adjusted for windows, layers "
    "and strata. The alarm follows from the evidence alone."
)
EPOCH_STARTS: dict[EpochStart, str] = {
    "fixed": "at a time fixed without regard to the observations",
    "unseen_reference": "with a reference of patients that no earlier epoch had seen",
    "reset": "by a reset, without a guarantee",
}
FEW_PATIENTS = 200
"""If the reference has fewer patients, a caution is shown."""
FIRST_NOTE = (
    "A stream that differs from its first row on is found late or never, unless the monitor is created with "
    "--first-patients 100, which compares its first 100 patients with the reference at once"
)
_MAX_STRATA = 4
"""Maximum number of strata that a sentence names. The table lists all strata."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_power(log_value: float | None) -> str:
    """Formats a number from its natural logarithm.

    Numbers below 0.01 or above 9,999 are formatted with a power of ten.
    """
    if log_value is None:
        return ABSENT
    if math.log(0.01) <= log_value < math.log(9999.5):
        value = math.exp(log_value)
        return f"{value:,.0f}" if value >= 99.5 else format_number(value, 2)
    exponent, rest = divmod(log_value / math.log(10.0), 1.0)
    mantissa = round(10.0**rest, 1)
    if mantissa >= 10.0:
        mantissa, exponent = 1.0, exponent + 1
    return f"{mantissa:.1f} × {name_power(int(exponent))}"


def name_power(exponent: int) -> str:
    """Returns a power of ten as text."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def name_stratum(name: str) -> str:
    """Returns the name of a stratum, or a replacement text if the stratum is unknown."""
    return name or "unknown"


def list_reached(document: DriftDocument) -> tuple[Component, ...]:
    """Returns the components that raised the alarm."""
    return () if document.alarm is None else document.alarm.components


def describe_limit(document: DriftDocument) -> str:
    """States the bound on false alarms."""
    if not document.has_guarantee:
        return "no bound on false alarms in this epoch"
    if document.run_length is not None:
        bound = f"a false alarm within T rows with probability at most T/{document.run_length:,}"
        return f"{bound}, {describe_assumption(document)}"
    earlier = () if document.monitor is None else document.monitor.earlier_epochs
    whole = "life" if all(one.has_guarantee for one in earlier) else "epochs with a guarantee"
    bound = f"a false alarm with probability at most α = {document.alpha:g} over the monitor's {whole}"
    return f"{bound}, {describe_assumption(document)}"


def describe_assumption(document: DriftDocument) -> str:
    """States the condition for the bound on false alarms."""
    of_stratum = "" if document.mix is None else f" of one {document.mix.kind}"
    return f"if the studies{of_stratum} are exchangeable"


def write_verdict(document: DriftDocument) -> str:
    """States in one sentence whether there is an alarm, and when it was raised."""
    if document.alarm is None:
        if not document.rows:
            return "No row has entered yet: nothing can be said."
        return f"No alarm in {pluralise(document.rows, 'row')}."
    since = document.rows - document.alarm.row
    moment = "" if document.alarm.time is None else f", {format_moment(document.alarm.time)}"
    rows = f", {pluralise(since, 'row')} ago" if since else ", the last one"
    return (
        f"Alarm since row {document.alarm.row:,} of {document.rows:,}{moment}{rows}: the stream no longer looks like "
        "the reference."
    )


def describe_acknowledgement(acknowledged: Acknowledgement | None, *, has_ended: bool = False) -> str:
    """States whether the alarm is acknowledged, with the note.

    An alarm can no longer be acknowledged after its epoch has ended.
    """
    if acknowledged is None:
        return "Nobody acknowledged it" if has_ended else "Nobody has acknowledged it yet"
    return f"Acknowledged {format_moment(acknowledged.time)}" + (f": {acknowledged.note}" if acknowledged.note else "")


def list_cautions(document: DriftDocument) -> list[tuple[str, str]]:
    """Returns the cautions that readers should see first. Each caution is a title and a sentence."""
    cautions = []
    if not document.has_guarantee:
        cautions.append(("No guarantee.", "The rate of false alarms of this epoch has no bound."))
    if 0 < document.reference_rows < FEW_PATIENTS:
        text = f"{document.reference_rows} patients; below {FEW_PATIENTS}, weak changes are found late or never."
        cautions.append(("Small reference.", text))
    monitor = document.monitor
    if monitor is not None and monitor.state == "paused":
        text = "Observations are recorded and do not enter the evidence until the monitor is resumed."
        cautions.append(("Paused.", text))
    if monitor is not None and monitor.is_silent:
        limit = pluralise(monitor.max_silence_hours or 0, "hour")
        since = monitor.last_observation_time or monitor.create_time
        what = "the last observation" if monitor.last_observation_time else "the monitor was created"
        age = describe_age(since, monitor.write_time)
        cautions.append(("Silent.", f"{age} have passed since {what}; the limit is {limit}."))
    return cautions


def describe_arrivals(document: DriftDocument) -> str:
    """States when the document was written, and when the monitor's last observation arrived."""
    monitor = document.monitor
    if monitor is None:
        return ""
    written = f"As of {format_moment(monitor.write_time)}"
    if monitor.last_observation_time is None:
        return f"{written}; no observation has arrived yet"
    age = describe_age(monitor.last_observation_time, monitor.write_time)
    return f"{written}; the last observation arrived {age} before"


def describe_windows_age(document: DriftDocument) -> str:
    """States when a monitor's windows were last compared, and how many rows the evidence has included since then."""
    if document.monitor is None or document.monitor.window_time is None:
        return ""
    last = max((one.last_row for one in document.windows), default=document.rows)
    since = document.rows - last
    rows = f"; {pluralise(since, 'row')} entered since the last window" if since else ""
    return f"Compared {format_moment(document.monitor.window_time)}{rows}"


def format_moment(time: datetime) -> str:
    """Formats a time in UTC."""
    return f"{time.astimezone(UTC):%d %B %Y, %H:%M UTC}"


def describe_age(since: datetime, until: datetime) -> str:
    """Returns the time between two moments in days, hours or minutes.

    Uses the largest unit in which the time is at least 2.
    """
    minutes = max(until - since, timedelta()) // timedelta(minutes=1)
    for unit, size in (("day", 1440), ("hour", 60)):
        if minutes >= 2 * size:
            return pluralise(minutes // size, unit)
    return pluralise(minutes, "minute") if minutes else "less than a minute"


def describe_strength(document: DriftDocument) -> str:
    """States the current evidence, the peak of the evidence, and the threshold."""
    now = document.strongest
    if now.log_evidence is None:
        return ""
    text = f"Strongest evidence now: {_describe_evidence(document, now.component, now.log_evidence)}"
    if (peak := document.peak) is not None and now.component != "first_patients":  # its evidence does not change
        highest = _describe_evidence(document, peak.component, peak.log_evidence)
        text += f". Highest in this epoch: {highest}, after row {peak.row:,}"
    return text


def _describe_evidence(document: DriftDocument, component: Component, log_evidence: float) -> str:
    threshold = next(one.log_threshold for one in document.components if one.component == component)
    return f"{COMPONENT_LABELS[component]}, {format_power(log_evidence)} (threshold {format_power(threshold)})"


def list_changes(document: DriftDocument) -> list[str]:
    """Describes what changed: the mix of strata, the last window, the windows of single strata, and the channels."""
    changes = []
    if document.mix is not None:
        changes += _describe_mix(document.mix)
        unknown = sum(one.stream for one in document.mix.strata if not one.name)
        if unknown > 0:  # makes a misspelled stratum name in the calls visible
            changes.append(f"{unknown:,} of {pluralise(document.rows, 'row')} came without a known {document.mix.kind}")
    windows = [window for window in document.windows if window.layer == document.layer]
    last = _get_last_window(document)
    if last is not None:
        place = _name_rows(last, document)
        if document.alarm is not None and last.last_row < document.alarm.row:
            changes.append(f"No row since the alarm has been compared yet: the next sentences describe {place}")
        changes.append(f"{place[0].upper()}{place[1:]}: {describe_window(last)}")
    elif document.monitor is not None:
        changes.append("No window has been compared with the reference yet")
    strata = [window for window in windows if window.stratum]
    if strata and document.mix is not None:
        changes.append(_describe_strata(strata, document.mix.kind))
    if document.channel_shifts:
        first = document.channel_shifts[0]
        held = sum(one.share for one in document.channel_shifts)
        changes.append(
            f"Channels: {len(document.channel_shifts)} of {document.channels:,} hold {100 * held:.0f} % of the shift "
            f"of the mean; channel {first.channel} moved most ({format_number(first.shift_sd, signed=True)} SD)"
        )
    return changes


def describe_moved_rows(document: DriftDocument) -> str:
    """Names the rows that the comparison of channels uses.

    If there is a window, the comparison uses the rows of the window.
    """
    last = _get_last_window(document)
    if last is not None and last.last_row < document.rows:
        return _name_rows(last, document)
    return f"the last {pluralise(document.moved_rows, 'row')}"


def describe_window(window: Window) -> str:
    """Returns MMD² with its interval, or the reason why MMD² is absent."""
    if window.mmd2.value is None:
        return f"no MMD², because {window.mmd2.absent_reason}"
    interval = "" if window.mmd2.interval is None else f" ({format_interval(window.mmd2)})"
    return f"MMD² {format_number(window.mmd2.value)}{interval}"


def _describe_strata(windows: Sequence[Window], kind: str) -> str:
    """Describes the windows of all strata; if there are many, only the strata with the clearest shift."""
    place = f"Within each {kind}"
    if len(windows) > _MAX_STRATA:
        place += f", the {_MAX_STRATA} of {len(windows)} with the largest lower limits"
        windows = sorted(windows, key=_get_lower_limit, reverse=True)[:_MAX_STRATA]
    return f"{place}: {'; '.join(f'{window.stratum} {describe_window(window)}' for window in windows)}"


def _get_lower_limit(window: Window) -> float:
    """Returns the lower limit of MMD². If there is no interval, returns MMD² itself or minus infinity."""
    value, interval = window.mmd2.value, window.mmd2.interval
    if interval is not None:
        return interval.lower
    return -math.inf if value is None else value


def _get_last_window(document: DriftDocument) -> Window | None:
    """Returns the last window of all rows, of the layer that raises the alarm."""
    overall = [one for one in document.windows if one.layer == document.layer and not one.stratum]
    return overall[-1] if overall else None


def _name_rows(window: Window, document: DriftDocument) -> str:
    if window.last_row == document.rows:
        return f"last {pluralise(window.rows, 'row')}"
    return f"rows {window.first_row:,} to {window.last_row:,}"


def _describe_mix(mix: StratumMix) -> list[str]:
    """Names the stratum with the largest change of its share, and the strata that the reference lacks."""
    known = [one for one in mix.strata if one.name]
    reference, stream = (max(1, sum(getattr(one, side) for one in known)) for side in ("reference", "stream"))
    changes = [(one.stream / stream - one.reference / reference, one) for one in known]
    sentences = []
    # With two strata, both shares change by the same amount; name the stratum that grew.
    change, most = max(changes, key=lambda pair: (round(abs(pair[0]), 6), pair[0]), default=(0.0, None))
    if most is not None and abs(change) >= 0.005 and any(one.stream for one in known):
        sentences.append(
            f"The share of {mix.kind} {most.name} has changed most: {100 * most.stream / stream:.0f} % of the stream, "
            f"{100 * most.reference / reference:.0f} % of the reference"
        )
    new = sorted((one for one in known if one.stream and not one.reference), key=lambda one: -one.stream)
    if new:
        names = ", ".join(f"{one.name} ({pluralise(one.stream, 'row')})" for one in new[:_MAX_STRATA])
        more = f" and {len(new) - _MAX_STRATA} more" if len(new) > _MAX_STRATA else ""
        sentences.append(
            f"The reference has no rows of {mix.kind} {names}{more}: they are compared with their own earlier rows"
        )
    return sentences
