"""Commands that change a monitor: acknowledge its alarm, replace its reference, update, pause, resume and delete it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from vfmalign.cli.arrays import parse_feature_set
from vfmalign.cli.commands.api.deletion import YesOption, confirm
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import HomeOption, JsonOption
from vfmalign.cli.target import Target
from vfmalign.cli.views.monitor_tables import describe_epoch
from vfmalign.cli.views.output import Output
from vfmalign.client import AsyncClient
from vfmalign.client.messages.monitors import EpochStart, Monitor, MonitorEpoch, MonitorReference
from vfmalign.core.domain.errors import BadOption, PreconditionFailed
from vfmalign.core.storage.arrays import NPY
from vfmalign.reports.drift.document import DriftDocument
from vfmalign.reports.drift.monitors import describe_monitor
from vfmalign.reports.drift.wording import describe_acknowledgement, write_verdict

PREPARE_TIMEOUT_S = 180.0
"""Seconds to prepare a reference: a large one takes half a minute or more, and the service prepares one at a time."""

_ORIGIN = {
    "checkpoint_sha256": "other weights",
    "preprocessing_sha256": "another preprocessing",
    "input_transform": "another input transform",
}
MonitorArgument = Annotated[str, typer.Argument(metavar="NAME", help="Id of the monitor.")]
ReferenceArgument = Annotated[
    str,
    typer.Argument(
        metavar="REFERENCE",
        help="Feature set (ID or ID@SHA256) of the 60 to 20,000 patients on whom the model was validated.",
    ),
]


def acknowledge(
    monitor_id: MonitorArgument,
    note: Annotated[
        str,
        typer.Option(metavar="TEXT", help="What was found or done. The text is stored. Name no patient."),
    ] = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Record that you have seen the alarm.

    The command first shows the alarm of the current epoch. The alert then ends, but the alarm stays recorded. Later
    observations still add to the evidence. A later acknowledgement does not replace the first one.
    """
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))
    seen = get_monitor(target, monitor_id)
    if seen.epoch.alarm is None:
        raise PreconditionFailed(
            f"epoch {seen.epoch.number} has no alarm",
            subject=monitor_id,
            remedy=f"see {target.get_command(f'monitors show {monitor_id}')}",
        )
    output.note(write_verdict(describe(seen)), "bold red")
    monitor = target.run(lambda client: client.monitors.acknowledge(monitor_id, seen.epoch.number, note))
    alarm = describe(monitor).alarm
    line = describe_acknowledgement(None if alarm is None else alarm.acknowledged)
    if seen.epoch.alarm.acknowledge_time is not None:
        output.note("the alarm was already acknowledged; the first acknowledgement is kept", "yellow")
    output.emit(to_document(monitor), f"monitor {monitor_id}: {line}")


