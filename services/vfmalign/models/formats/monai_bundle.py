"""MONAI bundles: a network of `monai.networks.nets` with plain values, and named submodules as feature layers.

Knows a bundle's files and MONAI's networks; knows nothing of storage. A bundle's configuration may name any Python
object and hold expressions; here it is data: one class of `monai.networks.nets`, called with numbers, strings, lists
and objects of these, and everything else is refused. The architecture's name spells the network out, so that whoever
reads a model card, a job or a manifest can build it.

Source of the layout: MONAI Bundle Specification (docs.monai.io).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vfmalign.core.domain.artifacts import LayerSpec, Preprocessing, canonical_json
from vfmalign.core.domain.errors import BadCheckpoint, BadOption
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.architectures.upstream import Conversion, State
from vfmalign.models.formats.hooked import HookedEncoder

PREFIX = "monai:"
NETWORK_KEYS = ("network_def", "network", "net")
WEIGHTS = ("model.safetensors", "model.pt", "model.pth")
REFUSED_ARGUMENTS = ("pretrain", "weights_path", "progress")
"""Beginnings of argument names by which MONAI's networks download or read files of their own."""
_NETS, _NETWORK = "monai.networks.nets", "network."


@dataclass(frozen=True)
class Bundle:
    """A bundle, read: its architecture and the bytes of its weights."""

    architecture: Architecture
    weights: bytes


def read_bundle(folder: Path, layers: Sequence[str], preprocessing: Preprocessing | None, subject: str) -> Bundle:
    """Reads a bundle's folder.

    Args:
        folder: holds `configs/metadata.json`, `configs/inference.json` and `models/`.
        layers: names of the network's submodules.
        preprocessing: how the network wants its input.
        subject: how errors name the bundle.

    Raises:
        BadCheckpoint: a file is missing, or the configuration is more than a network of MONAI with plain values.
        BadOption: a layer is no submodule, or the input does not fit the network.
    """
    inference, metadata = (_json(folder / "configs" / f"{name}.json", subject) for name in ("inference", "metadata"))
    network = next((inference[key] for key in NETWORK_KEYS if key in inference), None)
    if not isinstance(network, dict):
        raise _refused(f"configs/inference.json has none of {', '.join(NETWORK_KEYS)}", subject)
    net, arguments = network_of(network, inference, subject)
    if preprocessing is None:
        raise BadOption(
            "a bundle does not say on which grid its network works",
            field="input",
            remedy="give --modalities, --spacing and --shape" + _stated_input(metadata),
        )
    architecture = architecture_of(name_of(net, arguments, layers, preprocessing))
    for name in WEIGHTS:
        if (path := folder / "models" / name).is_file():
            return Bundle(architecture, path.read_bytes())
    raise _refused(f"models/ holds none of {', '.join(WEIGHTS)} (TorchScript is code and is not read)", subject)


def network_of(network: Mapping[str, Any], config: Mapping[str, Any], subject: str) -> tuple[str, dict[str, Any]]:
    """The class's name and its arguments, from a configuration's network definition.

    `@name` is replaced by the configuration's own plain value; expressions (`$…`), other references and nested objects
    are refused.
    """
    target = network.get("_target_")
    if not isinstance(target, str) or not (target.isidentifier() or target.startswith(f"{_NETS}.")):
        raise _refused(f"the network is {str(target)[:96]!r}, not a class of {_NETS}", subject)
    arguments = {}
    for name, value in network.items():
        if name in {"_target_", "_desc_"}:
            continue
        if name.startswith("_"):
            raise _refused(f"the network has the directive {name[:32]!r}", subject)
        refers = isinstance(value, str) and value.startswith("@")
        arguments[name] = config.get(value[1:], value) if refers else value
    return target.rpartition(".")[2], arguments


def name_of(net: str, arguments: Mapping[str, Any], layers: Sequence[str], preprocessing: Preprocessing) -> str:
    """The architecture's name, which spells the network out."""
    definition = {
        "net": net,
        "arguments": dict(arguments),
        "layers": list(layers),
        "input": preprocessing.model_dump(mode="json"),
    }
    return PREFIX + canonical_json(definition).decode()


