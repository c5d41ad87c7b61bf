"""Every family of encoders through the service: a study's features, a dataset's rows, and what is refused."""

import grpc
import pytest

from vfmalign.core.feature_sets import read_feature_set
from vfmalign.core.tensors import to_array
from vfmalign.features.extractor import extract
from vfmalign.imaging.prepare import prepare_study
from vfmalign.imaging.volumes import decode, encode
from vfmalign.models.cards import load_encoder, publish
from vfmalign.models.checkpoints import random_state
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.v1 import common_pb2
from vfmalign.v1 import features_pb2 as pb

FAMILIES = ("profound_vit_micro", "provicnet_micro", "provicnet_fusion_micro")
MODALITIES = {"t2w": common_pb2.MODALITY_T2W, "dwi": common_pb2.MODALITY_DWI, "adc": common_pb2.MODALITY_ADC}


@pytest.fixture(scope="module")
def cards(store):
    published = {}
    for seed, name in enumerate(FAMILIES):
        architecture = ARCHITECTURES[name]
        preprocessing = architecture.preprocessing.model_copy(update={"spacing_mm": (3.75, 1.75, 1.75)})
        published[name] = publish(
            store,
            name,
            random_state(architecture, seed),
            architecture=name,
            objective="contrastive",
            preprocessing=preprocessing,
        )
    return published


def study_of(volumes, *kinds, gland=True) -> pb.Study:
    study = pb.Study(volumes=[pb.StudyVolume(modality=MODALITIES[k], nifti=encode(volumes[k])) for k in kinds])
    if gland:
        study.gland_mask.nifti = encode(volumes["gland"])
    return study


def expected_rows(store, card, volumes, layers):
    encoder, _ = load_encoder(store, card.id)
    stored = {kind: decode(encode(volume), kind, kind) for kind, volume in volumes.items() if kind != "lesions"}
    input_CDHW = prepare_study(stored, card.preprocessing).input_CDHW
    return {layer: t[0].numpy() for layer, t in extract(encoder, input_CDHW[None], layers, "mean").items()}


@pytest.mark.parametrize("name", FAMILIES)
async def test_a_study_becomes_one_row_per_layer(service, store, phantoms, cards, close, name):
    card = cards[name]
    layers = ["blocks.1", "patch_tokens", "class_token", "pooled"]
    study = study_of(phantoms[0], *dict.fromkeys(("t2w", *card.preprocessing.modalities)))
    response = await service.Extract(pb.ExtractRequest(model_id=name, study=study, layers=layers))
    expected = expected_rows(store, card, phantoms[0], layers)
    for message, layer in zip(response.layers, layers, strict=True):
        row = to_array(message.tensor, layer)
        assert row.shape == (card.layers[0].channels,)
        assert close(row, expected[layer])


@pytest.mark.parametrize("name", FAMILIES)
async def test_a_dataset_becomes_one_row_per_case(service, store, phantoms, dataset, cards, close, collect, name):
    card = cards[name]
    *_, last = await collect(service, model_id=name, dataset_id="phantoms")
    assert last.feature_set.rows == len(dataset.test)
    stored = read_feature_set(store, last.feature_set.feature_set_id)
    names = [layer.name for layer in card.layers]
    assert list(stored.layers) == names
    for row, volumes in enumerate(phantoms):
        expected = expected_rows(store, card, volumes, names)
        assert all(close(stored.layers[layer][row], expected[layer]) for layer in names)
    *_, random = await collect(
        service, model_id=name, dataset_id="phantoms", initialisation=pb.INITIALISATION_RANDOM, initialisation_seed=9
    )
    other = read_feature_set(store, random.feature_set.feature_set_id)
    assert not close(other.layers[names[-1]], stored.layers[names[-1]])


async def test_patch_tokens_of_slices_keep_their_places(service, store, phantoms, cards):
    study = study_of(phantoms[0], "t2w")
    request = pb.ExtractRequest(
        model_id="provicnet_micro", study=study, layers=["blocks.3", "class_token"], pooling=pb.POOLING_NONE
    )
    shapes = [tuple(layer.tensor.shape) for layer in (await service.Extract(request)).layers]
    assert shapes == [(96, 16, 8, 8), (96, 16, 1, 1)]


async def test_a_gland_mask_is_asked_for_where_it_normalises(service, phantoms, cards, collect, upload):
    request = pb.ExtractRequest(model_id="provicnet_micro", study=study_of(phantoms[0], "t2w", gland=False))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.Extract(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "no gland volume; the model's input needs gland: send it" in caught.value.details()
    without = [{kind: v for kind, v in phantoms[0].items() if kind != "gland"}]
    upload("no-gland", without)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(service, model_id="provicnet_micro", dataset_id="no-gland")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert "no gland volume" in caught.value.details()
