"""`vfmalign models`: list and show published models, import foreign checkpoints, and pretrain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vfmalign.cli.commands.api.deletion import DryRunOption, YesOption, delete
from vfmalign.cli.commands.api.jobs import JobOption, create_job
from vfmalign.cli.extras import needs_extra
from vfmalign.cli.imports import import_model as publish_model
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import (
    OBJECTIVES,
    PRETRAINING_OBJECTIVES,
    DetachOption,
    EpochsOption,
    HomeOption,
    JsonOption,
    MapOption,
    PresetOption,
    SeedOption,
    StepsOption,
    new_id,
    parse_choice,
    parse_map,
    split_list,
)
from vfmalign.cli.recipe_options import RECIPE, RecipeOption, build_recipe, list_recipe_keys
from vfmalign.cli.set_option import Keys, SetOption, list_keys, parse_settings
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import list_families, list_models, show_model
from vfmalign.client.messages.common import Deletion
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.record import ID, LICENCE

app = typer.Typer()

INPUT = Keys(Preprocessing, "input")
INPUT_NOTES = (
    "They describe the input of a bundle, program or stack. A bundle needs modalities, spacing and shape, a program "
    "modalities and spacing; a stack has defaults of its own (docs/models.md)."
)

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
        help="Architecture of a checkpoint: a name from `models list` or `models families`, or dilated_stack together "
        "with --description. Families are recognised without this option.",
    ),
]
DescriptionOption = Annotated[
    Path | None,
    typer.Option(
        "--description", metavar="FILE", help="JSON file with the layers of a dilated_stack (docs/models.md)."
    ),
]
ImportIdOption = Annotated[
    str, typer.Option("--id", metavar="ID", help="Id of the published model; derived from the weights by default.")
]
LayersOption = Annotated[
    str,
    typer.Option(
        "--layers", metavar="NAMES", help="Layers of a bundle or program: submodule names, separated by commas."
    ),
]
SourceOption = Annotated[
    str, typer.Option("--source", metavar="URI@REVISION", help="Origin of the weights, for the card and reports.")
]
LicenceOption = Annotated[
    str, typer.Option("--licence", metavar="SPDX", help="SPDX id of the licence of the weights, such as Apache-2.0.")
]
PrimaryLayerOption = Annotated[
    str,
    typer.Option(
        "--primary-layer", metavar="LAYER", help="Layer of the main result; the architecture sets the default."
    ),
]
RulesOption = Annotated[
    str,
    typer.Option(
        "--declaration",
        metavar="NAME",
        help="Declaration that selects the DICOM series of the model's inputs: a JSON file or a built-in name. "
        "`Extract` uses this declaration if a request names no dataset.",
    ),
]
ImportObjectiveOption = Annotated[
    str,
    typer.Option(
        "--objective", metavar="NAME", help=f"Objective with which the weights were trained: {', '.join(OBJECTIVES)}."
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
def families(as_json: JsonOption = False) -> None:
    """List the families of public encoders that `models import` reads."""
    with needs_extra("local", "listing the families"):
        from vfmalign.models.formats.families import FAMILIES

    Output.to_terminal(as_json=as_json).emit(
        {
            "families": [
                {
                    "name": name,
                    "networks": family.networks,
                    "input": family.input.model_dump(mode="json"),
                    "licence": family.licence,
                    "source": family.source,
                    "verified": family.verified,
                }
                for name, family in FAMILIES.items()
            ]
        },
        list_families((name, one.networks, one.input, one.licence, one.verified) for name, one in FAMILIES.items()),
        "licence: of the authors' weights. verified: compared with a file of the authors",
    )


@app.command()
def show(model_id: ModelArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show the card of one model."""
    output = Output.to_terminal(as_json=as_json)
    model = Target.find(StateDirectory(home)).run(lambda client: client.features.get_model(model_id))
    output.emit(model.to_json_dict(), show_model(model))


@app.command("delete")
def delete_(
    model_id: ModelArgument,
    *,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Delete a model: its card and its weights.

    Your token needs the role curator or admin.
    """
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))

    def call(dry_run: bool) -> Deletion:
        return target.run(lambda client: client.features.delete_model(model_id, dry_run=dry_run))

    delete(f"model {model_id}", call, output, yes=yes, dry_run=dry_run)


@app.command("import", epilog=list_keys(INPUT, notes=INPUT_NOTES))
def import_(
    files: FilesArgument,
    *,
    architecture: ArchitectureOption = "",
    model_id: ImportIdOption = "",
    description: DescriptionOption = None,
    layers: LayersOption = "",
    settings: SetOption = None,
    objective: ImportObjectiveOption = "unknown",
    source: SourceOption = "",
    licence: LicenceOption = "",
    declaration: RulesOption = "",
    primary_layer: PrimaryLayerOption = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Convert a foreign model and publish it with a card. Nothing in the model's files is unpickled or executed.

    Your token needs the role curator.

    Pass one file per sequence for provicnet_fusion: T2, DWI, ADC. Examples: models import model_swinvit.pt; models
    import tiny.pth --as profound_conv_tiny; models import sae.pth --as dilated_autoencoder --set
    input.shape_dhw=64,64,64; models import meshnet.pth --as meshnet --set input.modalities=t1w; models import net.pth
    --as dilated_stack --description net.json.
    """
    with needs_extra("local", "importing a model"):
        from vfmalign.imaging.datasets.layouts.derivation import read_declaration
        from vfmalign.models.importer import InputDescription, import_model

    output = Output.to_terminal(as_json=as_json)
    chosen = parse_settings(settings, INPUT)
    trained_by = parse_choice(objective, OBJECTIVES, "--objective")
    if model_id:
        ID.check(model_id, "--id")
    if licence:
        LICENCE.check(licence, "--licence")
    rules = read_declaration(declaration).to_text() if declaration else ""
    target = Target.find(StateDirectory(home))
    imported = import_model(
        files,
        architecture,
        split_list([layers] if layers else None),
        InputDescription(**chosen["input"]),
        model_id or "checkpoint",
        description=description,
    )
    output.note(imported.report)
    model = publish_model(
        target,
        model_id,
        imported,
        objective=trained_by,
        primary_layer=primary_layer,
        source=source,
        licence=licence,
        declaration=rules,
    )
    kind = imported.architecture.partition(":")[0]
    output.emit(
        model.to_json_dict() | {"imported": imported.report},
        f"published {model.model_id} ({kind}), weights {model.checkpoint.sha256}",
    )
    if not licence:
        output.note("the licence of the weights is unknown; state it with --licence", "yellow")
    output.note("the pretraining data are unknown: leakage into a test split cannot be excluded", "yellow")


@app.command(epilog=list_recipe_keys(RECIPE, pretraining=True))
def pretrain(
    dataset_id: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="Dataset; its split `pretrain` is for training, `val` for validation."),
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
    preset: PresetOption = None,
    epochs: EpochsOption = None,
    steps_per_epoch: StepsOption = None,
    recipe_file: RecipeOption = None,
    settings: SetOption = None,
    seed: SeedOption = 0,
    modality_map: MapOption = None,
    no_wait: DetachOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Pretrain a new encoder and publish it. The dataset's split `pretrain` is used for training."""
    chosen = parse_settings(settings, RECIPE)
    recipe = build_recipe(chosen, recipe_file, preset=preset, epochs=epochs, steps_per_epoch=steps_per_epoch)
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
