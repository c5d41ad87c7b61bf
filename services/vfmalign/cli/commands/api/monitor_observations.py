"""`vfmalign monitors observe`: sends the rows of a feature set or an array to a monitor."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from vfmalign.cli.arrays import OTHER_BYTES, parse_feature_set
from vfmalign.cli.commands.api.monitor_changes import MonitorArgument
from vfmalign.cli.exits import BAD_INPUT
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import HomeOption, JsonOption
from vfmalign.cli.target import Target
from vfmalign.cli.views.follow import View
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import list_fields
from vfmalign.client import AsyncClient, FeatureSetRows, Observation, ObservedStudy
from vfmalign.client.messages.common import Progress
from vfmalign.client.messages.monitors import ObservationResult
from vfmalign.client.samples import Array
from vfmalign.core.domain.errors import BadOption, BadTensor, InvalidInput, VfmalignError
from vfmalign.core.domain.record import is_id
from vfmalign.core.formats.documents import pluralise
from vfmalign.core.rpc.transport import MESSAGE_BYTES
from vfmalign.core.storage.arrays import NPY, read_npy
from vfmalign.core.storage.row_tables import DAY, OBSERVATION, PATIENT, parse_days, read_table

SET_ROWS = 1_000
ARRAY_ROWS = 64
"""Rows per call, unless their arrays are too large for a message."""
MAX_STRATUM = 64
"""Maximum number of characters of a stratum."""
NAMED_CONFLICTS = 10
"""Maximum number of conflicts that are listed one by one."""

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Features in the order of arrival: a feature set (ID or ID@SHA256), or a .npy file of shape (rows, "
        "channels) with --table and --same-model.",
    ),
]
TableOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="CSV with one line per row of the .npy file. Columns: observation (a unique id), patient, optionally day "
        "(as 2026-03-01), and the monitor's stratum. Ids must not identify a patient.",
    ),
]
SameModelOption = Annotated[
    bool,
    typer.Option(
        "--same-model",
        help="Declare that the .npy file contains features of the monitor's model, weights, preprocessing and layer. "
        "The service cannot check this.",
    ),
]
StartOption = Annotated[int, typer.Option(metavar="ROW", min=0, help="Index (from 0) of the first row to send.")]


@dataclass
class ObserveSummary:
    """Summary of a monitor's answers to the rows of a feature set or array.

    Attributes:
        start: index of the first row that was sent, from 0.
        rows: number of rows that the monitor has answered.
        outcomes: maps each outcome to its number of newly recorded rows.
        duplicates: number of rows that were recorded before.
        late: number of rows that arrived after a row that was acquired later.
        conflicts: positions (from 1) of the rows with an id that was already recorded with different content.
        alarm: the row that raised the alarm.
    """

    start: int
    rows: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    late: int = 0
    conflicts: list[int] = field(default_factory=list)
    alarm: ObservationResult | None = None

    def add(self, results: Sequence[ObservationResult]) -> None:
        """Adds the results of one call to the summary."""
        for result in results:
            self.rows += 1
            if result.outcome == "conflict":
                self.conflicts.append(self.start + self.rows)
            elif result.duplicate:
                self.duplicates += 1
            else:
                self.outcomes[result.outcome] += 1
                self.late += result.late
            if result.raised_alarm and not result.duplicate:
                self.alarm = result

    def to_json_dict(self) -> dict[str, Any]:
        """Returns the document for `--json`."""
        return {
            "start": self.start,
            "rows": self.rows,
            "outcomes": dict(self.outcomes),
            "duplicates": self.duplicates,
            "late": self.late,
            "conflicts": self.conflicts,
            "alarm": None if self.alarm is None else self.alarm.to_json_dict(),
        }


def observe(
    monitor_id: MonitorArgument,
    source: SourceArgument,
    *,
    table: TableOption = None,
    same_model: SameModelOption = False,
    start: StartOption = 0,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Send the rows of a feature set or of an array.

    Rows enter the evidence in the order of the source. After an interruption, repeat the command: rows with a recorded
    observation id are skipped. If an id was already recorded with different content, the exit code is 2, but all other
    rows are recorded.
    """
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))
    observed = ObserveSummary(start)
    is_file = source.endswith(NPY)
    if not is_file:
        parse_feature_set(source, "source")
    _check_options(is_file=is_file, table=table, same_model=same_model)
    calls = _observe_array if is_file else _observe_feature_set

    async def run(client: AsyncClient) -> None:
        with View(output) as view:
            async for results, total in calls(client, monitor_id, source, table, start):
                had_alarm = observed.alarm is not None
                observed.add(results)
                if observed.alarm is not None and not had_alarm:
                    output.note(_describe_alarm(observed.alarm), "bold red")
                done = Progress(done=observed.rows, total=total, unit="row")
                view.show_bar("rows", f"observing, {pluralise(observed.rows, 'row')}", done)

    try:
        target.run(run)
    except (VfmalignError, KeyboardInterrupt) as end:
        if observed.rows or isinstance(end, KeyboardInterrupt):
            output.note(_describe_interruption(target, monitor_id, source, table, observed), "yellow")
        raise
    _note_conflicts(output, observed.conflicts)
    next_step = f"see the monitor with {target.get_command(f'monitors show {monitor_id}')}"
    output.emit({"observed": observed.to_json_dict()}, _show(monitor_id, observed), next_step)
    if observed.conflicts:
        raise typer.Exit(BAD_INPUT)


