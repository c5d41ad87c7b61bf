"""Transformer blocks and the resampling of position embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vfmalign.models.architectures.transformer import EPSILON, Block, TransformerSize, resample_position_embedding

DIM, HEADS, TOKENS = 24, 3, 7


def build_torch_layer(block: Block) -> nn.TransformerEncoderLayer:
    """Returns torch's layer with the weights of a block."""
    layer = nn.TransformerEncoderLayer(
        DIM, HEADS, 4 * DIM, dropout=0.0, activation="gelu", layer_norm_eps=EPSILON, batch_first=True, norm_first=True
    )
    state = block.state_dict()
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "self_attn.out_proj": "attn.proj",
        "linear1": "mlp.fc1",
        "linear2": "mlp.fc2",
    }
    weights = {f"{ours}.{kind}": state[f"{name}.{kind}"] for ours, name in names.items() for kind in ("weight", "bias")}
    weights |= {f"self_attn.in_proj_{kind}": state[f"attn.qkv.{kind}"] for kind in ("weight", "bias")}
    layer.load_state_dict(weights)
    return layer


def random_block(layer_scale: float | None = None) -> Block:
    torch.manual_seed(1)
    block = Block(TransformerSize(DIM, 1, HEADS), EPSILON, layer_scale)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


def random_tokens() -> Tensor:
    return torch.randn(2, TOKENS, DIM, generator=torch.Generator().manual_seed(2))


def test_a_block_agrees_with_the_layer_of_torch():
    block = random_block()
    with torch.no_grad():
        torch.testing.assert_close(block(random_tokens()), build_torch_layer(block)(random_tokens()))


def test_layer_scale_weights_both_branches():
    block = random_block(layer_scale=1.0)
    nn.init.zeros_(block.ls1.gamma)
    nn.init.zeros_(block.ls2.gamma)
    tokens = random_tokens()
    assert torch.equal(block(tokens), tokens)
    assert set(block.state_dict()) >= {"ls1.gamma", "ls2.gamma"}


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 8), (3, 6)])
def test_resampling_keeps_the_class_token_and_the_order_of_patches(rows, columns):
    side = 4
    down = torch.linspace(0, 1, side)[:, None].expand(side, side)
    across = down.T
    table = torch.cat((torch.full((1, 1, 2), 9.0), torch.stack((down, across), dim=-1).reshape(1, side**2, 2)), dim=1)
    result = resample_position_embedding(table, rows, columns)
    assert result.shape == (1, 1 + rows * columns, 2)
    assert torch.equal(result[:, 0], table[:, 0])
    grid = result[0, 1:].reshape(rows, columns, 2)
    # A gradient along one axis stays one, whatever the size of the grid.
    assert torch.all(grid[..., 0].diff(dim=0) > 0)
    assert torch.allclose(grid[..., 0], grid[:, :1, 0].expand(rows, columns), atol=1e-6)
    assert torch.all(grid[..., 1].diff(dim=1) > 0)
