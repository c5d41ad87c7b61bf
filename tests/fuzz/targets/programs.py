"""Graphs of exported programs beside their weights: checked, and run where they are accepted.

Limits are lower than the service's, so that accepted programs run at once and kernels meet as many arguments as
possible.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from unittest import mock

import torch
from tests import hostile_programs
from tests.fuzz.harness import Target

from vfmalign.models.formats import program_constants, program_measurement
from vfmalign.models.formats.exported_program import build_exported
from vfmalign.models.formats.operators import ALLOWED_OPERATORS, TEXT_ARGUMENTS

_LIMITS = {"MAX_LIVE_BYTES": 2**26, "MAX_TOTAL_ELEMENTS": 2**24, "MAX_FLOPS": 10**8}


def run(data: bytes) -> None:
    """Loads a program and extracts features of an empty image."""
    with (
        mock.patch.multiple(program_measurement, **_LIMITS),
        mock.patch.object(program_constants, "MAX_INDEX_COST", 2**20),
    ):
        encoder = build_exported(hostile_programs.make_state(data), "m")
    shape = (1, encoder.in_channels, *encoder.shape_DHW)
    with torch.inference_mode():
        encoder.feature_maps(torch.zeros(shape))


def make_seeds() -> Mapping[str, bytes]:
    """Programs that are refused, and one that uses many operators."""
    seeds: dict[str, bytes] = {"valid": json.dumps(_make_valid()).encode()}
    for name, (nodes, _) in hostile_programs.make_arguments().items():
        if len(nodes) < 10:
            seeds[name] = json.dumps(hostile_programs.make_graph(*nodes)).encode()
    for name in ("empty.memory_format", "as_strided.default", "nonzero.default"):
        graph = hostile_programs.make_graph(*hostile_programs.make_operators("created")[name])
        seeds[name] = json.dumps(graph).encode()
    return seeds


def _make_valid() -> dict[str, object]:
    node, tensor = hostile_programs.node, hostile_programs.tensor
    image, scaled = tensor("x"), tensor("a")
    return hostile_programs.make_graph(
        node("relu.default", "a", self=image),
        node("upsample_nearest3d.vec", "b", input=scaled, output_size=[8, 16, 16], scale_factors=None),
        node("max_pool3d.default", "c", self=tensor("b"), kernel_size=[2, 2, 2]),
        node("avg_pool3d.default", "d", self=tensor("c"), kernel_size=[2, 2, 2], stride=[1, 1, 1], padding=[1, 1, 1]),
        node("pad.default", "e", self=scaled, pad=[1, 1, 1, 1], mode="constant", value=0.0),
        node("roll.default", "f", self=scaled, shifts=[1], dims=[2]),
        node("reshape.default", "g", self=scaled, shape=[1, 3, -1]),
        node("transpose.int", "h", self=tensor("g"), dim0=1, dim1=2),
        node("scaled_dot_product_attention.default", "i0", query=tensor("h"), key=tensor("h"), value=tensor("h")),
        node("layer_norm.default", "j", input=tensor("h"), normalized_shape=[3], weight=tensor("s")),
        node("group_norm.default", "k", input=scaled, num_groups=3),
        node("softmax.int", "l", self=tensor("h"), dim=-1),
        node("index_select.default", "m", self=image, dim=1, index=tensor("i")),
        node("cat.default", "n", tensors=["tensors", ["m", "a"]], dim=1),
        node("to.dtype", "o", self=scaled, dtype=["dtype", 7]),
        node("mean.dim", "p", self=scaled, dim=[2, 3], keepdim=True),
        node("arange.start_step", "q", start=0, end=6, step=2),
        node("einsum.default", "r", equation="bic,bjc->bij", tensors=["tensors", ["h", "h"]]),
        node("reshape.default", "u", self=tensor("w"), shape=[3, 2, 1, 1, 1]),
        node("conv_transpose3d.input", "v", input=image, weight=tensor("u"), stride=[2, 2, 2]),
    )


TARGET = Target(
    run,
    make_seeds,
    words=(
        *sorted({part for name in ALLOWED_OPERATORS for part in name.split(".")}),
        *TEXT_ARGUMENTS,
        "tensor",
        "value",
    ),
    is_json=True,
)
