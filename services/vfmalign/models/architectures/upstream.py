"""Conversion of state dicts of upstream projects to an encoder's weights.

The result contains the reason for every dropped or initialised tensor. Each family of architectures has one conversion
function. Each architecture in the registry refers to the function of its family. The formats come from ProFound (branch
`demo`) and ProViCNet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vfmalign.core.domain.errors import BadCheckpoint
from vfmalign.models.architectures.convnextv2 import DEPTHWISE_KERNEL
from vfmalign.models.encoder import StateDict

ENCODER = "encoder."
TASK_HEAD = "a task's head; every check trains its own"
SEGMENTATION_DECODER = "a segmentation decoder; every check trains its own"

# Prefixes of the modules other than `encoder` in ProFound's segmentation networks: UperNet around the convolutional
# encoder, UNETR around the transformer.
UPERNET_PARTS = ("decode_head.", "auxiliary_head.", "hidden_norm.")
UNETR_PARTS = ("decoder.", "norm1.", "norm2.", "norm3.")
DECODER = "the decoder of the pretraining; features come from the encoder alone"

# Substrings of the keys that belong to the decoder of a pretraining checkpoint.
SPARSE_DECODER_PARTS = ("decoder", "mask_token", "proj", "pred")


@dataclass(frozen=True)
class Conversion:
    """Weights of an encoder that were extracted from a foreign state dict.

    Attributes:
        state: the weights, which are not yet checked against the architecture.
        source_format: format of the state dict.
        dropped: maps each reason to the names of the dropped tensors.
        initialised: maps each reason to the names of parameters that the file lacks and that were initialised.
    """

    state: StateDict
    source_format: str
    dropped: dict[str, list[str]] = field(default_factory=dict)
    initialised: dict[str, list[str]] = field(default_factory=dict)


Converter = Callable[[Sequence[StateDict], str], Conversion]
"""Converts the state dicts of a checkpoint's files. The second argument is the checkpoint's name in errors."""


def convert_dense(files: Sequence[StateDict], subject: str) -> Conversion:
    """Converts one file: a plain encoder, or a fine-tuned network that contains the encoder as `encoder.*`.

    A classification network also contains `head.*`. A segmentation network also contains the parts of a UperNet or a
    UNETR. These tensors are dropped. All other tensors stay, so that the check against the architecture reports
    unexpected tensors.
    """
    (tensors,) = files
    if not any(name.startswith(ENCODER) for name in tensors):
        return Conversion(dict(tensors), "dense")
    encoder, head = split_state(tensors, lambda name: name.startswith("head."))
    encoder, decoder = split_state(encoder, lambda name: name.startswith(UPERNET_PARTS + UNETR_PARTS))
    state = {name.removeprefix(ENCODER): tensor for name, tensor in encoder.items()}
    source_format = _get_segmentation_format(decoder) or "fine-tuned"
    return Conversion(state, source_format, {TASK_HEAD: list(head), SEGMENTATION_DECODER: list(decoder)})


def convert_profound_conv(files: Sequence[StateDict], subject: str) -> Conversion:
    """Converts ProFound's ConvNeXt V2: dense, fine-tuned, or from sparse pretraining (MinkowskiEngine)."""
    (tensors,) = files
    if not any(name.endswith(".kernel") for name in tensors):
        return convert_dense(files, subject)
    sparse, decoder = split_state(tensors, lambda name: any(part in name for part in SPARSE_DECODER_PARTS))
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


def convert_profound_vit(files: Sequence[StateDict], subject: str) -> Conversion:
    """Converts ProFound's ViT from the whole masked autoencoder, from its encoder, or from a fine-tuned network."""
    (tensors,) = files
    encoder, decoder = split_state(tensors, lambda name: name.startswith("decoder_") or name == "mask_token")
    if not decoder:
        return convert_dense(files, subject)
    return Conversion(encoder, "masked autoencoder", {DECODER: list(decoder)})


def convert_provicnet(files: Sequence[StateDict], subject: str) -> Conversion:
    """Converts the network of one sequence of ProViCNet."""
    (tensors,) = files
    encoder, heads = split_state(tensors, lambda name: name.startswith(("head.", "CL_Head.")))
    if not heads:
        return Conversion(encoder, "dense")
    why = "the segmentation and contrastive heads; every check trains its own"
    return Conversion(encoder, "ProViCNet", {why: list(heads)})


def convert_provicnet_fusion(streams: Sequence[str]) -> Converter:
    """Creates a converter for several sequences.

    The converter accepts one file per stream, in order, or one dense file.
    """

    def convert(files: Sequence[StateDict], subject: str) -> Conversion:
        if len(files) == 1:
            return Conversion(dict(files[0]), "dense")
        state: StateDict = {}
        dropped: dict[str, list[str]] = {}
        for stream, tensors in zip(streams, files, strict=True):
            part = convert_provicnet([tensors], subject)
            state |= {f"streams.{stream}.{name}": tensor for name, tensor in part.state.items()}
            for why, names in part.dropped.items():
                dropped.setdefault(why, []).extend(f"{stream}: {name}" for name in names)
        return Conversion(state, f"{len(files)} × ProViCNet", dropped)

    return convert


def split_state(tensors: Mapping[str, Tensor], removed: Callable[[str], bool]) -> tuple[StateDict, StateDict]:
    """Splits a state dict into the tensors that remain and the tensors whose names `removed` selects."""
    remaining = {name: tensor for name, tensor in tensors.items() if not removed(name)}
    return remaining, {name: tensor for name, tensor in tensors.items() if name not in remaining}


def _get_segmentation_format(decoder: Mapping[str, Tensor]) -> str:
    """Returns the segmentation network to which the tensors outside the encoder belong; empty if there are none."""
    if not decoder:
        return ""
    return "UperNet" if any(name.startswith(UPERNET_PARTS) for name in decoder) else "UNETR"


def _dense_name(name: str) -> str:
    name = name.removeprefix(ENCODER).replace(".ln.", ".").replace(".linear.", ".")
    return name.removesuffix(".kernel") + ".weight" if name.endswith(".kernel") else name


def _dense_tensor(name: str, tensor: Tensor, subject: str) -> Tensor:
    """Converts one tensor of the sparse format.

    MinkowskiEngine stores kernels as (k³, in, out), and depthwise kernels as (k³, channels). The k³ entries are in the
    order x, y, z.
    """
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
            f"{name} of shape {list(tensor.shape)} is not a convolution of the pretraining format",
            subject=subject,
            remedy="export the checkpoint again with ProFound's FCMAE code",
        )
    if ".grn." in name and tensor.ndim == 2:
        return tensor.reshape(1, 1, 1, 1, -1)
    return tensor.flatten() if name.endswith(".bias") else tensor
