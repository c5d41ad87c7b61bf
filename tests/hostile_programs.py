"""Programs that someone with access to the bucket could store, each with what the error about it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vfmalign.core.domain.models import Layer, ModelCard, Preprocessing
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.storage.keys import model_card_key, weights_key
from vfmalign.models.formats.exported_program import ARCHITECTURE
from vfmalign.models.formats.program_graph import PROGRAM
from vfmalign.models.weights import to_safetensors

INPUT = Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=(3.75, 1.75, 1.75), shape_dhw=(4, 8, 8))
Node = list[Any]


def tensor(name: str) -> list[Any]:
    return ["tensor", name]


def value(content: Any) -> list[Any]:
    return ["value", content]


def node(operator: str, result: str = "y", **arguments: Any) -> Node:
    """An operator with its overload; arguments that are not encoded are plain values."""
    name, overload = operator.rsplit(".", 1)
    encoded = [
        [k, v if isinstance(v, list) and v[:1] and isinstance(v[0], str) else value(v)] for k, v in arguments.items()
    ]
    return [name, overload, encoded, [result]]


def make_graph(*nodes: Node, **changes: Any) -> dict[str, Any]:
    """A program that adds the last node's result `y` to a convolution of its image `x` with its weight `w`."""
    last = node("conv3d.default", "out", input=tensor("x"), weight=tensor("w"))
    graph = {
        "input": "x",
        "input_shape": [1, 3, 4, 8, 8],
        "weights": [["w", "w"], ["i", "i"], ["s", "s"]],
        "nodes": [*nodes, last],
        "layers": [["out", "out"]],
        "channels": {"out": 2},
        "strides": [["out", [1, 1, 1]]],
    }
    return graph | changes


def make_state(graph: Mapping[str, Any] | bytes, **tensors: Tensor) -> dict[str, Tensor]:
    """Weights, an index and statistics, with a graph beside them."""
    text = graph if isinstance(graph, bytes) else json.dumps(graph).encode()
    weights = {"w": torch.ones(2, 3, 1, 1, 1), "i": torch.tensor([0, 1]), "s": torch.ones(3)}
    return weights | tensors | {PROGRAM: torch.tensor(list(text), dtype=torch.uint8)}


def store_program(store: Any, model_id: str, state: Mapping[str, Tensor]) -> None:
    """Writes a card and weights straight into the bucket, without any check."""
    data = to_safetensors(state)
    sha256 = hashlib.sha256(data).hexdigest()
    ref = store.put(weights_key(model_id, sha256), data)
    card = ModelCard(
        id=model_id,
        architecture=ARCHITECTURE,
        objective="supervised",
        checkpoint=StoredObject(key=ref.key, sha256=sha256),
        preprocessing=INPUT,
        layers=(Layer(name="out", channels=2),),
        primary_layer="out",
    )
    store.put(model_card_key(model_id), card.to_json())


def make_operators(target: Path) -> dict[str, list[Node]]:
    """Operators that are not allowed; `target` is a file that one of them would create."""
    image, some = tensor("x"), [4, 8]
    nodes = [
        node("from_file.default", filename=str(target), shared=True, size=1024),
        node("empty.memory_format", size=some),
        node("empty_like.default", self=image),
        node("new_empty.default", self=image, size=some),
        node("empty_strided.default", size=some, stride=some),
        node("new_empty_strided.default", self=image, size=some, stride=some),
        node("empty_permuted.default", size=some, physical_layout=[0, 1]),
        node("resize_.default", self=image, size=[2**20]),
        node("resize.default", self=image, size=[2**20]),
        node("set_.source_Tensor", self=image, source=tensor("w")),
        node("as_strided.default", self=image, size=[8], stride=[2**20]),
        node("as_strided_.default", self=image, size=[8], stride=[2**20]),
        node("rand.default", size=some),
        node("randn_like.default", self=image),
        node("bernoulli.default", self=image),
        node("nonzero.default", self=image),
        node("_local_scalar_dense.default", self=image),
        node("masked_select.default", self=image, mask=image),
        node("index_put_.default", self=image, indices=["tensors", ["i"]], values=image),
        node("native_batch_norm.default", input=image, training=False, momentum=0.1, eps=1e-5),
        node("gather.default", self=image, dim=0, index=tensor("i")),
        node("add.out", self=image, other=image, out=tensor("w")),
        node("view.dtype", self=image, dtype=["dtype", 5]),
        node("record_stream.default", self=image, s=0),
        node("_print.default", s="text"),
        node("cond.default", pred=image),
        node("relu.__class__", self=image),
        node("__class__.mro", self=image),
        node("os.system", command="true"),
        node("torch_library.default", self=image),
    ]
    return {
        f"{name}.{overload}": [[name, overload, arguments, results]] for name, overload, arguments, results in nodes
    }


