"""`vfmalign models`: list and show published models, import foreign checkpoints, and pretrain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from vfmalign.cli.commands.api.jobs import JobOption, create_job
from vfmalign.cli.extras import needs_extra
from vfmalign.cli.imports import import_model as publish_model
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import (
    OBJECTIVES,
    PRETRAINING_OBJECTIVES,
    BatchOption,
    DetachOption,
    EpochsOption,
    HomeOption,
    JsonOption,
    MapOption,
    PresetOption,
    RateOption,
    SeedOption,
    StepsOption,
    WeightDecayOption,
    build_recipe,
    new_id,
    parse_choice,
    parse_map,
)
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import list_models, show_model
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import ID

T = TypeVar("T", int, float)

app = typer.Typer()

ModelArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the model.")]
FilesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...", help="A .safetensors or .pth checkpoint, the folder of a MONAI bundle, or a .pt2 program."
    ),
]
ArchitectureOption = Annotated[
    str,
    typer.Option(
        "--as",
        metavar="NAME",
        help="Architecture of a checkpoint: a name from `models list`, or dilated_stack together with --description.",
    ),
]
DescriptionOption = Annotated[
    Path | None,
    typer.Option(
        "--description", metavar="FILE", help="JSON file with the layers of a dilated_stack (docs/models.md)."
    ),
]
ImportIdOption = Annotated[
    str, typer.Option("--id", metavar="ID", help="Id to publish under; derived from the weights by default.")
]
LayersOption = Annotated[
    str,
    typer.Option("--layers", metavar="NAMES", help="Layers of a bundle or program: submodules, separated by commas."),
]
ModalitiesOption = Annotated[
    str,
    typer.Option(
        "--modalities",
        metavar="NAMES",
        help="Names of the input channels of a bundle, program or stack, separated by commas, such as t1w,flair. "
        "`input` by default for a stack.",
    ),
]
ReferenceOption = Annotated[
    str,
    typer.Option(
        "--reference",
        metavar="NAME",
        help="Modality that defines the grid of a study; by default the first of --modalities, or t2w for models of "
        "prostate MRI.",
    ),
]
SpacingOption = Annotated[
    str,
    typer.Option(
        "--spacing",
        metavar="D,H,W",
        help="Voxel size in mm along D,H,W; by default that of the reference volume, or 1,1,1 for a stack.",
    ),
]
ShapeOption = Annotated[
    str,
    typer.Option(
        "--shape",
        metavar="D,H,W",
        help="Input size in voxels along D,H,W; not needed for a program. 96,96,96 by default for a stack.",
    ),
]
NormalisationOption = Annotated[
    str,
    typer.Option(
        "--normalisation",
        metavar="NAME",
        help="zscore_nonzero (default), zscore_gland, quantile_range (default for a stack), or window.",
    ),
]
QuantilesOption = Annotated[
    str,
    typer.Option(
        "--quantiles", metavar="LOW,HIGH", help="Quantiles that quantile_range scales to 0 and 1; 0.02,0.98 by default."
    ),
]
WindowOption = Annotated[
    str,
    typer.Option("--window", metavar="LOW,HIGH", help="Bounds in HU that window scales to 0 and 1, such as -160,240."),
]
SourceOption = Annotated[str, typer.Option("--source", metavar="TEXT", help="Origin and licence of the weights.")]
PrimaryLayerOption = Annotated[
    str,
    typer.Option(
        "--primary-layer", metavar="LAYER", help="Layer of the main result; the architecture's own by default."
    ),
]
RulesOption = Annotated[
    str,
    typer.Option(
        "--declaration",
        metavar="NAME",
        help="Declaration whose selections say which DICOM series the model's inputs take: a JSON file or a name. "
        "`Extract` follows them where a request names no dataset.",
    ),
]
ImportObjectiveOption = Annotated[
    str,
    typer.Option(
        "--objective", metavar="NAME", help=f"Objective that the weights were trained by: {', '.join(OBJECTIVES)}."
    ),
]


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the published models and the supported architectures."""
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))
    response = target.run(lambda client: client.features.list_models())
    for unreadable in response.unreadable:
        output.note(f"model {unreadable.id} cannot be read: {unreadable.message}", "yellow")
    if not response.models:
        target.note_other_stacks(output)
    output.emit(
        {
            "models": [model.to_json_dict() for model in response.models],
            "architectures": list(response.architectures),
        },
        list_models(response.models),
        f"architectures: {', '.join(response.architectures)}",
    )


