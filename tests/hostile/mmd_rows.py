"""Rows for comparisons."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf.message import Message
from tests.hostile.row import Inputs, Row

from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.v1 import common_pb2, mmd_pb2

BATCH = "MmdService/ComputeBatch"
UPLOAD = "MmdService/CreateUpload"
ZEROS = "0" * 64
INVALID = "INVALID_ARGUMENT"
TENSOR = "x.inline.layers[0].features"


def features(seed: int = 0) -> common_pb2.Tensor:
    """Two rows of three channels."""
    return to_tensor(np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float32))


def inline(tensor: common_pb2.Tensor | None = None, **fields: Any) -> mmd_pb2.FeatureSource:
    """A sample of one layer."""
    layer = mmd_pb2.InlineLayer(features=features() if tensor is None else tensor)
    return mmd_pb2.FeatureSource(inline=mmd_pb2.InlineFeatures(**{"layers": [layer], **fields}))


def compute(name: str, names: str, code: str = INVALID, **fields: Any) -> Row:
    """A valid request of Compute with some fields replaced."""

    def build(inputs: Inputs) -> Message:
        values = {name: value(inputs) if callable(value) else value for name, value in fields.items()}
        defaults = {
            "x": inline(),
            "y": inline(features(1)),
            "pairing": mmd_pb2.PAIRING_PAIRED,
            "kernel": {"fixed_sigma": 1.0},
        }
        return mmd_pb2.ComputeRequest(**{**defaults, **values})

    return Row(name, "MmdService/Compute", build, code, names)


def tensor(**fields: Any) -> mmd_pb2.FeatureSource:
    """A sample whose tensor has some fields replaced."""
    values = {"data_type": common_pb2.DATA_TYPE_FLOAT32, "shape": [2, 3], "data": bytes(24), **fields}
    return inline(common_pb2.Tensor(**values))


def uploaded(uri: str | None = None, sha256: str | None = None, data: bytes = b"") -> Callable[[Inputs], Message]:
    """A sample that was uploaded; without a URI, its bytes are stored first."""

    def build(inputs: Inputs) -> Message:
        digest = hashlib.sha256(data).hexdigest()
        key = f"uploads/{digest}.safetensors"
        if uri is None:
            inputs.store.put(key, data)
        address = (
            inputs.store.uri(key)
            if uri is None
            else uri.replace("BUCKET", f"{inputs.store.bucket}/{inputs.store.tenant}")
        )
        ref = common_pb2.ObjectRef(uri=address, sha256=digest if sha256 is None else sha256)
        return mmd_pb2.FeatureSource(uploaded=mmd_pb2.UploadedFeatures(object=ref))

    return build


def safetensors(header: Any, content: bytes = b"") -> bytes:
    """A file with any header."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(data).to_bytes(8, "little") + data + content


def stored(feature_set: str, **fields: Any) -> mmd_pb2.FeatureSource:
    """A stored sample."""
    return mmd_pb2.FeatureSource(feature_set_id=feature_set, **fields)


NAN = np.full((2, 3), np.nan, np.float32).tobytes()
SPEC = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def upload(name: str, names: str, code: str = INVALID, **content: Any) -> Row:
    """A request for the URL of one file, with some fields replaced."""
    request = mmd_pb2.CreateUploadRequest(file={"sha256": ZEROS, "size_bytes": 1, **content})
    return Row(name, UPLOAD, lambda _: request, code, names)


