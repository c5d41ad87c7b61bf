"""Foreign checkpoints in: read without unpickling, converted by the architecture's own rules, and reported on.

Knows file formats; knows nothing of storage. A `.pth` goes through torch's weights-only reader, which builds tensors
and plain containers and refuses every other name but `argparse.Namespace`.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vfmalign.core.domain.errors import BadCheckpoint
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.checkpoints import State, check_fits, looks_like_safetensors, parse_weights, some

BESIDE_THE_WEIGHTS = "entries beside the weights, of no use to an encoder"


@dataclass(frozen=True)
class Imported:
    """A foreign checkpoint, converted.

    Attributes:
        state: dense weights that fit the architecture exactly.
        source_format: what the file was.
        dropped: names of tensors and entries that were left out, by the reason why that is right.
        initialised: names of parameters that the file lacks and that were set, by the reason why that is right.
    """

    state: State
    source_format: str
    dropped: dict[str, list[str]]
    initialised: dict[str, list[str]]

    def report(self) -> str:
        """Sentences for the user: what was read, dropped and initialised, and why that is right."""
        parts = [f"{self.source_format} checkpoint: {len(self.state)} tensors kept"]
        parts += [f"dropped {some(names)} ({why})" for why, names in self.dropped.items()] or ["nothing dropped"]
        parts += [f"missing {some(names)} ({why})" for why, names in self.initialised.items()] or ["nothing missing"]
        return "; ".join(parts)


def import_checkpoint(files: Sequence[bytes], architecture: Architecture, *, subject: str = "checkpoint") -> Imported:
    """Reads a foreign checkpoint (`.pth` or safetensors) into the state of an architecture.

    Args:
        files: the bytes of its files; more than one only where the architecture joins several networks.
        architecture: what the weights are for.
        subject: how errors name the checkpoint: an id or URI, never a local path.

    Raises:
        BadCheckpoint: a file cannot be read safely, or the weights do not fit.
    """
    wanted = {1, len(architecture.files)}
    if len(files) not in wanted:
        raise BadCheckpoint(
            f"{architecture.name} is read from {' or '.join(map(str, sorted(wanted)))} files, not {len(files)}",
            subject=subject,
            remedy=f"give its files in this order: {', '.join(architecture.files)}",
        )
    read = [read_tensors(data, subject) for data in files]
    converted = architecture.convert([tensors for tensors, _ in read], subject)
    beside = [name for _, names in read for name in names]
    dropped = ({BESIDE_THE_WEIGHTS: beside} if beside else {}) | {w: n for w, n in converted.dropped.items() if n}
    state = {
        name: (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in converted.state.items()
    }
    check_fits(state, architecture, subject=subject)
    return Imported(state, converted.source_format, dropped, converted.initialised)


def read_tensors(data: bytes, subject: str) -> tuple[State, list[str]]:
    """All tensors of a file by name, and the names of the entries beside the weights."""
    if looks_like_safetensors(data):
        return parse_weights(data, subject), []
    content = _read_weights_only(data, subject)
    beside: list[str] = []
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        beside = [str(name) for name in content if name != "model"]
        content = content["model"]
    if not isinstance(content, dict) or not content:
        raise BadCheckpoint(
            "the file holds no state dict", subject=subject, remedy="save a dict of tensors, bare or under `model`"
        )
    for name, tensor in content.items():
        # A tensor larger than its storage is a view that repeats elements: a small file could fill the memory.
        if (
            not isinstance(name, str)
            or not isinstance(tensor, Tensor)
            or tensor.layout != torch.strided
            or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            raise BadCheckpoint(
                f"{str(name)[:64]!r} is not a plain dense tensor", subject=subject, remedy="save the state dict alone"
            )
    return dict(content), beside


def _read_weights_only(data: bytes, subject: str) -> Any:
    try:
        # ProFound's checkpoints keep their command line as a Namespace: a class that holds attributes and does nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a parser of foreign bytes raises anything; all of it means that the file is unusable
        raise BadCheckpoint(
            "the file is damaged, or holds more than tensors and plain containers, which is never unpickled",
            subject=subject,
            remedy="save the state dict alone as safetensors",
        ) from error
