"""Rows for extraction, models and datasets."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from tests.hostile.row import Inputs, Row

from vfmalign.core.rpc.page_tokens import PageTokens
from vfmalign.v1 import common_pb2
from vfmalign.v1 import features_pb2 as pb

GET_MODEL = "FeatureService/GetModel"
INVALID = "INVALID_ARGUMENT"


def extract(name: str, names: str, replaced: dict[str, bytes] | None = None, code: str = INVALID, **fields: Any) -> Row:
    """A valid request of Extract with some volumes or fields replaced."""

    def build(inputs: Inputs) -> Message:
        volumes = inputs.study | (replaced or {})
        study = pb.Study(volumes=[pb.StudyVolume(modality=name, nifti=data) for name, data in volumes.items()])
        return pb.ExtractRequest(**{"model_id": "micro", "study": study, **fields})

    return Row(name, "FeatureService/Extract", build, code, names)


def extract_dataset(name: str, names: str, code: str = INVALID, **fields: Any) -> Row:
    """A valid request of ExtractDataset with some fields replaced."""
    request = {"model_id": "micro", "dataset_id": "phantoms", "split": common_pb2.SPLIT_TEST, **fields}
    return Row(name, "FeatureService/ExtractDataset", lambda _: pb.ExtractDatasetRequest(**request), code, names)


def stored(name: str, names: str, uri: str, sha256: str = "0" * 64, code: str = INVALID) -> Row:
    """A request of Extract whose volume is an object."""

    def build(inputs: Inputs) -> Message:
        ref = common_pb2.ObjectRef(
            uri=uri.replace("BUCKET", f"{inputs.store.bucket}/{inputs.store.tenant}"), sha256=sha256
        )
        volumes = [pb.StudyVolume(modality="t2w", stored=ref)]
        volumes += [pb.StudyVolume(modality=name, nifti=inputs.study[name]) for name in ("dwi", "adc")]
        return pb.ExtractRequest(model_id="micro", study=pb.Study(volumes=volumes))

    return Row(name, "FeatureService/Extract", build, code, names)


def model(name: str, names: str, model_id: str, code: str = INVALID) -> Row:
    """A request of GetModel."""
    return Row(name, GET_MODEL, lambda _: pb.GetModelRequest(model_id=model_id), code, names)


def unreadable_card(name: str, names: str, data: bytes, code: str) -> Row:
    """A request of GetModel for a model whose card holds these bytes."""

    def build(inputs: Inputs) -> Message:
        inputs.store.put("models/broken/model.json", data)
        return pb.GetModelRequest(model_id="broken")

    return Row(name, GET_MODEL, build, code, names)


URI = "study.volumes[0].stored.uri"
ROWS = (
    model("model id with NUL", "model_id", "a\0"),
    model("model id that climbs", "model_id", "../datasets/phantoms"),
    model("model id of 10 MiB", "model_id", "a" * (10 * 2**20)),
    model("unknown model", "none", "none", code="NOT_FOUND"),
    unreadable_card("card of nested JSON", "broken", b"[" * 100_000, code="FAILED_PRECONDITION"),
    unreadable_card("card of zeros", "broken", bytes(100), code="FAILED_PRECONDITION"),
    Row("list beside a broken card", "FeatureService/ListModels", lambda _: pb.ListModelsRequest(), "OK"),
    Row(
        "dataset id with a slash",
        "FeatureService/GetDataset",
        lambda _: pb.GetDatasetRequest(dataset_id="a/b"),
        INVALID,
        "dataset_id",
    ),
    Row(
        "feature set id with a path",
        "FeatureService/GetFeatureSet",
        lambda _: pb.GetFeatureSetRequest(feature_set_id="../models/micro"),
        INVALID,
        "feature_set_id",
    ),
    Row(
        "deletion of a dataset with a path",
        "FeatureService/DeleteDataset",
        lambda _: pb.DeleteDatasetRequest(dataset_id="phantoms/../../other"),
        INVALID,
        "dataset_id",
    ),
    Row(
        "deletion of all models",
        "FeatureService/DeleteModel",
        lambda _: pb.DeleteModelRequest(),
        INVALID,
        "model_id",
    ),
    Row(
        "deletion of a feature set that is not there",
        "FeatureService/DeleteFeatureSet",
        lambda _: pb.DeleteFeatureSetRequest(feature_set_id="0" * 32),
        "NOT_FOUND",
        "0" * 32,
    ),
    Row(
        "token of another list",
        "FeatureService/ListFeatureSets",
        lambda _: pb.ListFeatureSetsRequest(page_token=PageTokens.of(pb.ListModelsRequest()).write("a")),
        INVALID,
        "page_token",
    ),
    Row(
        "page of -1 models",
        "FeatureService/ListModels",
        lambda _: pb.ListModelsRequest(page_size=-1),
        INVALID,
        "page_size",
    ),
    Row(
        "page token with a path",
        "FeatureService/ListModels",
        lambda _: pb.ListModelsRequest(page_token="../x"),
        INVALID,
        "page_token",
    ),
    Row(
        "page token of 1 MiB",
        "FeatureService/ListDatasets",
        lambda _: pb.ListDatasetsRequest(page_token="a" * 2**20),
        INVALID,
        "page_token",
    ),
    extract("no study", "study", study=pb.Study()),
    extract("one million volumes", "study.volumes", study=pb.Study(volumes=[pb.StudyVolume()] * 1_000_000)),
    extract("volume without source", "study.volumes[0]", study=pb.Study(volumes=[pb.StudyVolume(modality="t2w")])),
    extract(
        "modality with a path",
        "study.volumes[0].modality",
        study=pb.Study(volumes=[pb.StudyVolume(modality="../x", nifti=b"")]),
    ),
    extract(
        "modality of 1 MiB", "study.volumes[0].modality", study=pb.Study(volumes=[pb.StudyVolume(modality="a" * 2**20)])
    ),
    extract("gland as a modality", "study.volumes[3].modality", {"gland": b"x"}),
    extract("volume of no bytes", "study.volumes[2]", {"adc": b""}),
    extract("volume of text", "study.volumes[2]", {"adc": b"hello"}),
    extract(
        "one modality twice",
        "study.volumes[1]",
        study=pb.Study(volumes=[pb.StudyVolume(modality="t2w", nifti=b"x")] * 2),
    ),
    extract("unknown pooling 77", "pooling", pooling=77),
    extract("unknown layer", "layers", layers=["x"]),
    extract("layer with NUL", "layers[0]", layers=["\0"]),
    extract("one million layers", "layers", layers=["x"] * 1_000_000),
    extract("unknown input transform", "input_transform", input_transform="x"),
    extract("transform of 1 MiB", "input_transform", input_transform="hidden:" + "a+" * 2**19),
    extract("transform of 500 modalities", "input_transform", input_transform="hidden:" + "+".join(["a"] * 500)),
    extract("stored under a path", "store_as", store_as="../x"),
    extract("stored under the id of a set", "store_as", store_as="0" * 32),
    extract("stored without a group", "store_group", store_as="mine"),
    extract("weights of another digest", "micro", checkpoint_sha256="0" * 64, code="FAILED_PRECONDITION"),
    extract("digest of letters", "checkpoint_sha256", checkpoint_sha256="x"),
    stored("volume in another bucket", URI, "s3://other/x"),
    stored("volume with an empty segment", URI, "s3://BUCKET/volumes//x"),
    stored("volume with a dot segment", URI, "s3://BUCKET/volumes/./x"),
    stored("volume that climbs", URI, "s3://BUCKET/volumes/../x"),
    stored("volume with a backslash", URI, "s3://BUCKET/volumes/a\\b"),
    stored("volume that climbs by backslashes", URI, "s3://BUCKET/volumes\\..\\x"),
    stored("volume with NUL", URI, "s3://BUCKET/volumes/\0"),
    stored("volume at a URI of 1 MiB", URI, "s3://BUCKET/" + "a" * 2**20),
    stored("volume without digest", "study.volumes[0].stored.sha256", "s3://BUCKET/volumes/x", ""),
    stored("volume that does not exist", "volumes/x", "s3://BUCKET/volumes/x", code="NOT_FOUND"),
    stored(
        "card in place of a volume",
        "models/micro/model.json",
        "s3://BUCKET/models/micro/model.json",
        code="FAILED_PRECONDITION",
    ),
    extract_dataset("split of no value", "split", split=0),
    extract_dataset("creator of 1,025 characters", "created_by", created_by="a" * 1025),
    extract_dataset("unknown split 77", "split", split=77),
    extract_dataset("feature maps of a dataset", "pooling", pooling=pb.POOLING_NONE),
    extract_dataset("negative seed", "initialisation_seed", initialisation_seed=-1),
    extract_dataset("unknown initialisation 77", "initialisation", initialisation=77),
    extract_dataset("dataset id with NUL", "dataset_id", dataset_id="\0"),
    extract_dataset("dataset of another digest", "phantoms", dataset_digest="0" * 64, code="FAILED_PRECONDITION"),
    extract_dataset("split without cases", "pretrain", split=common_pb2.SPLIT_PRETRAIN),
    extract_dataset("map of an unknown modality", "modality_map", modality_map={"ct": "t2w"}),
    extract_dataset("layer of a dataset twice", "layers", layers=["stages.3", "stages.3"]),
)
