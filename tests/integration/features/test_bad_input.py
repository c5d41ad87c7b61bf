"""Bad input through the API: each case has its code, its field and words that help, and the server lives on."""

import gzip
import hashlib
import os
import re

import grpc
import nibabel
import numpy as np
import psutil
import pytest
import torch
from google.rpc import error_details_pb2, status_pb2
from tests import hostile_programs

from vfmalign.core.rpc.status_mapping import DETAILS_KEY, from_rpc_error
from vfmalign.imaging.volumes import Volume, encode
from vfmalign.v1 import common_pb2, features_pb2_grpc
from vfmalign.v1 import features_pb2 as pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def nifti(array, affine=None) -> bytes:
    """A NIfTI file with whatever array, written without our own checks."""
    return gzip.compress(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine).to_bytes())


def far_away(volume: Volume) -> bytes:
    affine = volume.affine.copy()
    affine[:3, 3] += 500.0
    return encode(Volume(volume.array_XYZ, affine))


def bad_studies(volumes, study_of):
    """Per case: the study, the code, the field or subject, and words of the message."""
    good = encode(volumes["t2w"])
    with_nan = volumes["t2w"].array_XYZ.copy()
    with_nan[3, 4, 5] = np.nan
    return {
        "truncated .nii.gz": (
            study_of(volumes, t2w=good[: len(good) // 2]),
            INVALID,
            "study.volumes[0]",
            "truncated .nii.gz",
        ),
        "4-D volume": (
            study_of(volumes, dwi=nifti(np.ones((8, 8, 8, 2), np.float32))),
            INVALID,
            "study.volumes[1]",
            "expected 3 axes, got 4; split the series first",
        ),
        "NaN volume": (
            study_of(volumes, t2w=nifti(with_nan, volumes["t2w"].affine)),
            INVALID,
            "study.volumes[0]",
            "holds NaN, infinity",
        ),
        "irreconcilable grids": (
            study_of(volumes, adc=far_away(volumes["adc"])),
            INVALID,
            "study",
            "irreconcilable grids: adc covers 0% of t2w's field of view",
        ),
        "not NIfTI": (study_of(volumes, adc=b"hello"), INVALID, "study.volumes[2]", "not a NIfTI file"),
        "missing modality": (study_of(volumes, adc=None), INVALID, "study", "no adc volume"),
        "empty study": (pb.Study(), INVALID, "study", "no t2w volume"),
    }


BAD_STUDIES = (
    "truncated .nii.gz",
    "4-D volume",
    "NaN volume",
    "irreconcilable grids",
    "not NIfTI",
    "missing modality",
    "empty study",
)


def violated_field(error: grpc.aio.AioRpcError) -> str:
    for key, value in error.trailing_metadata():
        if key == DETAILS_KEY:
            for detail in status_pb2.Status.FromString(value).details:
                request = error_details_pb2.BadRequest()
                if detail.Unpack(request):
                    return request.field_violations[0].field
    return ""


@pytest.fixture(autouse=True)
async def still_answers(service, phantoms, study_of):
    """Fails the test whose bad input hurt the server."""
    yield
    response = await service.Extract(pb.ExtractRequest(model_id="micro", study=study_of(phantoms[0])))
    assert len(response.layers) == 1


@pytest.mark.parametrize("name", BAD_STUDIES)
async def test_bad_studies(service, phantoms, name, study_of):
    study, code, field, words = bad_studies(phantoms[0], study_of)[name]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.Extract(pb.ExtractRequest(model_id="micro", study=study))
    assert caught.value.code() is code
    assert words in caught.value.details()
    assert violated_field(caught.value) == field


def with_stored_adc(study: pb.Study, uri: str, sha256: str) -> pb.Study:
    stored = common_pb2.ObjectRef(uri=uri, sha256=sha256)
    study.volumes.append(pb.StudyVolume(modality="adc", stored=stored))
    return study


async def test_a_stored_volume_that_is_missing_changed_foreign_or_damaged(service, store, phantoms, study_of):
    good = encode(phantoms[0]["adc"])
    ref = store.put("volumes/loose/one/adc.nii.gz", good)
    half = store.put("volumes/loose/two/adc.nii.gz", good[: len(good) // 2])
    cases = [
        (
            store.uri("volumes/loose/none/adc.nii.gz"),
            ref.sha256,
            grpc.StatusCode.NOT_FOUND,
            "there is no such object",
            "",
        ),
        (store.uri(ref.key), "0" * 64, grpc.StatusCode.FAILED_PRECONDITION, "its SHA-256 is not 000000000000", ""),
        (
            "s3://elsewhere/x",
            ref.sha256,
            INVALID,
            "does not name an object of your tenant in this service's bucket",
            "study.volumes[2].stored.uri",
        ),
        (
            store.uri("checks/some/report.json"),
            ref.sha256,
            INVALID,
            "an object that this service does not read",
            "study.volumes[2].stored.uri",
        ),
        (
            store.uri(half.key),
            half.sha256,
            INVALID,
            f"{store.uri(half.key)}: truncated .nii.gz",
            "study.volumes[2]",
        ),
    ]
    for uri, sha256, code, words, field in cases:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.Extract(
                pb.ExtractRequest(model_id="micro", study=with_stored_adc(study_of(phantoms[0], adc=None), uri, sha256))
            )
        assert caught.value.code() is code
        assert words in caught.value.details()
        assert violated_field(caught.value) == field


async def test_hostile_programs_in_the_bucket_do_not_run(service, server, store, phantoms, study_of, tmp_path):
    created = tmp_path / "created"
    cases = {
        name.lower().replace("_", "-"): (hostile_programs.make_graph(*nodes), f"calls 'aten.{name}'")
        for name, nodes in hostile_programs.make_operators(created).items()
    }
    cases |= {
        n: (hostile_programs.make_graph(*nodes), words)
        for n, (nodes, words) in hostile_programs.make_arguments().items()
    }
    cases |= hostile_programs.make_graphs()
    study, before = study_of(phantoms[0]), psutil.Process(server.process.pid).memory_info().rss
    for name, (graph, words) in cases.items():
        model_id = f"hostile-{name}".replace("--", "-")
        hostile_programs.store_program(store, model_id, hostile_programs.make_state(graph))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.Extract(pb.ExtractRequest(model_id=model_id, study=study))
        assert caught.value.code() is INVALID, name
        assert caught.value.details().startswith(model_id), name
        assert re.search(words, caught.value.details()), name
    assert not created.exists()
    assert psutil.Process(server.process.pid).memory_info().rss - before < 512 * 2**20


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"model_id": "absent"}, grpc.StatusCode.NOT_FOUND, "absent: no model has this id"),
        ({"checkpoint_sha256": "0" * 64}, grpc.StatusCode.FAILED_PRECONDITION, "the stored weights have SHA-256"),
        (
            {"layers": ["stages.9"]},
            INVALID,
            "choose from stages.0, stages.1, stages.2, stages.3",
        ),
        ({"input_transform": "blur"}, INVALID, "unknown input transform 'blur'"),
        ({"model_id": "Not An Id"}, INVALID, "not a valid id"),
    ],
)
async def test_bad_options(service, phantoms, change, code, words, study_of):
    request = pb.ExtractRequest(**{"model_id": "micro", "study": study_of(phantoms[0])} | change)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.Extract(request)
    assert caught.value.code() is code
    assert words in caught.value.details()


