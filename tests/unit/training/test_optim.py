"""Layer decay, weight decay and the schedule against their formulas."""

import math
from itertools import pairwise

import pytest
import torch

from vfmalign.core.domain.jobs import TrainingRecipe
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.training.networks.heads import EncoderDecoder, SpecialisedUNet
from vfmalign.training.optim import (
    build_optimiser,
    learning_rate_at,
    parameter_groups,
    set_learning_rate,
    weight_change,
)

SMALL = (16, 64, 64)
RECIPE = TrainingRecipe(epochs=4, steps_per_epoch=5, batch_size=1, learning_rate=0.1, warmup_fraction=0.25)


@pytest.fixture(scope="module")
def network() -> EncoderDecoder:
    return EncoderDecoder(ARCHITECTURES["profound_conv_micro"].build(), 3)


@pytest.fixture(scope="module", params=["profound_vit_micro", "provicnet_micro", "provicnet_fusion_micro"])
def transformer(request) -> EncoderDecoder:
    return EncoderDecoder(ARCHITECTURES[request.param].build(), 3)


def by_name(groups):
    return {name: group for group in groups for name in group["names"]}


def test_earlier_stages_get_a_smaller_learning_rate(network):
    groups = by_name(parameter_groups(network, weight_decay=0.05, layer_decay=0.5))
    for stage in range(4):
        for part in (f"encoder.downsample_layers.{stage}.0.weight", f"encoder.stages.{stage}.0.pwconv1.weight"):
            assert groups[part]["lr_scale"] == 0.5 ** (4 - stage)
    assert groups["encoder.norm.weight"]["lr_scale"] == 1.0
    assert groups["decoder.out.weight"]["lr_scale"] == 1.0


def test_the_encoder_rate_multiplies_the_layer_decay(network):
    groups = by_name(parameter_groups(network, weight_decay=0.05, layer_decay=0.5, encoder_rate=0.01))
    assert groups["encoder.stages.3.0.pwconv1.weight"]["lr_scale"] == pytest.approx(0.005)
    assert groups["encoder.norm.weight"]["lr_scale"] == 0.01
    assert groups["decoder.out.weight"]["lr_scale"] == 1.0


def test_earlier_blocks_get_a_smaller_learning_rate_and_embeddings_the_smallest(transformer):
    """As in BEiT: of B blocks, block i has B − i factors, what comes before the first B + 1, the final norm none."""
    groups = by_name(parameter_groups(transformer, weight_decay=0.05, layer_decay=0.5, encoder_rate=0.1))
    for name in (n for n in groups if n.startswith("encoder.")):
        if ".blocks." in name:
            factors = 4 - int(name.split(".blocks.")[1].split(".")[0])
        else:
            factors = 0 if name.endswith(("norm.weight", "norm.bias")) else 5
        assert groups[name]["lr_scale"] == pytest.approx(0.1 * 0.5**factors), name
    assert groups["decoder.out.weight"]["lr_scale"] == 1.0


def test_an_encoder_with_unknown_layers_has_one_learning_rate():
    network = torch.nn.ModuleDict({"encoder": torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))})
    groups = parameter_groups(network, weight_decay=0.05, layer_decay=0.5, encoder_rate=0.1)
    assert {group["lr_scale"] for group in groups} == {0.1}


def test_tokens_and_position_embeddings_do_not_decay(transformer):
    groups = by_name(parameter_groups(transformer, weight_decay=0.05, layer_decay=1.0))
    matrices = {name for name, group in groups.items() if group["weight_decay"]}
    assert any(name.endswith("attn.qkv.weight") for name in matrices)
    assert any(name.endswith("patch_embed.proj.weight") for name in matrices)
    assert not [name for name in matrices if name.endswith(("_token", "_tokens", "pos_embed", "bias", "norm.weight"))]


def test_frozen_parameters_are_not_trained(transformer):
    """The fixed places of the masked autoencoder and DINOv2's unused mask token."""
    frozen = {name for name, parameter in transformer.named_parameters() if not parameter.requires_grad}
    assert frozen
    trained = {n for g in parameter_groups(transformer, weight_decay=0.1, layer_decay=0.5) for n in g["names"]}
    assert trained.isdisjoint(frozen)
    assert trained | frozen == {name for name, _ in transformer.named_parameters()}


def test_one_dimensional_parameters_do_not_decay(network):
    groups = by_name(parameter_groups(network, weight_decay=0.05, layer_decay=1.0))
    assert groups["encoder.stages.0.0.dwconv.weight"]["weight_decay"] == 0.05
    assert groups["encoder.stages.0.0.pwconv2.weight"]["weight_decay"] == 0.05
    for name in ("dwconv.bias", "norm.weight", "pwconv1.bias", "grn.gamma", "grn.beta"):
        assert groups[f"encoder.stages.0.0.{name}"]["weight_decay"] == 0.0


@pytest.mark.parametrize("layer_decay", [1.0, 0.8])
def test_every_parameter_is_in_exactly_one_group(network, layer_decay):
    names = [n for g in parameter_groups(network, weight_decay=0.1, layer_decay=layer_decay) for n in g["names"]]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())


def test_a_network_without_encoder_has_one_rate():
    groups = parameter_groups(SpecialisedUNet(3, 3, SMALL), weight_decay=0.1, layer_decay=0.5)
    assert {group["lr_scale"] for group in groups} == {1.0}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}


def test_the_rate_warms_up_and_follows_half_a_cosine():
    rates = [learning_rate_at(step, RECIPE) for step in range(20)]
    assert rates[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert rates[5] == pytest.approx(0.1)
    assert rates[5 + 5] == pytest.approx(0.05 * (1 + math.cos(math.pi / 3)))
    assert all(later < earlier for earlier, later in pairwise(rates[5:]))
    assert rates[-1] > 0


def test_no_warm_up_starts_at_the_peak():
    assert learning_rate_at(0, RECIPE.model_copy(update={"warmup_fraction": 0.0})) == 0.1


def test_set_learning_rate_scales_every_group(network):
    optimiser = build_optimiser(network, RECIPE.model_copy(update={"layer_decay": 0.5}))
    set_learning_rate(optimiser, 0.1)
    assert sorted({group["lr"] for group in optimiser.param_groups}) == [0.1 * 0.5**k for k in (4, 3, 2, 1, 0)]


def test_weight_change_is_relative_to_the_start():
    before = {"a": torch.tensor([3.0]), "b": torch.tensor([0.0, 4.0])}
    after = {"a": torch.tensor([3.0]), "b": torch.tensor([1.0, 4.0])}
    assert weight_change(before, after) == pytest.approx(0.2)
    assert weight_change(before, before) == 0.0
