"""`vfmalign experiment` and `experiments`: models × tasks × seeds, from creation to report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import RenderableType

from vfmalign.cli.commands.checks import DEFAULT_REPORTS, ReportsOption
from vfmalign.cli.exits import FAILED, OK
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
    StateOption,
    StepsOption,
    WeightDecayOption,
    new_id,
    recipe,
)
from vfmalign.cli.target import Target
from vfmalign.cli.views.enum_labels import CHECK_STATES, EXPERIMENT_STATES, parse, word
from vfmalign.cli.views.experiment_tables import summary
from vfmalign.cli.views.follow import View
from vfmalign.cli.views.follow_experiment import follow_experiment
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import experiments as experiments_table
from vfmalign.core.domain.documents import to_json_dict
from vfmalign.core.domain.errors import NotFound, PreconditionFailed
from vfmalign.core.domain.tasks import TASKS
from vfmalign.v1 import alignment_pb2, alignment_pb2_grpc, experiment_pb2, experiment_pb2_grpc

app = new_group("List, show and cancel experiments, and fetch their reports.")

ExperimentArgument = Annotated[str, typer.Argument(help="Id of the experiment.")]
_FILES = {"html": "report_html", "json": "report_json", "csv": "cells_csv"}


def experiment(
    dataset: Annotated[str, typer.Argument(help="Id of the dataset.")],
    *,
    model: Annotated[list[str], typer.Option("--model", help="Id of a pretrained model. Repeatable.")],
    task: Annotated[list[str], typer.Option("--task", help=f"One of {', '.join(TASKS)}. Repeatable.")],
    seed: Annotated[
        list[int] | None, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed; 0 by default. Repeatable.")
    ] = None,
    experiment_id: Annotated[
        str | None, typer.Option("--id", help="Id of the experiment; one is made by default.")
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the report; the id by default.")] = "",
    max_running: Annotated[int, typer.Option(min=1, max=64, help="Checks that run at once.")] = 2,
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
    permutations: Annotated[int, typer.Option(min=1, max=100_000, help="Permutations of each check's tests.")] = 1000,
    bootstrap: Annotated[int, typer.Option(min=100, max=100_000, help="Resamples of intervals.")] = 2000,
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="Coverage of intervals.")] = 0.95,
    reports: ReportsOption = DEFAULT_REPORTS,
    no_wait: DetachOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Run an alignment check for every model, task and seed.

    One report covers all checks of the experiment. The recipe's options apply to the pretrained networks; the
    baselines share their budget and keep their own learning rates.
    """
    spec = experiment_pb2.ExperimentSpec(
        model_ids=model,
        dataset_id=dataset,
        tasks=task,
        seeds=seed or (),
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
        permutations=permutations,
        bootstrap_resamples=bootstrap,
        interval_level=level,
        max_running=max_running,
        title=title,
    )
    output, target = Output.to_terminal(as_json=as_json), Target.find(Home(home))
    name = experiment_id or new_id("experiment")
    found = create(target, name, spec)
    output.say(f"experiment {name} is {word(EXPERIMENT_STATES, found.state)}: {len(found.cells)} checks")
    if no_wait:
        output.emit({"experiment": to_json_dict(found)}, f"`vfmalign watch {name}` shows it")
        return
    finish(target, watch_experiment(target, name, output), output, reports)


