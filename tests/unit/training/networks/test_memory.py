"""The memory of a training step, against sums by hand."""

import torch
from torch import nn

from vfmalign.training.networks.memory import estimate_step_bytes


class Network(nn.Module):
    """A convolution, whose backward pass needs input and weights, and a ReLU, which needs its output."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.relu = nn.Conv3d(1, 4, 3, padding=1), nn.ReLU()

    def forward(self, input_NCDHW: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.relu(self.convolution(input_NCDHW))
        return output


def test_a_step_holds_weights_gradients_moments_and_what_the_backward_pass_needs():
    network, voxels = Network(), 2 * 8**3
    weights = 4 * 27 + 4
    activations = voxels + 4 * voxels  # input and output
    output = 4 * voxels
    assert estimate_step_bytes(network, (2, 1, 8, 8, 8)) == 4 * (4 * weights + activations + output)
    network.convolution.requires_grad_(False)
    assert estimate_step_bytes(network, (2, 1, 8, 8, 8)) == 4 * (weights + output), "frozen"
    assert not next(network.parameters()).is_meta
