"""`vfmalign models`: what is published, foreign checkpoints, and pretraining."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Annotated, TypeVar

import grpc
import typer

from vfmalign.cli.commands.jobs import create_and_follow
from vfmalign.cli.extras import needs_extra
from vfmalign.cli.lazy_group import new_group
from vfmalign.cli.local.state_directory import DEFAULT_HOME, Home
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
from vfmalign.cli.target import Target
from vfmalign.cli.views.enum_labels import OBJECTIVES, PRETRAINING_OBJECTIVES, parse
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import model, models
from vfmalign.core.domain.documents import to_json_dict
from vfmalign.core.domain.errors import BadOption
from vfmalign.v1 import features_pb2, features_pb2_grpc, finetuning_pb2

T = TypeVar("T", int, float)

app = new_group("List, show, import and pretrain models.")

ModelArgument = Annotated[str, typer.Argument(help="Id of the model.")]


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the models, and the architectures that can be built."""
    output = Output.to_terminal(as_json=as_json)
    found, architectures = Target.find(Home(home)).call("features", _all_models)
    output.emit(
        {"models": [to_json_dict(card) for card in found], "architectures": architectures},
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
    output.emit(to_json_dict(found), model(found))


@app.command("import")
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(help="A .safetensors or .pth checkpoint, a MONAI bundle's folder, or a .pt2 program."),
    ],
    *,
    architecture: Annotated[
        str, typer.Option("--as", help="A checkpoint's architecture: a name that `models list` shows.")
    ] = "",
    model_id: Annotated[str, typer.Option("--id", help="Id to publish under; made of the weights by default.")] = "",
    layers: Annotated[str, typer.Option(help="Layers of a bundle or program: submodules, by comma.")] = "",
    modalities: Annotated[str, typer.Option(help="Channels of a bundle's or program's input, by comma.")] = "",
    spacing: Annotated[str, typer.Option(help="Its voxels in mm along D, H, W; the T2 grid's own by default.")] = "",
    shape: Annotated[str, typer.Option(help="Its size in voxels along D, H, W; a program states it.")] = "",
    normalisation: Annotated[str, typer.Option(help="zscore_nonzero, or zscore_gland.")] = "zscore_nonzero",
    objective: Annotated[str, typer.Option(help=f"One of {', '.join(OBJECTIVES)}.")] = "masked_reconstruction",
    source: Annotated[str, typer.Option(help="Where the weights come from, and their licence.")] = "",
    primary_layer: Annotated[str, typer.Option(help="Layer of the main number; the architecture's by default.")] = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Convert a foreign model and publish it with a card; nothing in it is unpickled or executed.

    One file per sequence for provicnet_fusion: T2, DWI, ADC.
    """
    with needs_extra("local", "importing a model"):
        from vfmalign.models.cards import publish, publish_program
        from vfmalign.models.checkpoints import to_safetensors
        from vfmalign.models.formats.exported_program import ARCHITECTURE
        from vfmalign.models.importer import Input, import_model

    output = Output.to_terminal(as_json=as_json)
    parse(OBJECTIVES, objective, "--objective")
    store = Target.find(Home(home)).store
    described = Input(
        tuple(_listed(modalities)),
        _three(spacing, float, "--spacing"),
        _three(shape, int, "--shape"),
        normalisation,
    )
    imported = import_model(files, architecture, _listed(layers), described, model_id or "checkpoint")
    output.say(imported.report)
    digest = sha256(to_safetensors(imported.state)).hexdigest()[:8]
    kind = imported.architecture.partition(":")[0]
    common = {"objective": objective, "primary_layer": primary_layer, "source": source}
    if imported.architecture == ARCHITECTURE:
        card = publish_program(
            store,
            model_id or f"{kind}-{digest}",
            imported.state,
            preprocessing=imported.preprocessing,  # type: ignore[arg-type]
            **common,  # type: ignore[arg-type]
        )
    else:
        card = publish(
            store,
            model_id or f"{kind}-{digest}",
            imported.state,
            architecture=imported.architecture,
            preprocessing=imported.preprocessing,
            **common,  # type: ignore[arg-type]
        )
    output.emit(
        card.model_dump(mode="json") | {"imported": imported.report},
        f"published {card.id} ({kind}), weights {card.checkpoint.sha256}",
    )
    output.say("what it was pretrained on is unknown: leakage into a test split cannot be excluded", "yellow")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _three(text: str, kind: type[T], option: str) -> tuple[T, T, T] | None:
    """Three numbers by comma; None where nothing is given."""
    if not text:
        return None
    try:
        d, h, w = (kind(part) for part in _listed(text))
    except ValueError:
        raise BadOption(
            f"{text[:32]!r} is not three numbers", field=option, remedy="give D,H,W such as 64,224,224"
        ) from None
    return d, h, w


@app.command()
def pretrain(
    dataset: Annotated[
        str, typer.Argument(help="Dataset whose split `pretrain` it learns from and whose split `val` it is scored on.")
    ],
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
