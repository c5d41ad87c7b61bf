"""Operands of the Triton program: padded rows, split into bfloat16 components, and the weights of the permutations.

Legend: N rows, K channels, S bfloat16 components, G groups, B permutations, I rows of one block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vfmalign.mmd.engine.precision import PrecisionName
from vfmalign.mmd.engine.rows import Rows
from vfmalign.mmd.engine.tiles import Layout, Matrix, PairedMatrix, PooledMatrix, TileShape
from vfmalign.mmd.engine.triton.tile_plan import TileConfig, choose_tile_config

COMPONENTS: dict[PrecisionName, int] = {"bfloat16": 1, "float32": 3}
"""Number of bfloat16 components of a number at each precision. Three components preserve float32's 24 bits."""
_BLOCK_ROWS = 8_192


@dataclass(frozen=True)
class Operands:
    """Operands that all passes over one matrix share.

    Attributes:
        x_SNK, y_SNK: rows as bfloat16 components, with channels padded with zeros. For pooled rows, x_SNK and y_SNK are
            the same tensor.
        x_norms_N, y_norms_N: squared norms of the rows.
        groups_N: group of each row, int32.
        weights_GB: weights of the groups in each permutation, int8; permutations are padded with zeros.
        paired: whether the rows and columns of the matrix are pairs (x_i, y_i).
        config: size of the tiles, and launch options.
    """

    x_SNK: Tensor
    y_SNK: Tensor
    x_norms_N: Tensor
    y_norms_N: Tensor
    groups_N: Tensor
    weights_GB: Tensor
    paired: bool
    config: TileConfig

    @classmethod
    def from_matrix(cls, matrix: Matrix, layout: Layout, tile_shape: TileShape | None) -> Operands:
        """Returns the operands of a matrix on the matrix's device."""
        if isinstance(matrix, PairedMatrix):
            x, y, paired = matrix.x, matrix.y, True
        elif isinstance(matrix, PooledMatrix):
            x, y, paired = matrix.pooled, matrix.pooled, False
        else:
            raise TypeError(f"expected a PooledMatrix or PairedMatrix, got {type(matrix).__name__}")
        components = COMPONENTS[matrix.precision]
        config = _tile_config(matrix.device, components, paired, tile_shape)
        x_SNK = _split(x, components, config.channels)
        groups, permutations = layout.weights_GB.shape
        weights_GB = torch.zeros(groups, _padded(permutations, config.permutations), dtype=torch.int8)
        weights_GB[:, :permutations] = torch.from_numpy(layout.weights_GB)
        return cls(
            x_SNK,
            _split(y, components, config.channels) if paired else x_SNK,
            x.norms_N,
            y.norms_N,
            torch.from_numpy(layout.group_of_N.astype(np.int32)).to(matrix.device),
            weights_GB.to(matrix.device),
            paired,
            config,
        )


def _tile_config(device: torch.device, components: int, paired: bool, largest: TileShape | None) -> TileConfig:
    """Returns the tile for a device, limited to `largest`. The interpreter gets a small tile."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        shared = int(getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block))
        config = choose_tile_config(shared, components=components, paired=paired)
    else:
        config = TileConfig(32, 32, 32, permutations=16)
    if largest is None:
        return config
    rows, columns = _limited_side(config.rows, largest[0]), _limited_side(config.columns, largest[1])
    return replace(config, rows=rows, columns=columns, warps=4 if rows * columns < 64 * 64 else config.warps)


def _limited_side(side: int, largest: int) -> int:
    """Returns the largest power of two that exceeds neither side, but at least 16, which matrix units require."""
    return max(16, min(side, 1 << largest.bit_length() - 1))


def _padded(size: int, step: int) -> int:
    """Rounds a number up to a multiple of a step."""
    return -(-size // step) * step


def _split(rows: Rows, components: int, step: int) -> Tensor:
    """Splits rows into bfloat16 components [S, N, K] whose sum is the rows. Pads K with zeros to a multiple of a step.

    Each component is the rounded difference between the rows and the sum of the previous components.
    """
    padded = _padded(rows.channels, step)
    split_SNK = torch.zeros(components, rows.count, padded, dtype=torch.bfloat16, device=rows.device)
    for start in range(0, rows.count, _BLOCK_ROWS):
        span = slice(start, start + _BLOCK_ROWS)
        remainder_IK = rows[span].values_NK.clone()
        for component_NK in split_SNK:
            component_NK[span, : rows.channels] = remainder_IK
            remainder_IK -= component_NK[span, : rows.channels]
    return split_SNK
