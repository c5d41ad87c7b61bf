"""Weights as safetensors. The names, shapes and dtypes of the weights must be exactly those of the architecture.

The package `formats` converts other checkpoint formats. Nothing is ever unpickled.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from mmap import mmap

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor

from vfmalign.core.domain.errors import BadCheckpoint
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.encoder import Encoder, StateDict

MAX_WEIGHTS_BYTES = 16 * 2**30
"""Maximum size of a weights file in bytes."""
_MAX_LISTED = 5
_MAX_HEADER_BYTES = 100_000_000  # the limit of the library safetensors


def to_safetensors(state: Mapping[str, Tensor]) -> bytes:
    """Serialises weights. Equal weights yield equal bytes on any device and in any memory layout."""
    return write_safetensors({name: state[name].detach().cpu().contiguous() for name in sorted(state)})


def load_state(data: bytes, architecture: Architecture, *, subject: str = "checkpoint") -> StateDict:
    """Reads weights that `to_safetensors` wrote, and checks them.

    Raises:
        BadCheckpoint: the data are not safetensors, or a tensor is missing, unexpected, not finite, or has another
            shape or dtype.
    """
    state = parse_weights(data, subject)
    check_state(state, architecture, subject=subject)
    return state


def random_state(architecture: Architecture, seed: int) -> StateDict:
    """Draws initial weights of the architecture from a seed. Does not change torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return {name: tensor.contiguous() for name, tensor in architecture.build().state_dict().items()}


def build_encoder(architecture: Architecture, state: StateDict, device: torch.device | str = "cpu") -> Encoder:
    """Builds an encoder with these weights on `device` and sets it to evaluation mode."""
    encoder = architecture.build_empty()
    encoder.load_state_dict(state, strict=True, assign=True)
    encoder.to(device=device, memory_format=encoder.memory_format)  # type: ignore[call-overload]
    return encoder.eval()


def check_state(state: Mapping[str, Tensor], architecture: Architecture, *, subject: str = "checkpoint") -> None:
    """Checks that a state dict has exactly the tensors of an architecture.

    Raises:
        BadCheckpoint: some tensors differ. The error lists all differences.
    """
    expected = architecture.build_empty().state_dict()
    problems = []
    if missing := [name for name in expected if name not in state]:
        problems.append(f"missing {format_names(missing)}")
    if unexpected := [name for name in state if name not in expected]:
        problems.append(f"unexpected {format_names(unexpected)}")
    shared = [(name, state[name], tensor) for name, tensor in expected.items() if name in state]
    if shapes := [f"{n} is {list(t.shape)} instead of {list(e.shape)}" for n, t, e in shared if t.shape != e.shape]:
        problems.append(f"wrong shape: {format_names(shapes)}")
    if dtypes := [f"{n} is {t.dtype} instead of {e.dtype}" for n, t, e in shared if t.dtype != e.dtype]:
        problems.append(f"wrong dtype: {format_names(dtypes)}")
    # Reading every value is slow, and pointless for weights that do not fit anyway.
    if not problems and (infinite := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]):
        problems.append(f"NaN or infinity in {format_names(infinite)}")
    if problems:
        raise BadCheckpoint(
            # The name of a MONAI network or a stack contains its whole description after a colon.
            f"the weights do not fit {architecture.name.partition(':')[0]}: " + "; ".join(problems),
            subject=subject,
            remedy="name the architecture that they were trained with, or import the file from its own format",
        )


def parse_weights(data: bytes, subject: str) -> StateDict:
    """Parses the tensors of a safetensors file.

    Raises:
        BadCheckpoint: the data are not safetensors.
    """
    try:
        return parse_safetensors(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BadCheckpoint(
            "the file cannot be read as safetensors", subject=subject, remedy="import the checkpoint first"
        ) from error


def is_safetensors(data: bytes | mmap) -> bool:
    """Returns whether data begin like a safetensors file: with the length of a JSON header, followed by that header."""
    if len(data) < 10:
        return False
    (length,) = struct.unpack("<Q", data[:8])
    if length > len(data) - 8:
        return False
    try:
        return isinstance(parse_json(data[8 : 8 + length], _MAX_HEADER_BYTES), dict)
    except ValueError:
        return False


def format_names(names: Sequence[str]) -> str:
    """Lists the first few names, and how many more there are."""
    shown = ", ".join(name[:96] for name in names[:_MAX_LISTED])
    return f"{shown} and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else shown
