"""Estimate of the memory of a training step, before the first step.

Axes: N batch, C channels, D H W.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vfmalign.models.running_statistics import freeze_statistics

_MOMENTS = 2
"""Moments that AdamW keeps of every trained parameter."""


def estimate_step_bytes(network: nn.Module, shape_NCDHW: tuple[int, ...]) -> int:
    """Estimates the memory of one step: weights, gradients, AdamW's moments, and all that the backward pass needs.

    The network runs on the meta device, which takes almost no time or memory. The estimate omits the loss and the
    workspace of convolutions, so that a step needs more.

    Args:
        network: network of a fine-tuning. It gets inputs without padding.
        shape_NCDHW: the batch of one process.

    Returns:
        Bytes.
    """
    state = {
        name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        for name, tensor in network.state_dict(keep_vars=True).items()
    }
    own = sum(t.nbytes * (2 + _MOMENTS if t.requires_grad else 1) for t in state.values())
    weights = {id(storage): storage for storage in map(Tensor.untyped_storage, state.values())}
    saved = {}  # by the identity of the storage, which tensors may share; the values keep the storages alive

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[id(storage)] = storage
        return tensor

    network.train()
    freeze_statistics(network)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = torch.func.functional_call(network, state, (torch.empty(shape_NCDHW, device="meta"),))
    activations = sum(storage.nbytes() for key, storage in saved.items() if key not in weights)
    return int(own + activations + output.nbytes)
