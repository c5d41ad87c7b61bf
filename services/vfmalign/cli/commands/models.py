"""`vfmalign models`: what is published, foreign checkpoints, and pretraining."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Annotated

import grpc
import typer

from vfmalign.cli.commands.jobs import create_and_follow
from vfmalign.cli.home import Home
from vfmalign.cli.messages import OBJECTIVES, PRETRAINING_OBJECTIVES, parse
from vfmalign.cli.options import (
    BatchOption,
    DetachOption,
    EpochsOption,
    HomeOption,
    JsonOption,
    PresetOption,
    RateOption,
    SeedOption,
    StepsOption,
    WeightDecayOption,
    new_id,
    recipe,
)
from vfmalign.cli.output import Output
from vfmalign.cli.settings import DEFAULT_HOME
from vfmalign.cli.tables import model, models
from vfmalign.cli.target import Target
from vfmalign.core.documents import document
from vfmalign.core.errors import BadOption, NotFound
from vfmalign.v1 import features_pb2, features_pb2_grpc, finetuning_pb2

app = typer.Typer(no_args_is_help=True, help="Models: list and show cards, import a checkpoint, pretrain.")

ModelArgument = Annotated[str, typer.Argument(help="Id of the model.")]


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the models, and the architectures that can be built."""
    output = Output.to_terminal(as_json=as_json)
    found, architectures = Target.find(Home(home)).call("features", _all_models)
    output.emit(
        {"models": [document(card) for card in found], "architectures": architectures},
        models(found),
        f"architectures: {', '.join(architectures)}",
    )


@app.command()
def show(model_id: ModelArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show one model's card."""
    output = Output.to_terminal(as_json=as_json)

    async def ask(channel: grpc.aio.Channel) -> features_pb2.Model:
        request = features_pb2.GetModelRequest(model_id=model_id)
        return (await features_pb2_grpc.FeatureServiceStub(channel).GetModel(request)).model

    found = Target.find(Home(home)).call("features", ask)
    output.emit(document(found), model(found))


@app.command("import")
def import_(
    files: Annotated[
        list[Path], typer.Argument(help="A .safetensors or .pth checkpoint; one per sequence for provicnet_fusion.")
    ],
    *,
    architecture: Annotated[str, typer.Option("--as", help="The architecture: a name that `models list` shows.")],
    model_id: Annotated[str, typer.Option("--id", help="Id to publish under; made of both by default.")] = "",
    objective: Annotated[str, typer.Option(help=f"One of {', '.join(OBJECTIVES)}.")] = "masked_reconstruction",
    source: Annotated[str, typer.Option(help="Where the weights come from, and their licence.")] = "",
    primary_layer: Annotated[str, typer.Option(help="Layer of the main number; the architecture's by default.")] = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Convert a checkpoint and publish it with a card; nothing in it is unpickled."""
    from vfmalign.models.cards import publish
    from vfmalign.models.foreign import import_checkpoint
    from vfmalign.models.registry import get_architecture

    output = Output.to_terminal(as_json=as_json)
    parse(OBJECTIVES, objective, "--objective")
    built = get_architecture(architecture)
    store = Target.find(Home(home)).store
    contents = [_read(file) for file in files]
    imported = import_checkpoint(contents, built, subject=model_id or "checkpoint")
    output.say(imported.report())
    card = publish(
        store,
        model_id or f"{architecture}-{sha256(b''.join(contents)).hexdigest()[:8]}",
        imported.state,
        architecture=architecture,
        objective=objective,  # type: ignore[arg-type]
        primary_layer=primary_layer,
        source=source,
    )
    output.emit(
        card.model_dump(mode="json") | {"imported": imported.report()},
        f"published {card.id} ({card.architecture}), weights {card.checkpoint.sha256}",
    )
    output.say("what it was pretrained on is unknown: leakage into a test split cannot be excluded", "yellow")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise NotFound("there is no such file", subject="checkpoint", remedy="check the path") from None
    except OSError as error:
        raise BadOption(f"the file cannot be read ({error.strerror})", field="checkpoint") from None


@app.command()
def pretrain(
    dataset: Annotated[str, typer.Argument(help="Dataset whose split `pretrain` it learns from.")],
    *,
    objective: Annotated[
        str, typer.Option(help=f"One of {', '.join(PRETRAINING_OBJECTIVES)}.")
    ] = "masked_reconstruction",
    architecture: Annotated[
        str, typer.Option("--as", help="The architecture: a name that `models list` shows.")
    ] = "profound_conv_micro",
    publish_as: Annotated[str, typer.Option("--id", help="Id of the model; <job>-encoder by default.")] = "",
    job_id: Annotated[str | None, typer.Option("--job", help="Id of the job; one is made by default.")] = None,
    preset: PresetOption = "default",
    epochs: EpochsOption = None,
    steps_per_epoch: StepsOption = None,
    batch_size: BatchOption = None,
    learning_rate: RateOption = None,
    weight_decay: WeightDecayOption = None,
    seed: SeedOption = 0,
    no_wait: DetachOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Pretrain a fresh encoder on a dataset's split `pretrain`, and publish it."""
    spec = finetuning_pb2.JobSpec(
        kind=finetuning_pb2.JOB_KIND_PRETRAIN,
        dataset_id=dataset,
        architecture=architecture,
        objective=parse({n: OBJECTIVES[n] for n in PRETRAINING_OBJECTIVES}, objective, "--objective"),
        recipe=recipe(
            preset,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
        ),
        seed=seed,
        publish_as=publish_as,
    )
    output = Output.to_terminal(as_json=as_json)
    create_and_follow(Target.find(Home(home)), job_id or new_id("pretrain"), spec, output, wait=not no_wait)


async def _all_models(channel: grpc.aio.Channel) -> tuple[list[features_pb2.Model], list[str]]:
    stub = features_pb2_grpc.FeatureServiceStub(channel)
    found: list[features_pb2.Model] = []
    token = ""
    while True:
        page = await stub.ListModels(features_pb2.ListModelsRequest(page_token=token))
        found += page.models
        token = page.next_page_token
        if not token:
            return found, list(page.architectures)