@lru_cache(maxsize=64)
def architecture_of(name: str) -> Architecture:
    """The architecture that a name spells out.

    Raises:
        BadCheckpoint: it asks for more than a network of MONAI with plain values, or MONAI refuses the values.
        BadOption: a layer is no submodule, or gives no features.
    """
    try:
        definition = json.loads(name.removeprefix(PREFIX))
        net, arguments, layers = definition["net"], definition["arguments"], definition["layers"]
        preprocessing = Preprocessing.model_validate(definition["input"])
    except (ValueError, KeyError, TypeError) as error:  # pydantic's errors are ValueErrors
        raise BadOption(f"{name[:64]!r} spells out no network", field="architecture") from error
    cls = _class_of(net)
    _check_plain(arguments, "the network")
    for argument in arguments:
        if argument.startswith(REFUSED_ARGUMENTS):
            raise _refused(f"the argument {argument!r} makes the network read or download files", net)
    if not layers:
        raise BadOption(
            "no layer is named", field="layers", remedy=f"choose from {_submodules(_built(cls, arguments))}"
        )
    channels = len(preprocessing.modalities)

    def build() -> HookedEncoder:
        return HookedEncoder(_built(cls, arguments), layers, preprocessing.shape_DHW, channels)

    with torch.device("meta"):
        network = _built(cls, arguments)
        unknown = [layer for layer in layers if layer not in dict(network.named_modules()) or not layer]
        if unknown:
            raise BadOption(
                f"{net} has no submodule {unknown[0][:64]!r}",
                field="layers",
                remedy=f"choose from {_submodules(network)}",
            )
        widths = build().layer_channels()
    return Architecture(
        name=name,
        build=build,
        preprocessing=preprocessing,
        layers=tuple(LayerSpec(name=layer, channels=widths[layer]) for layer in layers),
        primary_layer=layers[-1],
        convert=_convert,
    )


def _convert(files: Sequence[State], subject: str) -> Conversion:
    """The network's own state dict, or the encoder's."""
    (tensors,) = files
    if all(name.startswith(_NETWORK) for name in tensors):
        return Conversion(dict(tensors), "dense")
    return Conversion({_NETWORK + name: tensor for name, tensor in tensors.items()}, "MONAI bundle")


def _class_of(net: str) -> type[nn.Module]:
    import monai.networks.nets  # takes seconds, and only bundles need it

    cls = getattr(monai.networks.nets, net, None) if net.isidentifier() and not net.startswith("_") else None
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module) and cls.__module__.startswith(_NETS)):
        raise _refused(f"{net[:64]!r} is no network of {_NETS}", PREFIX.rstrip(":"))
    return cls


def _built(cls: type[nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        try:
            return cls(**arguments)
        except (NotImplementedError, RuntimeError):
            if torch.get_default_device().type != "meta":
                raise
        # Some of MONAI's networks read numbers back while they are built, which the meta device has not.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            return cls(**arguments).to("meta")
    except Exception as error:  # MONAI's constructors raise anything on values that do not fit
        raise _refused(f"MONAI refuses the arguments: {str(error)[:200]}", cls.__name__) from error


def _check_plain(value: Any, where: str) -> None:
    """Numbers, strings, null, and lists and objects of them; no directive, reference or expression."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name.startswith("_"):
                raise _refused(f"{where} holds the directive {name[:32]!r}", "configuration")
            _check_plain(inner, f"{where}.{name[:32]}")
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, where)
    elif isinstance(value, str) and value[:1] in {"$", "@", "%"}:
        raise _refused(f"{where} holds the expression or reference {value[:48]!r}", "configuration")


def _submodules(network: nn.Module) -> str:
    names = [name for name, _ in network.named_modules() if name and name.count(".") < 2]
    return ", ".join(names[:40]) + (" …" if len(names) > 40 else "")


def _json(path: Path, subject: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _refused(f"there is no configs/{path.name}", subject) from None
    except (OSError, ValueError) as error:
        raise _refused(f"configs/{path.name} is no readable JSON", subject) from error
    if not isinstance(content, dict):
        raise _refused(f"configs/{path.name} is no JSON object", subject)
    return content


def _stated_input(metadata: Mapping[str, Any]) -> str:
    """What the metadata says of the input, for the user to decide by."""
    try:
        image = metadata["network_data_format"]["inputs"]["image"]
        return f" (its metadata state {image['num_channels']} channels and a shape of {image['spatial_shape']})"
    except (KeyError, TypeError):
        return ""


def _refused(message: str, subject: str) -> BadCheckpoint:
    return BadCheckpoint(
        message,
        subject=subject,
        remedy=f"give a bundle with a network of {_NETS}, plain values for it, and a state dict of its weights",
    )
