"""Import of MONAI bundles.

A bundle contains a network of `monai.networks.nets`. Named submodules of the network are the layers.

The configuration of a bundle may name any Python object and contain expressions. The import treats the configuration as
data: one class of `monai.networks.nets`, and arguments that are numbers, strings, or lists and objects of these.
Everything else is rejected. The name of the architecture encodes the network, so that every reader of a model card, job
or manifest can build the network.

The MONAI Bundle Specification (docs.monai.io) defines the layout.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, JsonValue, StrictBool, StrictInt, StringConstraints, ValidationError
from torch import nn

from vfmalign.core.domain.errors import BadCheckpoint, BadOption, VfmalignError
from vfmalign.core.domain.models import Layer, Preprocessing
from vfmalign.core.domain.record import Record, canonical_json
from vfmalign.core.formats.untrusted import describe_failure, open_regular_file, read_json
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.architectures.upstream import Conversion
from vfmalign.models.encoder import StateDict
from vfmalign.models.formats.bounded_construction import bounded_construction
from vfmalign.models.formats.hooked_encoder import AXES, HookedEncoder
from vfmalign.models.weights import MAX_WEIGHTS_BYTES

PREFIX = "monai:"
NETWORK_KEYS = ("network_def", "network", "net")
MAX_CONFIG_BYTES = 2**20
WEIGHTS = ("model.safetensors", "model.pt", "model.pth")
REJECTED_ARGUMENT_PREFIXES = ("pretrain", "weights", "path", "progress")
"""Prefixes of the names of arguments that make MONAI's networks download or read files."""
REJECTED_NETWORKS = {"BertPreTrainedModel", "Transchex"}
"""Networks that download or read files regardless of their arguments."""
_NETS, _NETWORK = "monai.networks.nets", "network."
_ENCODERS = {"SwinTransformer": "swin_unetr", "SegResEncoder": "segresnet_ds"}
"""Encoders inside MONAI's networks, with their modules."""
_FUNCTIONS = {f"resnet{depth}" for depth in (10, 18, 34, 50, 101, 152, 200)}
"""Functions that build a network."""

_Range = Field(ge=-(2**16), le=2**16, allow_inf_nan=False)
Number = StrictBool | Annotated[StrictInt, Field(ge=-(2**16), le=2**16)] | Annotated[float, _Range]
Plain = Number | Annotated[str, StringConstraints(max_length=256)] | None
Items = Annotated[list[Plain], Field(max_length=64)]
Argument = Plain | Annotated[list[Plain | Items], Field(max_length=64)]
Options = dict[str, Argument]


class NetworkDefinition(Record):
    """Network that the name of a MONAI architecture encodes.

    The arguments of the network are numbers, strings, short lists and objects.

    Attributes:
        axes: see `HookedEncoder`.
        without: submodules that the network does not need for its layers, such as a head. They are removed.
    """

    net: str = Field(max_length=64)
    arguments: dict[str, Argument | Options | list[Argument | Options]] = Field(max_length=64)
    layers: tuple[Annotated[str, StringConstraints(max_length=256)], ...] = Field(max_length=256)
    input: Preprocessing
    # Left out by default, so that the names of earlier versions stay the same.
    axes: Annotated[str, StringConstraints(pattern=r"^[RLAPSI]{3}$")] = AXES
    without: tuple[Annotated[str, StringConstraints(max_length=64)], ...] = Field(default=(), max_length=8)


@dataclass(frozen=True)
class Bundle:
    """Architecture of a bundle and the path of its weights file."""

    architecture: Architecture
    weights: Path


