"""Patches of an input that is larger than what its network reads at once.

The patches form a regular grid, as in MONAI's `dense_patch_slices`. Legend: axes D, H, W; P patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from vfmalign.core.domain.models import Preprocessing

OVERLAP = 0.5
"""Share of a side by which neighbouring patches overlap. The last patch of an axis may overlap more."""
Shape = tuple[int, int, int]
Extent = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First voxel of a box along every axis, and the voxel after its last one."""


def place_patches(shape_DHW: Shape, patch_DHW: Shape) -> list[Shape]:
    """Returns the first voxel of every patch of an input."""
    depths, heights, widths = map(_place, shape_DHW, patch_DHW)
    return list(product(depths, heights, widths))


def weigh_patches(shape_DHW: Shape, patch_DHW: Shape, image: Extent) -> list[tuple[Shape, float]]:
    """Returns the first voxel and the weight of every patch that contains a part of an image.

    Each voxel of the image has the weight 1, which it shares equally among its patches. The weight of a patch is the
    sum over its voxels. Padding has no weight. A mean over patches with these weights therefore counts every voxel of
    the image once.

    Args:
        shape_DHW: size of the input.
        patch_DHW: size of a patch.
        image: the part of the input that is not padding.
    """
    axes = [_weigh(*axis) for axis in zip(shape_DHW, patch_DHW, image, strict=True)]
    return [((d, h, w), a * b * c) for (d, a), (h, b), (w, c) in product(*axes) if a * b * c > 0]


def describe_patches(preprocessing: Preprocessing) -> str:
    """Describes size, overlap and number of the patches of an input; empty if the network reads whole inputs."""
    if preprocessing.patch_shape_dhw is None:
        return ""
    count = len(place_patches(preprocessing.shape_dhw, preprocessing.patch_shape_dhw))
    size, whole = ("×".join(map(str, shape)) for shape in (preprocessing.patch_shape_dhw, preprocessing.shape_dhw))
    return f"{size} voxels of {whole}, overlap {OVERLAP:.0%}, at most {count} per case"


def _place(size: int, patch: int) -> list[int]:
    step = max(1, patch - int(OVERLAP * patch))
    return [*range(0, size - patch, step), size - patch]


def _weigh(size: int, patch: int, image: Sequence[int]) -> list[tuple[int, float]]:
    starts = _place(size, patch)
    shares = [1 / sum(start <= voxel < start + patch for start in starts) for voxel in range(size)]
    return [(start, math.fsum(shares[max(start, image[0]) : min(start + patch, image[1])])) for start in starts]
