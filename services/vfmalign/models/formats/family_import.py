"""Import of a public encoder by the entry of its family.

The import strips prefixes, renames tensors, drops the tensors that the entry allows, derives the network from the
shapes, and keeps the encoder alone. Every other difference between the file and the network is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from vfmalign.core.domain.errors import BadCheckpoint, BadOption
from vfmalign.core.domain.models import Preprocessing
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.architectures.upstream import Conversion
from vfmalign.models.encoder import StateDict
from vfmalign.models.formats.checkpoint import ConvertedCheckpoint, Source, finish_conversion, read_tensors
from vfmalign.models.formats.families import FAMILIES, Family
from vfmalign.models.formats.monai_bundle import encode_architecture_name
from vfmalign.models.weights import format_names, random_state

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""Prefixes that training loops put before every name."""


class ImportedFamily(NamedTuple):
    """Result of an import: the family, how it was recognised, the network, its input and its weights."""

    name: str
    reason: str
    architecture: Architecture
    input: Preprocessing
    checkpoint: ConvertedCheckpoint


def import_family(
    source: Source,
    name: str,
    adjust: Callable[[Preprocessing], Preprocessing],
    find: Callable[[str], Architecture],
    subject: str,
) -> ImportedFamily:
    """Imports the encoder of a public checkpoint.

    Args:
        source: the file.
        name: name of the family; empty to recognise it.
        adjust: applies the user's changes to the family's default input.
        find: looks up an architecture by name (`registry.get_architecture`).
        subject: name of the checkpoint in errors.

    Raises:
        BadCheckpoint: the file cannot be read safely, or does not fit the family.
        BadOption: the file belongs to no family, or the network cannot process the input.
    """
    tensors, other_entries = read_tensors(source, subject)
    tensors, wrapper = _strip_wrappers(tensors)
    name, prefix = _recognise(tensors, name, subject)
    family, shown = FAMILIES[name], ", ".join(f"{wrapper}{prefix}{key}" for key in FAMILIES[name].keys)
    state, dropped = _select(family, prefix, tensors, name, subject)
    preprocessing = adjust(family.input)
    try:
        network = family.describe({key: tuple(tensor.shape) for key, tensor in state.items()}, preprocessing)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        problem = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise BadCheckpoint(
            f"the file does not fit {name} ({family.networks}): {problem[:300]}",
            subject=subject,
            remedy="import a file of this family, or the network as a MONAI bundle (docs/models.md)",
        ) from None
    if network.layers:
        net, arguments, layers, without = network
        architecture = find(
            encode_architecture_name(net, arguments, layers, preprocessing, axes=family.axes, without=without)
        )
        state = {f"network.{key}": tensor for key, tensor in state.items()}
    else:
        architecture = find(network.net)
    initialised = _initialise(family, architecture, state)
    _check_multiple(architecture, preprocessing)
    conversion = Conversion(state, name, dropped, initialised)
    checkpoint = finish_conversion(conversion, architecture, other_entries, subject)
    return ImportedFamily(name, f"the file has {shown}", architecture, preprocessing, checkpoint)


def _strip_wrappers(tensors: StateDict) -> tuple[StateDict, str]:
    stripped = ""
    while wrapper := next((one for one in WRAPPERS if all(name.startswith(one) for name in tensors)), ""):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
        stripped += wrapper
    return tensors, stripped


def _recognise(tensors: StateDict, name: str, subject: str) -> tuple[str, str]:
    """Returns the name of the family, and the prefix of the encoder's tensors."""
    for candidate in [name] if name else FAMILIES:
        for prefix in FAMILIES[candidate].prefixes:
            if all(prefix + key in tensors for key in FAMILIES[candidate].keys):
                return candidate, prefix
    found = format_names(list(tensors))
    if name:
        keys = " and ".join(FAMILIES[name].keys)
        raise BadCheckpoint(
            f"the file is not a {name}: expected tensors {keys}, found {found}",
            subject=subject,
            remedy="leave out --as to let vfmalign recognise the family",
        )
    raise BadOption(
        f"the file belongs to no family of public encoders (it has {found}), and contains only weights",
        field="architecture",
        remedy="name its architecture or family with --as (`vfmalign models families`); --layers belongs to MONAI "
        "bundles and exported programs",
    )


def _select(
    family: Family, prefix: str, tensors: StateDict, name: str, subject: str
) -> tuple[StateDict, dict[str, list[str]]]:
    """Returns the encoder's tensors under MONAI's names, and the names of the dropped tensors by reason.

    Tensors that the entry does not mention stay, so that the check against the architecture reports them.
    """
    state: StateDict = {}
    dropped: dict[str, list[str]] = {}
    for full, tensor in tensors.items():
        key = full.removeprefix(prefix)
        for pattern, replacement in family.renames:
            key = re.sub(pattern, replacement, key)
        if why := _find_reason(family.dropped, key):
            dropped.setdefault(why, []).append(full)
        elif key in state:
            raise BadCheckpoint(
                f"two tensors of the file are {key[:96]} of {name}", subject=subject, remedy="save the network once"
            )
        else:
            state[key] = tensor
    return state, dropped


def _find_reason(reasons: Mapping[str, str], key: str) -> str:
    return next((why for pattern, why in reasons.items() if re.fullmatch(pattern, key)), "")


def _initialise(family: Family, architecture: Architecture, state: StateDict) -> dict[str, list[str]]:
    """Adds the tensors that may be missing. Returns their names by reason.

    Adds nothing if the file does not fit otherwise: a small file could describe a network that fills the memory.
    """
    initialised: dict[str, list[str]] = {}
    for key, expected in architecture.build_empty().state_dict().items():
        if key in state and state[key].shape == expected.shape:
            continue
        why = "" if key in state else _find_reason(family.missing, key.removeprefix("network."))
        if not why:
            return {}
        initialised.setdefault(why, []).append(key)
    if initialised:
        drawn = random_state(architecture, 0)
        state.update({key: drawn[key] for keys in initialised.values() for key in keys})
    return initialised


def _check_multiple(architecture: Architecture, preprocessing: Preprocessing) -> None:
    encoder = architecture.build_empty()
    multiple = encoder.input_multiple() if encoder.dense_layers() else (1, 1, 1)
    shape, channels = preprocessing.network_shape_dhw, len(preprocessing.modalities)
    if any(side % step for side, step in zip(shape, multiple, strict=True)) or channels != encoder.in_channels:
        raise BadOption(
            f"the network does not take an input of {[channels, *shape]}",
            field="input",
            remedy=f"set {encoder.in_channels} modalities, and a size that is a multiple of {list(multiple)}",
        )