def read_bundle(folder: Path, layers: Sequence[str], preprocessing: Preprocessing | None, subject: str) -> Bundle:
    """Reads the folder of a bundle.

    Args:
        folder: folder with `configs/metadata.json`, `configs/inference.json` and `models/`.
        layers: names of the submodules to compare.
        preprocessing: description of the network's input.
        subject: name of the bundle in errors.

    Raises:
        BadCheckpoint: a file is missing, or the configuration contains more than a MONAI network with plain arguments.
        BadOption: a layer is not a submodule, or the input does not fit the network.
    """
    inference, metadata = (
        _read_json(folder / "configs" / f"{name}.json", subject) for name in ("inference", "metadata")
    )
    network = next((inference[key] for key in NETWORK_KEYS if key in inference), None)
    if not isinstance(network, dict):
        raise _rejection(f"configs/inference.json has none of {', '.join(NETWORK_KEYS)}", subject)
    net, arguments = parse_network_definition(network, inference, subject)
    if preprocessing is None:
        raise BadOption(
            "a bundle does not state the grid of its network's input",
            field="input",
            remedy="set input.modalities, input.spacing_mm and input.shape_dhw by --set"
            + _format_stated_input(metadata),
        )
    architecture = decode_architecture_name(encode_architecture_name(net, arguments, layers, preprocessing))
    for name in WEIGHTS:
        try:
            open_regular_file(folder / "models" / name, MAX_WEIGHTS_BYTES).close()
            return Bundle(architecture, folder / "models" / name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _rejection(f"models/{name} cannot be read: {error.strerror}", subject) from None
    raise _rejection(f"models/ contains none of {', '.join(WEIGHTS)} (TorchScript is code and is not read)", subject)


def parse_network_definition(
    network: Mapping[str, object], config: Mapping[str, object], subject: str
) -> tuple[str, dict[str, object]]:
    """Extracts the class name and the arguments of the network from a configuration.

    A reference `@name` is replaced with the plain value that the configuration assigns to this name. Expressions
    (`$…`), other references and nested objects are rejected.
    """
    target = network.get("_target_")
    if not isinstance(target, str) or not (target.isidentifier() or target.startswith(f"{_NETS}.")):
        raise _rejection(f"the network is {str(target)[:96]!r}, not a class of {_NETS}", subject)
    arguments: dict[str, object] = {}
    for name, value in network.items():
        if name in {"_target_", "_desc_"}:
            continue
        if name.startswith("_"):
            raise _rejection(f"the network has the directive {name[:32]!r}", subject)
        arguments[name] = config.get(value[1:], value) if isinstance(value, str) and value.startswith("@") else value
    return target.rpartition(".")[2], arguments


def encode_architecture_name(
    net: str,
    arguments: Mapping[str, object],
    layers: Sequence[str],
    preprocessing: Preprocessing,
    *,
    axes: str = AXES,
    without: Sequence[str] = (),
) -> str:
    """Encodes a network as the name of its architecture. See `NetworkDefinition`."""
    definition: dict[str, object] = {
        "net": net,
        "arguments": dict(arguments),
        "layers": list(layers),
        "input": preprocessing.model_dump(mode="json"),
    }
    definition |= {"axes": axes} if axes != AXES else {}
    definition |= {"without": list(without)} if without else {}
    return PREFIX + canonical_json(definition).decode()


@lru_cache(maxsize=64)
def decode_architecture_name(name: str) -> Architecture:
    """Builds the architecture that a name encodes.

    Names also come from requests and job specs. The function therefore repeats every check of the import.

    Raises:
        BadCheckpoint: the name encodes more than a MONAI network with plain arguments, or MONAI rejects the arguments.
        BadOption: a layer is not a submodule, or does not return features.
    """
    try:
        definition = NetworkDefinition.model_validate_json(name.removeprefix(PREFIX))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))[:96]
        raise BadOption(
            f"{name[:64]!r} does not encode a network: {where} {str(problem['msg'])[:200]}",
            field="architecture",
            remedy="import the bundle again",
        ) from None
    net, arguments, layers = definition.net, definition.arguments, definition.layers
    preprocessing = definition.input
    make = partial(_instantiate, _get_network_class(net), arguments, definition.without)
    _check_plain(arguments, "the network")
    for argument in arguments:
        if argument.startswith(REJECTED_ARGUMENT_PREFIXES):
            raise _rejection(f"the argument {argument!r} makes the network read or download files", net)
    channels = len(preprocessing.modalities)

    size: Any = arguments.get("patch_size") if net == "ViT" else []
    patch = size if isinstance(size, list) else [size] * 3

    def build() -> HookedEncoder:
        return HookedEncoder(
            make(), layers, preprocessing.network_shape_dhw, channels, axes=definition.axes, patch=patch
        )

    with torch.device("meta"):
        network = make()
        if not layers:
            raise BadOption("no layer is named", field="layers", remedy=f"choose from {_format_submodules(network)}")
        unknown = [layer for layer in layers if layer not in dict(network.named_modules()) or not layer]
        if unknown:
            raise BadOption(
                f"{net} has no submodule {unknown[0][:64]!r}",
                field="layers",
                remedy=f"choose from {_format_submodules(network)}",
            )
        widths = build().layer_channels()
    return Architecture(
        name=name,
        build=build,
        preprocessing=preprocessing,
        layers=_describe_layers(layers, widths),
        primary_layer=layers[-1],
        convert=_convert,
    )


