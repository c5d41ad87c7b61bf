"""Reader of `torch.export` archives (`.pt2`) that does not use torch's own loader.

torch's loader unpickles sample inputs and custom objects, evaluates expressions of symbolic shapes, and looks up
operators by dotted Python names. This module's reader treats a program as data. The weights of a program are raw bytes
with a declared shape and type. The graph of a program is a list of `torch.ops.aten` operators. Their arguments are
tensors and plain values. Everything else is rejected.

`program_check` checks the operators and the cost of a graph: once during the import, and again whenever the stored
program is loaded.

torch 2.9 and later versions write this format (torch/export/pt2_archive, schema version 8).
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.models.encoder import StateDict
from vfmalign.models.formats.operators import ASSERTIONS, DTYPES, FORMATS, TEXT_ARGUMENTS, find_operator
from vfmalign.models.formats.program_check import measure_layers
from vfmalign.models.formats.program_graph import PROGRAM, ProgramGraph, encode_graph, reject, validate_graph
from vfmalign.models.formats.program_interpreter import ProgramInterpreter
from vfmalign.models.weights import format_names

MAX_MODEL_BYTES = 32 * 2**20
"""Maximum size of the archive's graph in bytes. Its nodes also contain stack traces."""

_OPERATOR = re.compile(r"torch\.ops\.aten\.([a-z_][a-z0-9_]*)\.([A-Za-z0-9_]+)")
_PLAIN_KINDS = {"as_int", "as_float", "as_bool", "as_ints", "as_floats", "as_bools"}


def read_program(data: bytes, layers: Sequence[str], subject: str) -> StateDict:
    """Reads a `.pt2` archive.

    Args:
        data: content of the archive.
        layers: values of the graph or paths of submodules; empty for the program's outputs. The path of a submodule
            selects the last value that this submodule computes.
        subject: name of the program in errors.

    Returns:
        The weights by name, with real numbers as float32, and the graph under the name `program`.

    Raises:
        BadCheckpoint: the archive is damaged, or contains more than weights and a graph of ATen operators.
        BadOption: a layer is not a value of the graph.
    """
    entries = _read_entries(data, subject)
    model = _read_json_entry(entries, "models/model.json", subject)
    try:
        program, state = _convert(entries, model, layers, subject)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        # The reader indexes JSON from a foreign file without checking every level: a missing key or a wrong type means
        # that the archive does not follow the schema.
        raise reject("the archive does not follow torch's schema", subject) from error
    graph = validate_graph(program, subject)
    channels, strides = measure_layers(graph, state, subject)
    _run_once(graph, state, subject)
    declared = graph.model_copy(update={"channels": channels, "strides": tuple(strides.items())})
    return {**state, PROGRAM: encode_graph(declared)}


def _convert(
    entries: Mapping[str, bytes], model: Any, layers: Sequence[str], subject: str
) -> tuple[Mapping[str, object], StateDict]:
    """Converts the graph to the values of a `ProgramGraph`, and reads the weights."""
    module = model["graph_module"]
    graph, signature = module["graph"], module["signature"]
    image, weights, state = _read_inputs(entries, signature, subject)
    shape = [size.get("as_int") for size in graph["tensor_values"][image]["sizes"]]
    if len(shape) != 5 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise reject("the program's input is not an (N, C, D, H, W) tensor of fixed size", subject)
    if PROGRAM in state:
        raise reject(f"a weight is called {PROGRAM!r}", subject)
    nodes = _convert_nodes(graph, image, {value for value, _ in weights}, subject)
    resolved = [[name, value] for name, value in _resolve_layers(graph, signature, layers).items()]
    program = {"input": image, "input_shape": shape, "weights": weights, "nodes": nodes, "layers": resolved}
    return program, state


def _read_inputs(
    entries: Mapping[str, bytes], signature: Mapping[str, Any], subject: str
) -> tuple[str, list[list[str]], StateDict]:
    """Returns the image's value name, the weights' pairs of value name and weight name, and the weights' tensors."""
    weights: list[list[str]] = []
    state: StateDict = {}
    images: list[str] = []
    for spec in signature["input_specs"]:
        ((kind, content),) = spec.items()
        if kind == "user_input":
            images.append(content["arg"]["as_tensor"]["name"])
        elif kind in {"parameter", "buffer", "tensor_constant"}:
            name = content[f"{kind}_name"]
            weights.append([content["arg"]["name"], name])
            state[name] = _read_tensor(entries, name, subject)
        else:
            raise reject(f"the program takes a {kind[:32]!r}", subject)
    if len(images) != 1:
        raise reject(f"the program takes {len(images)} inputs instead of one image", subject)
    return images[0], weights, state


def _convert_nodes(graph: Mapping[str, Any], image: str, weights: set[str], subject: str) -> list[list[object]]:
    """Returns the graph's operators in order, each with its arguments and the names of its results."""
    # Every argument must be the result of an earlier node: the interpreter runs the nodes in this order.
    known = {image, *weights}
    nodes: list[list[object]] = []
    for node in graph["nodes"]:
        match = _OPERATOR.fullmatch(node["target"])
        if not match:
            raise reject(f"the graph calls {node['target'][:96]!r}, which is not allowed", subject)
        operator, overload = match[1], match[2]
        if f"{operator}.{overload}" in ASSERTIONS:
            continue
        find_operator(operator, overload, subject)
        arguments = [[a["name"], _encode_argument(a["name"], a["arg"], known, subject)] for a in node["inputs"]]
        results = [name for output in node["outputs"] for name in _result_names(output, subject)]
        nodes.append([operator, overload, arguments, results])
        known.update(results)
    return nodes