def replace_reference(
    monitor_id: MonitorArgument,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REFERENCE",
            help="Feature set (ID or ID@SHA256) of the 60 to 20,000 patients on whom the model was validated. Without "
            "REFERENCE, --reset keeps the current reference.",
        ),
    ] = "",
    *,
    fixed: Annotated[
        bool,
        typer.Option(
            "--fixed",
            help="You chose this time and REFERENCE without regard to the observations, for example because of a new "
            "model or scanner. The bound on false alarms holds.",
        ),
    ] = False,
    unseen: Annotated[
        bool,
        typer.Option(
            "--unseen",
            help="No earlier epoch has seen a patient of REFERENCE. The service checks this. The bound on false "
            "alarms holds at any time.",
        ),
    ] = False,
    reset: Annotated[
        bool,
        typer.Option(
            "--reset",
            help="Any other reason, such as to continue after an alarm. The bound on false alarms does not hold. "
            "Without REFERENCE, the current reference stays.",
        ),
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Begin a new epoch, with another or the same reference.

    The new epoch starts without evidence and has its own share of alpha. Give exactly one of --fixed, --unseen and
    --reset as the reason. Your choice decides whether the bound on false alarms holds. If you repeat the command with
    --unseen, nothing changes. If you repeat the command with --fixed or --reset, another epoch begins if the current
    epoch contains a row.
    """
    output, start = Output.to_terminal(as_json=as_json), _choose_start(fixed=fixed, unseen=unseen, reset=reset)
    if not reference and not reset:
        raise BadOption("required without --reset", field="REFERENCE", remedy="name a feature set")
    new, target = parse_reference(reference) if reference else None, Target.find(StateDirectory(home))
    before = get_monitor(target, monitor_id)
    repeated = _has_begun(before.epoch, new or before.epoch.reference, start)
    ended = before.epoch.number - 1 if repeated else before.epoch.number
    monitor = target.run(
        lambda client: client.monitors.replace_reference(monitor_id, ended, new, start), PREPARE_TIMEOUT_S
    )
    if repeated:
        output.note("the same command has already begun this epoch; nothing changes", "yellow")
    if monitor.origin != before.origin:
        output.note(_describe_exchange(before, monitor), "yellow")
    output.emit(to_document(monitor), describe_epoch(monitor))


def update(
    monitor_id: MonitorArgument,
    *,
    max_silence_hours: Annotated[
        int | None,
        typer.Option(metavar="HOURS", help="Hours without observations before VfmalignMonitorSilent fires; 0: never."),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Title of the page; NAME if empty. It must not identify a patient."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Change settings that do not affect the evidence.

    Settings that you do not name keep their values. Example: vfmalign monitors update prostate-3t --max-silence-hours
    72.
    """
    if max_silence_hours is None and title is None:
        raise BadOption("there is nothing to change", field="--max-silence-hours", remedy="give it, or --title")
    output = Output.to_terminal(as_json=as_json)
    monitor = Target.find(StateDirectory(home)).run(
        lambda client: client.monitors.update(monitor_id, max_silence_hours=max_silence_hours, title=title)
    )
    hours = monitor.spec.max_silence_hours
    silence = f"alert after {hours} h without an observation" if hours else "no alert without observations"
    output.emit(to_document(monitor), f"monitor {monitor_id}: {silence}; title: {monitor.spec.title or monitor_id}")


def pause(monitor_id: MonitorArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Keep observations out of the evidence.

    New observations are recorded as paused, and never enter the evidence, not even after a resume.
    """
    _change(monitor_id, lambda client: client.monitors.pause(monitor_id), home, as_json=as_json)


def resume(monitor_id: MonitorArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Let observations enter the evidence again."""
    _change(monitor_id, lambda client: client.monitors.resume(monitor_id), home, as_json=as_json)


def delete(
    monitor_id: MonitorArgument,
    yes: YesOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Delete a monitor with its observations and evidence."""
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))
    if not yes:
        confirm(f"Delete monitor {monitor_id} with its observations and its evidence?", output)
    target.run(lambda client: client.monitors.delete(monitor_id))
    output.emit(*describe_deletion(monitor_id))


def parse_reference(text: str) -> MonitorReference:
    """Parses the argument REFERENCE, which names a feature set.

    Raises:
        BadOption: the argument names no feature set.
    """
    problem = "is not the id of a feature set"
    if text.endswith(NPY):
        remedy = "extract the features of the patients with `vfmalign extract`, or watch files with `vfmalign drift`"
        raise BadOption(problem, field="reference", remedy=remedy)
    feature_set_id, manifest_sha256 = parse_feature_set(text, "reference", problem)
    return MonitorReference(feature_set_id=feature_set_id, manifest_sha256=manifest_sha256)


def _choose_start(*, fixed: bool, unseen: bool, reset: bool) -> EpochStart:
    given: dict[EpochStart, bool] = {"fixed": fixed, "unseen_reference": unseen, "reset": reset}
    chosen = [start for start, is_given in given.items() if is_given]
    if len(chosen) != 1:
        raise BadOption(
            "several reasons of the new epoch are given" if chosen else "the reason of the new epoch is missing",
            field="--fixed, --unseen, --reset",
            remedy="give --fixed for a change that was planned, --unseen for a reference of new patients, and --reset "
            "for anything else, without a bound on false alarms",
        )
    return chosen[0]


def _has_begun(current: MonitorEpoch, reference: MonitorReference, start: EpochStart) -> bool:
    """Whether the same command has begun the current epoch.

    Repeated after rows, it means another epoch, unless the reference must be unseen, which it is no longer.
    """
    digests = {"", current.reference.manifest_sha256}
    return (
        current.number > 1
        and (current.rows == 0 or start == "unseen_reference")
        and (current.start, current.reference.feature_set_id) == (start, reference.feature_set_id)
        and reference.manifest_sha256 in digests
    )


def _describe_exchange(before: Monitor, after: Monitor) -> str:
    """Says that observations of the earlier origin are refused: a mistyped id exchanges the model as well."""
    origins = before.origin.model_dump(), after.origin.model_dump()
    what = ", ".join(_ORIGIN[name] for name, value in origins[0].items() if value != origins[1][name])
    models = f"model {after.model_id}"
    if before.model_id != after.model_id:
        models += f" in place of {before.model_id}"
    return f"the monitor watches features of {models} from now on ({what}), and refuses features of the earlier origin"


def get_monitor(target: Target, monitor_id: str) -> Monitor:
    """Returns the current state of a monitor."""
    return target.run(lambda client: client.monitors.get(monitor_id))


def _change(monitor_id: str, call: Callable[[AsyncClient], Awaitable[Monitor]], home: Path, *, as_json: bool) -> None:
    output = Output.to_terminal(as_json=as_json)
    monitor = Target.find(StateDirectory(home)).run(call)
    output.emit(to_document(monitor), f"monitor {monitor_id}: {monitor.state}")


def describe(monitor: Monitor) -> DriftDocument:
    """Describes the current state of a monitor, without its history."""
    return describe_monitor(monitor, now=datetime.now(UTC))


def describe_deletion(monitor_id: str) -> tuple[dict[str, Any], str]:
    """Returns the `--json` document and the line of text about a deleted monitor."""
    return {"deleted": monitor_id}, f"monitor {monitor_id}: deleted"


def to_document(monitor: Monitor) -> dict[str, Any]:
    """Returns the document for `--json` about a monitor."""
    return {"monitor": monitor.to_json_dict()}
