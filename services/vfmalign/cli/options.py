"""Options that several commands share."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

from vfmalign.client.messages.base import ApiMessage
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.core.domain.datasets import Split
from vfmalign.core.domain.declarations import MAX_GRADE
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import Network
from vfmalign.core.domain.models import Objective
from vfmalign.core.domain.tasks import TASKS

N = TypeVar("N", int, float)
T = TypeVar("T", bound=str)

NETWORKS: tuple[Network, ...] = get_args(Network)
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
PRETRAINING_OBJECTIVES: tuple[Objective, ...] = ("masked_reconstruction", "contrastive")


def _count(option: str, record: type[ApiMessage], field: str, text: str) -> Any:
    """Returns a numeric option with the same range as a field of the API."""
    bounds = record.get_bounds(field)
    return typer.Option(option, metavar="N", min=int(bounds.min), max=int(bounds.max), help=text)


JsonOption = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout; progress goes to stderr.")]
HomeOption = Annotated[
    Path,
    typer.Option(
        "--home", metavar="DIR", envvar="VFMALIGN_HOME", help="State folder of the local stack.", show_default=True
    ),
]
DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Id of the dataset.")]
ModelOption = Annotated[str, typer.Option("--model", metavar="ID", help="Id of the pretrained model.")]
TaskOption = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="TASK",
        help=f"Task: {', '.join(TASKS)}. May contain its parameters, such as "
        "segmentation:label=hippocampus,structure=anterior (docs/gates.md).",
    ),
]
LabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="MAPS",
        help="Segmentation: label maps, separated by commas. Later maps are drawn over earlier maps. Repeatable.",
    ),
]
StructuresOption = Annotated[
    list[str] | None,
    typer.Option(
        "--structure", metavar="NAMES", help="Segmentation: only these structures of the label maps. Repeatable."
    ),
]
ClassOption = Annotated[str, typer.Option("--class", metavar="NAME", help="Classification: class to predict.")]
GradeOption = Annotated[str, typer.Option("--grade", metavar="NAME", help="Classification: grade to predict.")]
AtLeastOption = Annotated[
    int | None,
    typer.Option(
        "--at-least",
        metavar="N",
        min=1,
        max=MAX_GRADE,
        help="Classification of a grade: lowest grade that counts as positive. By default as the dataset declares.",
    ),
]
NumberOption = Annotated[str, typer.Option("--number", metavar="NAME", help="Regression: number to predict.")]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="MODALITY=INPUT",
        help="Feed a modality of the dataset to a model input with a different name: t1w=input feeds modality t1w to "
        "the input `input`. Repeatable.",
    ),
]
DicomwebOption = Annotated[
    str | None,
    typer.Option(
        "--dicomweb",
        metavar="NAME",
        help="Read studies from this PACS instead of files. The variables VFMALIGN_DICOMWEB__NAME__* configure it.",
    ),
]
QueryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--query",
        metavar="KEY=VALUE",
        help="Read only studies with this attribute, such as ModalitiesInStudy=MR or StudyDate=20250101-20251231. "
        "Repeatable: a study must match all pairs.",
    ),
]
AllowCutOrgansOption = Annotated[
    bool,
    typer.Option(
        "--allow-cut-organs",
        help="Use cases even if less than 90 % of a structure lies in the model's field of view.",
    ),
]
FrozenOption = Annotated[
    bool,
    typer.Option("--frozen", help="Train only the head of the pretrained network. Its encoder does not change."),
]
LayerOption = Annotated[
    list[str] | None, typer.Option("--layer", metavar="LAYER", help="Use only this layer. Repeatable.")
]
LevelOption = Annotated[
    float, typer.Option("--level", metavar="X", min=0.01, max=0.999, help="Coverage of the intervals.")
]
SmallestDifferenceOption = Annotated[
    float | None,
    typer.Option(
        "--smallest-difference",
        metavar="X",
        help="Smallest relevant difference in the unit of the task's primary metric, up to 1000. Differences that are "
        "shown to be smaller are `equivalent`. Each metric has a default (docs/numbers.md).",
    ),
]
SmallestDifferencesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--smallest-difference",
        metavar="METRIC=X",
        help="Smallest relevant difference of a task's primary metric, in the unit of the metric, such as "
        "lesion_dice=0.02. Each metric has a default. Repeatable.",
    ),
]
PermutationsOption = Annotated[
    int, _count("--permutations", CheckSpec, "permutations", text="Permutations of each test.")
]
BootstrapOption = Annotated[
    int,
    _count(
        "--bootstrap",
        CheckSpec,
        "bootstrap_resamples",
        text="Number of resamples for the intervals of gains that are bootstrapped.",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Seed of all random numbers.")
]
SeedsOption = Annotated[
    int,
    _count(
        "--seeds",
        CheckSpec,
        "seeds",
        text="Number of trainings of each network. Their seeds start at --seed. With fewer than 3, no verdict is "
        "gain, equivalent or harm.",
    ),
]
RandomSeedsOption = Annotated[
    int | None,
    _count(
        "--random-seeds",
        CheckSpec,
        "random_seeds",
        text="Number of trainings of the network from random weights, at least --seeds. More trainings make the "
        "verdict on pretraining more precise.",
    ),
]
ShuffledLabelsOption = Annotated[
    bool,
    typer.Option(
        "--shuffled-labels",
        help="Run a control for every model and task: fine-tune with shuffled targets and the first seed.",
    ),
]
FrozenCellsOption = Annotated[
    bool, typer.Option("--frozen", help="Also run every check with a frozen encoder, and show both scores.")
]
LimitOption = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, max=1000, help="Maximum number of items to list, newest first.")
]
StateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help="State to list: queued, pending (jobs), running, succeeded, failed or cancelled. Repeatable.",
    ),
]
DetachOption = Annotated[
    bool, typer.Option("--no-wait", help="Return immediately. Use `vfmalign watch` to follow the work.")
]
ReportsOption = Annotated[Path, typer.Option("--reports", metavar="DIR", help="Folder for the downloaded report.")]
PresetOption = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="Recipe to start from: default or demo.")
]
EpochsOption = Annotated[int | None, _count("--epochs", Recipe, "epochs", text="Number of epochs.")]
StepsOption = Annotated[
    int | None, _count("--steps-per-epoch", Recipe, "steps_per_epoch", text="Optimiser steps per epoch.")
]
DEFAULT_REPORTS = Path("reports")


def parse_map(pairs: list[str] | None) -> dict[str, str]:
    """Parses the pairs of `--map`.

    Raises:
        BadOption: a pair is malformed, or a modality occurs twice.
    """
    modality_map: dict[str, str] = {}
    for pair in pairs or ():
        modality, separator, model_input = pair.partition("=")
        if not (modality and separator and model_input) or modality in modality_map:
            raise BadOption(
                f"{pair[:64]!r} does not map another modality to an input",
                field="--map",
                remedy="use MODALITY=INPUT with each modality once, such as --map t1w=input",
            )
        modality_map[modality] = model_input
    return modality_map


def parse_choices(texts: list[str] | None) -> dict[int, dict[str, str]]:
    """Parses `--choose`. The result maps a study number, then a modality or label map, to a series number.

    Raises:
        BadOption: a text is malformed, or a series was already chosen for the modality or label map.
    """
    choices: dict[int, dict[str, str]] = {}
    for text in texts or ():
        parts = re.fullmatch(r"(\d{1,6}):([a-z][a-z0-9_]{0,31})=(\d{1,10}(?:\.\d{1,5})?)", text, re.ASCII)
        if parts is None or parts[2] in choices.setdefault(int(parts[1]), {}):
            raise BadOption(
                f"{text[:64]!r} does not choose a series, or repeats a choice",
                field="--choose",
                remedy="use N:NAME=SERIES, such as --choose 3:t2w=10, with the numbers that `vfmalign dicom show` "
                "prints",
            )
        choices[int(parts[1])][parts[2]] = parts[3]
    return choices


def split_list(values: Sequence[str] | None) -> tuple[str, ...]:
    """Splits the values of a repeatable option at commas."""
    return tuple(part.strip() for value in values or () for part in value.split(","))


def parse_choice(text: str, choices: Sequence[T], option: str) -> T:
    """Returns the value of an option, which must be one of the choices.

    Raises:
        BadOption: no choice has this name.
    """
    for choice in choices:
        if choice == text:
            return choice
    raise BadOption(f"{text[:64]!r} is not a valid value", field=option, remedy=f"choose one of {', '.join(choices)}")


def new_id(prefix: str) -> str:
    """Returns a new unique id that sorts by time."""
    return f"{prefix}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def parse_splits(texts: Sequence[str], kind: type[N], option: str) -> dict[Split, N]:
    """Parses pairs of a split and a number. A later pair overrides an earlier pair for the same split.

    Raises:
        BadOption: a pair is malformed.
    """
    numbers: dict[Split, N] = {}
    known = {str(split): split for split in get_args(Split)}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            numbers[known[name.strip()]] = kind(value)
        except (KeyError, ValueError):
            raise BadOption(
                f"{text[:64]!r} is not a split and its number",
                field=option,
                remedy=f"use one of the splits {', '.join(known)}, such as train={'20' if kind is int else '0.6'}",
            ) from None
    return numbers
