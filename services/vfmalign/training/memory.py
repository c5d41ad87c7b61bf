"""Estimate of the memory of a training step, before the first step.

Axes: N batch, C channels, D H W.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as meta_config

from vfmalign.models.encoder import whole_volumes
from vfmalign.models.running_statistics import freeze_statistics

_MOMENTS = 2
"""Moments that AdamW keeps of every trained parameter."""


def estimate_step_bytes(network: nn.Module, shape_NCDHW: tuple[int, ...]) -> int:
    """Estimates the memory of one step: weights, gradients, AdamW's moments, and all that the backward pass needs.

    The network runs on the meta device, which takes almost no time or memory. The estimate omits the loss and the
    workspace of convolutions, so that a step needs more.

    Args:
        network: network of a fine-tuning, whose arguments are an input and its slices (see `models.encoder`).
        shape_NCDHW: the batch of one process.

    Returns:
        Bytes.
    """
    state = {
        name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        for name, tensor in network.state_dict(keep_vars=True).items()
    }
    own = sum(t.nbytes * (2 + _MOMENTS if t.requires_grad else 1) for t in state.values())
    saved: dict[int, Tensor] = {}  # by storage, which several tensors may share; the tensors keep it alive
    weights = {tensor.untyped_storage()._cdata for tensor in state.values()}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    network.train()
    freeze_statistics(network)
    input_NCDHW = torch.empty(shape_NCDHW, device="meta")
    slices_N2 = whole_volumes(shape_NCDHW[0], shape_NCDHW[2]).to("meta")
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        meta_config.patch(meta_nonzero_assume_all_nonzero=True),  # type: ignore[attr-defined]  # encoders of slices leave out padded ones
    ):
        output = torch.func.functional_call(network, state, (input_NCDHW, slices_N2))
    activations = sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in weights)
    return int(own + activations + output.nbytes)
