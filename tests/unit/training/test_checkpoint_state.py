"""Checkpoint tensors are restored bit for bit and in their memory layout."""

import copy

import pytest
import torch

from vfmalign.core.domain.jobs import TrainingRecipe
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.training.checkpoint import encode_state, restore_state
from vfmalign.training.networks.heads import EncoderDecoder
from vfmalign.training.optim import build_optimiser, set_learning_rate

RECIPE = TrainingRecipe(epochs=1, steps_per_epoch=8, batch_size=1, learning_rate=1e-2, layer_decay=0.7)


def build(seed, architecture="profound_conv_micro"):
    torch.manual_seed(seed)
    network = EncoderDecoder(ARCHITECTURES[architecture].build(), 3)
    return network, build_optimiser(network, RECIPE)


def train(network, optimiser, steps):
    for _ in range(steps):
        set_learning_rate(optimiser, 1e-2)
        optimiser.zero_grad()
        network(torch.randn(1, 3, 16, 32, 32)).square().mean().backward()  # draws from the global generator
        optimiser.step()


@pytest.mark.parametrize("architecture", ["profound_conv_micro", "profound_vit_micro"])
def test_restored_training_is_bit_identical(architecture):
    network, optimiser = build(0, architecture)
    train(network, optimiser, 2)
    data = encode_state(network, optimiser)
    train(network, optimiser, 3)
    undisturbed = copy.deepcopy(network.state_dict())

    network, optimiser = build(1, architecture)
    torch.manual_seed(12345)
    restore_state(data, network, optimiser)
    assert encode_state(network, optimiser) == data
    train(network, optimiser, 3)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, undisturbed[name]), name


def test_restored_moments_have_the_memory_layout_of_their_parameters():
    network, optimiser = build(0)
    train(network, optimiser, 1)
    strides = {n: optimiser.state[p]["exp_avg"].stride() for n, p in network.named_parameters() if p in optimiser.state}
    data = encode_state(network, optimiser)
    network, optimiser = build(1)
    restore_state(data, network, optimiser)
    assert strides
    for name, parameter in network.named_parameters():
        if name in strides:
            assert optimiser.state[parameter]["exp_avg"].stride() == strides[name], name


def test_a_state_before_the_first_step_can_be_restored():
    network, optimiser = build(0)
    data = encode_state(network, optimiser)
    other, other_optimiser = build(1)
    restore_state(data, other, other_optimiser)
    assert encode_state(other, other_optimiser) == data
