"""Grids: positions are correct for every orientation, and volumes that do not overlap are rejected."""

import json
import subprocess
import sys

import numpy as np
import pytest

from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.grid import Grid, check_study, common_grid, coverage, resample, resample_planes, study_grid
from vfmalign.imaging.headers import MAX_AXIS_VOXELS
from vfmalign.imaging.phantoms.rendering import _rotation
from vfmalign.imaging.volumes import Volume


def placed(shape, spacing, centre=(0.0, 0.0, 0.0), angles=(0.0, 0.0, 0.0), values=None):
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ _rotation(np.deg2rad(np.array(angles))) * np.array(spacing)
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    if values is None:
        positions = np.einsum("ij,jXYZ->iXYZ", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
        values = 100.0 + 2.0 * positions[0] - 3.0 * positions[1] + 1.5 * positions[2]
    return Volume(values.astype(np.float32), affine)


def test_common_grid_keeps_the_field_of_view_and_is_lps():
    reference = placed((40, 50, 12), (0.5, 0.5, 3.0), centre=(3.0, -20.0, 7.0), angles=(15.0, 2.0, -3.0))
    grid = common_grid(reference, (3.0, 1.0, 1.0))
    assert grid.shape_XYZ == (20, 25, 12)
    np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), (1.0, 1.0, 3.0))
    centre = grid.affine[:3, :3] @ ((np.array(grid.shape_XYZ) - 1) / 2) + grid.affine[:3, 3]
    np.testing.assert_allclose(centre, (3.0, -20.0, 7.0), atol=1e-9)
    # RAS coordinates: x falls towards the left side's index, y falls towards the back, z rises towards the head.
    assert grid.affine[0, 0] < 0 < grid.affine[2, 2]
    assert grid.affine[1, 1] < 0


def test_resampling_to_the_same_grid_is_the_identity():
    reference = placed(
        (10, 12, 6), (0.7, 0.7, 3.0), angles=(10.0, 0.0, 0.0), values=np.random.default_rng(0).random((10, 12, 6))
    )
    grid = common_grid(reference, None)
    np.testing.assert_allclose(resample(reference, grid, labels=False), reference.array_XYZ, atol=1e-5)


def test_linear_interpolation_reproduces_a_linear_field_between_turned_grids():
    """Trilinear interpolation is exact for a linear function of position: a wrong affine anywhere would show.

    The tolerance is float32 rounding of values around 100. The field of view's rim is left out: there the nearest voxel
    continues, and there the grid of 2 mm low-passes.
    """
    reference = placed((40, 40, 16), (1.0, 1.0, 3.0), angles=(12.0, -3.0, 5.0))
    other = placed((50, 50, 30), (1.3, 1.2, 2.5), centre=(2.0, 1.0, -1.0), angles=(-4.0, 2.0, 0.0))
    grid = common_grid(reference, (3.0, 1.0, 1.0))
    inner = (slice(6, -6), slice(6, -6), slice(3, -3))
    expected = resample(reference, grid, labels=False)[inner]
    np.testing.assert_allclose(resample(other, grid, labels=False)[inner], expected, atol=1e-3)


@pytest.mark.parametrize("spacing_mm", [(3.0, 0.5, 0.5), (1.0, 1.3, 0.4), (5.0, 2.0, 2.0)])
@pytest.mark.parametrize("labels", [False, True])
def test_separable_and_voxelwise_interpolation_agree(monkeypatch, spacing_mm, labels):
    """Along axes of the grid and against them, coarser and finer, and where the volume ends before the grid does."""
    values = np.random.default_rng(0).integers(1, 5 if labels else 1000, (30, 26, 9))
    affine = placed((30, 26, 9), (0.9, 0.7, 3.1), centre=(4.0, -2.0, 1.0)).affine
    affine[:, 0] *= -1
    affine[0, 3] -= 29 * affine[0, 0]
    volume = Volume(values.astype(np.float32), affine)
    grid = common_grid(placed((30, 30, 10), (1.0, 1.0, 3.0)), spacing_mm)
    by_axis = resample(volume, grid, labels=labels)
    monkeypatch.setattr("vfmalign.imaging.grid.MAX_OBLIQUENESS_VOXELS", -1.0)
    np.testing.assert_allclose(by_axis, resample(volume, grid, labels=labels), atol=2e-3)
    assert (by_axis == 0).any()
    assert (by_axis != 0).mean() > 0.4


