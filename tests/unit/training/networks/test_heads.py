"""Decoders restore the input's grid from every encoder's maps, with a gradient for every compared layer."""

import pytest
import torch

from vfmalign.core.domain.errors import BadOption
from vfmalign.models.architectures.provicnet import SliceEncoder
from vfmalign.models.architectures.transformer import TransformerSize
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.training.networks.decoder import DenseDecoder, TokenPyramid, get_upsampling_steps
from vfmalign.training.networks.heads import (
    CaseClassifier,
    EncoderDecoder,
    Projector,
    SpecialisedClassifier,
    SpecialisedUNet,
    check_shape,
    stage_shapes,
)

SMALL = (16, 64, 64)
MICRO = ARCHITECTURES["profound_conv_micro"]


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return MICRO.build()


def test_stage_shapes_are_those_of_a_real_run(encoder):
    channels, strides = stage_shapes(encoder)
    assert channels == [16, 32, 64, 128]
    assert strides == [(4, 4, 4), (8, 8, 8), (16, 16, 16), (16, 16, 16)]
    assert all(parameter.device.type == "cpu" for parameter in encoder.parameters())


@pytest.mark.parametrize("input_skip", [True, False])
@pytest.mark.parametrize("shape", [(16, 16, 16), (16, 32, 48)])
def test_output_lies_on_the_input_grid(encoder, input_skip, shape):
    network = EncoderDecoder(encoder, 2, input_skip=input_skip)
    assert network(torch.randn(2, 3, *shape)).shape == (2, 2, *shape)


@pytest.mark.parametrize("name", ["profound_conv_mini", "profound_conv_atto", "profound_conv_tiny"])
def test_decoders_fit_every_size(name):
    with torch.device("meta"):
        network = EncoderDecoder(ARCHITECTURES[name].build(), 3)
        assert network(torch.empty(1, 3, 32, 32, 32)).shape == (1, 3, 32, 32, 32)


TRANSFORMERS = ("profound_vit_micro", "provicnet_micro", "provicnet_fusion_micro")


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_decoders_fit_transformers(name):
    """Four maps of one stride, slices kept apart: back to the input's grid, with a gradient in every block."""
    architecture = ARCHITECTURES[name]
    network = EncoderDecoder(architecture.build(), 2)
    input_NCDHW = torch.randn(1, network.encoder.in_channels, *architecture.preprocessing.shape_dhw)
    output_NCDHW = network(input_NCDHW)
    assert output_NCDHW.shape == (1, 2, *architecture.preprocessing.shape_dhw)
    output_NCDHW.square().mean().backward()
    blocks = [p.grad for n, p in network.encoder.named_parameters() if "blocks" in n]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in blocks)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("input_skip", [True, False])
def test_decoders_of_transformers_take_training_patches(name, input_skip):
    encoder = ARCHITECTURES[name].build()
    network = EncoderDecoder(encoder, 2, input_skip=input_skip)
    assert network(torch.randn(2, encoder.in_channels, 8, 32, 16)).shape == (2, 2, 8, 32, 16)


