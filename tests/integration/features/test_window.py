"""CT in Hounsfield units and a model with a window, through the service: features, and units that do not fit."""

import grpc
import numpy as np
import pytest
import torch

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.declarations import DatasetDeclaration
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.rpc.tensors import to_array
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.feature_sets import read_feature_set
from vfmalign.core.storage.keys import volume_key
from vfmalign.features.extraction.extractor import extract
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import Volume, decode, encode
from vfmalign.models.architectures.dilated_stack import StackDescription
from vfmalign.models.cards import load_encoder, publish
from vfmalign.models.formats.stack_checkpoint import decode_stack_name, encode_stack_name
from vfmalign.models.weights import random_state
from vfmalign.v1 import features_pb2 as pb

INPUT = Preprocessing(
    modalities=("ct",),
    spacing_mm=(3.0, 2.0, 2.0),
    shape_dhw=(16, 24, 24),
    normalisation="window",
    window=(-160.0, 240.0),
)
LAYERS = [{"channels": 4, "activation": "silu"}, {"channels": 6}]
STACK = encode_stack_name(StackDescription.model_validate({"layers": LAYERS, "input": INPUT}))


def make_ct(seed):
    """A cylinder of tissue in air, with less of it than the model sees."""
    rng = np.random.default_rng(seed)
    x, y = np.ogrid[-20:20, -20:20]
    body = np.broadcast_to((x**2 + y**2 < 15**2)[..., None], (40, 40, 20))
    hu = np.where(body, rng.normal(40, 30, body.shape), rng.normal(-1000, 5, body.shape))
    return encode(Volume(np.rint(hu).astype(np.int16), np.diag([1.0, 1.0, 2.0, 1.0])))


@pytest.fixture(scope="module")
def stack(store):
    return publish(store, "ct-stack", random_state(decode_stack_name(STACK), 0), architecture=STACK, objective="random")


@pytest.fixture(scope="module")
def scans():
    return [make_ct(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def rows(store, stack, scans):
    """What the plain functions give in this process."""
    encoder, card = load_encoder(store, stack.id)
    features = []
    for data in scans:
        study = prepare_study({"ct": decode(data, "ct", "ct")}, card.preprocessing)
        assert 0.0 <= float(study.input_CDHW.min()) < float(study.input_CDHW.max()) <= 1.0
        assert not study.input_CDHW[0, 0].any(), "slices beyond the scan show the lower bound"
        row = extract(encoder, study.input_CDHW[None], [card.primary_layer], "mean", torch.tensor([study.slices]))
        features.append(row[card.primary_layer][0].numpy())
    return np.stack(features)


def upload_scans(store, name, scans, units):
    cases = tuple(
        Case(
            id=f"{name}-{number}",
            group=f"patient-{number}",
            volumes={"ct": store.put(volume_key(name, f"{name}-{number}", "ct"), data)},
        )
        for number, data in enumerate(scans)
    )
    declaration = DatasetDeclaration(name="abdomen", modalities=("ct",), units=units)
    save_dataset(store, DatasetManifest(id=name, declaration=declaration, test=cases))


async def test_a_dataset_in_hu(store, service, stack, scans, rows, collect, close):
    upload_scans(store, "abdomen", scans, {"ct": "HU"})
    *_, last = await collect(service, model_id=stack.id, dataset_id="abdomen")
    stored = read_feature_set(store, last.feature_set.feature_set_id)
    assert close(stored.layers[stack.primary_layer], rows)
    answer = await service.GetDataset(pb.GetDatasetRequest(dataset_id="abdomen"))
    assert dict(answer.dataset.declaration.units) == {"ct": "HU"}
    model = (await service.GetModel(pb.GetModelRequest(model_id=stack.id))).model
    assert list(model.preprocessing.window) == [-160.0, 240.0]


async def test_a_dataset_without_units_is_refused(store, service, stack, scans, collect):
    upload_scans(store, "abdomen-raw", scans, {})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(service, model_id=stack.id, dataset_id="abdomen-raw")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ct is not stated to be in HU" in caught.value.details()


async def test_a_study_states_that_it_is_in_hu(service, stack, scans, rows, close):
    volume = pb.StudyVolume(modality="ct", nifti=scans[1], unit="HU")
    answer = await service.Extract(pb.ExtractRequest(model_id=stack.id, study=pb.Study(volumes=[volume])))
    assert close(to_array(answer.layers[0].tensor, "row"), rows[1])
    volume.unit = ""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.Extract(pb.ExtractRequest(model_id=stack.id, study=pb.Study(volumes=[volume])))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "study.volumes" in caught.value.details()