def _describe_layers(layers: Sequence[str], widths: Mapping[str, int]) -> tuple[Layer, ...]:
    try:
        return tuple(Layer(name=layer, channels=widths[layer]) for layer in layers)
    except ValidationError as error:
        raise BadOption(
            f"a layer exceeds a model card's limits: {error.errors(include_input=False, include_url=False)[0]['msg']}",
            field="layers",
            remedy="name layers that have channels",
        ) from None


def _convert(files: Sequence[StateDict], subject: str) -> Conversion:
    """Converts a state dict of the network or of the encoder."""
    (tensors,) = files
    if all(name.startswith(_NETWORK) for name in tensors):
        return Conversion(dict(tensors), "dense")
    return Conversion({_NETWORK + name: tensor for name, tensor in tensors.items()}, "MONAI bundle")


def _get_network_class(net: str) -> Callable[..., nn.Module]:
    module = f"{_NETS}.{_ENCODERS[net]}" if net in _ENCODERS else _NETS
    # Imported here: it takes seconds, and only bundles need it.
    found = getattr(import_module(module), net, None) if net.isidentifier() and not net.startswith("_") else None
    if net in _FUNCTIONS and inspect.isfunction(found):
        return found
    if (
        inspect.isclass(found)
        and issubclass(found, nn.Module)
        and found.__module__.startswith(_NETS)
        and found.__name__ not in REJECTED_NETWORKS
    ):
        return found
    raise _rejection(f"{net[:64]!r} is not a network of {_NETS}", PREFIX.rstrip(":"))


def _instantiate(make: Callable[..., nn.Module], arguments: Mapping[str, object], without: Sequence[str]) -> nn.Module:
    if "pretrained" in inspect.signature(make).parameters:  # True by default in some networks, which then download
        arguments = {**arguments, "pretrained": False}
    try:
        with bounded_construction():
            try:
                network = make(**arguments)
            except RuntimeError:
                if torch.get_default_device().type != "meta":
                    raise
                network = None
        if network is None:
            with bounded_construction(readable_ranges=True):
                network = make(**arguments)
        for name in without:
            network.set_submodule(name, nn.Identity(), strict=True)
        return network
    except VfmalignError:
        raise
    except Exception as error:  # MONAI's constructors raise many types on invalid arguments
        raise _rejection(f"MONAI rejects the arguments: {str(error)[:200]}", make.__name__) from error


def _check_plain(value: object, where: str) -> None:
    """Rejects everything except numbers, strings, null, and lists and objects of them."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name.startswith("_"):
                raise _rejection(f"{where} holds the directive {name[:32]!r}", "configuration")
            _check_plain(inner, f"{where}.{name[:32]}")
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, where)
    elif isinstance(value, str) and value[:1] in {"$", "@", "%"}:
        raise _rejection(f"{where} holds the expression or reference {value[:48]!r}", "configuration")


def _format_submodules(network: nn.Module) -> str:
    names = [name for name, _ in network.named_modules() if name and name.count(".") < 2]
    return ", ".join(names[:40]) + (" …" if len(names) > 40 else "")


def _read_json(path: Path, subject: str) -> dict[str, JsonValue]:
    try:
        content = read_json(path, MAX_CONFIG_BYTES)
    except FileNotFoundError:
        raise _rejection(f"configs/{path.name} does not exist", subject) from None
    except (OSError, ValueError) as error:
        raise _rejection(f"configs/{path.name} cannot be read as JSON: {describe_failure(error)}", subject) from None
    if not isinstance(content, dict):
        raise _rejection(f"configs/{path.name} is not a JSON object", subject)
    return content


def _format_stated_input(metadata: Mapping[str, Any]) -> str:
    """Returns the input that the metadata state, as a hint for the user."""
    try:
        image = metadata["network_data_format"]["inputs"]["image"]
        return f" (its metadata state {image['num_channels']} channels and a shape of {image['spatial_shape']})"
    except (KeyError, TypeError):
        return ""


def _rejection(message: str, subject: str) -> BadCheckpoint:
    return BadCheckpoint(
        message,
        subject=subject,
        remedy=f"give a bundle with a network of {_NETS}, plain values for it, and a state dict of its weights",
    )
