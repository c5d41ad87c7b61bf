"""`vfmalign check` and `checks`: alignment checks, from creation to report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import RenderableType

from vfmalign.cli.exits import FAILED, GATE_FAILED, OK
from vfmalign.cli.gates import EXAMPLE, Condition, decide, parse_gate, passed
from vfmalign.cli.lazy_group import new_group
from vfmalign.cli.local.state_directory import DEFAULT_HOME, Home
from vfmalign.cli.options import (
    BatchOption,
    DetachOption,
    EncoderRateOption,
    EpochsOption,
    HomeOption,
    JsonOption,
    LayerDecayOption,
    LimitOption,
    PatchOption,
    PresetOption,
    ProbeOption,
    RateOption,
    SeedOption,
    StateOption,
    StepsOption,
    WeightDecayOption,
    new_id,
    recipe,
)
from vfmalign.cli.target import Target
from vfmalign.cli.views.check_tables import summary
from vfmalign.cli.views.enum_labels import CHECK_STATES, parse, word
from vfmalign.cli.views.follow import View, follow_check
from vfmalign.cli.views.gate_tables import gate_document, gate_table, observations
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import checks as checks_table
from vfmalign.core.domain.documents import to_json_dict
from vfmalign.core.domain.errors import BadOption, NotFound, PreconditionFailed
from vfmalign.core.domain.tasks import TASKS
from vfmalign.v1 import alignment_pb2, alignment_pb2_grpc, common_pb2, finetuning_pb2, finetuning_pb2_grpc

app = new_group("List, show and cancel checks, and fetch their reports.")

DEFAULT_REPORTS = Path("reports")
CheckArgument = Annotated[str, typer.Argument(help="Id of the check.")]
ReportsOption = Annotated[Path, typer.Option("--reports", help="Folder that receives the report.")]
GateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gate", help=f"End with 5 unless all of this holds, such as '{EXAMPLE}' (docs/gates.md). Repeatable."
    ),
]


def check(
    dataset: Annotated[str, typer.Argument(help="Id of the dataset.")],
    *,
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.")],
    model: Annotated[str, typer.Option(help="Id of the pretrained model.")],
    check_id: Annotated[str | None, typer.Option("--id", help="Id of the check; one is made by default.")] = None,
    layer: Annotated[list[str] | None, typer.Option("--layer", help="Only these layers. Repeatable.")] = None,
    preset: PresetOption = "default",
    epochs: EpochsOption = None,
    steps_per_epoch: StepsOption = None,
    batch_size: BatchOption = None,
    learning_rate: RateOption = None,
    weight_decay: WeightDecayOption = None,
    layer_decay: LayerDecayOption = None,
    encoder_rate: EncoderRateOption = None,
    patch: PatchOption = None,
    probe_step: ProbeOption = None,
    permutations: Annotated[int, typer.Option(min=1, max=100_000, help="Permutations of the tests.")] = 1000,
    bootstrap: Annotated[int, typer.Option(min=100, max=100_000, help="Resamples of the gains' intervals.")] = 2000,
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="Coverage of intervals.")] = 0.95,
    seed: SeedOption = 0,
    gate: GateOption = None,
    reports: ReportsOption = DEFAULT_REPORTS,
    no_wait: DetachOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Run an alignment check.

    A check fine-tunes the model on the task and measures how far its features move and what the fine-tuning gains.
    The recipe's options apply to the pretrained network; the two baselines share its budget and keep their own
    learning rates.
    """
    conditions = parse_gate(gate or ())
    if conditions and no_wait:
        raise BadOption(
            "a gate needs the check's end, and --no-wait does not wait for it",
            field="--gate",
            remedy="leave out one of the two; `vfmalign checks show ID --gate …` gates a finished check",
        )
    spec = alignment_pb2.CheckSpec(
        model_id=model,
        dataset_id=dataset,
        task=task,
        layers=layer or (),
        recipe=recipe(
            preset,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
            encoder_rate=encoder_rate,
            patch=patch,
            probe_steps=probe_step,
        ),
        seed=seed,
        permutations=permutations,
        bootstrap_resamples=bootstrap,
        interval_level=level,
    )
    output, target = Output.to_terminal(as_json=as_json), Target.find(Home(home))
    name = check_id or new_id("check")
    found = create(target, name, spec)
    output.say(f"check {name} is {word(CHECK_STATES, found.state)}")
    if no_wait:
        output.emit({"check": to_json_dict(found)}, f"`vfmalign watch {name}` shows it")
        return
    finish(target, watch_check(target, name, output), output, reports, conditions)


