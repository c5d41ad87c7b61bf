"""`vfmalign drift`: do the rows of a stream still look like the rows of a reference?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from vfmalign.analysis.checks.gates import Outcome
from vfmalign.cli import exits
from vfmalign.cli.arrays import parse_sample
from vfmalign.cli.drift_windows import compute_windows
from vfmalign.cli.extras import needs_extra
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import HomeOption, JsonOption, parse_choice
from vfmalign.cli.set_option import Keys, SetOption, list_keys, parse_settings
from vfmalign.cli.target import Target
from vfmalign.cli.views.drift_tables import describe_alarm, show_drift
from vfmalign.cli.views.follow import View
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.drift import DEFAULT_ALPHA, DriftRequest
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.storage.arrays import NPY
from vfmalign.reports.drift.document import Component, DriftDocument

NO_ALARM = "no_alarm"
KEYS = Keys(DriftRequest, fields=("run_length", "patient_window_days", "window_rows", "seed"))
EPILOG = list_keys(KEYS)

ReferenceArgument = Annotated[
    str,
    typer.Argument(
        metavar="REFERENCE",
        help="Features of the patients on whom the model was validated: a feature set (ID or ID@SHA256), or a .npy "
        "file of shape (rows, channels).",
    ),
]
StreamArgument = Annotated[
    list[str],
    typer.Argument(metavar="STREAM", help="New features in order of arrival: feature sets or .npy files."),
]
AlphaOption = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Upper bound of the probability that a false alarm is ever raised. It holds if the studies of one stratum "
        f"are exchangeable. At most 0.5; {DEFAULT_ALPHA} by default.",
    ),
]
DriftLayerOption = Annotated[
    str, typer.Option(metavar="LAYER", help="Layer that can raise the alarm; by default the reference's first layer.")
]
ByOption = Annotated[
    str,
    typer.Option(
        metavar="STRATUM",
        help="Stratum of the dataset or the tables, such as scanner. Rows are compared only within a stratum. Set it "
        "if studies come from several scanners.",
    ),
]
ReferenceTableOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="CSV with one line per row of REFERENCE: patient, optionally strata."),
]
StreamTableOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="CSV with one line per row of STREAM. Columns: patient, and optionally observation (an id), day (as "
        "2026-03-01) and strata.",
    ),
]
FirstPatientsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Also compare the first N patients (20 to 500) with the reference in one test, within strata. The test "
        "detects a difference that already exists in the first row. The test uses a tenth of alpha.",
    ),
]
DriftStateOption = Annotated[
    Path | None,
    typer.Option("--state", metavar="FILE", help="File with the monitor's state, which the command reads and updates."),
]
ReportOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page to this file (HTML).")]
RequireOption = Annotated[
    str, typer.Option(metavar="NAME", help="no_alarm: exit code 5 if there is an alarm or no evidence.")
]
LocalOption = Annotated[
    bool,
    typer.Option("--local", help="Compute MMD² on this machine instead of a service (extra `mmd`)."),
]


def drift(
    reference: ReferenceArgument,
    streams: StreamArgument,
    *,
    alpha: AlphaOption = None,
    layer: DriftLayerOption = "",
    by: ByOption = "",
    reference_table: ReferenceTableOption = None,
    stream_table: StreamTableOption = None,
    first_patients: FirstPatientsOption = None,
    settings: SetOption = None,
    state: DriftStateOption = None,
    report: ReportOption = None,
    require: RequireOption = "",
    local: LocalOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Watch a stream of features for drift from a reference.

    If the studies of one scanner are exchangeable (--by scanner), the probability of ever raising a false alarm is at
    most alpha, however often you look. This bound does not hold if the studies are autocorrelated or change with the
    seasons. The monitor runs on this machine. To test whether a new site looks like REFERENCE at all, add
    --first-patients 100. Example: vfmalign drift validated.npy march.npy april.npy --local --report drift.html.
    """
    if require:
        parse_choice(require, (NO_ALARM,), "--require")
    for field, source in (("reference", reference), *(("streams", stream) for stream in streams)):
        if not source.endswith(NPY):
            parse_sample(source, field)
    chosen = parse_settings(settings, KEYS)[""]
    request = DriftRequest(
        reference=reference,
        streams=tuple(streams),
        reference_table=str(reference_table or ""),
        stream_table=str(stream_table or ""),
        layer=layer,
        by=by,
        alpha=choose_alpha(alpha, chosen.get("run_length")),
        first_patients=first_patients,
        state=str(state or ""),
        **chosen,
    )
    output = Output.to_terminal(as_json=as_json)
    needs_store = not all(source.endswith(NPY) for source in (reference, *streams))
    with needs_extra("monitoring", "the page of a monitor") if report is not None else nullcontext():
        import jinja2  # noqa: F401 - asked for first, because a stream may take long
    target = Target.find(StateDirectory(home)) if needs_store or (request.window_rows and not local) else None
    document = _observe(request, target, output, local=local)
    if report is not None:
        from vfmalign.reports.drift.page import render

        write_page(report, render(document), "--report")
    gate = {NO_ALARM: evaluate_alarm(document)} if require else {}
    output.emit(
        {**document.model_dump(mode="json"), "gate": {name: str(outcome) for name, outcome in gate.items()} or None},
        *show_drift(document, gate),
    )
    if any(outcome is not Outcome.PASSED for outcome in gate.values()):
        raise typer.Exit(exits.GATE_FAILED)


