"""The Python client against the feature service's process: studies, datasets, lists and errors."""

import pytest

from vfmalign.client import AsyncClient, Client
from vfmalign.client.messages.common import ObjectRef
from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.core.domain.errors import BadVolume, NotFound
from vfmalign.core.storage.feature_sets import read_feature_set
from vfmalign.imaging.volumes import encode


async def test_a_study_from_bytes_and_from_stored_objects(
    server, store, phantoms, dataset, card, expected_features, close
):
    volumes = {kind: encode(phantoms[0][kind]) for kind in ("t2w", "dwi")}
    adc = dataset.test[0].volumes["adc"]
    volumes["adc"] = ObjectRef(uri=store.uri(adc.key), sha256=adc.sha256)
    async with AsyncClient(features_address=server.address) as client:
        study = await client.features.extract("micro", volumes)
        assert close(study.layers["stages.3"], expected_features(phantoms[0], ["stages.3"])["stages.3"])
        assert study.checkpoint_sha256 == card.checkpoint.sha256
        assert {stage.stage for stage in study.cost.stages} == {"load_model", "read", "decode", "prepare", "forward"}
        with pytest.raises(BadVolume, match="no t2w volume; the model takes t2w, dwi, adc; send t2w, or name ct as"):
            await client.features.extract("micro", {"ct": b""})


def test_a_dataset_becomes_a_feature_set(server, store, dataset):
    request = ExtractDatasetRequest(model_id="micro", dataset_id="phantoms", split="test", layers=("stages.2",))
    seen = []
    with Client(features_address=server.address) as client:
        extracted = client.features.extract_dataset(request, seen.append)
        again = client.features.extract_dataset(request)
        assert "phantoms" in [one.dataset_id for one in client.features.list_datasets().datasets]
        model = client.features.get_model("micro")
        with pytest.raises(NotFound):
            client.features.get_model("absent")
    assert seen[-1].done == seen[-1].total == 3
    assert (extracted.computed_cases, again.computed_cases) == (3, 0)
    assert again.feature_set == extracted.feature_set
    stored = read_feature_set(store, extracted.feature_set.feature_set_id)
    assert stored.layers["stages.2"].shape == (3, extracted.feature_set.layers[0].channels)
    assert model.preprocessing.modalities == ("t2w", "dwi", "adc")
