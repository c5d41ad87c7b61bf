"""Weights in and out: our own strict safetensors, and the upstream formats that are converted into it once.

Knows formats and architectures; knows nothing of storage. Nothing is ever unpickled: a foreign `.pth` goes through
torch's weights-only reader, which builds tensors and plain containers and refuses every other name. The formats are
ProFound's (branch `demo`): a dense state dict, a fine-tuned checkpoint (`encoder.*`, `head.*`), and the sparse
MinkowskiEngine form of FCMAE pretraining.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor

from vfmalign.core.errors import BadCheckpoint
from vfmalign.models.convnextv2 import DEPTHWISE_KERNEL, Encoder
from vfmalign.models.registry import Architecture

State = dict[str, Tensor]
Format = Literal["dense", "fine-tuned", "pretraining"]

# Parts of a pretraining checkpoint's keys that belong to the decoder, not to the encoder.
DECODER_PARTS = ("decoder", "mask_token", "proj", "pred")
# Parameters that the pretraining form lacks and that stay at initialisation (a LayerNorm's ones and zeros).
ABSENT_IN_PRETRAINING = {"norm.weight": torch.ones, "norm.bias": torch.zeros}
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Imported:
    """A foreign checkpoint, converted.

    Attributes:
        state: dense float32 weights that fit the architecture exactly.
        source_format: what the file was.
        dropped: names of tensors and entries that were left out, such as a head, a decoder or an optimiser.
        initialised: parameters the file lacks and that were set to their initial value.
    """

    state: State
    source_format: Format
    dropped: tuple[str, ...]
    initialised: tuple[str, ...]

    def report(self) -> str:
        """One sentence for the user: what was read, dropped and initialised."""
        parts = [f"{self.source_format} checkpoint: {len(self.state)} tensors kept"]
        parts.append(f"dropped {_some(self.dropped)}" if self.dropped else "nothing dropped")
        if self.initialised:
            parts.append(f"left at initialisation {_some(self.initialised)}")
        return "; ".join(parts)


def to_safetensors(state: Mapping[str, Tensor]) -> bytes:
    """Serialises weights; equal weights give equal bytes, wherever and in whatever memory layout they lie."""
    return write_safetensors({name: state[name].detach().cpu().contiguous() for name in sorted(state)})


def load_state(data: bytes, architecture: Architecture, *, subject: str = "checkpoint") -> State:
    """Reads our own format: dense safetensors whose names, shapes and dtype are the architecture's, all finite.

    Raises:
        BadCheckpoint: not safetensors, or anything missing, unexpected, of another shape or dtype, or not finite.
    """
    state = _parse_safetensors(data, subject)
    check_fits(state, architecture, subject=subject)
    return state


def import_checkpoint(data: bytes, architecture: Architecture, *, subject: str = "checkpoint") -> Imported:
    """Reads an upstream checkpoint (`.pth` or safetensors; dense, fine-tuned or pretraining) into a dense state.

    Args:
        data: the file's bytes.
        architecture: what the weights are for.
        subject: how errors name the file: an id or URI, never a local path.

    Raises:
        BadCheckpoint: the file cannot be read safely, or does not fit.
    """
    tensors, dropped = _read_tensors(data, subject)
    source_format = _recognise(tensors)
    if source_format == "pretraining":
        dropped += [name for name in tensors if _is_decoder(name)]
        state = {_dense_name(n): _dense_tensor(n, t, subject) for n, t in tensors.items() if not _is_decoder(n)}
    elif source_format == "fine-tuned":
        dropped += [name for name in tensors if name.startswith("head.")]
        state = {name.removeprefix("encoder."): t for name, t in tensors.items() if not name.startswith("head.")}
    else:
        state = dict(tensors)
    initialised = []
    if source_format == "pretraining":
        for name, make in ABSENT_IN_PRETRAINING.items():
            if name not in state:
                state[name] = make(_expected(architecture)[name])
                initialised.append(name)
    state = {name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    check_fits(state, architecture, subject=subject)
    return Imported({n: t.contiguous() for n, t in state.items()}, source_format, tuple(dropped), tuple(initialised))


def random_state(architecture: Architecture, seed: int) -> State:
    """The architecture's initial weights from `seed`; leaves torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return {name: tensor.contiguous() for name, tensor in architecture.build().state_dict().items()}