async def test_a_pickled_checkpoint_in_the_place_of_weights_is_never_unpickled(
    service, store, card, dataset, tmp_path, collect
):
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    path = tmp_path / "weights.pth"
    torch.save({"model": Payload()}, path)
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    ref = store.put(f"models/pickled/{sha256}.safetensors", data)
    store.write("models/pickled/model.json", card.model_copy(update={"id": "pickled", "checkpoint": ref}))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(service, model_id="pickled", dataset_id="phantoms")
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    assert "the weights are not safetensors" in caught.value.details()
    assert not marker.exists()


async def test_bad_datasets(service, store, phantoms, dataset, collect, upload):
    broken = upload("broken", phantoms[:2])
    key = broken.test[1].volumes["dwi"].key
    store.put(key, b"changed underneath")
    expectations = [
        ({"dataset_id": "absent"}, grpc.StatusCode.NOT_FOUND, "dataset absent: not found"),
        ({"dataset_id": "broken"}, grpc.StatusCode.DATA_LOSS, f"{store.uri(key)}: its SHA-256 is"),
        ({"dataset_id": "phantoms", "split": 0}, INVALID, "split: this field is required"),
        (
            {"dataset_id": "phantoms", "split": common_pb2.SPLIT_VAL},
            INVALID,
            "the split val has no cases",
        ),
        (
            {"dataset_id": "phantoms", "dataset_digest": "0" * 64},
            grpc.StatusCode.FAILED_PRECONDITION,
            "dataset phantoms: its digest is",
        ),
        ({"dataset_id": "phantoms", "layers": ["head"]}, INVALID, "no layer 'head'"),
    ]
    for fields, code, words in expectations:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await collect(service, **fields)
        assert caught.value.code() is code, caught.value.details()
        assert words in caught.value.details()


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
async def test_a_service_that_the_store_turns_away_does_not_blame_its_caller(start_server, variable):
    server = start_server(**{variable: "not-the-one"})
    async with grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await features_pb2_grpc.FeatureServiceStub(channel).ListModels(pb.ListModelsRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.details()
    assert from_rpc_error(caught.value, "FeatureService").reason == "STORE_REFUSED"
    assert "not-the-one" not in caught.value.details() + server.log.read_text()
