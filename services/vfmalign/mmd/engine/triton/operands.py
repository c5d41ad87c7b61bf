"""What the Triton program reads: rows as bfloat16 parts, padded, and the weights of permutations. Knows no kernels.

Legend: N rows, K channels, S bfloat16 parts, G groups, B permutations, I rows of one block.
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
"""bfloat16 parts of a row's numbers, by precision: three hold float32's 24 bits."""
_BLOCK_ROWS = 8_192


@dataclass(frozen=True)
class Operands:
    """What all passes over one matrix read.

    Attributes:
        x_SNK, y_SNK: rows as bfloat16 parts, channels padded with zeros; the same tensor for pooled rows.
        weights_GB: int8, permutations padded with zeros.
    """

    x_SNK: Tensor
    y_SNK: Tensor
    x_norms_N: Tensor
    y_norms_N: Tensor
    groups_N: Tensor
    weights_GB: Tensor
    paired: bool
    shape: TileConfig

    @classmethod
    def of(cls, matrix: Matrix, layout: Layout, tile_shape: TileShape | None) -> Operands:
        """The operands of a matrix, on its device."""
        if isinstance(matrix, PairedMatrix):
            x, y, paired = matrix.x, matrix.y, True
        elif isinstance(matrix, PooledMatrix):
            x, y, paired = matrix.pooled, matrix.pooled, False
        else:
            raise TypeError(f"triton sums pooled and paired matrices, not {type(matrix).__name__}")
        parts = COMPONENTS[matrix.precision]
        shape = _shape(matrix.device, parts, paired, tile_shape)
        x_SNK = _parts(x, parts, shape.channels)
        groups, permutations = layout.weights_GB.shape
        weights_GB = torch.zeros(groups, _padded(permutations, shape.permutations), dtype=torch.int8)
        weights_GB[:, :permutations] = torch.from_numpy(layout.weights_GB)
        return cls(
            x_SNK,
            _parts(y, parts, shape.channels) if paired else x_SNK,
            x.norms_N,
            y.norms_N,
            torch.from_numpy(layout.group_of_N.astype(np.int32)).to(matrix.device),
            weights_GB.to(matrix.device),
            paired,
            shape,
        )


def _shape(device: torch.device, parts: int, paired: bool, largest: TileShape | None) -> TileConfig:
    """The tile for a device, or for the interpreter, which has no limits of its own."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        shared = int(getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block))
        shape = choose_tile_config(shared, parts=parts, paired=paired)
    else:
        shape = TileConfig(32, 32, 32, permutations=16)
    if largest is None:
        return shape
    rows, columns = _side(shape.rows, largest[0]), _side(shape.columns, largest[1])
    return replace(shape, rows=rows, columns=columns, warps=4 if rows * columns < 64 * 64 else shape.warps)


def _side(own: int, largest: int) -> int:
    """The largest power of two within both sides, and 16 where that is less."""
    return max(16, min(own, 1 << largest.bit_length() - 1))


def _padded(size: int, step: int) -> int:
    """The next multiple of a step."""
    return -(-size // step) * step


def _parts(rows: Rows, parts: int, step: int) -> Tensor:
    """Rows as sums of bfloat16 parts [S, N, K]: each part is what the ones before leave, rounded; K padded by zeros."""
    padded = _padded(rows.channels, step)
    parts_SNK = torch.zeros(parts, rows.count, padded, dtype=torch.bfloat16, device=rows.device)
    for start in range(0, rows.count, _BLOCK_ROWS):
        span = slice(start, start + _BLOCK_ROWS)
        rest_IK = rows[span].values_NK.clone()
        for part_NK in parts_SNK:
            part_NK[span, : rows.channels] = rest_IK
            rest_IK -= part_NK[span, : rows.channels]
    return parts_SNK
