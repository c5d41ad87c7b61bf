"""`vfmalign dataset`: folders and phantoms into object storage, and what is there.

Knows the importer's and the generator's arguments. No name of a file or folder is ever written to the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from vfmalign.cli.extras import needs_extra
from vfmalign.cli.lazy_group import new_group
from vfmalign.cli.local.state_directory import DEFAULT_HOME, Home
from vfmalign.cli.options import HomeOption, JsonOption, SeedOption, new_id
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import fields, table
from vfmalign.core.domain.artifacts import SPLITS, Dataset, Split, is_id
from vfmalign.core.domain.errors import BadOption

app = new_group("Import, generate, list and show datasets.")

_REHEARSAL = Text("Phantoms rehearse the procedure: no result on them is evidence.", style="yellow")

IdOption = Annotated[
    str | None, typer.Option("--id", help="Id of the dataset; never a patient's name. One is made by default.")
]


@app.command("import")
def import_(
    directory: Annotated[Path, typer.Argument(help="One folder of NIfTI files per case, or one case's folder.")],
    *,
    dataset_id: IdOption = None,
    share: Annotated[
        list[str] | None, typer.Option("--share", help="Share of the patients, such as train=0.6. Repeatable.")
    ] = None,
    splits: Annotated[Path | None, typer.Option(help="CSV with the columns folder,split; or JSON.")] = None,
    patients: Annotated[Path | None, typer.Option(help="CSV with the columns folder,patient.")] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="Local file for who is who [<home>/private/mapping.csv].")
    ] = None,
    seed: SeedOption = 0,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Make a dataset of a folder of NIfTI files, under generated ids."""
    with needs_extra("local", "importing a dataset"):
        from vfmalign.imaging.datasets.folders import read_patients, read_splits
        from vfmalign.imaging.datasets.identities import load_salt
        from vfmalign.imaging.datasets.importer import import_folder

    output, folder = Output.to_terminal(as_json=as_json), Home(home)
    store = Target.find(folder).store
    folder.make()
    mapping = mapping or folder.private / "mapping.csv"
    name = _checked(dataset_id or new_id("dataset"))
    with _bar(output) as progress:
        dataset = import_folder(
            directory,
            store,
            name,
            mapping_path=mapping,
            salt=load_salt(folder.private / "salt"),
            shares=_shares(share) if share else None,
            splits=read_splits(splits) if splits is not None else None,
            patients=read_patients(patients) if patients is not None else None,
            seed=seed,
            progress=progress,
        )
    output.emit(_document(dataset) | {"mapping": str(mapping)}, *_shown(dataset))
    output.say(f"who is who is in {mapping} (readable by you alone); it stays on this machine")
    if not dataset.held_out:
        output.say("one patient only: it stands in train, val and test, and nothing is held out", "yellow")


@app.command()
def phantoms(
    *,
    dataset_id: IdOption = None,
    seed: SeedOption = 0,
    pretrain: Annotated[int, typer.Option(min=0, help="Cases in the split pretrain.")] = 24,
    train: Annotated[int, typer.Option(min=0, help="Cases in the split train.")] = 20,
    val: Annotated[int, typer.Option(min=0, help="Cases in the split val.")] = 8,
    test: Annotated[int, typer.Option(min=0, help="Cases in the split test.")] = 16,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Make a dataset of generated, prostate-like studies. The same seed and counts give the same dataset."""
    with needs_extra("local", "generating phantoms"):
        from vfmalign.imaging.phantoms.dataset import synthesise_dataset

    output = Output.to_terminal(as_json=as_json)
    store = Target.find(Home(home)).store
    counts: dict[Split, int] = {"pretrain": pretrain, "train": train, "val": val, "test": test}
    name = _checked(dataset_id or f"phantoms-{seed}")
    with _bar(output) as progress:
        dataset = synthesise_dataset(store, name, seed, counts, progress=progress)
    output.emit(_document(dataset), *_shown(dataset))


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the datasets."""
    from vfmalign.core.storage.datasets import load_dataset

    output = Output.to_terminal(as_json=as_json)
    store = Target.find(Home(home)).store
    names = [key.split("/")[1] for key in store.list("datasets/") if key.endswith("/dataset.json")]
    found = [load_dataset(store, name) for name in names]
    rows = table("Datasets", "dataset", "holds", *SPLITS, "held out", "digest", numbers=SPLITS)
    for dataset in found:
        counts = [str(len(dataset.split(split))) for split in SPLITS]
        rows.add_row(dataset.id, _holds(dataset), *counts, "yes" if dataset.held_out else "no", dataset.digest()[:12])
    output.emit({"datasets": [_document(dataset) for dataset in found]}, rows)


@app.command()
def show(
    dataset_id: Annotated[str, typer.Argument(help="Id of the dataset.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show one dataset."""
    from vfmalign.core.storage.datasets import load_dataset

    output = Output.to_terminal(as_json=as_json)
    dataset = load_dataset(Target.find(Home(home)).store, _checked(dataset_id))
    output.emit(_document(dataset), *_shown(dataset))


def _checked(dataset_id: str) -> str:
    if not is_id(dataset_id):
        raise BadOption("is not an id", field="dataset id", remedy="use lower-case letters, digits, `_`, `.` and `-`")
    return dataset_id


def _shares(texts: list[str]) -> dict[Split, float]:
    shares: dict[Split, float] = {}
    known = {str(split): split for split in get_args(Split)}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            shares[known[name.strip()]] = float(value)
        except (KeyError, ValueError):
            raise BadOption("is not SPLIT=SHARE", field="--share", remedy="write for example train=0.6") from None
    return shares


def _document(dataset: Dataset) -> dict[str, Any]:
    splits = {
        split: {"cases": len(cases), "patients": len({case.group for case in cases})}
        for split in SPLITS
        for cases in [dataset.split(split)]
    }
    return {
        "dataset": dataset.id,
        "digest": dataset.digest(),
        "held_out": dataset.held_out,
        "phantom": dataset.phantom,
        "splits": splits,
    }


def _holds(dataset: Dataset) -> str:
    return "phantoms" if dataset.phantom else "patients"


def _shown(dataset: Dataset) -> list[RenderableType]:
    content = _document(dataset)
    rows = table("", "split", "cases", "patients", numbers=["cases", "patients"])
    for split, counts in content["splits"].items():
        rows.add_row(split, str(counts["cases"]), str(counts["patients"]))
    held_out = "yes" if dataset.held_out else "no: the same case stands in several splits"
    facts = {"holds": _holds(dataset), "digest": content["digest"], "held out": held_out}
    return [fields(f"Dataset {dataset.id}", facts), rows, *([_REHEARSAL] if dataset.phantom else [])]


@contextmanager
def _bar(output: Output) -> Iterator[Callable[[str, int, int], None]]:
    """A bar in cases for `progress(stage, done, total)`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=output.err, transient=True, disable=not output.err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show_progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(f"{stage} cases", total=total)
            bars.update(tasks[stage], completed=done)

        yield show_progress