def _observe(request: DriftRequest, target: Target | None, output: Output, *, local: bool) -> DriftDocument:
    """Observes the stream, and adds the windows to the document."""
    with needs_extra("monitoring", "a monitor on this machine"):
        from vfmalign.monitoring.blas import use_one_thread
        from vfmalign.monitoring.local.observer import observe

    with View(output) as view:

        def report(done: int, total: int) -> None:
            view.show_bar("rows", "observing", Progress(done=done, total=total, unit="row"))

        def announce(observation: Any, log_threshold: Mapping[Any, float]) -> None:
            reached: dict[Component, tuple[float, float]] = {
                component: (value, log_threshold[component])
                for component, value in observation.log_evidence.items()
                if value >= log_threshold[component]
            }
            output.note(describe_alarm(observation.row, observation.id, reached), "bold red")

        def report_window(done: int, total: int) -> None:
            view.show_bar("windows", "comparing windows", Progress(done=done, total=total, unit="window"))

        view.show_bar("rows", "reading", None)
        with use_one_thread(), nullcontext() if target is None else target.reach_store():
            document, comparisons = observe(request, report, announce)
        view.show_bar("rows", None, None)
        windows = compute_windows(comparisons, None if local else target, request.seed, report_window)
    return document.model_copy(update={"windows": tuple(windows)})


def choose_alpha(alpha: float | None, run_length: int | None) -> float:
    """Returns `--alpha`, or its default.

    Raises:
        BadOption: `--alpha` and a run length are both given, but only one of them can apply.
    """
    if alpha is not None and run_length:
        raise BadOption("it replaces --alpha, but both are given", field="run_length", remedy="give one of them")
    return DEFAULT_ALPHA if alpha is None else alpha


def evaluate_alarm(document: DriftDocument) -> Outcome:
    """Returns the outcome of `--require no_alarm`. The outcome is undecidable if no row entered the evidence."""
    if document.alarm is not None:
        return Outcome.FAILED
    return Outcome.PASSED if document.rows else Outcome.UNDECIDABLE


def write_page(path: Path, content: bytes, option: str) -> None:
    """Writes a file that the user has named. Replaces an existing file.

    Args:
        path: the file.
        content: content of the file.
        option: option that names the file. Errors quote it.

    Raises:
        BadOption: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadOption(
            f"the file cannot be written ({error.strerror})", field=option, remedy="choose a file in another folder"
        ) from None
