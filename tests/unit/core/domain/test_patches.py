"""Patches lie where MONAI puts them, and their weights count every voxel of the image once."""

import numpy as np
import pytest
from monai.data.utils import dense_patch_slices

from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.patches import describe_patches, place_patches, weigh_patches

INPUT = Preprocessing(modalities=("t1w",), shape_dhw=(9, 16, 30), patch_shape_dhw=(4, 16, 12))


@pytest.mark.parametrize(
    ("shape_DHW", "patch_DHW", "steps"),
    [((9, 16, 30), (4, 16, 12), (2, 8, 6)), ((7, 7, 7), (5, 3, 1), (3, 2, 1)), ((8, 8, 8), (8, 8, 8), (4, 4, 4))],
)
def test_patches_lie_where_monai_puts_them(shape_DHW, patch_DHW, steps):
    slices = dense_patch_slices(shape_DHW, patch_DHW, steps)
    assert place_patches(shape_DHW, patch_DHW) == [tuple(axis.start for axis in place) for place in slices]


def test_every_voxel_of_the_image_counts_once():
    shape_DHW, patch_DHW, image = (9, 16, 30), (4, 16, 12), ((0, 3), (5, 11), (2, 30))
    starts = place_patches(shape_DHW, patch_DHW)
    regions = [tuple(slice(a, a + b) for a, b in zip(start, patch_DHW, strict=True)) for start in starts]
    count_DHW, inside_DHW = np.zeros(shape_DHW), np.zeros(shape_DHW)
    inside_DHW[tuple(slice(*axis) for axis in image)] = 1.0
    for region in regions:
        count_DHW[region] += 1
    assert count_DHW.min() == 1, "the patches cover the input"
    expected = [(inside_DHW[region] / count_DHW[region]).sum() for region in regions]
    weighed = weigh_patches(shape_DHW, patch_DHW, image)
    kept = [(start, w) for start, w in zip(starts, expected, strict=True) if w]
    assert 0 < len(weighed) == len(kept) < len(regions), "patches of padding alone are left out"
    assert [start for start, _ in weighed] == [start for start, _ in kept]
    assert [weight for _, weight in weighed] == pytest.approx([weight for _, weight in kept])
    assert sum(weight for _, weight in weighed) == pytest.approx(inside_DHW.sum())


def test_a_description_states_size_overlap_and_number():
    assert describe_patches(INPUT) == "4×16×12 voxels of 9×16×30, overlap 50%, at most 16 per case"
    assert describe_patches(INPUT.model_copy(update={"patch_shape_dhw": None})) == ""
