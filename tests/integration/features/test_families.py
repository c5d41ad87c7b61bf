"""Every family of encoders through the service: a study's features, a dataset's rows, and what is refused."""

import json

import grpc
import pytest
import torch
from monai.networks.nets import UNet

from vfmalign.core.rpc.tensors import to_array
from vfmalign.core.storage.feature_sets import read_feature_set
from vfmalign.features.extraction.extractor import extract
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import decode, encode
from vfmalign.models.cards import load_encoder, publish, publish_program
from vfmalign.models.importer import InputDescription, import_model
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state
from vfmalign.v1 import features_pb2 as pb

FAMILIES = ("profound_vit_micro", "provicnet_micro", "provicnet_fusion_micro")
MODALITIES = ("t2w", "dwi", "adc")


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


class Plain(torch.nn.Module):
    """A user's own network, unknown to this package."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv3d(3, 8, 4, 4)
        self.deep = torch.nn.Sequential(torch.nn.GELU(), torch.nn.Conv3d(8, 12, 2, 2))

    def forward(self, x):
        return self.deep(self.stem(x))


@pytest.fixture(scope="module")
def program(store, tmp_path_factory):
    """The network exported, imported and published."""
    path = tmp_path_factory.mktemp("program") / "plain.pt2"
    torch.manual_seed(0)
    torch.export.save(torch.export.export(Plain().eval(), (torch.randn(1, 3, 16, 64, 64),)), path)
    described = InputDescription(("t2w", "dwi", "adc"), (3.75, 1.75, 1.75), None, "zscore_nonzero")
    imported = import_model([path], "", ["stem", "deep"], described, "plain")
    return publish_program(store, "plain", imported.state, preprocessing=imported.preprocessing, objective="supervised")


@pytest.fixture(scope="module")
def bundle(store, tmp_path_factory):
    """A MONAI bundle, imported and published."""
    folder = tmp_path_factory.mktemp("bundle")
    arguments = {"spatial_dims": 3, "in_channels": 3, "out_channels": 2, "channels": [4, 8, 8], "strides": [2, 2]}
    (folder / "configs").mkdir()
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text("{}")
    definition = {"network_def": {"_target_": "monai.networks.nets.UNet", **arguments}}
    (folder / "configs" / "inference.json").write_text(json.dumps(definition))
    torch.save(UNet(**arguments).state_dict(), folder / "models" / "model.pt")
    described = InputDescription(("t2w", "dwi", "adc"), (3.75, 1.75, 1.75), (16, 64, 64), "zscore_nonzero")
    imported = import_model([folder], "", ["model.0", "model.1.submodule.0"], described, "unet")
    return publish(
        store,
        "unet",
        imported.state,
        architecture=imported.architecture,
        preprocessing=imported.preprocessing,
        objective="supervised",
    )


@pytest.mark.parametrize("name", ["program", "bundle"])
async def test_foreign_networks_serve_like_our_own(service, store, phantoms, dataset, close, collect, name, request):
    card = request.getfixturevalue(name)
    *_, last = await collect(service, model_id=card.id, dataset_id="phantoms")
    stored = read_feature_set(store, last.feature_set.feature_set_id)
    names = [layer.name for layer in card.layers]
    for row, volumes in enumerate(phantoms):
        expected = expected_rows(store, card, volumes, names)
        assert all(close(stored.layers[layer][row], expected[layer]) for layer in names)
    listed = {model.model_id: model for model in (await service.ListModels(pb.ListModelsRequest())).models}
    assert [layer.name for layer in listed[card.id].layers] == names


async def test_random_weights_are_a_bundles_but_not_a_programs(service, dataset, program, bundle, collect):
    options = {"dataset_id": "phantoms", "initialisation": pb.INITIALISATION_RANDOM}
    *_, last = await collect(service, model_id="unet", **options)
    assert last.feature_set.rows == len(dataset.test)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(service, model_id="plain", **options)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "it has no initial weights" in caught.value.details()


def study_of(volumes, *kinds, gland=True) -> pb.Study:
    study = pb.Study(volumes=[pb.StudyVolume(modality=k, nifti=encode(volumes[k])) for k in kinds])
    if gland:
        study.gland_mask.nifti = encode(volumes["gland"])
    return study


def expected_rows(store, card, volumes, layers):
    encoder, _ = load_encoder(store, card.id)
    stored = {kind: decode(encode(volume), kind, kind) for kind, volume in volumes.items() if kind != "lesions"}
    study = prepare_study(stored, card.preprocessing)
    rows = extract(encoder, study.input_CDHW[None], layers, "mean", torch.tensor([study.slices]))
    return {layer: row_1C[0].numpy() for layer, row_1C in rows.items()}


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
    assert list(stored.layers) == [card.primary_layer, *(name for name in names if name != card.primary_layer)]
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
    assert "no gland volume; the model takes t2w, gland; send gland" in caught.value.details()
    without = [{kind: v for kind, v in phantoms[0].items() if kind != "gland"}]
    upload("no-gland", without)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(service, model_id="provicnet_micro", dataset_id="no-gland")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert "no gland volume" in caught.value.details()
