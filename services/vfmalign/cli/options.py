"""Options that several commands share, and the recipe that some of them describe.

Knows typer and the Recipe message. Knows nothing of calls.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from vfmalign.core.domain.errors import BadOption
from vfmalign.v1 import finetuning_pb2

JsonOption = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout; progress goes to stderr.")]
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="VFMALIGN_HOME", help="State folder of the local stack.", show_default=True)
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=1000, help="List at most so many, newest first.")]
StateOption = Annotated[
    list[str] | None,
    typer.Option("--state", help="Only these: queued, running, succeeded, failed, cancelled. Repeatable."),
]
DetachOption = Annotated[bool, typer.Option("--no-wait", help="Return at once; follow it later with `vfmalign watch`.")]
PresetOption = Annotated[str, typer.Option("--preset", help="Recipe to begin with: default or demo.")]
EpochsOption = Annotated[int | None, typer.Option("--epochs", min=1, max=10_000, help="Epochs.")]
StepsOption = Annotated[
    int | None, typer.Option("--steps-per-epoch", min=1, max=100_000, help="Optimiser steps per epoch.")
]
BatchOption = Annotated[int | None, typer.Option("--batch-size", min=1, max=1024, help="Volumes or patches per step.")]
RateOption = Annotated[float | None, typer.Option("--learning-rate", help="Peak learning rate.")]
WeightDecayOption = Annotated[float | None, typer.Option("--weight-decay", help="AdamW's weight decay.")]
LayerDecayOption = Annotated[
    float | None, typer.Option("--layer-decay", help="Factor on the rate per stage towards the input.")
]
EncoderRateOption = Annotated[
    float | None, typer.Option("--encoder-rate", help="Share of the rate that the encoder gets; the head gets it all.")
]
PatchOption = Annotated[
    str | None, typer.Option("--patch", help="Train on random patches of this size, D,H,W in voxels, such as 8,32,32.")
]

ProbeOption = Annotated[
    list[int] | None,
    typer.Option(
        "--probe-step",
        min=1,
        help="Publish the encoder as it stands after this step too, a multiple of the steps per epoch. Repeatable.",
    ),
]


def recipe(
    preset: str,
    *,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    layer_decay: float | None = None,
    encoder_rate: float | None = None,
    patch: str | None = None,
    probe_steps: Sequence[int] | None = None,
) -> finetuning_pb2.Recipe:
    """The recipe that a command's options describe.

    Raises:
        BadOption: a patch that is not three numbers.
    """
    fields: dict[str, Any] = {
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "layer_decay": layer_decay,
        "encoder_rate": encoder_rate,
    }
    message = finetuning_pb2.Recipe(preset=preset)
    for name, value in fields.items():
        if value is not None:
            setattr(message, name, value)
    if patch is not None:
        message.patch_shape_dhw.extend(_three(patch))
    message.probe_steps.extend(sorted(probe_steps or ()))
    return message


def _three(text: str) -> Sequence[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or min(numbers) < 1:
        raise BadOption("is not three numbers", field="--patch", remedy="write D,H,W in voxels, such as 8,32,32")
    return numbers


def new_id(prefix: str) -> str:
    """An id that sorts by time and that nobody else has."""
    return f"{prefix}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