@pytest.mark.parametrize("spacing_mm", [None, (3.0, 0.5, 0.5), (1.0, 0.25, 0.25)])
@pytest.mark.parametrize("turn_deg", [0.0, 8.0])
def test_zeros_stay_zero_where_affines_carry_rounding_errors(spacing_mm, turn_deg):
    """Both interpolations: separable, and voxel by voxel where the volume is turned about Z."""
    values = np.random.default_rng(0).integers(1, 1000, (24, 24, 9))
    values[:, :, ::2] = 0
    reference = placed((24, 24, 9), (0.5, 0.5, 3.0))
    grid = common_grid(reference, spacing_mm)
    exact = placed((24, 24, 9), (0.5, 0.5, 3.0), angles=(0.0, 0.0, turn_deg), values=values)
    noise = np.zeros((4, 4))
    noise[:3] = 1e-7 * np.random.default_rng(1).uniform(-1.0, 1.0, (3, 4))
    expected = resample(exact, grid, labels=False)
    noisy = resample(Volume(exact.array_XYZ, exact.affine + noise), grid, labels=False)
    assert np.count_nonzero(expected == 0.0) > 1000
    np.testing.assert_array_equal(noisy == 0.0, expected == 0.0)


def test_downsampling_low_passes_instead_of_aliasing():
    stripes = np.zeros((32, 32, 8))
    stripes[::2] = 100.0
    volume = placed((32, 32, 8), (0.5, 0.5, 3.0), values=stripes)
    shown = resample(volume, common_grid(volume, (3.0, 1.0, 1.0)), labels=False)
    assert shown.shape == (16, 16, 8)
    np.testing.assert_allclose(shown[2:-2], 50.0, atol=15.0)


def test_label_maps_take_the_nearest_voxel_and_no_other_value():
    values = np.zeros((20, 20, 8))
    values[5:15, 5:15, 2:6] = 3
    values[8:12, 8:12, 3:5] = 1
    volume = placed((20, 20, 8), (1.0, 1.0, 3.0), angles=(8.0, 1.0, 2.0), values=values)
    grid = common_grid(placed((30, 30, 10), (0.6, 0.6, 2.0)), None)
    shown = resample(volume, grid, labels=True)
    assert set(np.unique(shown)) == {0.0, 1.0, 3.0}
    volume_mm3 = (shown > 0).sum() * 0.6 * 0.6 * 2.0
    assert volume_mm3 == pytest.approx(10 * 10 * 4 * 3.0, rel=0.05)


def test_voxels_outside_the_volume_are_zero():
    small = placed((10, 10, 10), (1.0, 1.0, 1.0), values=np.ones((10, 10, 10)))
    grid = Grid((20, 20, 20), placed((20, 20, 20), (1.0, 1.0, 1.0)).affine)
    shown = resample(small, grid, labels=False)
    assert shown.sum() == 1000
    assert coverage(small, grid) == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("shape", "spacing", "centre", "says"),
    [
        ((32, 32, 10), (2.0, 2.0, 3.0), (400.0, 0.0, 0.0), "adc covers 0%"),
        ((32, 32, 10), (2.0, 2.0, 3.0), (0.0, 0.0, 20.0), "adc covers"),
        ((10, 10, 10), (2.0, 2.0, 3.0), (0.0, 0.0, 0.0), "adc covers"),
    ],
    ids=["elsewhere", "two thirds above", "a small part"],
)
def test_irreconcilable_grids_are_refused(shape, spacing, centre, says):
    study = {"t2w": placed((60, 60, 10), (1.0, 1.0, 3.0)), "adc": placed(shape, spacing, centre)}
    with pytest.raises(BadVolume, match="irreconcilable grids") as caught:
        study_grid(study, "t2w", (3.0, 1.0, 1.0), "case c-1")
    assert says in str(caught.value)
    assert caught.value.reason == "IRRECONCILABLE_GRIDS"
    assert str(caught.value).startswith("case c-1: ")


def test_a_larger_coarser_oblique_volume_is_accepted():
    adc = placed((40, 40, 20), (2.5, 2.5, 4.0), angles=(30, 0, 0))
    check_study({"t2w": placed((60, 60, 10), (1.0, 1.0, 3.0)), "adc": adc}, "t2w")


def test_a_study_needs_its_reference():
    with pytest.raises(BadVolume, match="no t2w volume"):
        check_study({"adc": placed((10, 10, 10), (1.0, 1.0, 1.0))}, "t2w")


