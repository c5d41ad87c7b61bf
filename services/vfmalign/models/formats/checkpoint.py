"""Import of foreign checkpoints.

Files are read without unpickling. The rules of the architecture convert them. A report lists the tensors.

torch's weights-only reader reads `.pth` files. This reader accepts tensors, plain containers and `argparse.Namespace`.
It rejects every other class.
"""

from __future__ import annotations

import argparse
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vfmalign.core.domain.errors import BadCheckpoint
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.encoder import StateDict
from vfmalign.models.weights import check_state, format_names, is_safetensors, parse_weights

OTHER_ENTRIES_REASON = "entries besides the weights, which an encoder does not need"


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """Foreign checkpoint after its conversion.

    Attributes:
        state: dense weights that fit the architecture exactly.
        source_format: format of the file.
        dropped: maps each reason to the names of the dropped tensors and entries.
        initialised: maps each reason to the names of parameters that the file lacks and that were initialised.
    """

    state: StateDict
    source_format: str
    dropped: dict[str, list[str]]
    initialised: dict[str, list[str]]

    def report(self) -> str:
        """Returns a report for the user.

        It lists the tensors that were read, dropped or initialised, with the reasons.
        """
        parts = [f"{self.source_format} checkpoint: {len(self.state)} tensors kept"]
        parts += [f"dropped {format_names(names)} ({why})" for why, names in self.dropped.items()] or [
            "nothing dropped"
        ]
        parts += [f"missing {format_names(names)} ({why})" for why, names in self.initialised.items()] or [
            "nothing missing"
        ]
        return "; ".join(parts)


def import_checkpoint(
    files: Sequence[bytes], architecture: Architecture, *, subject: str = "checkpoint"
) -> ConvertedCheckpoint:
    """Converts a foreign checkpoint (`.pth` or safetensors) to the state dict of an architecture.

    Args:
        files: content of the checkpoint's files. A checkpoint has several files only if the architecture joins several
            networks.
        architecture: architecture for which the weights are converted.
        subject: name of the checkpoint in errors: an id or URI, never a local path.

    Raises:
        BadCheckpoint: a file cannot be read safely, or the weights do not fit.
    """
    most = len(architecture.files)
    if len(files) not in {1, most}:
        expected = "1 file" if most == 1 else f"1 or {most} files"
        raise BadCheckpoint(
            f"{architecture.name} is read from {expected}, not {len(files)}",
            subject=subject,
            remedy=f"give its files in this order: {', '.join(architecture.files)}",
        )
    contents = [read_tensors(data, subject) for data in files]
    converted = architecture.convert([tensors for tensors, _ in contents], subject)
    other_entries = [name for _, names in contents for name in names]
    dropped = {why: names for why, names in converted.dropped.items() if names}
    if other_entries:
        dropped = {OTHER_ENTRIES_REASON: other_entries} | dropped
    state = {
        name: (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in converted.state.items()
    }
    check_state(state, architecture, subject=subject)
    return ConvertedCheckpoint(state, converted.source_format, dropped, converted.initialised)


def read_tensors(data: bytes, subject: str) -> tuple[StateDict, list[str]]:
    """Reads the tensors of a file with their names. Also reads the names of all other entries."""
    if is_safetensors(data):
        return parse_weights(data, subject), []
    content = _read_weights_only(data, subject)
    other_entries: list[str] = []
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        other_entries = [str(name) for name in content if name != "model"]
        content = content["model"]
    if not isinstance(content, dict) or not content:
        raise BadCheckpoint(
            "the file contains no state dict", subject=subject, remedy="save a dict of tensors, alone or as `model`"
        )
    for name, tensor in content.items():
        # A tensor larger than its storage is a view that repeats elements: a small file could fill the memory.
        if (
            not isinstance(name, str)
            or not isinstance(tensor, Tensor)
            or tensor.layout != torch.strided
            or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            shown = repr(name[:64]) if isinstance(name, str) else "an entry"
            saved = f"checkpoint[{shown}]" if isinstance(tensor, dict) else "model.state_dict()"
            raise BadCheckpoint(
                f"{shown} is not a plain dense tensor",
                subject=subject,
                remedy=f"save the tensors alone: torch.save({saved}, FILE)",
            )
    return dict(content), other_entries


def _read_weights_only(data: bytes, subject: str) -> object:
    try:
        # ProFound's checkpoints store their command line as a Namespace, which only holds attributes and runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # Torch warns about how the file was written; the error below states the problem.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the parser raises many types on foreign bytes; each means that the file is unusable
        raise BadCheckpoint(
            "the file is damaged, or holds objects other than tensors and plain containers, which are never unpickled",
            subject=subject,
            remedy="save the state dict alone as safetensors",
        ) from error
