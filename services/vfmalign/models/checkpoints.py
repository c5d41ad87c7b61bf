"""Weights in and out in our own format: strict safetensors whose names, shapes and dtypes are the architecture's.

Knows architectures and tensors; knows nothing of storage, nor of foreign formats (`foreign`). Nothing is unpickled.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor

from vfmalign.core.domain.errors import BadCheckpoint
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.encoder import Encoder

State = dict[str, Tensor]

_NAMES_SHOWN = 5


def to_safetensors(state: Mapping[str, Tensor]) -> bytes:
    """Serialises weights; equal weights give equal bytes, wherever and in whatever memory layout they lie."""
    return write_safetensors({name: state[name].detach().cpu().contiguous() for name in sorted(state)})


def load_state(data: bytes, architecture: Architecture, *, subject: str = "checkpoint") -> State:
    """Reads our own format.

    Raises:
        BadCheckpoint: not safetensors, or anything missing, unexpected, of another shape or dtype, or not finite.
    """
    state = parse_weights(data, subject)
    check_fits(state, architecture, subject=subject)
    return state


def random_state(architecture: Architecture, seed: int) -> State:
    """The architecture's initial weights from `seed`; leaves torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return {name: tensor.contiguous() for name, tensor in architecture.build().state_dict().items()}


def build_encoder(architecture: Architecture, state: State, device: torch.device | str = "cpu") -> Encoder:
    """An encoder in evaluation mode with these weights, on `device`."""
    encoder = architecture.build_empty()
    encoder.load_state_dict(state, strict=True, assign=True)
    encoder.to(device=device, memory_format=encoder.memory_format)  # type: ignore[call-overload]
    return encoder.eval()


def check_fits(state: Mapping[str, Tensor], architecture: Architecture, *, subject: str = "checkpoint") -> None:
    """Raises BadCheckpoint, with a sentence listing what is wrong, unless `state` is exactly the architecture's."""
    expected = architecture.build_empty().state_dict()
    problems = []
    if missing := [name for name in expected if name not in state]:
        problems.append(f"missing {some(missing)}")
    if unexpected := [name for name in state if name not in expected]:
        problems.append(f"unexpected {some(unexpected)}")
    shared = [(name, state[name], wanted) for name, wanted in expected.items() if name in state]
    if shapes := [f"{n} is {list(t.shape)} instead of {list(w.shape)}" for n, t, w in shared if t.shape != w.shape]:
        problems.append(f"wrong shape: {some(shapes)}")
    if dtypes := [f"{n} is {t.dtype} instead of {w.dtype}" for n, t, w in shared if t.dtype != w.dtype]:
        problems.append(f"wrong dtype: {some(dtypes)}")
    if not problems and (infinite := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]):
        problems.append(f"NaN or infinity in {some(infinite)}")
    if problems:
        raise BadCheckpoint(
            f"the weights do not fit {architecture.name}: " + "; ".join(problems),
            subject=subject,
            remedy="name the architecture they were trained with, or convert the file with an importer for its format",
        )


def parse_weights(data: bytes, subject: str) -> State:
    """The tensors of a safetensors file."""
    try:
        return parse_safetensors(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BadCheckpoint(
            "the file is no readable safetensors", subject=subject, remedy="import the checkpoint before it is used"
        ) from error


def looks_like_safetensors(data: bytes) -> bool:
    """A safetensors file begins with the length of a JSON header, then the header."""
    if len(data) < 10:
        return False
    (length,) = struct.unpack("<Q", data[:8])
    if length > len(data) - 8:
        return False
    try:
        return isinstance(json.loads(data[8 : 8 + length]), dict)
    except ValueError:
        return False


def some(names: Sequence[str]) -> str:
    """The first few names and how many more there are."""
    shown = ", ".join(name[:96] for name in names[:_NAMES_SHOWN])
    return f"{shown} and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else shown