def test_an_enormous_common_grid_is_refused():
    with pytest.raises(BadVolume, match="too many voxels at the model's voxel spacing"):
        common_grid(placed((8, 8, 8), (40.0, 40.0, 40.0)), (0.1, 0.1, 0.1))


def test_an_enormous_axis_of_the_common_grid_is_refused_with_the_limit():
    long = placed((4, 4, 300), (1.0, 1.0, 10.0))
    with pytest.raises(BadVolume, match=f"t2w: .*4 x 4 x 6000, at most 67108864 in all and {MAX_AXIS_VOXELS} along"):
        common_grid(long, (0.5, 1.0, 1.0), "t2w")


@pytest.mark.parametrize("turn_deg", [0.0, 20.0])
def test_a_volume_much_finer_than_the_grid_is_refused_by_name(turn_deg):
    fine = placed((8, 8, 64), (2.0, 2.0, 0.05), angles=(turn_deg, 0.0, 0.0))
    grid = common_grid(placed((8, 8, 8), (2.0, 2.0, 3.0)), (3.0, 2.0, 2.0))
    with pytest.raises(BadVolume, match=r"adc of case c-1: 2 x 2 x 0\.05 mm is \d+ times finer .* more than 32 times"):
        resample_planes(fine, grid, "adc of case c-1")
    assert resample(fine, grid, labels=True).shape == grid.shape_XYZ


def test_planes_that_many_slices_share_are_written_out():
    """Their products with every other plane of a slice would take longer than the slices themselves."""
    fine = placed((6, 6, 60), (2.0, 2.0, 0.3))
    grid = Grid((6, 6, 80), placed((6, 6, 80), (2.0, 2.0, 6.0)).affine)
    stack = resample_planes(fine, grid)
    assert stack.weights.width == 1
    assert len(stack.planes_KHW) == 80


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_values_do_not_depend_on_which_axes_become_shorter(axes, labels):
    """Axes that become shorter are resampled first, so each order of the axes takes another path."""
    values = np.random.default_rng(0).integers(0, 5 if labels else 1000, (24, 6, 9))
    grid = common_grid(placed((24, 6, 9), (1.0, 4.0, 3.0)), (3.0, 1.0, 2.5))
    expected = resample(placed((24, 6, 9), (1.0, 4.0, 3.0), values=values), grid, labels=labels)
    shape, spacing = np.array((24, 6, 9))[list(axes)], np.array((1.0, 4.0, 3.0))[list(axes)]
    turned = placed(tuple(shape), tuple(spacing), values=values.transpose(axes))
    grid = common_grid(turned, tuple(np.array((2.5, 1.0, 3.0))[list(axes)][::-1]))
    shown = resample(turned, grid, labels=labels).transpose(np.argsort(axes))
    np.testing.assert_allclose(shown, expected, rtol=1e-5, atol=1e-3)


def test_memory_of_thin_slices_and_of_volumes_that_grow_along_one_axis():
    """A dense matrix of the weights took 2.5 GiB for 12,000 slices; enlarging rows first took 268 MB."""
    code = """if True:
        import json, resource
        import numpy as np, torch
        from vfmalign.imaging.grid import Grid, common_grid, resample_planes
        from vfmalign.imaging.normalisation import compute_moments
        from vfmalign.imaging.volumes import Volume

        def measure(shape, spacing, grid_shape, grid_spacing):
            values = np.random.default_rng(0).random(shape, np.float32)
            grid = Grid(grid_shape, np.diag([-grid_spacing[0], -grid_spacing[1], grid_spacing[2], 1.0]))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            stack = resample_planes(Volume(values, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])), grid)
            compute_moments(stack.planes_KHW, stack.weights)
            return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024

        measure((8, 8, 8), (1.0, 1.0, 1.0), (8, 8, 8), (1.0, 1.0, 1.0))
        print(json.dumps([
            measure((8, 8, 4096), (1.0, 1.0, 0.1), (8, 8, 4096), (1.0, 1.0, 0.1)),
            measure((8, 8, 4096), (1.0, 1.0, 0.1), (8, 8, 137), (1.0, 1.0, 3.0)),
            measure((1024, 2, 64), (0.25, 50.0, 1.0), (64, 1024, 16), (4.0, 0.0977, 4.0)),
        ]))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    growth_mib = json.loads(done.stdout)
    assert max(growth_mib) < 48, growth_mib