def make_arguments() -> dict[str, tuple[list[Node], str]]:
    """Allowed operators with arguments or shapes that are not allowed, and the words of the error."""
    image, index = tensor("x"), ["tensors", ["i"]]
    batch_norm = {"weight": None, "bias": None, "momentum": 0.1, "eps": 1e-5, "cudnn_enabled": False}
    large = node("zeros.default", "z", size=[2**13, 2**13])
    products = [
        node("mm.default", f"m{n}", self=tensor("z" if n == 0 else f"m{n - 1}"), mat2=tensor("z")) for n in range(64)
    ]
    kept = [node("zeros.default", f"k{n}", size=[2**28]) for n in range(4)]
    return {
        "dropout": ([node("dropout.default", input=image, p=0.5, train=True)], "must have train False"),
        "attention-dropout": (
            [node("scaled_dot_product_attention.default", query=image, key=image, value=image, dropout_p=0.1)],
            "must have dropout_p 0.0",
        ),
        "statistics": (
            [
                node(
                    "batch_norm.default",
                    input=image,
                    running_mean=tensor("s"),
                    running_var=tensor("s"),
                    training=True,
                    **batch_norm,
                )
            ],
            "must have training False",
        ),
        "instance-statistics": (
            [
                node(
                    "instance_norm.default",
                    input=image,
                    running_mean=tensor("s"),
                    running_var=tensor("s"),
                    use_input_stats=True,
                    **batch_norm,
                )
            ],
            "changes a weight or the image",
        ),
        "changed-weight": ([node("relu_.default", self=tensor("w"))], "aten.relu_.default changes a weight"),
        "changed-view": (
            [
                node("reshape.default", "v", self=tensor("w"), shape=[-1]),
                node("add_.Tensor", self=tensor("v"), other=tensor("v")),
            ],
            "aten.add_.Tensor changes a weight",
        ),
        "changed-image": (
            [node("mul_.Scalar", self=image, other=2.0)],
            "aten.mul_.Scalar changes a weight or the image",
        ),
        "index-out-of-range": (
            [
                node("mul.Scalar", "j", self=tensor("i"), other=100),
                node("index.Tensor", self=image, indices=["tensors", ["j"]]),
            ],
            "aten.index.Tensor takes an index outside of its 1 elements",
        ),
        "negative-index": (
            [
                node("sub.Scalar", "j", self=tensor("i"), other=5),
                node("embedding.default", weight=tensor("s"), indices=tensor("j")),
            ],
            "aten.embedding.default takes an index outside|does not run",
        ),
        "index-of-the-image": (
            [
                node("to.dtype", "j", self=image, dtype=["dtype", 5]),
                node("sum.default", "k", self=tensor("j")),
                node("index.Tensor", self=image, indices=["tensors", ["k"]]),
            ],
            "aten.index.Tensor takes an index that depends on the image",
        ),
        "index-changed-in-place": (
            [
                node("zeros.default", "j", size=[3], dtype=["dtype", 5]),
                node("fill_.Scalar", "k", self=tensor("j"), value=100),
                node("index.Tensor", self=image, indices=["tensors", ["j"]]),
            ],
            "aten.index.Tensor takes an index that depends on the image",
        ),
        "mask": (
            [
                node("gt.Scalar", "j", self=tensor("s"), other=0),
                node("index.Tensor", self=tensor("s"), indices=["tensors", ["j"]]),
            ],
            "aten.index.Tensor",
        ),
        "slow-index": (
            [
                node("zeros.default", "z", size=[2**28], dtype=["dtype", 5]),
                node("select.int", "j", self=tensor("z"), dim=0, index=0),
                node("index_select.default", self=image, dim=0, index=tensor("j")),
            ],
            "computing the indices of the graph takes too long",
        ),
        "large-tensor": ([node("zeros.default", size=[2**30])], "aten.zeros.default makes a tensor of 4096 MiB"),
        "large-view": (
            [
                node("expand.default", "e", self=tensor("s"), size=[2**20, 2**20, 3]),
                node("sum.default", self=tensor("e")),
            ],
            "aten.expand.default makes a tensor of",
        ),
        "overflowing-shape": ([node("zeros.default", size=[2**31, 2**31, 2**31])], "does not run: aten.zeros.default"),
        "large-padding": (
            [node("pad.default", self=image, pad=[2**31, 2**31, 2**31, 2**31], mode="constant")],
            "aten.pad.default",
        ),
        "kept-memory": (
            [*kept, node("cat.default", tensors=["tensors", [f"k{n}" for n in range(4)]])],
            "aten.zeros.default needs more than 3072 MiB of memory",
        ),
        "products": ([large, *products], "aten.mm.default computes more than an encoder may need"),
        "elements": (
            [large, *[node("add.Tensor", f"a{n}", self=tensor("z"), other=tensor("z")) for n in range(2000)]],
            "aten.add.Tensor computes more than an encoder may need",
        ),
        "scale": (
            [node("upsample_nearest3d.vec", input=image, output_size=[4, 8, 8], scale_factors=[1e-300] * 3)],
            "aten.upsample_nearest3d.vec has an argument 'scale_factors' that is not allowed",
        ),
        "empty-input": (
            [node("slice.Tensor", "e", self=image, dim=0, start=0, end=0), node("sum.default", self=tensor("e"))],
            "aten.sum.default makes values from an empty tensor",
        ),
        "complex": (
            [node("zeros.default", size=[4], dtype=["dtype", 10])],
            "aten.zeros.default has an argument 'dtype' that is not allowed",
        ),
        "text": (
            [node("pad.default", self=image, pad=[1, 1], mode="/etc/passwd")],
            "aten.pad.default has an argument 'mode' that is not allowed",
        ),
        "infinity": (
            [node("add.Scalar", self=image, other=1, alpha=["number", "inf"])],
            "aten.add.Scalar has an argument 'alpha' that is not allowed",
        ),
        "pinned": ([node("zeros.default", size=[4], pin_memory=True)], "aten.zeros.default must have pin_memory"),
        "unknown-argument": (
            [node("relu.default", self=image, out=tensor("w"))],
            "aten.relu.default has an argument twice",
        ),
        "missing-argument": ([node("relu.default")], "does not run: aten.relu.default"),
        "missing-value": (
            [node("relu.default", self=tensor("never"))],
            "aten.relu.default takes 'never', which no earlier",
        ),
        "two-meanings": ([node("relu.default", "w", self=image)], "the value 'w' is made twice"),
        "many-results": ([["relu", "default", [["self", image]], ["a", "b"]]], "aten.relu.default returns 1 tensors"),
        "index": ([node("index.Tensor", self=image, indices=index)], "takes an index outside of its 1 elements"),
    }


