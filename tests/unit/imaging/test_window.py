"""A window in Hounsfield units: exact, with its lower bound wherever nothing was measured; 0 HU is not special."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.models import Preprocessing
from vfmalign.imaging.grid import common_grid, resample
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import Volume

LOW, HIGH = -160.0, 240.0
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def window_input(*modalities, shape_dhw=(8, 20, 20), spacing_mm=None, window=(LOW, HIGH)):
    return Preprocessing(
        modalities=modalities or ("ct",),
        spacing_mm=spacing_mm,
        shape_dhw=shape_dhw,
        normalisation="window",
        window=window,
    )


def make_ct(seed=0, shape_XYZ=(20, 20, 8)):
    rng = np.random.default_rng(seed)
    body = ndimage.gaussian_filter(rng.normal(0, 1, shape_XYZ), 1.5)
    return Volume(np.where(body > 0, rng.integers(-200, 300, shape_XYZ), -1000).astype(np.int16), LPS)


def to_window(hu):
    return np.clip((hu - LOW) / (HIGH - LOW), 0.0, 1.0)


def test_bounds_become_0_and_1_and_0_hu_is_a_value():
    ct = make_ct()
    ct.array_XYZ[:5, 0, 0] = (-1000, -160, 0, 240, 3000)
    prepared = prepare_study({"ct": ct}, window_input())
    expected = to_window(ct.array_XYZ.T.astype(np.float64))
    np.testing.assert_allclose(prepared.input_CDHW[0], expected, atol=1e-6)
    np.testing.assert_allclose(prepared.input_CDHW[0, 0, 0, :5], [0.0, 0.0, 0.4, 1.0, 1.0], atol=1e-6)


@pytest.mark.parametrize("spacing_mm", [(2.0, 1.5, 1.5), (0.7, 1.3, 0.9)])
def test_resamples_before_it_clips(spacing_mm):
    ct = make_ct()
    prepared = prepare_study({"ct": ct}, window_input(spacing_mm=spacing_mm, shape_dhw=(4, 10, 10)))
    whole = resample(Volume(ct.array_XYZ.astype(np.float32), LPS), common_grid(ct, spacing_mm), labels=False).T
    starts = [size // 2 - side // 2 for size, side in zip(whole.shape, (4, 10, 10), strict=True)]
    crop = tuple(slice(start, start + side) for start, side in zip(starts, (4, 10, 10), strict=True))
    np.testing.assert_allclose(prepared.input_CDHW[0], to_window(whole[crop]), atol=1e-5)


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_padding_and_voxels_outside_a_volume_show_the_lower_bound(degrees):
    water = Volume(np.zeros((20, 20, 8), np.int16), LPS)
    water.array_XYZ[10, 10, 4] = 40
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn, centre = np.eye(4), np.array([9.5, 9.5])
    turn[:2, :2] = [[c, -s], [s, c]]
    turn[:2, 3] = centre - turn[:2, :2] @ centre
    small = Volume(water.array_XYZ[:14, :], LPS @ turn)
    prepared = prepare_study({"ct": water, "late": small}, window_input("ct", "late", shape_dhw=(10, 24, 24)))
    reference_DHW, late_DHW = prepared.input_CDHW
    inside_DHW = torch.zeros(10, 24, 24, dtype=torch.bool)
    inside_DHW[1:9, 2:22, 2:22] = True
    assert bool((reference_DHW[inside_DHW] >= 0.4 - 1e-6).all()), "water lies inside the window"
    assert not reference_DHW[~inside_DHW].any()
    assert not late_DHW[~inside_DHW].any()
    assert {0.0, 0.4} <= {round(float(value), 3) for value in late_DHW[inside_DHW].unique()}


def test_inversion_gives_the_distance_from_the_lower_bound():
    ct = make_ct()
    prepared = prepare_study({"ct": ct}, window_input(window=(-1000.0, 3000.0)))
    signal_DHW = prepared.scale.invert(prepared.input_CDHW)[0]
    np.testing.assert_allclose(signal_DHW, ct.array_XYZ.T.astype(np.float32) + 1000.0, atol=1e-3)


def test_a_volume_of_one_tissue_and_air_is_accepted():
    ct = Volume(np.full((20, 20, 8), int(LOW), np.int16), LPS)
    ct.array_XYZ[5:15] = 40
    assert sorted(prepare_study({"ct": ct}, window_input()).input_CDHW.unique().tolist()) == [0.0, 0.5]


def test_noise_has_either_sign_and_the_same_size_in_air_and_bone():
    ct = Volume(np.full((64, 64, 16), 40, np.int16), LPS)
    ct.array_XYZ[:32] = 140
    prepared = prepare_study({"ct": ct}, window_input(shape_dhw=(16, 64, 64)), "noisy")
    noise_DHW = (prepared.input_CDHW - prepared.clean_CDHW)[0]
    for half in (noise_DHW[..., :32], noise_DHW[..., 32:]):
        assert abs(float(half.mean())) < 0.003
        assert abs(float(half.std()) - 0.09) < 0.003
    air = Volume(np.where(ct.array_XYZ == 40, -1000, ct.array_XYZ), LPS)
    degraded = prepare_study({"ct": air}, window_input(shape_dhw=(16, 64, 64)), "noisy").input_CDHW[0]
    assert not degraded[..., 32:].any(), "noise on air stays below the window"


def test_half_resolution_filters_every_voxel():
    ct = make_ct()
    ct.array_XYZ[4, 4, 4] = int(LOW)
    prepared = prepare_study({"ct": ct}, window_input(window=(-2000.0, 2000.0)), "half_resolution")
    signal = torch.from_numpy(ct.array_XYZ.T.astype(np.float32))[None] + 2000.0
    keep_H, keep_W = torch.fft.fftfreq(20).abs() < 0.25, torch.fft.rfftfreq(20) < 0.25
    expected = torch.fft.irfft2(torch.fft.rfft2(signal) * (keep_H[:, None] & keep_W), s=(20, 20))
    np.testing.assert_allclose(prepared.input_CDHW, (expected / 4000.0).clamp(0, 1), atol=1e-5)


def test_a_hidden_channel_shows_the_lower_bound_and_its_target_the_window():
    study = {"ct": make_ct(0), "late": make_ct(1)}
    prepared = prepare_study(study, window_input("ct", "late"), "hidden:late")
    assert not prepared.input_CDHW[1].any()
    np.testing.assert_allclose(prepared.clean_CDHW[1], to_window(study["late"].array_XYZ.T), atol=1e-6)


def test_susceptibility_distortion_is_refused():
    with pytest.raises(BadOption, match="CT has no susceptibility distortion"):
        prepare_study({"ct": make_ct()}, window_input(), "distorted:ct")
