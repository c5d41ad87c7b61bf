"""Rows for the contents of volumes, model cards and uploaded arrays."""

from __future__ import annotations

import gzip
import json
from typing import Any

import nibabel
import numpy as np
from google.protobuf.message import Message
from tests.hostile.features_rows import extract, unreadable_card
from tests.hostile.mmd_rows import compute, safetensors, uploaded
from tests.hostile.row import Inputs, Row

from vfmalign.v1 import features_pb2 as pb

FIELD = "x.uploaded.object"
NUMBERS = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def nifti(shape: tuple[int, ...], spacing_mm: tuple[float, float, float] = (1.0, 1.0, 3.0), **fields: Any) -> bytes:
    """A compressed file of zeros with some fields of the header replaced."""
    plain = nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.diag([*spacing_mm, 1.0])).to_bytes()
    header = nibabel.Nifti1Header(plain[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    return gzip.compress(bytes(header.binaryblock) + plain[348:], mtime=0)


def volume(name: str, names: str, data: bytes) -> Row:
    """A study whose ADC holds these bytes."""
    return extract(name, names, {"adc": data})


def card(name: str, names: str, **change: Any) -> Row:
    """A request of GetModel for a model whose card is valid but for its input or layers."""
    preprocessing = {"modalities": ["t2w"], "spacing_mm": [3.0, 1.0, 1.0], "shape_dhw": [16, 64, 64]} | change
    content = {
        "id": "broken",
        "architecture": "profound_conv_micro",
        "objective": "random",
        "checkpoint": {"key": "models/broken/x.safetensors", "sha256": "0" * 64},
        "preprocessing": {name: value for name, value in preprocessing.items() if name != "layers"},
        "layers": change.get("layers", [{"name": "stages.3", "channels": 128}]),
        "primary_layer": "stages.3",
    }
    return unreadable_card(name, names, json.dumps(content).encode(), "FAILED_PRECONDITION")


def large_upload(inputs: Inputs) -> Message:
    """64 MiB behind a header that declares a single row."""
    return uploaded(data=safetensors({"a": NUMBERS}, bytes(2**26)))(inputs)


ROWS = (
    volume("volume of 6000 slices", "study.volumes[2]: declares 6000 slices", nifti((8, 8, 6000), (1.0, 1.0, 0.05))),
    volume(
        "volume of 16 m", "study.volumes[2]: the field of view spans 16000 mm", nifti((4, 4, 320), (1.0, 1.0, 50.0))
    ),
    volume("volume of 100,000 gzip members", "more than 1024 gzip members", gzip.compress(b"", mtime=0) * 100_000),
    volume("volume of 2^45 voxels", "study.volumes[2]: declares", nifti((4, 4, 4), dim=[3] + [32767] * 3 + [1] * 4)),
    volume("Analyze 7.5 file", "study.volumes[2]: an Analyze 7.5 header", nifti((4, 4, 4), magic=b"")),
    volume("header of a .hdr/.img pair", ".hdr/.img pair", nifti((4, 4, 4), magic=b"ni1")),
    volume(
        "volume of no scale", "study.volumes[2]: damaged NIfTI header", nifti((4, 4, 4), scl_slope=1, scl_inter=np.inf)
    ),
    volume("volume of 1e30 bytes before the voxels", "data offset", nifti((4, 4, 4), vox_offset=1e30)),
    card("card of 100,000 cubed voxels", "broken: ", shape_dhw=[100_000] * 3),
    card("card of 2^62 rows", "shape_dhw", shape_dhw=[16, 2**62, 64]),
    card("card of a NaN spacing", "spacing_mm", spacing_mm=[float("nan"), 1.0, 1.0]),
    card("card of spacing 1e-300", "spacing_mm", spacing_mm=[1e-300, 1.0, 1.0]),
    card("card of 2^62 channels", "channels", layers=[{"name": "stages.3", "channels": 2**62}]),
    card("card of 10,000 layers", "layers", layers=[{"name": "stages.3", "channels": 1}] * 10_000),
    Row("list beside an invalid card", "FeatureService/ListModels", lambda _: pb.ListModelsRequest(), "OK"),
    compute("upload of 64 MiB behind one row", FIELD, x=large_upload),
    compute(
        "upload with a gap", FIELD, x=uploaded(data=safetensors({"a": NUMBERS | {"data_offsets": [8, 32]}}, bytes(32)))
    ),
    compute(
        "upload whose arrays overlap", FIELD, x=uploaded(data=safetensors({"a": NUMBERS, "b": NUMBERS}, bytes(24)))
    ),
    compute(
        "upload of three axes", FIELD, x=uploaded(data=safetensors({"a": NUMBERS | {"shape": [1, 6, 1]}}, bytes(24)))
    ),
    compute("upload whose header is longer than itself", FIELD, x=uploaded(data=(2**62).to_bytes(8, "little"))),
)
