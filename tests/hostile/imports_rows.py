"""Rows for imports of datasets and models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from tests.hostile.row import Inputs, Row
from tests.hostile.token_rows import ISSUER
from tests.hostile_programs import make_graph, make_state, node

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.rpc.access.authorisation import ROLES
from vfmalign.core.storage.datasets import to_datalist as to_stored
from vfmalign.core.storage.keys import volume_key
from vfmalign.core.storage.uploads import UploadArea
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state, to_safetensors
from vfmalign.v1 import common_pb2, features_pb2
from vfmalign.v1 import imports_pb2 as pb

SIGN, PUBLISH = "DatasetService/CreateDatasetUploads", "DatasetService/PublishDataset"
SIGN_MODEL, PUBLISH_MODEL = "ModelService/CreateModelUploads", "ModelService/PublishModel"
INVALID, MISSING = "INVALID_ARGUMENT", "UPLOAD_MISSING"
ZEROS = "0" * 64
OTHERS = (f"Bearer {ISSUER.sign(*sorted(ROLES - {'curator'}), sub='eve')}",)
"""The header of somebody with every role but the one that imports."""


def sign(name: str, names: str, import_id: str = "i", **content: Any) -> Row:
    """A request for the URL of one file, with some fields replaced."""
    file = common_pb2.FileContent(**{"sha256": ZEROS, "size_bytes": 1, **content})
    request = pb.CreateDatasetUploadsRequest(import_id=import_id, files=[file])
    return Row(name, SIGN, lambda _: request, INVALID, names)


def upload(inputs: Inputs, data: bytes) -> str:
    """Stores a file as an upload of the owner; returns its digest."""
    sha256 = hashlib.sha256(data).hexdigest()
    inputs.store.put(UploadArea(inputs.store, f"{ISSUER.issuer}#owner", "i").key(sha256), data)
    return sha256


def publish(name: str, names: str, datalist: Callable[[Inputs], bytes], code: str = INVALID) -> Row:
    """A dataset to publish whose datalist was uploaded."""

    def build(inputs: Inputs) -> Message:
        sha256 = upload(inputs, datalist(inputs))
        return pb.PublishDatasetRequest(import_id="i", dataset_id="new", datalist_sha256=sha256)

    return Row(name, PUBLISH, build, code, names)


def publish_model(name: str, names: str, weights: bytes, code: str = INVALID, **fields: Any) -> Row:
    """A model to publish whose weights were uploaded."""

    def build(inputs: Inputs) -> Message:
        request = {"import_id": "i", "model_id": "new", "architecture": "profound_conv_micro", "objective": 2}
        return pb.PublishModelRequest(**{**request, "weights_sha256": upload(inputs, weights), **fields})

    return Row(name, PUBLISH_MODEL, build, code, names)


def to_datalist(volume: Callable[[Inputs], bytes]) -> Callable[[Inputs], bytes]:
    """A datalist of one case, whose T2-weighted volume has these bytes."""

    def build(inputs: Inputs) -> bytes:
        ref = StoredObject(key=volume_key("new", "c", "t2w"), sha256=upload(inputs, volume(inputs)))
        case = Case(id="c", group="g", volumes={"t2w": ref})
        return canonical_json(to_stored(DatasetManifest(id="new", train=(case,))))

    return build


def to_rules(selections: str) -> Callable[[Inputs], bytes]:
    """A datalist without cases that has these rules for DICOM."""
    content = to_stored(DatasetManifest(id="new")) | {"selections": selections}
    return lambda _: canonical_json(content)


WEIGHTS = to_safetensors(random_state(ARCHITECTURES["profound_conv_micro"], 0))
PROGRAM = to_safetensors(make_state(make_graph(node("from_file.default", filename="/etc/passwd"))))
PREPROCESSING = features_pb2.Preprocessing(
    modalities=["t2w", "dwi", "adc"], shape_dhw=[4, 8, 8], normalisation="zscore_nonzero"
)
LAYERS = ("../x", "a//b", "a\u202eb", "a\\b", "..", "a b")


def publish_network(name: str, names: str, **changed: object) -> Row:
    """A ResNet to publish, with some members of its architecture replaced."""
    preprocessing = {"modalities": ["input"], "shape_dhw": [32, 32, 32]}
    network = {"net": "resnet10", "arguments": {"n_input_channels": 1}, "layers": ["layer1"], "input": preprocessing}
    return publish_model(name, names, PROGRAM, architecture="monai:" + json.dumps(network | changed))


def publish_layer(name: str) -> Row:
    """A program to publish that has a layer of this name."""
    graph = make_graph(layers=[[name, "out"]], channels={name: 2}, strides=[[name, [1, 1, 1]]])
    weights, title = to_safetensors(make_state(graph)), f"program with the layer {name!a}"
    return publish_model(title, "layers", weights, architecture="torch_export", preprocessing=PREPROCESSING)


ROWS = (
    publish("rules that are no JSON", "not JSON", to_rules("{")),
    publish("rules nested 100,000 deep", "not JSON", to_rules("[" * 100_000)),
    publish("rules of 1 MiB", "not a datalist", to_rules("x" * 2**20)),
    publish("rules about nothing", "has no selection for", to_rules("[]")),
    publish("rules with a name for a number", "dataset new", to_rules('[{"name": {"a": 1}}]')),
    publish_model("declaration nested 100,000 deep", "declaration", WEIGHTS, declaration="[" * 100_000),
    publish_model(
        "declaration without rules", "declaration", WEIGHTS, declaration='{"name": "x", "modalities": ["t2w"]}'
    ),
    publish_model("declaration of 1 MiB", "declaration", WEIGHTS, declaration="x" * 2**20),
    sign("import id that climbs", "import_id", "../models"),
    sign("import id of 1 MiB", "import_id", "a" * 2**20),
    sign("file without a size", "files[0].size_bytes", size_bytes=0),
    sign("file of -1 bytes", "files[0].size_bytes", size_bytes=-1),
    sign("file of 8 EiB", "files[0].size_bytes", size_bytes=2**63 - 1),
    sign("file whose digest is a path", "files[0].sha256", sha256="../" * 21 + "a"),
    Row(
        "one million files",
        SIGN,
        lambda _: pb.CreateDatasetUploadsRequest(import_id="i", files=[common_pb2.FileContent()] * 1_000_000),
        INVALID,
        "files",
    ),
    Row("no files", SIGN, lambda _: pb.CreateDatasetUploadsRequest(import_id="i"), INVALID, "files"),
    Row(
        "weights of more than 4 GiB",
        SIGN_MODEL,
        lambda _: pb.CreateModelUploadsRequest(import_id="i", weights={"sha256": ZEROS, "size_bytes": 2**32 + 1}),
        "RESOURCE_EXHAUSTED",
        "VFMALIGN_FEATURES__MAX_WEIGHTS_BYTES",
    ),
    Row(
        "uploads without the role",
        SIGN,
        lambda _: pb.CreateDatasetUploadsRequest(import_id="i", files=[{"sha256": ZEROS, "size_bytes": 1}]),
        "PERMISSION_DENIED",
        "MISSING_ROLE",
        (),
        OTHERS,
    ),
    Row(
        "publication without the role",
        PUBLISH,
        lambda _: pb.PublishDatasetRequest(import_id="i", dataset_id="new", datalist_sha256=ZEROS),
        "PERMISSION_DENIED",
        "MISSING_ROLE",
        (),
        OTHERS,
    ),
    Row(
        "datalist that was not uploaded",
        PUBLISH,
        lambda _: pb.PublishDatasetRequest(import_id="i", dataset_id="new", datalist_sha256=ZEROS),
        "FAILED_PRECONDITION",
        MISSING,
    ),
    Row(
        "dataset id that climbs",
        PUBLISH,
        lambda _: pb.PublishDatasetRequest(import_id="i", dataset_id="../models", datalist_sha256=ZEROS),
        INVALID,
        "dataset_id",
    ),
    publish("datalist of nested JSON", "not JSON", lambda _: b"[" * 100_000),
    publish("datalist of zeros", "not JSON", lambda _: bytes(100)),
    publish("datalist of a number", "datalist", lambda _: b"7"),
    publish("datalist in another order", "canonical", lambda inputs: b" " + to_datalist(lambda _: b"x")(inputs)),
    publish(
        "datalist with the keys of another dataset",
        "do not match its id",
        lambda inputs: to_datalist(lambda _: b"x")(inputs).replace(b"volumes/new/", b"volumes/phantoms/"),
    ),
    publish("volume of text", "c/t2w", to_datalist(lambda _: b"hello")),
    publish("volume with bytes behind its end", "c/t2w", to_datalist(lambda inputs: inputs.study["t2w"] * 2)),
    Row(
        "weights that were not uploaded",
        PUBLISH_MODEL,
        lambda _: pb.PublishModelRequest(
            import_id="i", model_id="new", weights_sha256=ZEROS, architecture="profound_conv_micro", objective=2
        ),
        "FAILED_PRECONDITION",
        MISSING,
    ),
    publish_model("weights of text", "not safetensors", b"hello"),
    publish_model("weights of a pickle", "not safetensors", b"cos\nsystem\n(S'id'\ntR."),
    publish_model("weights with a header of 8 EiB", "not safetensors", b"\xff" * 7 + b"\x7f" + bytes(8)),
    publish_model(
        "program that reads files", "from_file", PROGRAM, architecture="torch_export", preprocessing=PREPROCESSING
    ),
    publish_model("program without an input", "preprocessing", PROGRAM, architecture="torch_export"),
    *map(publish_layer, LAYERS),
    publish_model("licence that is a text", "licence", PROGRAM, licence="see the file \u202e"),
    publish_model("licence of 1 MiB", "licence", PROGRAM, licence="a" * 2**20),
    publish_model("tensors below zero", "tensors.dropped", PROGRAM, tensors={"dropped": -1}),
    publish_model("2³¹ tensors", "tensors.loaded", PROGRAM, tensors={"loaded": 2**31 - 1}),
    publish_network("network without what it needs", "does not take an input", without=["conv1"]),
    publish_network("network that removes a path", "MONAI rejects", without=["../conv1"]),
    publish_network("network with axes of two bodies", "axes", axes="RLS"),
    publish_model("unknown architecture", "none", PROGRAM, architecture="none"),
    publish_model("architecture of 1 MiB", "architecture", PROGRAM, architecture="monai:" + "a" * 2**20),
    publish_model("model id that climbs", "model_id", PROGRAM, model_id="../datasets"),
    publish_model(
        "input of 100000³ voxels",
        "preprocessing.shape_dhw",
        PROGRAM,
        preprocessing={"modalities": ["t2w"], "shape_dhw": [100_000] * 3, "normalisation": "zscore_nonzero"},
    ),
    publish_model(
        "patches of one voxel",
        "preprocessing",
        PROGRAM,
        preprocessing={"modalities": ["t2w"], "shape_dhw": [256] * 3, "patch_shape_dhw": [1] * 3},
    ),
)
