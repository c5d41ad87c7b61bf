"""Every architecture of the registry fulfils what the rest of the system relies on."""

import pytest
import torch

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.models import Preprocessing
from vfmalign.models.encoder import POOLED_LAYER, pool
from vfmalign.models.registry import ARCHITECTURES, get_architecture
from vfmalign.models.weights import build_encoder, random_state

SMALL = ("profound_conv_micro", "profound_vit_micro", "provicnet_micro", "provicnet_fusion_micro")
EXPECTED_INPUTS = {
    "profound_conv_tiny": (64, 224, 224),
    "profound_vit_base": (64, 256, 256),
    "provicnet_t2w": (24, 448, 448),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_entries_agree_with_their_encoder(name):
    architecture = ARCHITECTURES[name]
    encoder = architecture.build_empty()
    channels = encoder.layer_channels()
    assert architecture.name == name
    assert all(parameter.device.type == "meta" for parameter in encoder.parameters())
    assert encoder.in_channels == len(architecture.preprocessing.modalities)
    assert {layer.name: layer.channels for layer in architecture.layers}.items() <= channels.items()
    assert architecture.primary_layer in {layer.name for layer in architecture.layers}
    assert POOLED_LAYER in channels
    assert POOLED_LAYER not in {layer.name for layer in architecture.layers}
    assert encoder.dense_layers().keys() <= {layer.name for layer in architecture.layers}
    for stride_DHW in encoder.dense_layers().values():
        shape_DHW = architecture.preprocessing.shape_dhw
        assert all(size % stride == 0 for size, stride in zip(shape_DHW, stride_DHW, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_maps_have_the_declared_shapes(name):
    architecture = ARCHITECTURES[name]
    encoder = build_encoder(architecture, random_state(architecture, 0))
    shape_DHW = architecture.preprocessing.shape_dhw
    with torch.inference_mode():
        maps = encoder.feature_maps(torch.randn(2, encoder.in_channels, *shape_DHW))
    assert list(maps) == list(encoder.layer_channels())
    for layer, width in encoder.layer_channels().items():
        assert pool(maps[layer]).shape == (2, width)
        assert maps[layer].ndim == (2 if layer == POOLED_LAYER else 5)
    for layer, stride_DHW in encoder.dense_layers().items():
        assert maps[layer].shape[2:] == tuple(a // b for a, b in zip(shape_DHW, stride_DHW, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_compared_layers_get_a_gradient_from_a_dense_head(name):
    architecture = ARCHITECTURES[name]
    encoder = architecture.build()
    maps = encoder.feature_maps(torch.randn(1, encoder.in_channels, *architecture.preprocessing.shape_dhw))
    torch.stack([maps[layer].square().mean() for layer in encoder.dense_layers()]).sum().backward()
    trained = {n for n, parameter in encoder.named_parameters() if parameter.requires_grad}
    without = {n for n, parameter in encoder.named_parameters() if parameter.requires_grad and parameter.grad is None}
    assert all(n.endswith(("norm.weight", "norm.bias")) for n in without)
    assert len(without) <= len(trained) / 4


@pytest.mark.parametrize("name", SMALL)
def test_a_study_does_not_depend_on_its_batch(name):
    architecture = ARCHITECTURES[name]
    encoder = build_encoder(architecture, random_state(architecture, 0))
    input_NCDHW = torch.randn(2, encoder.in_channels, *architecture.preprocessing.shape_dhw)
    with torch.inference_mode():
        together, alone = encoder(input_NCDHW), encoder(input_NCDHW[1:])
    assert (together[1:] - alone).abs().max() <= 1e-5 * alone.abs().max()


@pytest.mark.parametrize(("name", "shape_DHW"), EXPECTED_INPUTS.items())
def test_published_input_sizes(name, shape_DHW):
    assert ARCHITECTURES[name].preprocessing.shape_dhw == shape_DHW


def test_provicnets_slices_show_128_mm():
    preprocessing: Preprocessing = ARCHITECTURES["provicnet_t2w"].preprocessing
    assert preprocessing.spacing_mm[1] * preprocessing.shape_dhw[1] == pytest.approx(128)
    assert preprocessing.normalisation == "zscore_gland"


def test_an_unknown_architecture_is_rejected_with_the_choices():
    with pytest.raises(BadOption, match=r"no architecture is called 'resnet'; choose one of profound_conv_micro"):
        get_architecture("resnet")


def test_pooling_is_the_mean_over_space():
    map_NCDHW = torch.arange(48.0).reshape(2, 3, 2, 2, 2)
    assert torch.equal(pool(map_NCDHW), map_NCDHW.reshape(2, 3, 8).mean(2))
    assert torch.equal(pool(map_NCDHW[:, :, 0, 0, 0]), map_NCDHW[:, :, 0, 0, 0])


@pytest.mark.parametrize("name", SMALL)
def test_random_state_depends_on_the_seed_alone(name):
    architecture = ARCHITECTURES[name]
    torch.manual_seed(1)
    first = random_state(architecture, 7)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1)), "the global generator moved"
    assert all(torch.equal(first[name], tensor) for name, tensor in random_state(architecture, 7).items())
    other = random_state(architecture, 8)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_building_on_meta_needs_no_memory_and_no_random_numbers():
    state = torch.get_rng_state()
    for architecture in ARCHITECTURES.values():
        architecture.build_empty()
    assert torch.equal(state, torch.get_rng_state())