@pytest.mark.parametrize("name", ["profound_vit_base", "provicnet_t2w", "provicnet_fusion"])
def test_decoders_fit_published_transformers_at_their_real_size(name):
    """448 pixels in patches of 14 among them; the decoder stays smaller than what it decodes."""
    architecture = ARCHITECTURES[name]
    shape_DHW = architecture.preprocessing.shape_dhw
    with torch.device("meta"):
        encoder = architecture.build()
        channels, strides = stage_shapes(encoder)
        decoder = DenseDecoder(channels, strides, encoder.in_channels, 3)
        maps = [
            torch.empty(1, c, *(size // side for size, side in zip(shape_DHW, stride, strict=True)))
            for c, stride in zip(channels, strides, strict=True)
        ]
        assert decoder(torch.empty(1, encoder.in_channels, *shape_DHW), maps).shape == (1, 3, *shape_DHW)
    assert sum(p.numel() for p in decoder.parameters()) < sum(p.numel() for p in encoder.parameters())


@pytest.mark.parametrize("patch", [6, 14])
def test_slices_in_patches_that_are_no_power_of_two_come_back_whole(patch):
    encoder = SliceEncoder(TransformerSize(24, 4, 2), patch)
    network = EncoderDecoder(encoder, 2)
    output_NCDHW = network(torch.randn(1, 1, 2, 2 * patch, 3 * patch))
    assert output_NCDHW.shape == (1, 2, 2, 2 * patch, 3 * patch)
    output_NCDHW.square().mean().backward()
    assert all(p.grad is not None for p in network.decoder.parameters())


@pytest.mark.parametrize(
    ("stride", "steps"),
    [
        ((4, 4, 4), [(2, 2, 2), (2, 2, 2)]),
        ((4, 8, 8), [(2, 2, 2), (2, 2, 2), (1, 2, 2)]),
        ((1, 14, 14), [(1, 7, 7), (1, 2, 2)]),
        ((1, 1, 1), []),
    ],
)
def test_strides_are_taken_back_factor_by_factor(stride, steps):
    assert get_upsampling_steps(stride) == steps


def test_the_shallower_a_block_the_finer_its_level():
    pyramid = TokenPyramid([96] * 4, (4, 8, 8))
    assert pyramid.strides == [(1, 2, 2), (2, 4, 4), (4, 8, 8), (4, 8, 8)]
    assert pyramid.channels == [16, 32, 64, 64]
    lifted = pyramid([torch.randn(1, 96, 4, 2, 3)] * 4)
    assert [tuple(m.shape) for m in lifted] == [(1, 16, 16, 8, 12), (1, 32, 8, 4, 6), *[(1, 64, 4, 2, 3)] * 2]


def test_every_compared_layer_gets_a_gradient(encoder):
    network = EncoderDecoder(encoder, 3)
    network(torch.randn(1, 3, 16, 32, 32)).square().mean().backward()
    for name in (layer.name for layer in MICRO.layers):
        gradients = [p.grad for n, p in encoder.named_parameters() if n.startswith(f"{name}.")]
        assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients), name


@pytest.mark.parametrize(
    "make",
    [lambda e: EncoderDecoder(e, 3, residual=(0, 1, 2)), lambda _: SpecialisedUNet(3, 3, SMALL, residual=(0, 1, 2))],
)
def test_an_untrained_residual_network_is_the_identity(encoder, make):
    input_NCDHW = torch.randn(1, 3, 16, 16, 16)
    assert torch.equal(make(encoder)(input_NCDHW), input_NCDHW)


@pytest.mark.parametrize(
    "make",
    [
        lambda e: EncoderDecoder(e, 3),
        lambda e: Projector(e, 8),
        lambda _: SpecialisedUNet(3, 3, SMALL),
        CaseClassifier,
        lambda _: SpecialisedClassifier(3, SMALL),
    ],
)
def test_no_network_keeps_running_statistics(encoder, make):
    network = make(encoder)
    assert not list(network.named_buffers())
    network.train()
    input_NCDHW = torch.randn(1, 3, 16, 32, 32)
    trained = network(input_NCDHW)
    network.eval()
    assert torch.equal(trained, network(input_NCDHW))


def test_specialised_network_keeps_the_grid():
    network = SpecialisedUNet(3, 3, SMALL)
    for shape in ((16, 32, 48), network.stride_DHW):
        assert network(torch.randn(2, 3, *shape)).shape == (2, 3, *shape)


def test_specialised_network_grows_with_the_volume():
    with torch.device("meta"):
        small, large = SpecialisedUNet(3, 3, SMALL), SpecialisedUNet(3, 3, (64, 224, 224))
        assert large(torch.empty(1, 3, 32, 32, 32)).shape == (1, 3, 32, 32, 32)
    assert (small.stride_DHW, large.stride_DHW) == ((8, 8, 8), (16, 16, 16))
    small_size, large_size = (sum(p.numel() for p in network.parameters()) for network in (small, large))
    assert large_size > 10 * small_size


def test_a_shape_that_is_no_multiple_of_the_stride_is_refused():
    check_shape((16, 32, 32), (16, 16, 16), field="f")
    with pytest.raises(BadOption, match=r"recipe\.patch_shape_dhw.*multiples of \(16, 16, 16\)"):
        check_shape((16, 24, 32), (16, 16, 16), field="recipe.patch_shape_dhw")


def test_a_residual_is_over_the_channels_that_are_put_out(encoder):
    input_NCDHW = torch.randn(1, 3, 16, 16, 16)
    for network in (EncoderDecoder(encoder, 1, residual=[1]), SpecialisedUNet(3, 1, SMALL, residual=[1])):
        assert torch.equal(network(input_NCDHW), input_NCDHW[:, 1:2])


@pytest.mark.parametrize(
    "make",
    [
        lambda e: EncoderDecoder(e, 3, background_first=True),
        lambda _: SpecialisedUNet(3, 3, SMALL, background_first=True),
    ],
)
def test_an_untrained_segmentation_expects_background(encoder, make):
    probabilities = make(encoder)(torch.randn(1, 3, 16, 16, 16)).softmax(1)[0]
    assert probabilities[1:].mean() < 0.05
    assert (probabilities[0] > 0.5).all()


def test_one_logit_a_case_and_a_gradient_for_every_dense_layer(encoder):
    network = CaseClassifier(encoder)
    output_N1 = network(torch.randn(2, 3, 16, 32, 32))
    assert output_N1.shape == (2, 1)
    output_N1.sum().backward()
    for name in encoder.dense_layers():
        gradients = [p.grad for n, p in encoder.named_parameters() if n.startswith(f"{name}.")]
        assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients), name


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_classify_cases(name):
    encoder = ARCHITECTURES[name].build()
    network = CaseClassifier(encoder)
    output_N1 = network(torch.randn(2, encoder.in_channels, 8, 32, 16))
    assert output_N1.shape == (2, 1)
    output_N1.sum().backward()
    trained = {n: p.grad for n, p in encoder.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in trained.values())


@pytest.mark.parametrize("shape", [(16, 64, 64), (64, 224, 224)])
def test_the_specialised_classifier_follows_the_volume(shape):
    network = SpecialisedClassifier(3, shape).to("meta")
    assert network(torch.empty((2, 3, *shape), device="meta")).shape == (2, 1)
    parameters = sum(p.numel() for p in network.parameters())
    assert (parameters < 1e6) == (max(shape) <= 64)
