"""What upstream's state dicts become: the encoder's dense weights, what is left out, and what is put in, each with why.

Knows names and shapes of tensors; knows nothing of files, storage or modules. One function per family; an architecture
of the registry names the one that reads its checkpoints. The formats are those of ProFound (branch `demo`) and
ProViCNet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vfmalign.core.domain.errors import BadCheckpoint
from vfmalign.models.architectures.convnextv2 import DEPTHWISE_KERNEL

State = dict[str, Tensor]

ENCODER = "encoder."
TASK_HEAD = "a task's head; every check trains its own"
DECODER = "the decoder of the pretraining; features come from the encoder alone"

# Parts of a pretraining checkpoint's keys that belong to the decoder, not to the encoder.
SPARSE_DECODER_PARTS = ("decoder", "mask_token", "proj", "pred")


@dataclass(frozen=True)
class Conversion:
    """An encoder's weights out of a foreign state dict.

    Attributes:
        state: the weights that are meant to fit the architecture.
        source_format: what the state dict was.
        dropped: names of tensors left out, by the reason why that is right.
        initialised: names of parameters that the file lacks and that were set, by the reason why that is right.
    """

    state: State
    source_format: str
    dropped: dict[str, list[str]] = field(default_factory=dict)
    initialised: dict[str, list[str]] = field(default_factory=dict)


Convert = Callable[[Sequence[State], str], Conversion]
"""Takes the state dicts of a checkpoint's files, and how errors name it."""


def dense(files: Sequence[State], subject: str) -> Conversion:
    """One file that holds the encoder's weights under their own names, or with a head under `encoder.` and `head.`."""
    (tensors,) = files
    if not any(name.startswith(ENCODER) for name in tensors):
        return Conversion(dict(tensors), "dense")
    kept, head = split(tensors, lambda name: name.startswith("head."))
    return Conversion({n.removeprefix(ENCODER): t for n, t in kept.items()}, "fine-tuned", {TASK_HEAD: list(head)})


def profound_conv(files: Sequence[State], subject: str) -> Conversion:
    """ProFound's ConvNeXt V2: dense, fine-tuned, or as its sparse (MinkowskiEngine) pretraining stores it."""
    (tensors,) = files
    if not any(name.endswith(".kernel") for name in tensors):
        return dense(files, subject)
    sparse, decoder = split(tensors, lambda name: any(part in name for part in SPARSE_DECODER_PARTS))
    state = {_dense_name(name): _dense_tensor(name, tensor, subject) for name, tensor in sparse.items()}
    absent = [name for name in ("norm.weight", "norm.bias") if name not in state]
    initialised = {}
    if absent:
        why = "the pretraining has no final norm; it starts as a plain one (ones and zeros), as upstream's loader does"
        initialised = {why: absent}
        channels = max((len(t) for n, t in state.items() if n.endswith("dwconv.bias")), default=0)
        plain = {"norm.weight": torch.ones(channels), "norm.bias": torch.zeros(channels)}
        state |= {name: plain[name] for name in absent}
    return Conversion(state, "pretraining", {DECODER: list(decoder)}, initialised)


def profound_vit(files: Sequence[State], subject: str) -> Conversion:
    """ProFound's ViT: the whole masked autoencoder, its encoder, or a fine-tuned network."""
    (tensors,) = files
    kept, decoder = split(tensors, lambda name: name.startswith("decoder_") or name == "mask_token")
    if not decoder:
        return dense(files, subject)
    return Conversion(kept, "masked autoencoder", {DECODER: list(decoder)})


def provicnet(files: Sequence[State], subject: str) -> Conversion:
    """ProViCNet's network of one sequence."""
    (tensors,) = files
    kept, heads = split(tensors, lambda name: name.startswith(("head.", "CL_Head.")))
    if not heads:
        return Conversion(kept, "dense")
    why = "the segmentation and contrastive heads; every check trains its own"
    return Conversion(kept, "ProViCNet", {why: list(heads)})


def provicnet_fusion(streams: Sequence[str]) -> Convert:
    """The networks of several sequences, one file each in the streams' order, or one dense file of them all."""

    def convert(files: Sequence[State], subject: str) -> Conversion:
        if len(files) == 1:
            return Conversion(dict(files[0]), "dense")
        state: State = {}
        dropped: dict[str, list[str]] = {}
        for stream, tensors in zip(streams, files, strict=True):
            part = provicnet([tensors], subject)
            state |= {f"streams.{stream}.{name}": tensor for name, tensor in part.state.items()}
            for why, names in part.dropped.items():
                dropped.setdefault(why, []).extend(f"{stream}: {name}" for name in names)
        return Conversion(state, f"{len(files)} × ProViCNet", dropped)

    return convert


def split(tensors: Mapping[str, Tensor], leaves: Callable[[str], bool]) -> tuple[State, State]:
    """The tensors that stay, and those whose names leave."""
    stays = {name: tensor for name, tensor in tensors.items() if not leaves(name)}
    return stays, {name: tensor for name, tensor in tensors.items() if name not in stays}


def _dense_name(name: str) -> str:
    name = name.removeprefix(ENCODER).replace(".ln.", ".").replace(".linear.", ".")
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