async def _observe_feature_set(
    client: AsyncClient, monitor_id: str, source: str, _: Path | None, start: int
) -> AsyncIterator[tuple[Sequence[ObservationResult], int]]:
    """Yields the answers to calls for a feature set, and 0 for its unknown number of rows."""
    feature_set_id, manifest_sha256 = parse_feature_set(source, "source")
    place = start
    while True:
        rows = FeatureSetRows(
            feature_set_id=feature_set_id, manifest_sha256=manifest_sha256, start=place, rows=SET_ROWS
        )
        results = await client.monitors.observe_feature_set(monitor_id, rows)
        yield results, 0
        place += len(results)
        if len(results) < SET_ROWS:
            return


async def _observe_array(
    client: AsyncClient, monitor_id: str, source: str, table: Path | None, start: int
) -> AsyncIterator[tuple[Sequence[ObservationResult], int]]:
    """Yields the answers to calls for an array, and its number of rows."""
    array_NC = read_npy(Path(source), "source")
    monitor = await client.monitors.get(monitor_id)
    if array_NC.shape[1] != monitor.channels:
        raise BadTensor(
            f"the array has {array_NC.shape[1]:,} channels, and layer `{monitor.spec.layer}` of the monitor "
            f"{monitor.channels:,}",
            field="source",
            remedy="give features of this model and layer",
        )
    if start > len(array_NC):
        raise BadOption(f"the array has {pluralise(len(array_NC), 'row')}", field="--start", remedy="begin with 0")
    studies = _read_studies(table or Path(), len(array_NC), monitor.spec.stratum)
    for first, last in _list_batches(array_NC, start):
        observations = [
            Observation(study, {monitor.spec.layer: row_C})
            for study, row_C in zip(studies[first:last], array_NC[first:last], strict=True)
        ]
        yield await client.monitors.observe(monitor_id, observations, monitor.origin), len(array_NC) - start