def _run_once(graph: ProgramGraph, state: StateDict, subject: str) -> None:
    """Runs the program on zeros, because some operators reject arguments only on the CPU, not on the meta device."""
    weights = {value: state[name] for value, name in graph.weights}
    with torch.inference_mode():
        values = {**weights, graph.input: torch.zeros(graph.input_shape)}
        ProgramInterpreter(graph, subject).run(values, torch.device("cpu"))


def _encode_argument(name: str, argument: Mapping[str, Any], known: set[str], subject: str) -> list[object]:
    """Encodes an argument as a JSON pair: its kind, such as `tensor` or `value`, and its name or plain value.

    `program_interpreter` decodes these pairs.
    """
    ((kind, content),) = argument.items()
    if kind == "as_tensor" and content["name"] in known:
        return ["tensor", content["name"]]
    if kind == "as_tensors" and all(item["name"] in known for item in content):
        return ["tensors", [item["name"] for item in content]]
    if kind == "as_none":
        return ["value", None]
    if kind == "as_optional_tensors":
        return ["optional", [_encode_argument(name, item, known, subject) for item in content]]
    if kind == "as_float" and not math.isfinite(float(content)):  # JSON cannot represent infinity
        return ["number", str(float(content))]
    plain = content if isinstance(content, list) else [content]
    if kind in _PLAIN_KINDS and all(isinstance(item, int | float) for item in plain):
        return ["value", content]
    if kind == "as_string" and name in TEXT_ARGUMENTS:
        return ["value", content]
    if kind == "as_scalar_type" and content in DTYPES:
        return ["dtype", content]
    if kind == "as_memory_format" and content in FORMATS:
        return ["format", content]
    if kind == "as_layout" and content == 7:  # strided, the default
        return ["value", None]
    if kind == "as_device":  # the device of the export is replaced by that of the input
        return ["device", None]
    raise reject(f"an operator's argument {name[:32]!r} is {kind[:32]!r}", subject)


def _result_names(output: Mapping[str, Any], subject: str) -> list[str]:
    """Returns the names of the values in one output of an operator."""
    ((kind, content),) = output.items()
    if kind == "as_tensor":
        return [str(content["name"])]
    if kind == "as_tensors":
        return [str(item["name"]) for item in content]
    if kind == "as_none":
        return [""]
    raise reject(f"an operator returns {kind[:32]!r}: export with a fixed input size", subject)


def _resolve_layers(graph: Mapping[str, Any], signature: Mapping[str, Any], layers: Sequence[str]) -> dict[str, str]:
    """Finds the values of the graph that belong to the names of layers."""
    values, modules = [], {}
    for node in graph["nodes"]:
        results = [name for output in node["outputs"] for name in _result_names(output, "")]
        values += results
        stack = node.get("metadata", {}).get("nn_module_stack", "")
        for entry in filter(None, stack.split(";")):
            path = entry.split(",")[1]
            if path and results:
                modules[path] = results[0]
    outputs = [s["user_output"]["arg"]["as_tensor"]["name"] for s in signature["output_specs"] if "user_output" in s]
    values_by_layer = {name: modules.get(name, name) for name in layers or outputs}
    if unknown := [name for name, value in values_by_layer.items() if value not in values]:
        raise BadOption(
            f"the program has no submodule and no value {unknown[0][:64]!r}",
            field="layers",
            remedy=f"choose from its submodules ({format_names([*modules])}) or its outputs ({format_names(outputs)})",
        )
    return values_by_layer


def _read_tensor(entries: Mapping[str, bytes], name: str, subject: str) -> Tensor:
    """Creates a weight from its raw bytes."""
    for folder, config in (("data/weights", "model_weights_config"), ("data/constants", "model_constants_config")):
        if f"{folder}/{config}.json" not in entries:
            continue
        listed = _read_json_entry(entries, f"{folder}/{config}.json", subject)["config"]
        if name not in listed:
            continue
        meta = listed[name]
        if meta["use_pickle"]:
            raise reject(f"the weight {name[:64]!r} is pickled", subject)
        tensor_meta = meta["tensor_meta"]
        shape, strides = ([int(n["as_int"]) for n in tensor_meta[key]] for key in ("sizes", "strides"))
        raw, dtype = entries[f"{folder}/{meta['path_name']}"], DTYPES[tensor_meta["dtype"]]
        flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        if math.prod(shape) > flat.numel():  # a view that repeats elements: a small file could fill the memory
            raise reject(f"the weight {name[:64]!r} is larger than its bytes", subject)
        tensor = flat.as_strided(shape, strides, int(tensor_meta["storage_offset"]["as_int"])).contiguous().clone()
        return tensor.float() if tensor.is_floating_point() else tensor
    raise reject(f"the weight {name[:64]!r} is not in the archive", subject)


def _read_entries(data: bytes, subject: str) -> dict[str, bytes]:
    """Reads the files of the archive. Strips the top folder from their names, and skips the pickled sample inputs."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [info for info in archive.infolist() if "/data/sample_inputs/" not in info.filename]
            # Uncompressed entries cannot exceed the size of the archive, so that a small file cannot fill the memory.
            if any(info.compress_type != zipfile.ZIP_STORED for info in files):
                raise reject("the archive is compressed, unlike the archives that torch writes", subject)
            return {info.filename.partition("/")[2]: archive.read(info) for info in files}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise reject("the file cannot be read as an archive", subject) from error


def _read_json_entry(entries: Mapping[str, bytes], name: str, subject: str) -> Any:
    if name not in entries:
        raise reject(f"the archive has no {name}", subject)
    try:
        return parse_json(entries[name], MAX_MODEL_BYTES)
    except ValueError as error:
        raise reject(f"{name} cannot be read as JSON: {error}", subject) from error
