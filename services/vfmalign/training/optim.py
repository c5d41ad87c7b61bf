"""The optimiser and its schedule: AdamW with layer decay, linear warm-up, half cosine.

The learning rate decays by layer. Biases, tokens, position embeddings and one-dimensional parameters have no weight
decay. Both rules follow BEiT (Bao et al., 2022), the masked autoencoder (He et al., CVPR 2022) and ConvNeXt V2's
fine-tuning (Woo et al., CVPR 2023).
"""

from __future__ import annotations

import math
import re
from typing import TypedDict

import torch
from torch import Tensor, nn

from vfmalign.core.domain.jobs import TrainingRecipe

_ENCODER = "encoder."
# Each of ProViCNet's parallel streams has its own backbone: layers of equal depth get the same rate.
_ENCODER_PREFIX = r"^encoder\.(?:streams\.\w+\.)?(?:backbone\.)?"
_LAYER = re.compile(_ENCODER_PREFIX + r"(?:downsample_layers|stages|blocks)\.(\d+)\.")
_EMBEDDING = re.compile(_ENCODER_PREFIX + r"(?:patch_embed|pos_embed|cls_token|register_tokens|axis_pos|axis_max)\b")
_TOKEN_SUFFIXES = ("pos_embed", "token", "tokens")


class ParameterGroup(TypedDict):
    """Parameters of a torch optimiser that share a factor of the learning rate (`lr_scale`) and a weight decay."""

    params: list[nn.Parameter]
    names: list[str]
    lr_scale: float
    weight_decay: float
    lr: float


def parameter_groups(
    network: nn.Module, *, weight_decay: float, layer_decay: float, encoder_rate: float = 1.0
) -> list[ParameterGroup]:
    """Groups parameters by their factor of the learning rate and by weight decay.

    The layers 0…S−1 of an encoder are stages (with their downsampling) or the blocks of a transformer. Layer i gets the
    factor `encoder_rate · layer_decay ** (S − i)`. The parts of a transformer before its blocks get `encoder_rate ·
    layer_decay ** (S + 1)`. The final norm gets `encoder_rate`. Parameters outside the encoder get the factor 1. If the
    names of an encoder's layers are not recognised, the whole encoder gets `encoder_rate`. Frozen parameters belong to
    no group.

    Args:
        network: a network. If the network has an encoder, its attribute `encoder` contains it.
        weight_decay: decay of matrices and kernels. One-dimensional parameters (such as biases and norms), tokens and
            position embeddings have no weight decay.
        layer_decay: factor per layer towards the input; 1 for no decay.
        encoder_rate: factor of the learning rate for the whole encoder.

    Returns:
        Groups for a torch optimiser, in a fixed order.
    """
    trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    layers = 1 + max((int(match[1]) for name, _ in trained if (match := _LAYER.match(name))), default=-1)
    groups: dict[tuple[float, float], ParameterGroup] = {}
    for name, parameter in trained:
        scale = layer_decay ** _decay_exponent(name, layers)
        if name.startswith(_ENCODER):
            scale *= encoder_rate
        decay = 0.0 if _is_one_dimensional(parameter) or name.endswith(_TOKEN_SUFFIXES) else weight_decay
        group = groups.setdefault(
            (scale, decay), {"params": [], "names": [], "lr_scale": scale, "weight_decay": decay, "lr": 0.0}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimiser(network: nn.Module, recipe: TrainingRecipe) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`. Before each step, `set_learning_rate` sets the learning rate of the optimiser."""
    groups = parameter_groups(
        network,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        encoder_rate=recipe.encoder_rate,
    )
    return torch.optim.AdamW(map(dict, groups), lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True)


def learning_rate_at(step: int, recipe: TrainingRecipe) -> float:
    """Returns the learning rate of a step, counted from 0: linear warm-up to the peak, then half a cosine towards 0."""
    steps = recipe.steps
    warmup = round(recipe.warmup_fraction * steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of every parameter group: `rate` times the group's factor `lr_scale`."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]


def weight_change(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """Relative change ‖θ − θ0‖ / ‖θ0‖ of all tensors together, computed in float64."""
    change = sum(float((after[name].double() - tensor.double()).square().sum()) for name, tensor in before.items())
    norm = sum(float(tensor.double().square().sum()) for tensor in before.values())
    return math.sqrt(change / norm)


def _decay_exponent(name: str, layers: int) -> int:
    """How many times the layer decay applies to a parameter."""
    if match := _LAYER.match(name):
        return layers - int(match[1])
    return layers + 1 if _EMBEDDING.match(name) else 0


def _is_one_dimensional(parameter: Tensor) -> bool:
    # GRN's parameters have the shape (1, 1, 1, 1, C) and count as one-dimensional.
    return parameter.numel() == max(parameter.shape, default=1)
