"""`vfmalign extract` extracts the features of a dataset's split; `vfmalign features` lists and shows feature sets."""

from __future__ import annotations

from typing import Annotated

import typer

from vfmalign.cli.commands.api.deletion import DryRunOption, YesOption, delete
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import (
    DatasetArgument,
    HomeOption,
    JsonOption,
    LayerOption,
    MapOption,
    SeedOption,
    parse_choice,
    parse_map,
)
from vfmalign.cli.target import Target
from vfmalign.cli.views.follow import View
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import list_feature_sets, show_feature_set
from vfmalign.client import AsyncClient
from vfmalign.client.features import ExtractedFeatureSet
from vfmalign.client.messages.common import Deletion
from vfmalign.client.messages.features import ExtractDatasetRequest, ExtractDatasetResponse
from vfmalign.core.domain.datasets import SPLITS
from vfmalign.core.domain.task_text import Task
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.core.formats.documents import pluralise

app = typer.Typer()

SplitOption = Annotated[str, typer.Option("--split", metavar="SPLIT", help=f"Split: {', '.join(SPLITS)}.")]
InputTaskOption = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="TASK",
        help="Use the input transform of this task, such as super_resolution:modality=t1w; none by default.",
    ),
]
RandomOption = Annotated[bool, typer.Option("--random", help="Use random weights of the model's architecture.")]
_NOT_STORED = (
    "no complete set with these options was stored, so it was extracted now. To verify the sets of a check, repeat its "
    "--task, --map and --layer"
)
VerifyOption = Annotated[bool, typer.Option("--verify", help="Verify stored parts; compute damaged parts again.")]


def extract(
    dataset_id: DatasetArgument,
    *,
    model_id: Annotated[str, typer.Option("--model", metavar="ID", help="Id of the model.")],
    split: SplitOption = "test",
    layers: LayerOption = None,
    task: InputTaskOption = "",
    random: RandomOption = False,
    seed: SeedOption = 0,
    verify: VerifyOption = False,
    modality_map: MapOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Extract the features of a dataset's split.

    Features that are already stored and intact are not computed again. Example: vfmalign extract hippocampus --model
    sae --map t1w=input.
    """
    output = Output.to_terminal(as_json=as_json)
    request = ExtractDatasetRequest.from_fields(
        model_id=model_id,
        dataset_id=dataset_id,
        split=parse_choice(split, SPLITS, "--split"),
        layers=tuple(layers or ()),
        initialisation="random" if random else "checkpoint",
        initialisation_seed=seed if random else 0,
        verify=verify,
        modality_map=parse_map(modality_map),
    )

    async def call(client: AsyncClient) -> ExtractedFeatureSet:
        transform = ""
        if task:
            declaration = (await client.features.get_dataset(dataset_id)).declaration
            transform = get_task_spec(Task.parse(task), declaration).input_transform
        with View(output) as view:
            return await client.features.extract_dataset(
                request.model_copy(update={"input_transform": transform}),
                lambda progress: view.show_bar("extraction", f"extracting {split}", progress),
            )

    result = Target.find(StateDirectory(home)).run(call)
    if verify and result.computed_cases and not result.recomputed_parts:
        output.note(_NOT_STORED, "yellow")
    _emit_feature_set(result, output)


@app.command("list")
def list_(
    model_id: Annotated[str, typer.Option("--model", metavar="ID", help="List only feature sets of this model.")] = "",
    dataset_id: Annotated[str, typer.Option("--dataset", metavar="ID", help="Only feature sets of this dataset.")] = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List the feature sets."""
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))
    response = target.run(lambda client: client.features.list_feature_sets(model_id=model_id, dataset_id=dataset_id))
    for unreadable in response.unreadable:
        output.note(f"feature set {unreadable.id} cannot be read: {unreadable.message}", "yellow")
    if not response.feature_sets:
        target.note_other_stacks(output)
    document = {"feature_sets": [feature_set.to_json_dict() for feature_set in response.feature_sets]}
    output.emit(document, list_feature_sets(response.feature_sets))


@app.command()
def show(
    feature_set_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the feature set.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show one feature set."""
    output = Output.to_terminal(as_json=as_json)
    found = Target.find(StateDirectory(home)).run(lambda client: client.features.get_feature_set(feature_set_id))
    output.emit(found.to_json_dict(), show_feature_set(found))


@app.command("delete")
def delete_(
    feature_set_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the feature set or of a stored study.")],
    *,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Delete a feature set, or the features of a stored study.

    Your token needs the role curator or admin.
    """
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))

    def call(dry_run: bool) -> Deletion:
        return target.run(lambda client: client.features.delete_feature_set(feature_set_id, dry_run=dry_run))

    delete(f"feature set {feature_set_id}", call, output, yes=yes, dry_run=dry_run)


def _emit_feature_set(result: ExtractedFeatureSet, output: Output) -> None:
    feature_set, cost = result.feature_set, result.cost
    message = ExtractDatasetResponse(
        feature_set=feature_set,
        cost=cost,
        computed_cases=result.computed_cases,
        recomputed_parts=result.recomputed_parts,
    )
    if result.recomputed_parts:
        output.note(f"lost or damaged parts computed again: {result.recomputed_parts}", "yellow")
    output.emit(
        message.to_json_dict(),
        show_feature_set(
            feature_set,
            {
                "computed now": f"{pluralise(result.computed_cases, 'case')} on {cost.device}",
                "stages": ", ".join(f"{timing.stage} {timing.seconds:.2f} s" for timing in cost.stages) or "none",
            },
        ),
    )
