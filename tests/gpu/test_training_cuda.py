"""Training on a CUDA device has the losses of the CPU and restores its state bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.prostate import SPECS

from vfmalign.core.domain.jobs import TrainingRecipe
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.training.checkpoint import encode_state, restore_state
from vfmalign.training.data import PreparedCase, collate, generator
from vfmalign.training.learner import FineTuning
from vfmalign.training.networks.factory import build_network
from vfmalign.training.optim import build_optimiser, set_learning_rate
from vfmalign.training.pretraining import OBJECTIVES, build_objective
from vfmalign.training.tasks import get_task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

RECIPE = TrainingRecipe(epochs=1, steps_per_epoch=8, batch_size=2, learning_rate=1e-3, layer_decay=0.8)
LOSS_TOLERANCE = 2e-3
"""Relative. cuDNN may use TF32, which rounds the operands of products to ten bits."""


def make_case(number):
    draw = torch.Generator().manual_seed(number)
    clean_CDHW = torch.randn((3, 16, 32, 32), generator=draw)
    gland_DHW = torch.zeros((16, 32, 32), dtype=torch.uint8)
    gland_DHW[4:12, 8:24, 8:24] = 1
    lesions_DHW = torch.zeros_like(gland_DHW)
    lesions_DHW[6:9, 10:15, 10:15] = 3
    return PreparedCase(
        f"case-{number}",
        f"group-{number}",
        clean_CDHW,
        clean_CDHW,
        {"gland": gland_DHW, "lesions": lesions_DHW},
        (3.0, 1.0, 1.0),
        ("t2w", "dwi", "adc"),
        positive=number > 0,
    )


def fine_tuning(task, device):
    torch.manual_seed(0)
    encoder = ARCHITECTURES["profound_conv_micro"].build()
    network = build_network(task, encoder, ARCHITECTURES["profound_conv_micro"].preprocessing).to(device)
    return FineTuning(task, network, encoder, torch.device(device))


def pretraining(name, device):
    torch.manual_seed(0)
    encoder = ARCHITECTURES["profound_conv_micro"].build().to(device)
    return build_objective(name, encoder, RECIPE, torch.device(device), seed=1)


@pytest.mark.parametrize("name", [*SPECS, *OBJECTIVES])
def test_losses_and_validation_match_the_cpu(name):
    cases = [make_case(number) for number in range(3)]
    losses, validations = [], []
    for device in ("cpu", "cuda"):
        learner = fine_tuning(get_task(SPECS[name]), device) if name in SPECS else pretraining(name, device)
        batch = collate(cases[:2], torch.device(device))
        losses.append(learner.loss(batch, generator(1, "loss"), learner.network).item())
        validations.append(learner.validate(cases, lambda: None))
    assert losses[1] == pytest.approx(losses[0], rel=LOSS_TOLERANCE)
    assert validations[1] == pytest.approx(validations[0], rel=LOSS_TOLERANCE, abs=1e-3)


def test_a_state_is_restored_bit_for_bit():
    def build():
        learner = fine_tuning(get_task(SPECS["super_resolution"]), "cuda")
        return learner.network, build_optimiser(learner.network, RECIPE)

    def train(network, optimiser, steps):
        for _ in range(steps):
            set_learning_rate(optimiser, 1e-3)
            optimiser.zero_grad()
            network(torch.randn(2, 3, 16, 32, 32, device="cuda")).square().mean().backward()
            optimiser.step()

    torch.use_deterministic_algorithms(True, warn_only=True)
    network, optimiser = build()
    train(network, optimiser, 2)
    data = encode_state(network, optimiser)
    train(network, optimiser, 3)
    undisturbed = copy.deepcopy(network.state_dict())
    network, optimiser = build()
    restore_state(data, network, optimiser)
    assert encode_state(network, optimiser) == data
    train(network, optimiser, 3)
    assert all(torch.equal(tensor, undisturbed[name]) for name, tensor in network.state_dict().items())
    torch.use_deterministic_algorithms(False)