@app.command()
def show(model_id: ModelArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show the card of one model."""
    output = Output.to_terminal(as_json=as_json)
    model = Target.find(StateDirectory(home)).run(lambda client: client.features.get_model(model_id))
    output.emit(model.to_json_dict(), show_model(model))


@app.command("import")
def import_(
    files: FilesArgument,
    *,
    architecture: ArchitectureOption = "",
    model_id: ImportIdOption = "",
    description: DescriptionOption = None,
    layers: LayersOption = "",
    modalities: ModalitiesOption = "",
    spacing: SpacingOption = "",
    shape: ShapeOption = "",
    normalisation: NormalisationOption = "",
    quantiles: QuantilesOption = "",
    window: WindowOption = "",
    reference: ReferenceOption = "",
    objective: ImportObjectiveOption = "unknown",
    source: SourceOption = "",
    declaration: RulesOption = "",
    primary_layer: PrimaryLayerOption = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Convert a foreign model and publish it with a card. Nothing in it is unpickled or executed.

    Your token needs the role curator.

    Pass one file per sequence for provicnet_fusion: T2, DWI, ADC. Examples: models import tiny.pth --as
    profound_conv_tiny; models import sae.pth --as dilated_autoencoder --shape 64,64,64; models import meshnet.pth --as
    meshnet --modalities t1w; models import net.pth --as dilated_stack --description net.json.
    """
    with needs_extra("local", "importing a model"):
        from vfmalign.imaging.datasets.layouts.derivation import read_declaration
        from vfmalign.models.importer import InputDescription, import_model

    output = Output.to_terminal(as_json=as_json)
    trained_by = parse_choice(objective, OBJECTIVES, "--objective")
    if model_id:
        ID.check(model_id, "--id")
    rules = read_declaration(declaration).to_text() if declaration else ""
    target = Target.find(StateDirectory(home))
    model_input = InputDescription(
        tuple(_split_list(modalities)),
        _parse_three(spacing, float, "--spacing"),
        _parse_three(shape, int, "--shape"),
        normalisation,
        _parse_two(quantiles, "--quantiles", "0.02,0.98"),
        _parse_two(window, "--window", "-160,240"),
        reference,
    )
    imported = import_model(
        files, architecture, _split_list(layers), model_input, model_id or "checkpoint", description=description
    )
    output.note(imported.report)
    model = publish_model(
        target,
        model_id,
        imported,
        objective=trained_by,
        primary_layer=primary_layer,
        source=source,
        declaration=rules,
    )
    kind = imported.architecture.partition(":")[0]
    output.emit(
        model.to_json_dict() | {"imported": imported.report},
        f"published {model.model_id} ({kind}), weights {model.checkpoint.sha256}",
    )
    output.note("the pretraining data are unknown: leakage into a test split cannot be excluded", "yellow")


@app.command()
def pretrain(
    dataset_id: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="Id of the dataset: trained on its split `pretrain`, validated on its split `val`."
        ),
    ],
    *,
    objective: Annotated[
        str, typer.Option("--objective", metavar="NAME", help=f"Objective: {', '.join(PRETRAINING_OBJECTIVES)}.")
    ] = "masked_reconstruction",
    architecture: Annotated[
        str, typer.Option("--as", metavar="NAME", help="Architecture: a name from `models list`.")
    ] = "profound_conv_micro",
    publish_as: Annotated[
        str, typer.Option("--id", metavar="ID", help="Id of the model; <job>-encoder by default.")
    ] = "",
    job_id: JobOption = None,
    preset: PresetOption = "default",
    epochs: EpochsOption = None,
    steps_per_epoch: StepsOption = None,
    batch_size: BatchOption = None,
    learning_rate: RateOption = None,
    weight_decay: WeightDecayOption = None,
    seed: SeedOption = 0,
    modality_map: MapOption = None,
    no_wait: DetachOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Pretrain a new encoder and publish it. It is trained on the dataset's split `pretrain`."""
    recipe = build_recipe(
        preset=preset, epochs=epochs, steps_per_epoch=steps_per_epoch, batch_size=batch_size,
        learning_rate=learning_rate, weight_decay=weight_decay,
    )  # fmt: skip
    spec = JobSpec.from_fields(
        kind="pretrain",
        dataset_id=dataset_id,
        architecture=architecture,
        objective=parse_choice(objective, PRETRAINING_OBJECTIVES, "--objective"),
        recipe=recipe,
        seed=seed,
        publish_as=publish_as,
        modality_map=parse_map(modality_map),
    )
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))
    create_job(target, job_id or new_id("pretrain"), spec, output, wait=not no_wait)


def _split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse_three(text: str, kind: type[T], option: str) -> tuple[T, T, T] | None:
    """Parses three numbers separated by commas; None for an empty text."""
    if not text:
        return None
    try:
        d, h, w = (kind(part) for part in _split_list(text))
    except ValueError:
        raise BadOption(
            f"{text[:32]!r} is not three numbers", field=option, remedy="use D,H,W, such as 64,224,224"
        ) from None
    return d, h, w


def _parse_two(text: str, option: str, example: str) -> tuple[float, float] | None:
    """Parses two numbers separated by a comma; None for an empty text."""
    if not text:
        return None
    try:
        low, high = map(float, _split_list(text))
    except ValueError:
        raise BadOption(
            f"{text[:32]!r} is not two numbers", field=option, remedy=f"use LOW,HIGH, such as {example}"
        ) from None
    return low, high