def build_encoder(architecture: Architecture, state: State, device: torch.device | str = "cpu") -> Encoder:
    """An encoder in evaluation mode with these weights, on `device`."""
    encoder = architecture.build_empty()
    encoder.load_state_dict(state, strict=True, assign=True)
    encoder.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return encoder.eval()


def check_fits(state: Mapping[str, Tensor], architecture: Architecture, *, subject: str = "checkpoint") -> None:
    """Raises BadCheckpoint, with a sentence listing what is wrong, unless `state` is exactly the architecture's."""
    expected = _expected(architecture)
    problems = []
    if missing := [name for name in expected if name not in state]:
        problems.append(f"missing {_some(missing)}")
    if unexpected := [name for name in state if name not in expected]:
        problems.append(f"unexpected {_some(unexpected)}")
    shapes = [
        f"{name} is {list(state[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if shapes:
        problems.append(f"wrong shape: {_some(shapes)}")
    if dtypes := [f"{name} is {tensor.dtype}" for name, tensor in state.items() if tensor.dtype != torch.float32]:
        problems.append(f"not float32: {_some(dtypes)}")
    if not problems and (infinite := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]):
        problems.append(f"NaN or infinity in {_some(infinite)}")
    if problems:
        raise BadCheckpoint(
            f"the weights do not fit {architecture.name}: " + "; ".join(problems),
            subject=subject,
            remedy="name the architecture they were trained with, or convert the file with an importer for its format",
        )


def _expected(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in architecture.build_empty().state_dict().items()}


# --- the pretraining form ---------------------------------------------------------------------------------------------


def _recognise(tensors: Mapping[str, Tensor]) -> Format:
    if any(name.endswith(".kernel") for name in tensors):
        return "pretraining"
    if any(name.startswith("encoder.") for name in tensors):
        return "fine-tuned"
    return "dense"


def _is_decoder(name: str) -> bool:
    return any(part in name for part in DECODER_PARTS)


def _dense_name(name: str) -> str:
    name = name.removeprefix("encoder.").replace(".ln.", ".").replace(".linear.", ".")
    return name.removesuffix(".kernel") + ".weight" if name.endswith(".kernel") else name


def _dense_tensor(name: str, tensor: Tensor, subject: str) -> Tensor:
    """MinkowskiEngine keeps kernels as (k³, in, out), or (k³, channels) where depthwise, in x, y, z order."""
    if name.endswith(".kernel"):
        if tensor.ndim == 3:
            volume, narrow, wide = tensor.shape
            side = round(volume ** (1 / 3))
            if side**3 == volume:
                return tensor.permute(2, 1, 0).reshape(wide, narrow, side, side, side).permute(0, 1, 4, 3, 2)
        if tensor.ndim == 2 and "downsample_layers" in name:  # a 1×1×1 convolution
            return tensor.t()[:, :, None, None, None]
        if tensor.ndim == 2 and tensor.shape[0] == DEPTHWISE_KERNEL**3:
            side = DEPTHWISE_KERNEL
            return tensor.t().reshape(-1, 1, side, side, side).permute(0, 1, 4, 3, 2)
        raise BadCheckpoint(
            f"{name} of shape {list(tensor.shape)} is no convolution of the pretraining format",
            subject=subject,
            remedy="export the checkpoint again with ProFound's FCMAE code",
        )
    if ".grn." in name and tensor.ndim == 2:
        return tensor.reshape(1, 1, 1, 1, -1)
    return tensor.flatten() if name.endswith(".bias") else tensor


# --- reading bytes ----------------------------------------------------------------------------------------------------


def _read_tensors(data: bytes, subject: str) -> tuple[State, list[str]]:
    """All tensors of a file by name, and the names of the entries beside the weights."""
    if _looks_like_safetensors(data):
        return _parse_safetensors(data, subject), []
    content = _read_weights_only(data, subject)
    dropped: list[str] = []
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        dropped = [str(name) for name in content if name != "model"]
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
    return dict(content), dropped


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


def _parse_safetensors(data: bytes, subject: str) -> State:
    try:
        return parse_safetensors(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BadCheckpoint(
            "the file is no readable safetensors", subject=subject, remedy="import the checkpoint before it is used"
        ) from error


def _looks_like_safetensors(data: bytes) -> bool:
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


def _some(names: list[str] | tuple[str, ...]) -> str:
    """The first few names and how many more there are."""
    shown = ", ".join(name[:96] for name in names[:_NAMES_SHOWN])
    return f"{shown} and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else shown
