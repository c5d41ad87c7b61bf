"""`vfmalign monitors`: create, feed, watch, change and delete the drift monitors of the service."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from vfmalign.analysis.checks.gates import Outcome
from vfmalign.cli import exits
from vfmalign.cli.commands.api.drift import (
    NO_ALARM,
    AlphaOption,
    DriftLayerOption,
    FirstPatientsOption,
    RequireOption,
    choose_alpha,
    evaluate_alarm,
    write_page,
)
from vfmalign.cli.commands.api.monitor_changes import (
    PREPARE_TIMEOUT_S,
    MonitorArgument,
    ReferenceArgument,
    acknowledge,
    delete,
    describe,
    describe_deletion,
    get_monitor,
    parse_reference,
    pause,
    replace_reference,
    resume,
    to_document,
    update,
)
from vfmalign.cli.commands.api.monitor_observations import observe
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import HomeOption, JsonOption, LimitOption, parse_choice
from vfmalign.cli.set_option import Keys, SetOption, list_keys, parse_settings
from vfmalign.cli.target import Target
from vfmalign.cli.views.monitor_tables import describe_change, describe_epoch, list_monitors, show_monitor
from vfmalign.cli.views.output import Output
from vfmalign.client import AsyncClient
from vfmalign.client.messages.monitors import Monitor, MonitorSpec, MonitorState
from vfmalign.core.domain.errors import BadOption, NotFound, Unavailable

app = typer.Typer()

KEYS = Keys(
    MonitorSpec, fields=("descriptive_layers", "run_length", "patient_window_days", "window_rows", "seed", "title")
)

_STATES: tuple[MonitorState, ...] = ("active", "paused")
_FORMATS: Mapping[str, Literal["html", "json"]] = {".html": "html", ".htm": "html", ".json": "json"}

StateOption = Annotated[
    list[str] | None,
    typer.Option("--state", metavar="STATE", help="List only monitors in this state: active or paused. Repeatable."),
]


@app.command(epilog=list_keys(KEYS))
def create(
    monitor_id: Annotated[str, typer.Argument(metavar="NAME", help="Id of the new monitor.")],
    reference: ReferenceArgument,
    *,
    layer: DriftLayerOption = "",
    by: Annotated[
        str,
        typer.Option(
            metavar="STRATUM",
            help="Stratum of the reference's dataset, such as scanner. Rows are compared only within a stratum. Set "
            "it if studies come from several scanners.",
        ),
    ] = "",
    alpha: AlphaOption = None,
    first_patients: FirstPatientsOption = None,
    max_silence_hours: Annotated[
        int | None,
        typer.Option(metavar="HOURS", help="Hours without observations before VfmalignMonitorSilent fires; 0: never."),
    ] = None,
    settings: SetOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Create a drift monitor for the features of one model.

    Later, you can replace the reference, but no other setting that affects the evidence. If the studies of one stratum
    are exchangeable, the probability of ever raising a false alarm is at most alpha. This bound does not hold if the
    studies are autocorrelated or change with the seasons. Example: vfmalign monitors create prostate-3t REFERENCE --by
    scanner.
    """
    output = Output.to_terminal(as_json=as_json)
    chosen = parse_settings(settings, KEYS)[""]
    spec = MonitorSpec.from_fields(
        reference=parse_reference(reference),
        layer=layer,
        stratum=by,
        alpha=choose_alpha(alpha, chosen.get("run_length")),
        first_patients=first_patients or 0,
        max_silence_hours=max_silence_hours or 0,
        **chosen,
    )
    target = Target.find(StateDirectory(home))
    monitor = target.run(lambda client: client.monitors.create(monitor_id, spec), PREPARE_TIMEOUT_S)
    step = target.get_command(f"monitors observe {monitor_id} FEATURE_SET")
    output.emit(to_document(monitor), describe_epoch(monitor), f"observe features with {step}")


app.command()(observe)


@app.command("list")
def list_(
    state: StateOption = None,
    limit: LimitOption = 100,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List monitors, newest first."""
    output = Output.to_terminal(as_json=as_json)
    states = [parse_choice(name, _STATES, "--state") for name in state or ()]
    monitors = Target.find(StateDirectory(home)).run(lambda client: client.monitors.list(states, limit=limit))
    output.emit({"monitors": [monitor.to_json_dict() for monitor in monitors]}, list_monitors(monitors))


@app.command()
def show(
    monitor_id: MonitorArgument,
    require: RequireOption = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show whether and when a monitor has raised an alarm.

    The output also says how strong the evidence is, what changed, and whether somebody has acknowledged the alarm. With
    --require no_alarm, exit with code 5 if the current epoch has an alarm (acknowledged or not) or has no row.
    """
    if require:
        parse_choice(require, (NO_ALARM,), "--require")
    output = Output.to_terminal(as_json=as_json)
    monitor = get_monitor(Target.find(StateDirectory(home)), monitor_id)
    document = describe(monitor)
    gate = {NO_ALARM: evaluate_alarm(document)} if require else {}
    output.emit(
        {**to_document(monitor), "gate": {name: str(outcome) for name, outcome in gate.items()} or None},
        *show_monitor(document, gate),
    )
    if any(outcome is not Outcome.PASSED for outcome in gate.values()):
        raise typer.Exit(exits.GATE_FAILED)


@app.command()
def watch(
    monitor_id: MonitorArgument,
    home: HomeOption = DEFAULT_HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON document per line to stdout.")] = False,
) -> None:
    """Follow a monitor and print a line for every change.

    Press Ctrl-C to stop. The command ends with exit code 0 when the monitor is deleted. Reconnects when the service
    restarts.
    """
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))

    def note_outage(_: Unavailable) -> None:
        output.note("the monitoring service is unavailable; reconnecting", "yellow")

    async def follow(client: AsyncClient) -> None:
        last: Monitor | None = None
        async with aclosing(client.monitors.watch(monitor_id, on_disconnect=note_outage)) as monitors:
            try:
                async for monitor in monitors:
                    if monitor != last:  # after an outage, the first message may bring nothing new
                        line = describe_change(monitor, datetime.now(UTC))
                        _write_line(output, to_document(monitor), line)
                    last = monitor
            except NotFound:
                if last is None:
                    raise
                _write_line(output, *describe_deletion(monitor_id))

    target.run(follow)


@app.command()
def report(
    monitor_id: MonitorArgument,
    file: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Name of the file (.html or .json); NAME.html by default."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write the current page of a monitor.

    If the file name ends in .json, the command writes JSON instead of HTML.
    """
    output, path = Output.to_terminal(as_json=as_json), file or Path(f"{monitor_id}.html")
    if path.suffix.lower() not in _FORMATS:
        raise BadOption("the name must end in .html or .json", field="--output", remedy="choose another name")
    name = _FORMATS[path.suffix.lower()]
    content = Target.find(StateDirectory(home)).run(lambda client: client.monitors.get_report(monitor_id, name))
    write_page(path, content, "--output")
    output.emit({"report": str(path)}, str(path))


for _command in (acknowledge, replace_reference, update, pause, resume, delete):
    app.command(_command.__name__.replace("_", "-"))(_command)


def _write_line(output: Output, document: Mapping[str, Any], line: Text | str) -> None:
    if output.as_json:
        output.out.file.write(json.dumps(document) + "\n")
        output.out.file.flush()
    else:
        output.out.print(line, soft_wrap=True)
