"""Every head trains on a full-resolution stack without a pyramid, on an hourglass and on a strided stack."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.models import Preprocessing
from vfmalign.models.architectures.dilated_stack import DilatedStack, StackDescription
from vfmalign.training.networks.heads import CaseClassifier, EncoderDecoder, Projector, check_shape

INPUT = Preprocessing(
    modalities=("input",), spacing_mm=(1.0, 1.0, 1.0), shape_dhw=(8, 8, 8), normalisation="quantile_range"
)
MESH = [{"channels": 5, "dilation": d, "norm": "instance", "activation": "gelu", "bias": False} for d in (4, 2, 1)]
HOURGLASS = [
    {"channels": 5, "dilation": 2, "activation": "silu"},
    {"channels": 6, "stride": 2, "activation": "silu"},
    {"channels": 5, "kernel": 2, "stride": 2, "transposed": True},
    {"channels": 5, "activation": "silu"},
]
STRIDED = [{"channels": 5, "activation": "relu"}, {"channels": 7, "stride": 2}, {"channels": 9, "stride": 2}]


@pytest.fixture(params=[MESH, HOURGLASS, STRIDED], ids=["meshnet", "hourglass", "strided"])
def encoder(request):
    torch.manual_seed(0)
    return DilatedStack(StackDescription.model_validate({"layers": request.param, "input": INPUT}))


@pytest.fixture
def volumes():
    draw = torch.Generator().manual_seed(1)
    noise = torch.rand((4, 1, 4, 4, 4), generator=draw)
    return functional.interpolate(noise, size=(8, 8, 8), mode="trilinear")


def train(network: nn.Module, loss, steps: int = 30) -> tuple[float, float]:
    """Loss before and after a few steps, in which every weight of the encoder gets a gradient."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        losses.append(value.item())
        optimiser.step()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.encoder.parameters())
    return losses[0], losses[-1]


def test_segmentation(encoder, volumes):
    network = EncoderDecoder(encoder, 2)
    target = (volumes[:, 0] > 0.5).long()
    first, last = train(network, lambda: functional.cross_entropy(network(volumes), target))
    assert last < 0.8 * first


def test_restoration_of_a_residual(encoder, volumes):
    network = EncoderDecoder(encoder, 1, residual=[0])
    assert torch.equal(network(volumes), volumes), "an untrained network returns its input"
    first, last = train(network, lambda: functional.mse_loss(network(volumes), 2 * volumes - 0.3))
    assert last < 0.7 * first


def test_masked_reconstruction_without_the_input(encoder, volumes):
    network = EncoderDecoder(encoder, 1, input_skip=False)
    first, last = train(network, lambda: functional.mse_loss(network(volumes), volumes))
    assert last < first


def test_classification(encoder, volumes):
    network = CaseClassifier(encoder)
    positive = torch.tensor([0.0, 1.0, 0.0, 1.0])
    first, last = train(network, lambda: functional.binary_cross_entropy_with_logits(network(volumes)[:, 0], positive))
    assert last < 0.7 * first


def test_projection(encoder, volumes):
    assert Projector(encoder, 3)(volumes).shape == (4, 3)


def test_an_hourglass_states_the_size_that_it_can_restore():
    encoder = DilatedStack(StackDescription.model_validate({"layers": HOURGLASS, "input": INPUT}))
    with pytest.raises(BadOption, match=r"a shape of \(7, 8, 8\) voxels does not fit"):
        check_shape((7, 8, 8), encoder.input_multiple(), field="recipe.patch_shape_dhw")
    check_shape((6, 8, 10), encoder.input_multiple(), field="recipe.patch_shape_dhw")


@pytest.mark.parametrize("encoder", [MESH, HOURGLASS], indirect=True, ids=["meshnet", "hourglass"])
def test_the_scale_of_a_full_resolution_map_does_not_matter(encoder, volumes):
    network = EncoderDecoder(encoder, 2)
    before = network(volumes)
    feature_maps = encoder.feature_maps
    encoder.feature_maps = lambda *inputs: {name: 1000 * map_ for name, map_ in feature_maps(*inputs).items()}
    torch.testing.assert_close(network(volumes), before, rtol=1e-2, atol=1e-2)


def test_the_decoder_of_a_full_resolution_map_sees_the_input(encoder, volumes):
    network = EncoderDecoder(encoder, 1)
    before = network(volumes)
    encoder.feature_maps = lambda input_NCDHW, _: {
        name: torch.zeros(len(volumes), encoder.layer_channels()[name], *(8 // side for side in stride))
        for name, stride in encoder.dense_layers().items()
    }
    without = network(volumes)
    assert not torch.equal(without, before)
    assert bool(without.flatten(1).std(dim=1).gt(0).all()), "an output without maps depends on the input alone"
