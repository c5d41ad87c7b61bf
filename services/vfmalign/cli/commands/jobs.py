"""`vfmalign finetune` and `vfmalign jobs`: training jobs, from creation to result."""

from __future__ import annotations

from typing import Annotated

import grpc
import typer

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
    SeedOption,
    StateOption,
    StepsOption,
    WeightDecayOption,
    new_id,
    recipe,
)
from vfmalign.cli.target import Target
from vfmalign.cli.views.enum_labels import JOB_STATES, NETWORKS, parse, word
from vfmalign.cli.views.follow import View, follow_job
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import job as job_tables
from vfmalign.cli.views.tables import jobs as jobs_table
from vfmalign.core.domain.documents import to_json_dict
from vfmalign.core.domain.tasks import TASKS
from vfmalign.v1 import finetuning_pb2, finetuning_pb2_grpc

app = new_group("List, show and cancel training jobs.")

JobArgument = Annotated[str, typer.Argument(help="Id of the job.")]


def finetune(
    dataset: Annotated[str, typer.Argument(help="Id of the dataset.")],
    *,
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.")],
    model: Annotated[str, typer.Option(help="Id of the pretrained model.")],
    network: Annotated[str, typer.Option(help=f"Starting network: {', '.join(NETWORKS)}.")] = "pretrained",
    publish_as: Annotated[str, typer.Option("--as", help="Id of the encoder; <job>-encoder by default.")] = "",
    job_id: Annotated[str | None, typer.Option("--job", help="Id of the job; one is made by default.")] = None,
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
    seed: SeedOption = 0,
    no_wait: DetachOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model on a task, without an alignment check."""
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_FINETUNE,
        dataset_id=dataset,
        model_id=model,
        task=task,
        network=parse(NETWORKS, network, "--network"),
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
        publish_as=publish_as,
    )
    output = Output.to_terminal(as_json=as_json)
    create_and_follow(Target.find(Home(home)), job_id or new_id("finetune"), spec, output, wait=not no_wait)


@app.command("list")
def list_(
    state: StateOption = None,
    limit: LimitOption = 100,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    output = Output.to_terminal(as_json=as_json)
    states = [parse(JOB_STATES, name, "--state") for name in state or ()]

    async def ask(channel: grpc.aio.Channel) -> list[finetuning_pb2.Job]:
        request = finetuning_pb2.ListJobsRequest(page_size=limit, states=states)
        return list((await finetuning_pb2_grpc.FineTuningServiceStub(channel).ListJobs(request)).jobs)

    found = Target.find(Home(home)).call("finetuning", ask)
    output.emit({"jobs": [to_json_dict(job) for job in found]}, jobs_table(found))


@app.command()
def show(job_id: JobArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show one job with its learning curve."""
    output = Output.to_terminal(as_json=as_json)

    async def ask(channel: grpc.aio.Channel) -> finetuning_pb2.Job:
        request = finetuning_pb2.GetJobRequest(job_id=job_id)
        return (await finetuning_pb2_grpc.FineTuningServiceStub(channel).GetJob(request)).job

    found = Target.find(Home(home)).call("finetuning", ask)
    output.emit(to_json_dict(found), *job_tables(found))


@app.command()
def cancel(job_id: JobArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Ask a job to stop; one that has ended stays as it is."""
    output = Output.to_terminal(as_json=as_json)

    async def ask(channel: grpc.aio.Channel) -> finetuning_pb2.Job:
        request = finetuning_pb2.CancelJobRequest(job_id=job_id)
        return (await finetuning_pb2_grpc.FineTuningServiceStub(channel).CancelJob(request)).job

    found = Target.find(Home(home)).call("finetuning", ask)
    output.emit(to_json_dict(found), f"job {found.job_id}: {word(JOB_STATES, found.state)}; {found.status}")


def create_and_follow(target: Target, job_id: str, spec: finetuning_pb2.JobSpec, output: Output, *, wait: bool) -> None:
    """Creates a job, shows it to its end and writes what came of it.

    Raises:
        typer.Exit: code 1 where the job did not succeed.
    """
    request = finetuning_pb2.CreateJobRequest(job_id=job_id, spec=spec)
    found = target.call("finetuning", lambda channel: _create(channel, request))
    output.say(f"job {job_id} is {word(JOB_STATES, found.state)}")
    if wait:
        found = watch_job(target, job_id, output)
    finish_job(found, output, waited=wait)


def watch_job(target: Target, job_id: str, output: Output) -> finetuning_pb2.Job:
    """Follows a job to its end; Ctrl-C leaves it running and says how to go on."""
    try:
        with View(output) as view:
            return target.call("finetuning", lambda channel: follow_job(channel, job_id, view))
    except KeyboardInterrupt:
        output.say(
            f"\njob {job_id} goes on; `vfmalign watch {job_id}` shows it, `vfmalign jobs cancel {job_id}` stops it"
        )
        raise


def finish_job(found: finetuning_pb2.Job, output: Output, *, waited: bool = True) -> None:
    """Writes a job's end; raises as `create_and_follow`."""
    state = word(JOB_STATES, found.state)
    if not waited:
        output.emit(to_json_dict(found), f"job {found.job_id}: {state}; `vfmalign watch {found.job_id}` shows it")
        return
    output.emit(to_json_dict(found), *job_tables(found))
    raise typer.Exit(OK if state == "succeeded" else FAILED)


async def _create(channel: grpc.aio.Channel, request: finetuning_pb2.CreateJobRequest) -> finetuning_pb2.Job:
    return (await finetuning_pb2_grpc.FineTuningServiceStub(channel).CreateJob(request)).job