@app.command("list")
def list_(
    state: StateOption = None,
    limit: LimitOption = 100,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List checks, newest first."""
    output = Output.to_terminal(as_json=as_json)
    states = [parse(CHECK_STATES, name, "--state") for name in state or ()]

    async def ask(channel: grpc.aio.Channel) -> list[alignment_pb2.Check]:
        request = alignment_pb2.ListChecksRequest(page_size=limit, states=states)
        return list((await alignment_pb2_grpc.AlignmentServiceStub(channel).ListChecks(request)).checks)

    found = Target.find(Home(home)).call("finetuning", ask)
    output.emit({"checks": [to_json_dict(item) for item in found]}, checks_table(found))


@app.command()
def show(
    check_id: CheckArgument,
    gate: GateOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show one check; with a gate, end with 5 unless it holds."""
    conditions = parse_gate(gate or ())
    output = Output.to_terminal(as_json=as_json)
    target = Target.find(Home(home))
    found = get(target, check_id)
    state = word(CHECK_STATES, found.state)
    if conditions and state != "succeeded":
        raise PreconditionFailed(
            f"there is nothing to gate: the check is {state}",
            subject=check_id,
            remedy=f"see `vfmalign checks show {check_id}`",
        )
    gated, lines, code = judge(found, conditions)
    output.emit({"check": to_json_dict(found), **gated}, *summary(found, jobs=jobs_of(target, found)), *lines)
    raise typer.Exit(code)


@app.command()
def cancel(check_id: CheckArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Ask a check and its jobs to stop; one that has ended stays as it is."""
    output = Output.to_terminal(as_json=as_json)

    async def ask(channel: grpc.aio.Channel) -> alignment_pb2.Check:
        request = alignment_pb2.CancelCheckRequest(check_id=check_id)
        return (await alignment_pb2_grpc.AlignmentServiceStub(channel).CancelCheck(request)).check

    found = Target.find(Home(home)).call("finetuning", ask)
    output.emit({"check": to_json_dict(found)}, f"check {check_id}: {word(CHECK_STATES, found.state)}; {found.status}")


@app.command()
def report(
    check_id: CheckArgument,
    reports: ReportsOption = DEFAULT_REPORTS,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Fetch a finished check's report."""
    output, target = Output.to_terminal(as_json=as_json), Target.find(Home(home))
    found = get(target, check_id)
    if not found.HasField("result"):
        state = word(CHECK_STATES, found.state)
        raise PreconditionFailed(
            f"there is no report: the check is {state}",
            subject=check_id,
            remedy=f"see `vfmalign checks show {check_id}`",
        )
    places = fetch_report(target, found, reports)
    output.emit({"report": places}, places["html"])


def create(target: Target, check_id: str, spec: alignment_pb2.CheckSpec) -> alignment_pb2.Check:
    """Creates a check; the same id and spec again return the first."""

    async def ask(channel: grpc.aio.Channel) -> alignment_pb2.Check:
        request = alignment_pb2.CreateCheckRequest(check_id=check_id, spec=spec)
        return (await alignment_pb2_grpc.AlignmentServiceStub(channel).CreateCheck(request)).check

    return target.call("finetuning", ask)


def get(target: Target, check_id: str) -> alignment_pb2.Check:
    """One check."""

    async def ask(channel: grpc.aio.Channel) -> alignment_pb2.Check:
        request = alignment_pb2.GetCheckRequest(check_id=check_id)
        return (await alignment_pb2_grpc.AlignmentServiceStub(channel).GetCheck(request)).check

    return target.call("finetuning", ask)


def jobs_of(target: Target, found: alignment_pb2.Check) -> list[finetuning_pb2.Job]:
    """A check's jobs, as far as they were created."""

    async def ask(channel: grpc.aio.Channel) -> list[finetuning_pb2.Job]:
        stub = finetuning_pb2_grpc.FineTuningServiceStub(channel)
        jobs = []
        for job_id in found.job_ids:
            with suppress(NotFound):
                jobs.append((await stub.GetJob(finetuning_pb2.GetJobRequest(job_id=job_id))).job)
        return jobs

    return target.call("finetuning", ask)


def watch_check(target: Target, check_id: str, output: Output) -> alignment_pb2.Check:
    """Follows a check to its end; Ctrl-C leaves it running and says how to go on."""
    try:
        with View(output) as view:
            return target.call("finetuning", lambda channel: follow_check(channel, check_id, view))
    except KeyboardInterrupt:
        output.say(
            f"\ncheck {check_id} goes on; `vfmalign watch {check_id}` shows it, "
            f"`vfmalign checks cancel {check_id}` stops it"
        )
        raise


def fetch_report(target: Target, found: alignment_pb2.Check, folder: Path) -> dict[str, str]:
    """Writes a finished check's report into a folder, verified; returns where everything lies."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {"uri": found.result.report_html.uri}
    for kind, ref in (("html", found.result.report_html), ("json", found.result.report_json)):
        path = folder / f"{found.check_id}.{kind}"
        path.write_bytes(_content(target, ref))
        places[kind] = str(path)
    return places


def judge(
    found: alignment_pb2.Check, conditions: Sequence[Condition]
) -> tuple[dict[str, Any], list[RenderableType], int]:
    """A gate on a check: what `--json` adds, what a terminal shows and the exit code; nothing and 0 without a gate."""
    if not conditions:
        return {}, [], OK
    decisions, cautions = decide(conditions, observations(found)), list(found.result.cautions)
    code = OK if passed(decisions) else GATE_FAILED
    return {"gate": gate_document(decisions, cautions)}, gate_table(decisions, cautions), code


def finish(
    target: Target, found: alignment_pb2.Check, output: Output, reports: Path, conditions: Sequence[Condition] = ()
) -> None:
    """Writes a check's end, its report and its gate's outcome.

    Raises:
        typer.Exit: code 1 where the check did not succeed, 5 where its gate does not hold, else 0.
    """
    result: dict[str, Any] = {"check": to_json_dict(found)}
    page = None
    if found.HasField("result"):
        result["report"] = fetch_report(target, found, reports)
        page = Path(result["report"]["html"])
    succeeded = word(CHECK_STATES, found.state) == "succeeded"
    gated, lines, code = judge(found, conditions if succeeded else ())
    output.emit(result | gated, *summary(found, page, jobs_of(target, found)), *lines)
    raise typer.Exit(code if succeeded else FAILED)


def _content(target: Target, ref: common_pb2.ObjectRef) -> bytes:
    store = target.store
    return store.get(store.key(ref.uri), sha256=ref.sha256)
