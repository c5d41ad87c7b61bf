"""Running statistics of normalisation layers, such as batch normalisation.

A training never changes running statistics, so that its numbers do not depend on how a batch is divided among
processes. Statistics of random weights are first estimated from data. A network with random weights and the initial
statistics (mean 0, variance 1) does not normalise at all: the SD of its outputs grows with its depth. Without the
estimate, any pretrained network would look good beside it.

Axes: N batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from vfmalign.models.encoder import Encoder

STATISTICS_BATCH = 8
"""Largest number of cases in a batch from which statistics are estimated."""


def list_running(network: nn.Module) -> list[_NormBase]:
    """Lists the layers of a network that normalise by running statistics in evaluation mode."""
    return [module for module in network.modules() if isinstance(module, _NormBase) and module.running_mean is not None]


def freeze_statistics(network: nn.Module) -> None:
    """Sets the layers with running statistics to evaluation mode. Their weights and biases can still be trained."""
    for layer in list_running(network):
        layer.eval()


def split_batches(count: int) -> list[int]:
    """Divides cases into batches of nearly equal size, because all batches have the same weight in the estimate."""
    batches = -(-count // STATISTICS_BATCH)
    return [(number + 1) * count // batches - number * count // batches for number in range(batches)]


@contextmanager
def estimate_statistics(encoder: Encoder) -> Iterator[Callable[[Tensor, Tensor], None]]:
    """Estimates the running statistics of an encoder in evaluation mode by one pass over data.

    Every layer normalises a batch by the mean and variance of this batch. The running statistics become the means of
    the batches' statistics, as in `torch.optim.swa_utils.update_bn`. Dropout stays off.

    Returns:
        A context. Call its value for every batch, with an input and its slices (see `models.encoder`) on the encoder's
        device. At the end of the context, the statistics are frozen.
    """
    layers = list_running(encoder)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a mean over all batches instead of a moving average
        layer.train()

    def observe(input_NCDHW: Tensor, slices_N2: Tensor) -> None:
        if len(input_NCDHW) == 1:  # a map of one voxel in a single case has no variance
            input_NCDHW, slices_N2 = torch.cat([input_NCDHW] * 2), torch.cat([slices_N2] * 2)
        with torch.no_grad(), torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
            encoder(input_NCDHW, slices_N2)

    yield observe
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