@app.command("list")
def list_(
    state: StateOption = None,
    limit: LimitOption = 100,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List experiments, newest first."""
    output = Output.to_terminal(as_json=as_json)
    states = [parse(EXPERIMENT_STATES, name, "--state") for name in state or ()]

    async def ask(channel: grpc.aio.Channel) -> list[experiment_pb2.Experiment]:
        request = experiment_pb2.ListExperimentsRequest(page_size=limit, states=states)
        return list((await experiment_pb2_grpc.ExperimentServiceStub(channel).ListExperiments(request)).experiments)

    found = Target.find(Home(home)).call("finetuning", ask)
    output.emit({"experiments": [to_json_dict(item) for item in found]}, experiments_table(found))


@app.command()
def show(experiment_id: ExperimentArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show one experiment: what its cells found so far, and where the others stand."""
    output, target = Output.to_terminal(as_json=as_json), Target.find(Home(home))
    found = get(target, experiment_id)
    output.emit({"experiment": to_json_dict(found)}, *summary(found, results_of(target, found)))


@app.command()
def cancel(experiment_id: ExperimentArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Ask an experiment and its checks to stop; one that has ended stays as it is."""
    output = Output.to_terminal(as_json=as_json)

    async def ask(channel: grpc.aio.Channel) -> experiment_pb2.Experiment:
        request = experiment_pb2.CancelExperimentRequest(experiment_id=experiment_id)
        return (await experiment_pb2_grpc.ExperimentServiceStub(channel).CancelExperiment(request)).experiment

    found = Target.find(Home(home)).call("finetuning", ask)
    output.emit(
        {"experiment": to_json_dict(found)},
        f"experiment {experiment_id}: {word(EXPERIMENT_STATES, found.state)}; {found.status}",
    )


@app.command()
def report(
    experiment_id: ExperimentArgument,
    reports: ReportsOption = DEFAULT_REPORTS,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Fetch a finished experiment's report: a page, JSON and CSV."""
    output, target = Output.to_terminal(as_json=as_json), Target.find(Home(home))
    found = get(target, experiment_id)
    if not found.HasField("report_json"):
        state = word(EXPERIMENT_STATES, found.state)
        raise PreconditionFailed(
            f"there is no report: the experiment is {state}",
            subject=experiment_id,
            remedy=f"see `vfmalign experiments show {experiment_id}`",
        )
    places = fetch_report(target, found, reports)
    output.emit({"report": places}, places["html"])


def create(target: Target, experiment_id: str, spec: experiment_pb2.ExperimentSpec) -> experiment_pb2.Experiment:
    """Creates an experiment; the same id and spec again return the first."""

    async def ask(channel: grpc.aio.Channel) -> experiment_pb2.Experiment:
        request = experiment_pb2.CreateExperimentRequest(experiment_id=experiment_id, spec=spec)
        return (await experiment_pb2_grpc.ExperimentServiceStub(channel).CreateExperiment(request)).experiment

    return target.call("finetuning", ask)


def get(target: Target, experiment_id: str) -> experiment_pb2.Experiment:
    """One experiment."""

    async def ask(channel: grpc.aio.Channel) -> experiment_pb2.Experiment:
        request = experiment_pb2.GetExperimentRequest(experiment_id=experiment_id)
        return (await experiment_pb2_grpc.ExperimentServiceStub(channel).GetExperiment(request)).experiment

    return target.call("finetuning", ask)


def results_of(target: Target, found: experiment_pb2.Experiment) -> dict[str, alignment_pb2.CheckResult]:
    """What the experiment's checks that succeeded concluded, by check id."""
    done = [cell.check_id for cell in found.cells if word(CHECK_STATES, cell.state) == "succeeded"]

    async def ask(channel: grpc.aio.Channel) -> dict[str, alignment_pb2.CheckResult]:
        stub = alignment_pb2_grpc.AlignmentServiceStub(channel)
        results = {}
        for check_id in done:
            with suppress(NotFound):
                check = (await stub.GetCheck(alignment_pb2.GetCheckRequest(check_id=check_id))).check
                results[check_id] = check.result
        return results

    return target.call("finetuning", ask)


def follow(target: Target, experiment_id: str, output: Output) -> experiment_pb2.Experiment:
    """Shows an experiment to its end."""
    with View(output) as view:
        return target.call("finetuning", lambda channel: follow_experiment(channel, experiment_id, view))


def watch_experiment(target: Target, experiment_id: str, output: Output) -> experiment_pb2.Experiment:
    """Follows an experiment to its end; Ctrl-C leaves it running and says how to go on."""
    try:
        return follow(target, experiment_id, output)
    except KeyboardInterrupt:
        output.say(
            f"\nexperiment {experiment_id} goes on; `vfmalign watch {experiment_id}` shows it, "
            f"`vfmalign experiments cancel {experiment_id}` stops it"
        )
        raise


def fetch_report(target: Target, found: experiment_pb2.Experiment, folder: Path) -> dict[str, str]:
    """Writes a finished experiment's report into a folder, verified; returns where everything lies."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {"uri": found.report_html.uri}
    for kind, field in _FILES.items():
        ref = getattr(found, field)
        path = folder / f"{found.experiment_id}.{kind}"
        path.write_bytes(target.store.get(target.store.key(ref.uri), sha256=ref.sha256))
        places[kind] = str(path)
    return places


def finish(
    target: Target,
    found: experiment_pb2.Experiment,
    output: Output,
    reports: Path,
    more: Sequence[RenderableType] = (),
    **fields: Any,
) -> None:
    """Writes an experiment's end and its report.

    Args:
        target: the deployment.
        found: the experiment.
        output: where to.
        reports: folder that receives the report.
        more: what a terminal shows after it.
        fields: what `--json` adds.

    Raises:
        typer.Exit: code 1 where the experiment did not succeed, else 0.
    """
    content: dict[str, Any] = {"experiment": to_json_dict(found)}
    page, headline = None, ()
    if found.HasField("report_json"):
        content["report"] = fetch_report(target, found, reports)
        page = Path(content["report"]["html"])
        headline = json.loads(Path(content["report"]["json"]).read_bytes()).get("headline", ())
    output.emit(content | fields, *summary(found, results_of(target, found), headline, page), *more)
    raise typer.Exit(OK if word(EXPERIMENT_STATES, found.state) == "succeeded" else FAILED)
