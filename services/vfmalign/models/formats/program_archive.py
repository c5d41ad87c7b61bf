"""`.pt2` archives of `torch.export`, read without torch's own loader.

That loader unpickles sample inputs and custom objects, evaluates the expressions of symbolic shapes and looks operators
up by dotted Python names. Here a program is data: its weights are raw bytes of stated shape and type, its graph a list
of `torch.ops.aten` operators called with tensors and plain values; everything else is refused.

Knows the archive's form, that of torch 2.9 and later (torch/export/pt2_archive, schema version 8); knows nothing of
storage.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vfmalign.core.domain.artifacts import canonical_json
from vfmalign.core.domain.errors import BadCheckpoint, BadOption
from vfmalign.models.checkpoints import State, some
from vfmalign.models.formats.exported_program import DTYPES, FORMATS, PROGRAM, ExportedEncoder
from vfmalign.models.formats.hooked import as_map, stride_of

MAX_GRAPH_BYTES = 64 * 2**20

_OPERATOR = re.compile(r"torch\.ops\.aten\.([a-z_][a-z0-9_]*)\.([A-Za-z0-9_]+)")
# ATen's operators that reach beyond tensors: files, printing, storage that others own.
_REFUSED = ("from_file", "_print", "set_", "record_stream", "_pin_memory", "resize_", "_resize", "_copy_from")
# Strings are names of modes, of a few arguments only: no operator here takes a path or code.
_STRINGS = {"approximate", "rounding_mode", "mode", "padding", "padding_mode", "indexing"}
_PLAIN = {"as_int", "as_float", "as_bool", "as_ints", "as_floats", "as_bools"}


def read_program(data: bytes, layers: Sequence[str], subject: str) -> State:
    """Reads a `.pt2` archive.

    Args:
        data: the archive.
        layers: values of the graph, or paths of submodules, whose last value is then meant; the program's outputs where
            empty.
        subject: how errors name it.

    Returns:
        The weights by their own names, float32 where they are real numbers, and the graph under `program`.

    Raises:
        BadCheckpoint: the archive is damaged, or holds more than weights and a graph of ATen operators.
        BadOption: a layer is no value of the graph.
    """
    entries = _entries(data, subject)
    model = _json_entry(entries, "models/model.json", subject)
    try:
        return _read(entries, model, layers, subject)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise _refused("the program is not of a form that is known here", subject) from error


def _read(entries: Mapping[str, bytes], model: Any, layers: Sequence[str], subject: str) -> State:
    module = model["graph_module"]
    graph, signature = module["graph"], module["signature"]
    weights: list[list[str]] = []
    state: State = {}
    inputs = []
    for spec in signature["input_specs"]:
        ((kind, content),) = spec.items()
        if kind == "user_input":
            inputs.append(content["arg"]["as_tensor"]["name"])
        elif kind in {"parameter", "buffer", "tensor_constant"}:
            name = content[f"{kind}_name"]
            weights.append([content["arg"]["name"], name])
            state[name] = _tensor(entries, name, subject)
        else:
            raise _refused(f"the program takes a {kind[:32]!r}", subject)
    if len(inputs) != 1:
        raise _refused(f"the program takes {len(inputs)} inputs, not one image", subject)
    shape = [size.get("as_int") for size in graph["tensor_values"][inputs[0]]["sizes"]]
    if len(shape) != 5 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise _refused("the program's input is no (N, C, D, H, W) of fixed size", subject)
    names = {value for value, _ in weights}
    known = {inputs[0], *names}
    nodes = []
    for node in graph["nodes"]:
        operator, overload = _operator(node["target"], subject)
        arguments = [[a["name"], _argument(a["name"], a["arg"], known, subject)] for a in node["inputs"]]
        if operator.endswith("_") and arguments and arguments[0][1] in [["tensor", name] for name in names]:
            raise _refused(f"the graph changes a weight ({operator}): export it in evaluation mode", subject)
        results = [name for output in node["outputs"] for name in _results(output, subject)]
        if results:  # what returns nothing only asserts
            nodes.append([operator, overload, arguments, results])
            known.update(results)
    if PROGRAM in state:
        raise _refused(f"a weight is called {PROGRAM!r}", subject)
    chosen = [[name, value] for name, value in _layers(graph, signature, layers).items()]
    program = {"input": inputs[0], "input_shape": shape, "weights": weights, "nodes": nodes, "layers": chosen}
    return _proven(program, state, subject)


def _proven(program: dict[str, Any], state: State, subject: str) -> State:
    """Runs the program once, and notes what its layers give."""
    shape = program["input_shape"]
    encoder = ExportedEncoder({**state, PROGRAM: _text({**program, "channels": {}, "strides": []})})
    try:
        with torch.inference_mode():
            outputs = encoder.outputs(torch.zeros(shape))
    except Exception as error:  # whatever an operator raises on arguments that do not fit it
        raise _refused(f"the program does not run: {str(error)[:200]}", subject) from error
    channels = {layer: as_map(output, layer).shape[1] for layer, output in outputs.items()}
    strides = [[layer, stride_of(output, shape[2:])] for layer, output in outputs.items()]
    noted = {"channels": channels, "strides": [one for one in strides if one[1] is not None]}
    return {**state, PROGRAM: _text({**program, **noted})}


def _text(program: Mapping[str, Any]) -> Tensor:
    return torch.frombuffer(bytearray(canonical_json(program)), dtype=torch.uint8)


def _operator(target: str, subject: str) -> tuple[str, str]:
    found = _OPERATOR.fullmatch(target)
    if not found or found[1].startswith(_REFUSED):
        raise _refused(f"the graph calls {target[:96]!r}", subject)
    if not hasattr(getattr(torch.ops.aten, found[1], None), found[2]):
        raise _refused(f"this torch has no operator {target[:96]!r}", subject)
    return found[1], found[2]


def _argument(name: str, argument: Mapping[str, Any], known: set[str], subject: str) -> Any:
    """An argument as JSON: what it is, such as `tensor` or `value`, and its name or plain value; see `_value`."""
    ((kind, content),) = argument.items()
    if kind == "as_tensor" and content["name"] in known:
        return ["tensor", content["name"]]
    if kind == "as_tensors" and all(one["name"] in known for one in content):
        return ["tensors", [one["name"] for one in content]]
    if kind == "as_none":
        return ["value", None]
    if kind == "as_optional_tensors":
        return ["optional", [_argument(name, one, known, subject) for one in content]]
    if kind == "as_float" and not math.isfinite(float(content)):  # JSON has no infinity
        return ["number", str(float(content))]
    plain = content if isinstance(content, list) else [content]
    if kind in _PLAIN and all(isinstance(one, int | float) and math.isfinite(one) for one in plain):
        return ["value", content]
    if kind == "as_string" and name in _STRINGS and re.fullmatch("[a-z_]{1,24}", content):
        return ["value", content]
    if kind == "as_scalar_type" and content in DTYPES:
        return ["dtype", content]
    if kind == "as_memory_format" and content in FORMATS:
        return ["format", content]
    if kind == "as_layout" and content == 7:
        return ["value", None]
    if kind == "as_device":
        return ["device", None]
    raise _refused(f"an operator's argument {name[:32]!r} is {kind[:32]!r}", subject)


def _results(output: Mapping[str, Any], subject: str) -> list[str]:
    """Names of the values that one output of an operator becomes."""
    ((kind, content),) = output.items()
    if kind == "as_tensor":
        return [str(content["name"])]
    if kind == "as_tensors":
        return [str(one["name"]) for one in content]
    if kind == "as_none":
        return [""]
    raise _refused(f"an operator returns {kind[:32]!r}: export with a fixed input size", subject)


def _layers(graph: Mapping[str, Any], signature: Mapping[str, Any], layers: Sequence[str]) -> dict[str, str]:
    """Layer names to the values that they mean."""
    values, modules = [], {}
    for node in graph["nodes"]:
        results = [name for output in node["outputs"] for name in _results(output, "")]
        values += results
        stack = node.get("metadata", {}).get("nn_module_stack", "")
        for entry in filter(None, stack.split(";")):
            path = entry.split(",")[1]
            if path and results:
                modules[path] = results[0]
    outputs = [s["user_output"]["arg"]["as_tensor"]["name"] for s in signature["output_specs"] if "user_output" in s]
    chosen = {name: modules.get(name, name) for name in layers or outputs}
    if unknown := [name for name, value in chosen.items() if value not in values]:
        raise BadOption(
            f"the program has no submodule and no value {unknown[0][:64]!r}",
            field="layers",
            remedy=f"choose from its submodules ({some(list(modules))}) or its outputs ({some(outputs)})",
        )
    return chosen


def _tensor(entries: Mapping[str, bytes], name: str, subject: str) -> Tensor:
    """A weight from its raw bytes."""
    for folder, config in (("data/weights", "model_weights_config"), ("data/constants", "model_constants_config")):
        if f"{folder}/{config}.json" not in entries:
            continue
        listed = _json_entry(entries, f"{folder}/{config}.json", subject)["config"]
        if name not in listed:
            continue
        meta = listed[name]
        if meta["use_pickle"]:
            raise _refused(f"the weight {name[:64]!r} is pickled", subject)
        tensor_meta = meta["tensor_meta"]
        shape, strides = ([int(n["as_int"]) for n in tensor_meta[key]] for key in ("sizes", "strides"))
        raw, dtype = entries[f"{folder}/{meta['path_name']}"], DTYPES[tensor_meta["dtype"]]
        flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        if math.prod(shape) > flat.numel():  # a view that repeats elements: a small file could fill the memory
            raise _refused(f"the weight {name[:64]!r} is larger than its bytes", subject)
        tensor = flat.as_strided(shape, strides, int(tensor_meta["storage_offset"]["as_int"])).contiguous().clone()
        return tensor.float() if tensor.is_floating_point() else tensor
    raise _refused(f"the weight {name[:64]!r} is not in the archive", subject)


def _entries(data: bytes, subject: str) -> dict[str, bytes]:
    """The archive's files without its top folder; sample inputs, which are pickled, are not even read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [info for info in archive.infolist() if "/data/sample_inputs/" not in info.filename]
            if any(info.compress_type != zipfile.ZIP_STORED for info in files):
                raise _refused("the archive is compressed, which torch's are not", subject)
            return {info.filename.partition("/")[2]: archive.read(info) for info in files}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise _refused("the file is no readable archive", subject) from error


def _json_entry(entries: Mapping[str, bytes], name: str, subject: str) -> Any:
    if name not in entries:
        raise _refused(f"the archive has no {name}", subject)
    if len(entries[name]) > MAX_GRAPH_BYTES:
        raise _refused(f"{name} is larger than {MAX_GRAPH_BYTES} bytes", subject)
    try:
        return json.loads(entries[name])
    except ValueError as error:
        raise _refused(f"{name} is no JSON", subject) from error


def _refused(message: str, subject: str) -> BadCheckpoint:
    return BadCheckpoint(
        message,
        subject=subject,
        remedy="export the encoder alone with torch 2.9 or later, in evaluation mode, for one input of fixed size",
    )
