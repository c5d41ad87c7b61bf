"""Triton program that reduces one tile of a kernel matrix to sums.

The program does not write kernel values to device memory.

This module needs `triton`. `backend` therefore imports this module only if needed. `tile_plan` chooses the tiles, and
`backend` combines the sums of all tiles.

Because the matrix is symmetric, the program sums only the entries to the right of the diagonal (j > i). `backend`
computes and adds the diagonal, more accurately than a product of rows would.

Legend: I rows and J columns of a tile, K channels, P kernels, C Gaussians of a mixture, b of the B permutations.
"""

# Many arguments are positional and conditions are nested, because the compiler takes arguments by position and resolves
# conditions on `tl.constexpr` before conditions on values.
# ruff: noqa: D417, PLR0917, SIM102

import triton
import triton.language as tl

INTERPRETED = triton.knobs.runtime.interpret


@triton.jit
def _dot(left, right, total, INTERPRETED: tl.constexpr):
    """Computes `left @ right + total` in float32 from bfloat16 operands.

    Triton's interpreter cannot multiply bfloat16 operands, so it gets float32 operands with the same values.
    """
    if INTERPRETED:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), total, input_precision="ieee")
    return tl.dot(left, right, total)


@triton.jit
def _distances(
    left,
    right,
    left_norms,
    right_norms,
    row_I,
    row_J,
    channels,
    component_stride,
    BLOCK_K: tl.constexpr,
    COMPONENTS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Computes ‖left_i − right_j‖² of rows that are stored as sums of bfloat16 components.

    Each component contains the next 8 bits of a number, so three components contain the 24 bits of a float32. Of the
    nine products of components, the six above 2^-24 are computed, the smallest first. Matrix units truncate their sums
    towards 0 instead of rounding them. This error would grow with the number of channels. Matrix units therefore sum
    only one step of channels, and the sums of the steps are added in ordinary float32.
    """
    at_K = tl.arange(0, BLOCK_K)
    left += row_I.to(tl.int64)[:, None] * channels + at_K[None, :]
    right += row_J.to(tl.int64)[None, :] * channels + at_K[:, None]
    product_IJ = tl.zeros((row_I.shape[0], row_J.shape[0]), tl.float32)
    for k in range(0, channels, BLOCK_K):
        left_0, right_0 = tl.load(left + k), tl.load(right + k)
        if COMPONENTS == 1:
            product_IJ = _dot(left_0, right_0, product_IJ, INTERPRETED)
        else:
            left_1, right_1 = tl.load(left + k + component_stride), tl.load(right + k + component_stride)
            # Twice the stride may exceed 32 bits; adding it twice to the pointer is 64-bit arithmetic.
            left_2 = tl.load(left + k + component_stride + component_stride)
            right_2 = tl.load(right + k + component_stride + component_stride)
            step_IJ = _dot(left_2, right_0, tl.zeros_like(product_IJ), INTERPRETED)
            step_IJ = _dot(left_1, right_1, step_IJ, INTERPRETED)
            step_IJ = _dot(left_0, right_2, step_IJ, INTERPRETED)
            step_IJ = _dot(left_1, right_0, step_IJ, INTERPRETED)
            step_IJ = _dot(left_0, right_1, step_IJ, INTERPRETED)
            product_IJ += _dot(left_0, right_0, step_IJ, INTERPRETED)
    norms_IJ = tl.load(left_norms + row_I)[:, None] + tl.load(right_norms + row_J)[None, :]
    return tl.maximum(norms_IJ - 2.0 * product_IJ, 0.0)


@triton.jit
def _kernel_values(distance2_IJ, coefficients, C: tl.constexpr, FAMILY: tl.constexpr):
    """Evaluates one kernel. Its coefficients are C pairs of a distance scale and a weight."""
    value_IJ = tl.zeros_like(distance2_IJ)
    for c in tl.static_range(C):
        scale = tl.load(coefficients + 2 * c)
        weight = tl.load(coefficients + 2 * c + 1)
        if FAMILY == "gaussian":
            value_IJ += weight * tl.exp2(distance2_IJ * scale)
        elif FAMILY == "laplacian":
            value_IJ += weight * tl.exp2(tl.sqrt(distance2_IJ) * scale)
        elif FAMILY == "rational_quadratic":
            value_IJ += weight / (1.0 + distance2_IJ * scale)
        else:
            tl.static_assert(FAMILY == "inverse_multiquadric")
            value_IJ += weight * tl.rsqrt(1.0 + distance2_IJ * scale)
    return value_IJ


@triton.jit
def _add_quadratic(
    tile_IJ,
    entries,
    weights,
    group_I,
    group_J,
    inside_I,
    inside_J,
    out,
    permutations,
    BLOCK_B: tl.constexpr,
    VALUE_COMPONENTS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Writes this tile's wᵀTw for each permutation.

    bfloat16 represents the weights exactly. T is split into its mean and bfloat16 components of the remainder. Three
    components preserve the 24 bits of float32. With two components, the error is 2^-18 of the deviations of T from its
    mean. Subtracting the mean keeps the truncation error of the matrix units small, because that error is proportional
    to the summands. The contribution of the mean is exact: the mean times a product of two integers.
    """
    mean = tl.sum(tl.sum(tile_IJ, axis=1), axis=0) / entries
    # Entries that are not counted become −mean, which must be exact in bfloat16 for its contribution to cancel.
    mean = mean.to(tl.bfloat16).to(tl.float32)
    rest_IJ = tile_IJ - mean
    high_IJ = rest_IJ.to(tl.bfloat16)
    rest_IJ -= high_IJ.to(tl.float32)
    middle_IJ = rest_IJ.to(tl.bfloat16)
    if VALUE_COMPONENTS == 3:
        low_IJ = (rest_IJ - middle_IJ.to(tl.float32)).to(tl.bfloat16)
    for start in range(0, permutations, BLOCK_B):
        at_b = start + tl.arange(0, BLOCK_B)
        weight_Jb = tl.load(weights + group_J[:, None] * permutations + at_b[None, :], mask=inside_J[:, None], other=0)
        product_Ib = tl.zeros((tile_IJ.shape[0], BLOCK_B), tl.float32)
        exact_Jb = weight_Jb.to(tl.float32).to(tl.bfloat16)
        if VALUE_COMPONENTS == 3:
            product_Ib = _dot(low_IJ, exact_Jb, product_Ib, INTERPRETED)
        product_Ib = _dot(middle_IJ, exact_Jb, product_Ib, INTERPRETED)
        product_Ib = _dot(high_IJ, exact_Jb, product_Ib, INTERPRETED)
        weight_Ib = tl.load(weights + group_I[:, None] * permutations + at_b[None, :], mask=inside_I[:, None], other=0)
        both_b = tl.sum(weight_Ib.to(tl.int32), axis=0) * tl.sum(weight_Jb.to(tl.int32), axis=0)
        sum_b = tl.sum(product_Ib * weight_Ib.to(tl.float32), axis=0) + mean * both_b.to(tl.float32)
        tl.store(out + at_b, sum_b)


# Sizes that differ between chunks. Without this list, Triton would compile a variant for each of their divisibilities.
_CHUNK_SIZES = ["first_row", "panel_rows", "column_tiles", "panels", "all_columns", "within_slots"]


@triton.jit(do_not_specialize=_CHUNK_SIZES, do_not_specialize_on_alignment=["kernels"])
def sum_tiles(
    x,
    y,
    x_norms,
    y_norms,
    coefficients,
    groups,
    weights,
    tiles,
    row_sums,
    column_sums,
    within_sums,
    quadratic,
    squares,
    channels,
    component_stride,
    kernels,
    permutations,
    first_row,
    panel_rows,
    column_tiles,
    panels,
    all_columns,
    within_slots,
    PAIRED: tl.constexpr,
    FAMILY: tl.constexpr,
    C: tl.constexpr,
    PERMUTED: tl.constexpr,
    GROUPED: tl.constexpr,
    SQUARES: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_B: tl.constexpr,
    COMPONENTS: tl.constexpr,
    VALUE_COMPONENTS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Sums one tile for each kernel.

    If PAIRED, the tile belongs to H over the pairs (x, y); otherwise to K over the rows x, and y is not read.

    Args:
        x, y: bfloat16 rows [COMPONENTS, N, channels], `component_stride` apart; channels a multiple of BLOCK_K.
        x_norms, y_norms: squared norms [N].
        coefficients: [P, C, 2], pairs of a distance scale and a weight.
        groups: group of each row [N].
        weights: int8 [G, permutations], permutations a multiple of BLOCK_B.
        tiles: int32 [programs, 7]: first row and end, first column and end, panel, column tile, slot of groups or −1.
        row_sums: [P, column tiles, panel rows]; column_sums: [P, panels, all columns]; within_sums: [P, slots, panel
            rows]; quadratic: [P, programs, permutations]; squares: [P, programs]. All float32. At most one program
            writes each entry, so that the order in which programs run does not affect the sums.
        first_row: first row of the panels; rows and columns of the sums are counted from this row.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    tile = tiles + program * 7
    row_start, row_stop = tl.load(tile), tl.load(tile + 1)
    column_start, column_stop = tl.load(tile + 2), tl.load(tile + 3)
    panel, column_tile, slot = tl.load(tile + 4), tl.load(tile + 5), tl.load(tile + 6)

    at_I, at_J = row_start + tl.arange(0, BLOCK_I), column_start + tl.arange(0, BLOCK_J)
    inside_I, inside_J = at_I < row_stop, at_J < column_stop
    # Rows past the end repeat the last one, so that the loads of the inner loop need no mask.
    row_I, row_J = tl.minimum(at_I, row_stop - 1), tl.minimum(at_J, column_stop - 1)
    xx_IJ = _distances(
        x, x, x_norms, x_norms, row_I, row_J, channels, component_stride, BLOCK_K, COMPONENTS, INTERPRETED
    )
    if PAIRED:
        yy_IJ = _distances(
            y, y, y_norms, y_norms, row_I, row_J, channels, component_stride, BLOCK_K, COMPONENTS, INTERPRETED
        )
        xy_IJ = _distances(
            x, y, x_norms, y_norms, row_I, row_J, channels, component_stride, BLOCK_K, COMPONENTS, INTERPRETED
        )
        yx_IJ = _distances(
            y, x, y_norms, x_norms, row_I, row_J, channels, component_stride, BLOCK_K, COMPONENTS, INTERPRETED
        )

    counted_IJ = inside_I[:, None] & inside_J[None, :] & (at_J[None, :] > at_I[:, None])
    entries = tl.maximum(tl.sum(tl.sum(counted_IJ.to(tl.float32), axis=1), axis=0), 1.0)
    if PERMUTED or GROUPED:
        group_I, group_J = tl.load(groups + row_I), tl.load(groups + row_J)
    for p in range(kernels):
        kernel_coefficients = coefficients + p * C * 2
        value_IJ = tl.where(counted_IJ, _kernel_values(xx_IJ, kernel_coefficients, C, FAMILY), 0.0)
        if SQUARES:
            square_I = tl.sum(value_IJ * value_IJ, axis=1)
        if PAIRED:
            k_xy_IJ = tl.where(counted_IJ, _kernel_values(xy_IJ, kernel_coefficients, C, FAMILY), 0.0)
            value_IJ -= k_xy_IJ
            if SQUARES:
                square_I += tl.sum(k_xy_IJ * k_xy_IJ, axis=1)
            k_yy_IJ = tl.where(counted_IJ, _kernel_values(yy_IJ, kernel_coefficients, C, FAMILY), 0.0)
            k_yx_IJ = tl.where(counted_IJ, _kernel_values(yx_IJ, kernel_coefficients, C, FAMILY), 0.0)
            value_IJ += k_yy_IJ - k_yx_IJ
            if SQUARES:
                square_I += tl.sum(k_yy_IJ * k_yy_IJ + k_yx_IJ * k_yx_IJ, axis=1)
        if SQUARES:
            tl.store(squares + p * programs + program, tl.sum(square_I, axis=0))
        offset_I, offset_J = at_I - first_row, at_J - first_row
        tl.store(
            row_sums + (p * column_tiles + column_tile) * panel_rows + offset_I, tl.sum(value_IJ, axis=1), inside_I
        )
        # A tile may begin left of the first panel, where nothing is counted and the buffer has no entries.
        stored_J = inside_J & (offset_J >= 0)
        tl.store(column_sums + (p * panels + panel) * all_columns + offset_J, tl.sum(value_IJ, axis=0), stored_J)
        if GROUPED:
            if slot >= 0:
                within_I = tl.sum(tl.where(group_I[:, None] == group_J[None, :], value_IJ, 0.0), axis=1)
                tl.store(within_sums + (p * within_slots + slot) * panel_rows + offset_I, within_I, inside_I)
        if PERMUTED:
            quadratic_out = quadratic + (p * programs + program).to(tl.int64) * permutations
            _add_quadratic(
                value_IJ,
                entries,
                weights,
                group_I.to(tl.int64),
                group_J.to(tl.int64),
                inside_I,
                inside_J,
                quadratic_out,
                permutations,
                BLOCK_B,
                VALUE_COMPONENTS,
                INTERPRETED,
            )