ROWS = (
    upload("upload of 5 GiB", "VFMALIGN_MMD__MEMORY_MIB", "RESOURCE_EXHAUSTED", size_bytes=5 * 2**30),
    upload("upload of 2^62 bytes", "file.size_bytes", size_bytes=2**62),
    upload("upload of no bytes", "file.size_bytes", size_bytes=0),
    upload("upload of -1 bytes", "file.size_bytes", size_bytes=-1),
    upload("upload whose digest leaves its prefix", "file.sha256", sha256="../" * 20),
    upload("upload with a digest of 1 MiB", "file.sha256", sha256="a" * 2**20),
    Row("upload of nothing", UPLOAD, lambda _: mmd_pb2.CreateUploadRequest(), INVALID, "file"),
    compute("5.2 million labels for two rows", "x.inline.groups", x=inline(groups=["a"] * 5_200_000)),
    compute("first groups of pairs", "first_groups", first_groups=2),
    compute("more first groups than fit a field", "first_groups", first_groups=100_001),
    compute("three labels for two rows", "x.inline.groups", x=inline(groups=["a"] * 3)),
    compute("5.2 million cases for two rows", "y.inline.case_ids", y=inline(case_ids=["a"] * 5_200_000)),
    compute("empty label", "x.inline.groups[1]", x=inline(groups=["a", ""])),
    compute("label with NUL", "x.inline.groups[1]", x=inline(groups=["a", "\0"])),
    compute("label of 1 MiB", "x.inline.groups[0]", x=inline(groups=["a" * 2**20])),
    compute("one million empty layers", "x.inline.layers", x=inline(layers=[mmd_pb2.InlineLayer()] * 1_000_000)),
    compute("no layer", "x", x=inline(layers=[])),
    compute(
        "layer name of 1 MiB", "x.inline.layers[0].layer", x=inline(layers=[mmd_pb2.InlineLayer(layer="a" * 2**20)])
    ),
    Row("no samples", "MmdService/Compute", lambda _: mmd_pb2.ComputeRequest(), INVALID, "pairing"),
    compute("sample without source", "x", x=mmd_pb2.FeatureSource()),
    compute("shape of 7 axes", f"{TENSOR}.shape", x=tensor(shape=[1] * 7)),
    compute("shape of 4 million axes", f"{TENSOR}.shape", x=tensor(shape=[1] * 4_000_000)),
    compute("negative shape", f"{TENSOR}.shape[0]", x=tensor(shape=[-2, -3])),
    compute("shape of 2^62", f"{TENSOR}.shape[0]", x=tensor(shape=[2**62, 4])),
    compute("shape whose product overflows", f"{TENSOR}.data", x=tensor(shape=[2**24] * 6)),
    compute("shape with a zero", f"{TENSOR}.shape", x=tensor(shape=[0, 3], data=b"")),
    compute("no shape", f"{TENSOR}.shape", x=tensor(shape=[])),
    compute("one byte too few", f"{TENSOR}.data", x=tensor(data=bytes(23))),
    compute("unknown type 9", f"{TENSOR}.data_type", x=tensor(data_type=9)),
    compute("features of NaN", TENSOR, x=tensor(data=NAN)),
    compute("another number of channels", "y", x=tensor(shape=[3, 2])),
    compute("-5 frequencies", "frequencies", frequencies=-5, estimator=mmd_pb2.ESTIMATOR_RANDOM_FOURIER),
    compute("2^31 - 1 frequencies", "frequencies", frequencies=2**31 - 1, estimator=mmd_pb2.ESTIMATOR_RANDOM_FOURIER),
    compute("one frequency", "frequencies", frequencies=1, estimator=mmd_pb2.ESTIMATOR_RANDOM_FOURIER),
    compute("2^31 - 1 permutations", "test.permutations", test={"permutations": 2**31 - 1}),
    compute("-1 permutations", "test.permutations", test={"permutations": -1}),
    compute("σ of NaN", "kernel.fixed_sigma", kernel={"fixed_sigma": float("nan")}),
    compute("σ of 1e-300", "kernel.fixed_sigma", kernel={"fixed_sigma": 1e-300}),
    compute("negative σ", "kernel.fixed_sigma", kernel={"fixed_sigma": -1.0}),
    compute("unknown kernel 77", "kernel.family", kernel={"family": 77}),
    compute("unknown estimator -1", "estimator", estimator=-1),
    compute("unknown pairing 2^31 - 1", "pairing", pairing=2**31 - 1),
    compute("three million measures", "measures", measures=[1] * 3_000_000),
    compute("unspecified measure", "measures", measures=[0]),
    compute("level 7", "interval_level", interval_level=7.0),
    compute("unknown layer", "layers", layers=["x"]),
    compute("one million layers", "layers", layers=["x"] * 1_000_000),
    compute("id of a set that climbs", "x.feature_set_id", x=stored("../x")),
    compute("id of a set with NUL", "x.feature_set_id", x=stored("a\0")),
    compute("unknown set", "0" * 32, x=stored("0" * 32), code="NOT_FOUND"),
    compute(
        "manifest of another digest",
        "feature set",
        x=lambda known: stored(known.features, manifest_sha256="0" * 64),
        code="FAILED_PRECONDITION",
    ),
    compute(
        "manifest digest of letters", "x.manifest_sha256", x=lambda known: stored(known.features, manifest_sha256="x")
    ),
    compute("upload in another bucket", "x.uploaded.object.uri", x=uploaded("s3://other/uploads/x", "0" * 64)),
    compute("upload at a file URI", "x.uploaded.object.uri", x=uploaded("file:///etc/passwd", "0" * 64)),
    compute("upload with an empty segment", "x.uploaded.object.uri", x=uploaded("s3://BUCKET/uploads//x", "0" * 64)),
    compute("upload with a dot segment", "x.uploaded.object.uri", x=uploaded("s3://BUCKET/uploads/./x", "0" * 64)),
    compute("upload that climbs", "x.uploaded.object.uri", x=uploaded("s3://BUCKET/uploads/../x", "0" * 64)),
    compute(
        "upload at a key that begins with /", "x.uploaded.object.uri", x=uploaded("s3://BUCKET//uploads/x", "0" * 64)
    ),
    compute("upload at a prefix", "x.uploaded.object.uri", x=uploaded("s3://BUCKET/uploads/", "0" * 64)),
    compute("upload at a key with NUL", "x.uploaded.object.uri", x=uploaded("s3://BUCKET/uploads/a\0", "0" * 64)),
    compute("upload at a key of volumes", "x.uploaded.object.uri", x=uploaded("s3://BUCKET/volumes/x", "0" * 64)),
    compute("upload without digest", "x.uploaded.object.sha256", x=uploaded("s3://BUCKET/uploads/x", "")),
    compute("upload that does not exist", "uploads/x", x=uploaded("s3://BUCKET/uploads/x", "0" * 64), code="NOT_FOUND"),
    compute("upload of no bytes", "x.uploaded.object", x=uploaded(data=b"")),
    compute("upload of nested JSON", "x.uploaded.object", x=uploaded(data=safetensors(b"[" * 100_000))),
    compute("upload of a list", "x.uploaded.object", x=uploaded(data=safetensors([1]))),
    compute(
        "upload of integers",
        "x.uploaded.object",
        x=uploaded(data=safetensors({"a": {**SPEC, "dtype": "I64"}}, bytes(48))),
    ),
    compute(
        "upload of a negative shape", "x", x=uploaded(data=safetensors({"a": {**SPEC, "shape": [-2, -3]}}, bytes(24)))
    ),
    Row("batch of no pair", BATCH, lambda _: mmd_pb2.ComputeBatchRequest(), INVALID, "requests"),
    Row(
        "batch of one million pairs",
        BATCH,
        lambda _: mmd_pb2.ComputeBatchRequest(requests=[mmd_pb2.ComputeRequest()] * 1_000_000),
        INVALID,
        "requests",
    ),
    Row(
        "batch with an unknown value",
        BATCH,
        lambda _: mmd_pb2.ComputeBatchRequest(requests=[mmd_pb2.ComputeRequest(pairing=9)]),
        INVALID,
        "requests[0].pairing",
    ),
)
