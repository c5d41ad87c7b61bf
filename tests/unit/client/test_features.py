"""The features client against a server: studies in each form, extractions of datasets, and lists."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from vfmalign.client.messages.common import ObjectRef, Progress
from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.core.domain.errors import BadOption, Internal, NotFound
from vfmalign.v1 import common_pb2, features_pb2


async def test_a_study_from_bytes_files_and_stored_objects(client, deployment, tmp_path):
    (tmp_path / "dwi.nii").write_bytes(b"dwi")
    stored = ObjectRef(uri="s3://b/adc", sha256="a" * 64)
    study = await client.features.extract(
        "m",
        {"t2w": b"t2w", "dwi": tmp_path / "dwi.nii", "adc": stored},
        gland_mask=b"gland",
        layers=["a", "b"],
        pooling="none",
    )
    assert list(study.layers) == ["a", "b"]
    np.testing.assert_array_equal(study.layers["a"], np.arange(6, dtype="f4"))
    assert (study.stored, study.checkpoint_sha256, study.cost.device) == ({}, "c" * 64, "cpu")
    (request,) = deployment.features.requests
    assert [(one.modality, one.nifti, one.stored.uri) for one in request.study.volumes] == [
        ("t2w", b"t2w", ""),
        ("dwi", b"dwi", ""),
        ("adc", b"", "s3://b/adc"),
    ]
    assert request.study.gland_mask.nifti == b"gland"
    assert request.pooling == features_pb2.POOLING_NONE

    kept = await client.features.extract("m", {"t2w": b"x"}, layers=["a"], store_as="mine")
    assert (kept.layers, kept.stored["a"].uri) == ({}, "s3://b/features/mine/a.safetensors")
    assert not deployment.features.requests[1].study.HasField("gland_mask")


@pytest.mark.parametrize("to_argument", [str, Path])
async def test_a_study_as_dicom_from_a_path_or_its_text(client, deployment, tmp_path, to_argument):
    (tmp_path / "1.dcm").write_bytes(b"dicom")
    await client.features.extract("m", dicom=to_argument(tmp_path))
    (request,) = deployment.features.requests
    assert list(request.study.dicom.instances.instances) == [b"dicom"]
    with pytest.raises(BadOption, match="dicom: a file cannot be read"):
        await client.features.extract("m", dicom=to_argument(tmp_path / "absent"))


async def test_rules_without_a_study_as_dicom_are_not_ignored(client, deployment):
    with pytest.raises(BadOption, match="rules_dataset_id: the rules of a dataset only apply to DICOM") as caught:
        await client.features.extract("m", {"t2w": b"t2w"}, rules_dataset_id="d")
    assert caught.value.remedy
    assert deployment.features.requests == []


async def test_a_dataset_s_extraction_reports_progress(client, deployment):
    request = ExtractDatasetRequest(model_id="m", dataset_id="d", split="test", layers=("a",))
    seen: list[Progress] = []
    result = await client.features.extract_dataset(request, seen.append)
    assert [(one.done, one.total) for one in seen] == [(0, 2), (2, 2)]
    assert (result.feature_set.feature_set_id, result.computed_cases, result.cost.device) == ("f" * 32, 2, "cpu")
    (sent,) = deployment.features.requests
    assert (sent.split, sent.initialisation) == (common_pb2.SPLIT_TEST, features_pb2.INITIALISATION_CHECKPOINT)

    async def report(progress: Progress) -> None:
        await asyncio.sleep(0)
        seen.append(progress)

    await client.features.extract_dataset(request, report)
    assert len(seen) == 4
    deployment.features.lost = True
    with pytest.raises(Internal, match="without a feature set"):
        await client.features.extract_dataset(request)


async def test_lists_hold_every_page(client):
    models = await client.features.list_models()
    assert [model.model_id for model in models.models] == ["a", "b"]
    assert models.architectures == ("x",)
    assert [one.id for one in models.unreadable] == ["broken"]
    assert models.next_page_token == ""
    datasets = await client.features.list_datasets()
    assert [one.dataset_id for one in datasets.datasets] == ["a", "b"]
    assert [one.id for one in datasets.unreadable] == ["broken"]
    assert datasets.datasets[1].splits[0].split == "test"
    assert (await client.features.get_model("c")).objective == "contrastive"
    with pytest.raises(NotFound, match="dataset absent: there is no such dataset; import it"):
        await client.features.get_dataset("absent")
