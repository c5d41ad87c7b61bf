"""Import of foreign checkpoints.

Files are mapped into memory and read without unpickling. The rules of the architecture convert them. A report lists
the tensors.

torch's weights-only reader reads `.pth` files. This reader accepts tensors, plain containers and `argparse.Namespace`.
It rejects every other class.
"""

from __future__ import annotations

import argparse
import io
import mmap
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vfmalign.core.domain.errors import BadCheckpoint
from vfmalign.core.domain.models import TensorCounts
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.architectures.upstream import Conversion
from vfmalign.models.encoder import StateDict
from vfmalign.models.weights import check_state, format_names, is_safetensors, parse_weights

OTHER_ENTRIES_REASON = "entries besides the weights, which an encoder does not need"
CONTAINERS = ("model", "state_dict", "model_state_dict", "network_weights", "net", "teacher")
"""Entries of published checkpoints that contain the state dict."""
CONVERSION = """convert it in an environment that holds nothing of value:
import torch, safetensors.torch
state = torch.load("FILE", map_location="cpu", weights_only=False)  # or its entry with the weights
safetensors.torch.save_file({n: t.contiguous() for n, t in state.items()}, "FILE.safetensors")"""
_FOREIGN = re.compile(r"GLOBAL ([\w.]+)")
_ZIP = b"PK\x03\x04"

Source = bytes | Path
"""Content of a file, or the path of a file to map."""


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

    def count_tensors(self) -> TensorCounts:
        """Counts the tensors that were loaded, dropped and initialised."""
        initialised = sum(map(len, self.initialised.values()))
        dropped = sum(len(names) for why, names in self.dropped.items() if why != OTHER_ENTRIES_REASON)
        return TensorCounts(loaded=len(self.state) - initialised, dropped=dropped, initialised=initialised)

    def report(self) -> str:
        """Returns a report for the user: the numbers of tensors, and the names of those not loaded with the reasons."""
        counts = ", ".join(f"{count} {name}" for name, count in self.count_tensors())
        parts = [f"{self.source_format} checkpoint: tensors: {counts}"]
        parts += [f"dropped {format_names(names)} ({why})" for why, names in self.dropped.items()]
        parts += [f"initialised {format_names(names)} ({why})" for why, names in self.initialised.items()]
        return "; ".join(parts)


def import_checkpoint(
    files: Sequence[Source], architecture: Architecture, *, subject: str = "checkpoint"
) -> ConvertedCheckpoint:
    """Converts a foreign checkpoint (`.pth` or safetensors) to the state dict of an architecture.

    Args:
        files: the checkpoint's files. A checkpoint has several files only if the architecture joins several networks.
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
    contents = [read_tensors(source, subject) for source in files]
    converted = architecture.convert([tensors for tensors, _ in contents], subject)
    other_entries = [name for _, names in contents for name in names]
    return finish_conversion(converted, architecture, other_entries, subject)


def finish_conversion(
    converted: Conversion, architecture: Architecture, other_entries: Sequence[str], subject: str
) -> ConvertedCheckpoint:
    """Converts weights to float32, and checks that they fit the architecture. See `import_checkpoint`."""
    dropped = {why: names for why, names in converted.dropped.items() if names}
    if other_entries:
        dropped = {OTHER_ENTRIES_REASON: list(other_entries)} | dropped
    state = {
        name: (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in converted.state.items()
    }
    check_state(state, architecture, subject=subject)
    return ConvertedCheckpoint(state, converted.source_format, dropped, converted.initialised)


def read_tensors(source: Source, subject: str) -> tuple[StateDict, list[str]]:
    """Reads the tensors of a file with their names. Also reads the names of all other entries."""
    if isinstance(source, bytes):
        if is_safetensors(source):
            return parse_weights(source, subject), []
    elif _is_safetensors_file(source):
        try:
            return load_file(source), []
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise _damaged(subject) from error
    content = _read_weights_only(source, subject)
    other_entries: list[str] = []
    container = next((n for n in CONTAINERS if isinstance(content, dict) and isinstance(content.get(n), Mapping)), "")
    if container and isinstance(content, dict):
        other_entries = [str(name) for name in content if name != container]
        content = content[container]
    if not isinstance(content, dict) or not content:
        raise BadCheckpoint(
            "the file contains no state dict",
            subject=subject,
            remedy=f"save a dict of tensors, alone or as one of {', '.join(CONTAINERS)}",
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


def _is_safetensors_file(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return is_safetensors(content)
        except ValueError:  # an empty file cannot be mapped
            return False


def _read_weights_only(source: Source, subject: str) -> object:
    mapped = False
    if isinstance(source, Path):
        with source.open("rb") as file:
            mapped = file.read(len(_ZIP)) == _ZIP  # torch cannot map the files of its first versions
    try:
        # ProFound's checkpoints store their command line as a Namespace, which only holds attributes and runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # Torch warns about how the file was written; the error below states the problem.
            warnings.simplefilter("ignore", UserWarning)
            opened = io.BytesIO(source) if isinstance(source, bytes) else source
            return torch.load(opened, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # the parser raises many types on foreign bytes; each means that the file is unusable
        if foreign := _FOREIGN.search(str(error)):
            raise BadCheckpoint(
                f"the file holds pickled objects ({foreign[1][:64]}), which are never unpickled: expected tensors, "
                "numbers, text and argparse.Namespace",
                subject=subject,
                remedy=CONVERSION,
            ) from error
        raise _damaged(subject) from error


def _damaged(subject: str) -> BadCheckpoint:
    return BadCheckpoint(
        "the file is damaged, truncated, or holds more than tensors, numbers and text, which is never unpickled",
        subject=subject,
        remedy="download the file again and compare its digest, or save its state dict alone as safetensors",
    )
