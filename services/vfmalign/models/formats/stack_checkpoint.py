"""Architectures for stacks of dilated convolutions, and the import of their checkpoints.

The name of the architecture encodes the description of a stack (`architectures.dilated_stack`). Every reader of a model
card, job or manifest can therefore build the stack. A checkpoint contains only weights. For published families, the
shapes of the weights and the dilations of the family determine the description. For any other stack, you provide the
description as a JSON file.

Sources: MeshNet is implemented as in brainchop (github.com/neuroneural/brainchop): the dilations 16, 8, 4, 2 and 1 are
repeated. The name MeshNet comes from Fedorov et al., arXiv 1612.00940. The dilated autoencoder is brainchop's network
for tissue segmentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from vfmalign.core.domain.errors import BadCheckpoint, BadOption, NotFound
from vfmalign.core.domain.models import Layer, Preprocessing
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.formats.untrusted import describe_failure, read_json
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.architectures.dilated_stack import ConvolutionLayer, DilatedStack, StackDescription
from vfmalign.models.architectures.upstream import TASK_HEAD, Conversion
from vfmalign.models.encoder import StateDict

FAMILY = "dilated_stack"
PREFIX = f"{FAMILY}:"
DEFAULT_INPUT = Preprocessing(
    modalities=("input",), spacing_mm=(1.0, 1.0, 1.0), shape_dhw=(96, 96, 96), normalisation="quantile_range"
)
MESHNET_DILATIONS = (16, 8, 4, 2, 1)
AUTOENCODER_DILATIONS = (1, 2, 4, 6, 8, 1, 10, 12, 16, 12, 10, 1, 8, 6, 4, 2, 1)
AUTOENCODER_DOWN, AUTOENCODER_UP = 5, 11
"""Index of the layer with stride 2, and index of the transposed layer that restores full resolution."""
AUTOENCODER_COMPARED = (4, 8, 10, 13, 16)
"""Compared layers: before the stride, with the widest dilation, before the upsampling, halfway after it, and the last.
"""
MAX_DESCRIPTION_BYTES = 1 << 20
_OWN_NAME = re.compile(r"layers\.\d+\.convolution\.(weight|bias)")

Weights = list[tuple[str, Tensor]]
"""Maps module names to a checkpoint's convolution weights, in the order of the modules' numbers."""


def encode_stack_name(description: StackDescription) -> str:
    """Encodes a description, including the initialisation of random weights, as the name of an architecture."""
    content = description.model_dump(mode="json", exclude_defaults=True)
    return PREFIX + canonical_json(content | {"initialisation": description.initialisation}).decode()


@lru_cache(maxsize=64)
def decode_stack_name(name: str) -> Architecture:
    """Builds the architecture that a name encodes.

    Raises:
        BadOption: the name does not encode a stack within the limits of `StackDescription`.
    """
    description = parse_description(name.removeprefix(PREFIX), "architecture")
    return Architecture(
        name=encode_stack_name(description),
        build=partial(DilatedStack, description),
        preprocessing=description.input,
        layers=tuple(Layer(name=f"layers.{i}", channels=description.layers[i].channels) for i in description.outputs),
        primary_layer=f"layers.{len(description.layers) - 1}",
        convert=partial(_convert, description),
    )


def parse_description(content: str | bytes | Mapping[str, object], field: str) -> StackDescription:
    """Parses a description from JSON text, or from the values of such a text.

    Raises:
        BadOption: the description is malformed or exceeds a limit.
    """
    try:
        if isinstance(content, Mapping):
            return StackDescription.model_validate(content)
        return StackDescription.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the description"
        raise BadOption(
            f"{where}: {str(problem['msg'])[:200]}",
            field=field,
            remedy="correct the description of the layers or the size of the input (docs/models.md)",
        ) from None


def read_description(path: Path, adjust: Callable[[Preprocessing], Preprocessing]) -> StackDescription:
    """Reads a description from a JSON file, in which `input` is optional.

    Args:
        path: path of the JSON file.
        adjust: function that applies the user's changes to the file's `input` or, if the file has no `input`, to
            `DEFAULT_INPUT`.

    Raises:
        BadOption: the file cannot be read, is too large or is not a description.
        NotFound: the file does not exist.
    """
    try:
        content: Any = read_json(path, MAX_DESCRIPTION_BYTES)
    except FileNotFoundError:
        raise NotFound("the file does not exist", subject="description", remedy="check the path") from None
    except (OSError, ValueError) as error:
        raise BadOption(
            f"the file cannot be read as JSON: {describe_failure(error)}",
            field="description",
            remedy="use a readable file that contains only the description (docs/models.md)",
        ) from None
    try:
        preprocessing = Preprocessing.model_validate(content.get("input", DEFAULT_INPUT))
    except (ValueError, AttributeError):  # pydantic's errors are ValueErrors
        raise BadOption(
            "the file is not a JSON object, or its `input` is not an input",
            field="description",
            remedy="describe the layers as in docs/models.md",
        ) from None
    return parse_description({**content, "input": adjust(preprocessing)}, "description")


def describe_checkpoint(
    family: str, tensors: StateDict, preprocessing: Preprocessing, subject: str
) -> StackDescription:
    """Derives the description of a checkpoint that belongs to a family in `FAMILIES`.

    Raises:
        BadCheckpoint: the tensors do not belong to the family.
        BadOption: the stack cannot process the input.
    """
    weights = find_convolutions(tensors, subject)
    layers = FAMILIES[family].describe(weights, [f"{module}.bias" in tensors for module, _ in weights])
    if not layers:
        raise _rejection(f"its {len(weights)} convolutions do not match {family}: {FAMILIES[family].pattern}", subject)
    compared = tuple(FAMILIES[family].compared(len(layers)))
    return parse_description({"layers": layers, "compared": compared, "input": preprocessing}, "input")


def find_convolutions(tensors: StateDict, subject: str) -> Weights:
    """Finds the weights of 3D convolutions and orders them by the numbers in their names.

    Raises:
        BadCheckpoint: the checkpoint contains no weights of 3D convolutions.
    """
    named = [(name.removesuffix(".weight"), tensor) for name, tensor in tensors.items() if tensor.ndim == 5]
    if not named or any(f"{module}.weight" not in tensors for module, _ in named):
        raise _rejection("the file contains no weights of 3D convolutions named *.weight", subject)
    return sorted(named, key=lambda item: [int(number) for number in re.findall(r"\d+", item[0])])


def _describe_meshnet(weights: Weights, biases: Sequence[bool]) -> Sequence[ConvolutionLayer]:
    body = weights[:-1] if _is_pointwise(weights[-1][1]) else weights
    if len(body) % len(MESHNET_DILATIONS) or any(tuple(weight.shape[2:]) != (3, 3, 3) for _, weight in body):
        return ()
    return make_meshnet([len(weight) for _, weight in body], biases)


def make_meshnet(channels: Sequence[int], biases: Sequence[bool]) -> list[ConvolutionLayer]:
    """Creates the layers of a MeshNet from their channels. The argument `biases` tells which layers have a bias."""
    return [
        ConvolutionLayer(
            channels=width,
            dilation=MESHNET_DILATIONS[i % len(MESHNET_DILATIONS)],
            bias=bias,
            norm="instance",
            activation="gelu",
        )
        for i, (width, bias) in enumerate(zip(channels, biases, strict=False))
    ]


def _describe_autoencoder(weights: Weights, biases: Sequence[bool]) -> Sequence[ConvolutionLayer]:
    body, rest = weights[: len(AUTOENCODER_DILATIONS)], weights[len(AUTOENCODER_DILATIONS) :]
    kernels = [2 if i == AUTOENCODER_UP else 3 for i in range(len(AUTOENCODER_DILATIONS))]
    has_head = len(rest) == 1 and _is_pointwise(rest[0][1])
    if [tuple(weight.shape[2:]) for _, weight in body] != [(k, k, k) for k in kernels] or (rest and not has_head):
        return ()
    # A transposed convolution stores its input's channels first.
    channels = [weight.shape[1 if i == AUTOENCODER_UP else 0] for i, (_, weight) in enumerate(body)]
    return make_autoencoder(channels, biases)


def make_autoencoder(channels: Sequence[int], biases: Sequence[bool]) -> list[ConvolutionLayer]:
    """Creates the layers of the dilated autoencoder from their channels.

    The argument `biases` tells which layers have a bias.
    """
    return [
        ConvolutionLayer(
            channels=width,
            kernel=2 if i == AUTOENCODER_UP else 3,
            dilation=dilation,
            stride=2 if i in {AUTOENCODER_DOWN, AUTOENCODER_UP} else 1,
            transposed=i == AUTOENCODER_UP,
            bias=bias,
            activation="none" if i == AUTOENCODER_UP else "silu",
        )
        for i, (width, dilation, bias) in enumerate(zip(channels, AUTOENCODER_DILATIONS, biases, strict=False))
    ]


@dataclass(frozen=True)
class StackFamily:
    """Published family of stacks.

    Attributes:
        describe: function that derives the layers from a checkpoint's weights and the list of its convolutions with a
            bias. The function returns no layers if the weights do not belong to this family.
        pattern: description of the family's checkpoints in error messages.
        compared: function that receives the number of layers and returns the indices of the compared layers.
        default: layers with the published numbers of channels, for pretraining from random weights.
    """

    describe: Callable[[Weights, Sequence[bool]], Sequence[ConvolutionLayer]]
    pattern: str
    compared: Callable[[int], Sequence[int]]
    default: Sequence[ConvolutionLayer]


FAMILIES: dict[str, StackFamily] = {
    "meshnet": StackFamily(
        _describe_meshnet,
        "convolutions of kernel size 3 with the dilations 16, 8, 4, 2 and 1 in turn, and a head of kernel size 1",
        lambda count: range(len(MESHNET_DILATIONS) - 1, count, len(MESHNET_DILATIONS)),
        make_meshnet([15] * 25, [False] * 25),
    ),
    "dilated_autoencoder": StackFamily(
        _describe_autoencoder,
        "17 convolutions of kernel size 3 (the 12th is transposed, of kernel size 2), and a head of kernel size 1",
        lambda count: AUTOENCODER_COMPARED,
        make_autoencoder([16] * 5 + [32] * 6 + [16] * 6, [True] * 17),
    ),
}


def _convert(description: StackDescription, files: Sequence[StateDict], subject: str) -> Conversion:
    """Converts the encoder's own state dict, or the convolutions of another network in their numbers' order.

    Convolutions of 1×1×1 after the described layers are the head and are dropped. All other tensors stay, so that the
    check against the architecture reports unexpected ones.
    """
    (tensors,) = files
    if all(_OWN_NAME.fullmatch(name) for name in tensors):
        return Conversion(dict(tensors), "dense")
    if any(name.endswith("running_mean") for name in tensors):
        raise _rejection("the network uses batch normalisation, which a stack does not support", subject)
    weights = find_convolutions(tensors, subject)
    names: dict[str, str] = {}
    head: list[str] = []
    for i, (module, weight) in enumerate(weights):
        parts = [f"{module}.weight", *([f"{module}.bias"] if f"{module}.bias" in tensors else [])]
        if i < len(description.layers):
            names |= {part: f"layers.{i}.convolution.{part.rpartition('.')[2]}" for part in parts}
        elif _is_pointwise(weight):
            head += parts
    state = {names.get(name, name): tensor for name, tensor in tensors.items() if name not in head}
    return Conversion(state, "convolution stack", {TASK_HEAD: head})


def _is_pointwise(weight: Tensor) -> bool:
    return tuple(weight.shape[2:]) == (1, 1, 1)


def _rejection(message: str, subject: str) -> BadCheckpoint:
    return BadCheckpoint(
        message,
        subject=subject,
        remedy=f"name another family with --as, or describe the layers: --as {FAMILY} --description FILE",
    )


def _make_default_name(family: StackFamily) -> str:
    compared = tuple(family.compared(len(family.default)))
    return encode_stack_name(StackDescription(layers=tuple(family.default), compared=compared, input=DEFAULT_INPUT))


ALIASES: dict[str, str] = {name: _make_default_name(family) for name, family in FAMILIES.items()}
"""Maps each family to the name of its architecture for pretraining, with published widths and the default input."""
