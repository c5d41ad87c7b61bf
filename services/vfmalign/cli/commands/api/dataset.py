"""`vfmalign dataset`: import, generate, list, show and delete datasets.

Names of files and folders are never printed, because they often contain patients' names.
"""

from __future__ import annotations

from typing import Annotated

import typer

from vfmalign.cli.commands.api.dataset_import import IdOption, import_, write_notes
from vfmalign.cli.commands.api.deletion import DryRunOption, YesOption, delete
from vfmalign.cli.extras import needs_extra
from vfmalign.cli.imports import import_phantoms
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import HomeOption, JsonOption, SeedOption, parse_splits
from vfmalign.cli.target import Target
from vfmalign.cli.verdict_limits import list_limits_of_dataset
from vfmalign.cli.views.dataset_tables import describe_content, show_dataset, to_dataset_document
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.progress import progress_bar
from vfmalign.cli.views.tables import new_table
from vfmalign.client.messages.common import Deletion
from vfmalign.core.domain.datasets import SPLITS
from vfmalign.core.domain.record import ID

app = typer.Typer()
app.command("import")(import_)

DEFAULT_CASES = ("pretrain=24", "train=20", "val=8", "test=20")


@app.command()
def phantoms(
    *,
    dataset_id: IdOption = None,
    seed: SeedOption = 0,
    cases: Annotated[
        list[str] | None,
        typer.Option(
            "--cases",
            metavar="SPLIT=N",
            help=f"Number of cases in a split, such as train=8. Repeatable. By default {', '.join(DEFAULT_CASES)}.",
        ),
    ] = None,
    graded: Annotated[
        bool,
        typer.Option(
            "--graded",
            help="Also state the grade 0 to 3 of each case as `pirads`, and the lesions' volume as `volume`.",
        ),
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Generate a dataset of prostate-like phantoms. The same seed and numbers of cases always give the same dataset."""
    with needs_extra("local", "generating phantoms"):
        from vfmalign.imaging.phantoms.dataset import PhantomDataset

    counts = parse_splits([*DEFAULT_CASES, *(cases or ())], int, "--cases")
    output = Output.to_terminal(as_json=as_json)
    target = Target.find(StateDirectory(home))
    name = ID.check(dataset_id or f"phantoms-{seed}", "dataset id")
    with progress_bar(output) as progress:
        dataset = import_phantoms(target, PhantomDataset(name, seed, counts, graded=graded), progress)
    output.emit(to_dataset_document(dataset), *show_dataset(dataset))
    write_notes(list_limits_of_dataset(dataset), output, dataset)


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the datasets."""
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))
    response = target.run(lambda client: client.features.list_datasets())
    for unreadable in response.unreadable:
        output.note(f"dataset {unreadable.id} cannot be read: {unreadable.message}", "yellow")
    if not response.datasets:
        target.note_other_stacks(output)
    rows = new_table("Datasets", "dataset", "content", "declaration", *SPLITS, "held out", "digest", numbers=SPLITS)
    for dataset in response.datasets:
        cases = {size.split: size.cases for size in dataset.splits}
        counts = [str(cases.get(split, 0)) for split in SPLITS]
        held_out = "yes" if dataset.held_out else "no"
        content = (describe_content(dataset), dataset.declaration.name)
        rows.add_row(dataset.dataset_id, *content, *counts, held_out, dataset.dataset_digest[:12])
    output.emit({"datasets": [to_dataset_document(dataset) for dataset in response.datasets]}, rows)


@app.command()
def show(
    dataset_id: Annotated[str, typer.Argument(metavar="DATASET", help="Id of the dataset.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show one dataset."""
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))
    _emit_dataset(target, ID.check(dataset_id, "dataset id"), output)


@app.command("delete")
def delete_(
    dataset_id: Annotated[str, typer.Argument(metavar="DATASET", help="Id of the dataset.")],
    *,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Delete a dataset and its volumes. Results that were computed from the dataset are kept.

    Your token needs the role curator or admin.
    """
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))

    def call(dry_run: bool) -> Deletion:
        return target.run(lambda client: client.features.delete_dataset(dataset_id, dry_run=dry_run))

    delete(f"dataset {dataset_id}", call, output, yes=yes, dry_run=dry_run)


def _emit_dataset(target: Target, dataset_id: str, output: Output) -> None:
    """Writes a stored dataset."""
    dataset = target.run(lambda client: client.features.get_dataset(dataset_id))
    output.emit(to_dataset_document(dataset), *show_dataset(dataset))