def _list_batches(array_NC: Array, start: int) -> Iterator[tuple[int, int]]:
    """Yields the first row of each call, and the row after its last one."""
    fitting = (MESSAGE_BYTES - ARRAY_ROWS * OTHER_BYTES // 8) // array_NC[0].nbytes
    size = max(1, min(ARRAY_ROWS, fitting))
    for first in range(start, len(array_NC), size):
        yield first, min(first + size, len(array_NC))


def _read_studies(table: Path, rows: int, stratum: str) -> list[ObservedStudy]:
    """Reads the table that describes the rows of an array.

    Raises:
        BadOption, InvalidInput: the table cannot be read, or lacks a column or an id. Errors quote no cell.
    """
    columns = read_table(table, rows, "table")
    for name in filter(None, (OBSERVATION, stratum)):
        if name not in columns:
            raise InvalidInput(
                f"there is no column `{name}`", field="table", remedy="add this column, with a cell for every row"
            )
    for name in (OBSERVATION, PATIENT):
        for line, text in enumerate(columns[name], start=2):
            if not is_id(text):
                raise InvalidInput(
                    f"line {line:,} has no valid id in `{name}`",
                    field="table",
                    remedy="use at most 128 lower-case letters, digits, `_`, `.` and `-`, such as a keyed hash in hex",
                )
    days = parse_days(columns[DAY], "table") if DAY in columns else [None] * rows
    values = columns[stratum] if stratum else [""] * rows
    for line, value in enumerate(values, start=2):
        if len(value) > MAX_STRATUM or not value.isprintable():
            raise InvalidInput(
                f"line {line:,} has more than {MAX_STRATUM} or unprintable characters in `{stratum}`",
                field="table",
                remedy="correct this cell",
            )
    return [
        ObservedStudy.from_fields(
            observation_id=observation,
            group=patient,
            strata={stratum: value} if value else {},
            acquire_time=None if day is None else datetime.fromordinal(day).replace(tzinfo=UTC),
        )
        for observation, patient, value, day in zip(columns[OBSERVATION], columns[PATIENT], values, days, strict=True)
    ]


def _check_options(*, is_file: bool, table: Path | None, same_model: bool) -> None:
    """Checks that an array comes with the table and origin that a feature set has of its own.

    Raises:
        BadOption: an option is missing, or does not belong to a feature set.
    """
    if is_file and table is None:
        raise BadOption(
            "an array does not name the patients of its rows", field="--table", remedy="give a table of its rows"
        )
    if is_file and not same_model:
        raise BadOption(
            "an array does not name the model that computed its features",
            field="--same-model",
            remedy="add it if the features come from the model, weights, preprocessing and layer that `vfmalign "
            "monitors show` names; otherwise, give a feature set",
        )
    if not is_file and (table is not None or same_model):
        raise BadOption(
            "a feature set has patients, strata and an origin of its own",
            field="--table" if table is not None else "--same-model",
            remedy="leave it out",
        )


def _describe_alarm(alarm: ObservationResult) -> str:
    return f"ALARM at row {alarm.row:,} of epoch {alarm.epoch}, observation {alarm.observation_id}"


def _describe_interruption(
    target: Target, monitor_id: str, source: str, table: Path | None, observed: ObserveSummary
) -> str:
    options = "" if table is None else f"--table {quote(str(table))} --same-model "
    start = observed.start + observed.rows
    command = target.get_command(f"monitors observe {monitor_id} {quote(source)} {options}--start {start}")
    recorded = f"{pluralise(observed.rows, 'row')} recorded" if observed.rows else "no row is known to be recorded"
    return f"{recorded}; go on with {command}"


def _note_conflicts(output: Output, rows: Sequence[int]) -> None:
    """Names the first rows with an id that has other content, and the number of all others."""
    for row in rows[:NAMED_CONFLICTS]:
        output.note(f"! row {row:,}: its id was recorded before with other content, which is kept", "yellow")
    if (others := len(rows) - NAMED_CONFLICTS) > 0:
        output.note(f"! the same applies to {pluralise(others, 'other row')}; see --json", "yellow")


def _show(monitor_id: str, observed: ObserveSummary) -> Any:
    counts = {name.replace("_", " "): f"{count:,}" for name, count in observed.outcomes.items()}
    return list_fields(
        f"Rows observed by {monitor_id}",
        {
            "rows": f"{observed.rows:,}",
            **counts,
            "recorded before": f"{observed.duplicates:,}",
            "late": f"{observed.late:,}",
            "conflicts": f"{len(observed.conflicts):,}",
            "alarm": "none of these rows" if observed.alarm is None else f"raised by row {observed.alarm.row:,}",
        },
    )