def make_graphs() -> dict[str, tuple[dict[str, Any] | bytes, str]]:
    """Graphs that are wrong as a whole, and the words of the error."""
    copies = [node("relu.default", f"r{n}", self=tensor("x")) for n in range(10_000)]
    nested = b'{"input": ' + b"[" * 100_000
    return {
        "many-nodes": (make_graph(*copies), "the graph is not valid: nodes"),
        "nested": (nested, "the graph is not valid"),
        "no-json": (b"\x80\x04.", "the graph is not valid"),
        "shape-of-zero": (make_graph(input_shape=[1, 3, 0, 8, 8]), "the graph is not valid: input_shape.2"),
        "symbolic-shape": (make_graph(input_shape=[1, 3, "s0", 8, 8]), "the graph is not valid: input_shape.2"),
        "huge-shape": (make_graph(input_shape=[1, 3, 2**62, 8, 8]), "the graph is not valid: input_shape.2"),
        "huge-image": (make_graph(input_shape=[1, 3, 2**20, 2**20, 2**20]), "takes an image of .* which is too large"),
        "other-input": (
            make_graph(input_shape=[1, 3, 4, 8, 16]),
            "or the layers of the program differ from its card",
        ),
        "other-channels": (make_graph(channels={"out": 3}), "declares other channels or strides"),
        "layer-is-weight": (make_graph(layers=[["out", "w"]]), "no operator makes the layer 'w'"),
        "long-layer": (
            make_graph(layers=[["o" * 200, "out"]], channels={"o" * 200: 2}, strides=[["o" * 200, [1, 1, 1]]]),
            "the graph is not valid: layers.0.0",
        ),
        "no-layer": (make_graph(layers=[]), "the graph is not valid: layers"),
        "other-weights": (make_graph(weights=[["w", "w"]]), "the weights do not match the names in the graph"),
        "subgraph": (make_graph(subgraphs={}), "the graph is not valid: subgraphs"),
    }
