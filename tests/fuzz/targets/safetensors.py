"""Weights in safetensors: the file of a published model, or one that a user imports."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from tests.fuzz.harness import Target

from vfmalign.core.domain.models import Preprocessing
from vfmalign.models.architectures.dilated_stack import ConvolutionLayer, StackDescription
from vfmalign.models.formats.checkpoint import import_checkpoint
from vfmalign.models.formats.stack_checkpoint import encode_stack_name
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import load_state, random_state, to_safetensors

_INPUT = Preprocessing(modalities=("input",), spacing_mm=None, shape_dhw=(4, 4, 4))
_ARCHITECTURE = get_architecture(
    encode_stack_name(StackDescription(layers=(ConvolutionLayer(channels=2),), compared=(0,), input=_INPUT))
)


def run(data: bytes) -> None:
    """Reads the weights of a model, then the same file as a foreign checkpoint."""
    try:
        load_state(data, _ARCHITECTURE)
    finally:
        if data[8:9] == b"{":
            import_checkpoint([data], _ARCHITECTURE)


def make_seeds() -> Mapping[str, bytes]:
    """Valid weights, and headers whose offsets, shapes or types are wrong."""
    valid = to_safetensors(random_state(_ARCHITECTURE, 0))
    headers = {
        "large_shape": {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
        "overlap": {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"},
        "beyond_the_end": {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
        "negative_shape": {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        "unknown_type": {"a": {"dtype": "F3", "shape": [2], "data_offsets": [0, 8]}},
        "half_bytes": {"a": {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}},
        "metadata": {"__metadata__": {"format": 3}},
    }
    seeds = {name: _file(json.dumps(header).encode(), bytes(8)) for name, header in headers.items()}
    return seeds | {
        "valid": valid,
        "other_types": to_safetensors({"a": torch.zeros(2, dtype=torch.bool), "b": torch.zeros(2, dtype=torch.int8)}),
        "empty": b"",
        "truncated": valid[:40],
        "long_header": _file(b"[" * 4096, b""),
    }


def _file(header: bytes, content: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + content


TARGET = Target(
    run, make_seeds, words=("F32", "F64", "BF16", "I64", "BOOL", "F8_E4M3", "dtype", "shape", "data_offsets")
)
