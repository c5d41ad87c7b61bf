"""Prepared tensors: exact normalisation, crop and pad, independent of the files' orientation."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.prostate import PROSTATE

from vfmalign.core.domain.errors import BadOption, BadVolume
from vfmalign.core.domain.models import Preprocessing
from vfmalign.imaging.grid import common_grid, resample
from vfmalign.imaging.normalisation import compute_moments, scale_from_moments
from vfmalign.imaging.preprocessing import crop_or_pad, needed_kinds, prepare_study
from vfmalign.imaging.volumes import Volume
from vfmalign.models.architectures.provicnet import adjacent_slices
from vfmalign.models.registry import ARCHITECTURES

CPU_SIZED = Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=(3.0, 1.0, 1.0), shape_dhw=(16, 64, 64))


def turned(volume, axes, flips):
    """The same volume at the same position, with its array permuted and flipped and its affine adapted."""
    array = volume.array_XYZ.transpose(axes)
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, list(axes)]
    for axis in flips:
        array = np.flip(array, axis)
        affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
        affine[:3, axis] *= -1
    return Volume(np.ascontiguousarray(array), affine)


def own_grid(**arrays_DHW):
    """Volumes in LPS order with 1 mm voxels, so that nothing is interpolated."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    return {kind: Volume(np.asarray(a, np.float32).transpose(2, 1, 0), affine) for kind, a in arrays_DHW.items()}


def random_study(shape_DHW, seed=0):
    rng = np.random.default_rng(seed)
    study = {}
    for kind in ("t2w", "dwi", "adc"):
        study[kind] = rng.integers(1, 1000, shape_DHW)
        study[kind][rng.random(shape_DHW) < 0.3] = 0
    return study


@pytest.mark.parametrize("leading", [(), (2,)])
def test_crop_or_pad_equals_monai_voxel_for_voxel(leading):
    resize = pytest.importorskip("monai.transforms").ResizeWithPadOrCrop
    for shape_DHW in ((3, 6, 9), (4, 5, 8)):
        volume = torch.rand(*leading, *shape_DHW)
        for wanted in itertools.product((2, 3, 4, 7), (3, 5, 6, 8), (8, 9, 11)):
            monai = resize(wanted)(volume if leading else volume[None]).as_tensor()
            assert torch.equal(crop_or_pad(volume, wanted), monai if leading else monai[0])


def test_prepares_a_phantom(phantom):
    prepared = prepare_study(phantom.volumes, CPU_SIZED, labels=PROSTATE.labels)
    assert prepared.input_CDHW.shape == (3, 16, 64, 64)
    assert prepared.input_CDHW.dtype == torch.float32
    assert type(prepared.input_CDHW) is torch.Tensor
    assert prepared.labels["gland"].shape == prepared.labels["lesions"].shape == (16, 64, 64)
    assert prepared.labels["gland"].dtype == prepared.labels["lesions"].dtype == torch.uint8
    assert prepared.spacing_mm == (3.0, 1.0, 1.0)
    assert torch.equal(prepared.input_CDHW, prepared.clean_CDHW)
    assert bool((prepared.labels["gland"][prepared.labels["lesions"] > 0] == 1).all())


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_the_orientation_of_the_files_does_not_matter(phantom, axes, flips):
    """Every volume turned differently: the same tensors (tolerance: float32 rounding, larger in z-scores)."""
    expected = prepare_study(phantom.volumes, CPU_SIZED, "half_resolution", labels=PROSTATE.labels)
    study = {kind: turned(volume, axes, flips) for kind, volume in phantom.volumes.items()}
    study["adc"] = turned(phantom.volumes["adc"], (1, 0, 2), (1,))
    prepared = prepare_study(study, CPU_SIZED, "half_resolution", labels=PROSTATE.labels)
    torch.testing.assert_close(prepared.input_CDHW, expected.input_CDHW, atol=2e-4, rtol=0)
    assert torch.equal(prepared.labels["gland"], expected.labels["gland"])
    assert torch.equal(prepared.labels["lesions"], expected.labels["lesions"])
    assert prepared.spacing_mm == expected.spacing_mm


def test_axes_run_from_feet_to_head_front_to_back_right_to_left():
    """One bright voxel in the left-back-head corner comes out at the end of every axis."""
    t2w = np.ones((4, 8, 6))
    t2w[0, 0, 0] = 2.0
    t2w[3, 7, 5] = 100.0
    prepared = prepare_study(
        own_grid(t2w=t2w), Preprocessing(modalities=("t2w",), spacing_mm=None, shape_dhw=(4, 8, 6))
    )
    assert int(prepared.clean_CDHW.argmax()) == t2w.size - 1


def test_zscore_crop_and_pad_are_exact():
    """Against numpy in float64: mean and population SD over voxels that are not zero, of the whole volume, then crop.

    Tolerance: float32 sums over some thousand values.
    """
    shape_DHW, target = (10, 21, 30), (16, 16, 16)
    study = random_study(shape_DHW)
    prepared = prepare_study(
        own_grid(**study), Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=None, shape_dhw=target)
    )
    for channel, kind in enumerate(("t2w", "dwi", "adc")):
        values = study[kind].astype(np.float64)
        seen = values != 0
        values[seen] = (values[seen] - values[seen].mean()) / values[seen].std()
        expected = np.zeros(target)
        # 10 slices lie in the middle of 16; of 21 rows and 30 columns the middle 16 stay.
        expected[3:13] = values[:, 2:18, 7:23]
        np.testing.assert_allclose(prepared.clean_CDHW[channel].numpy(), expected, atol=1e-5)
    assert not prepared.labels


@pytest.mark.parametrize("spacing_mm", [(1.0, 0.8, 0.7), (6.0, 2.0, 2.0)], ids=["finer", "coarser"])
@pytest.mark.parametrize("shape_DHW", [(16, 32, 32), (96, 256, 256), (16, 256, 32)])
def test_cropping_planes_first_equals_cropping_the_whole_grid(phantom, spacing_mm, shape_DHW):
    """The input is cut from the whole grid and normalised by all of it, though no more than the input is written."""
    study = {kind: phantom.volumes[kind] for kind in ("t2w", "dwi", "adc")}
    prepared = prepare_study(
        study, Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=spacing_mm, shape_dhw=shape_DHW)
    )
    grid = common_grid(study["t2w"], spacing_mm)
    for input_DHW, volume in zip(prepared.input_CDHW, study.values(), strict=True):
        whole_DHW = resample(volume, grid, labels=False).T.astype(np.float64)
        seen = whole_DHW[whole_DHW != 0]
        scores_DHW = np.where(whole_DHW != 0, (whole_DHW - seen.mean()) / seen.std(), 0.0)
        expected_DHW = crop_or_pad(torch.from_numpy(scores_DHW), shape_DHW).float()
        torch.testing.assert_close(input_DHW, expected_DHW, atol=1e-5, rtol=1e-5)


def test_zeros_stay_zero_and_do_not_count():
    channel_CDHW = torch.tensor([[[[0.0, 1.0, 3.0, 0.0]]]])
    scale = scale_from_moments([compute_moments(channel_CDHW[0])])
    assert scale.apply_(channel_CDHW.clone()).flatten().tolist() == [0.0, -1.0, 1.0, 0.0]


def test_channels_follow_the_preprocessing(phantom):
    both = prepare_study(phantom.volumes, CPU_SIZED, labels=PROSTATE.labels)
    swapped = prepare_study(phantom.volumes, CPU_SIZED.model_copy(update={"modalities": ("adc", "t2w")}))
    assert torch.equal(swapped.clean_CDHW, both.clean_CDHW[[2, 0]])


def test_a_real_case(picai):
    prepared = prepare_study(picai, CPU_SIZED, labels=PROSTATE.labels)
    assert prepared.input_CDHW.shape == (3, 16, 64, 64)
    assert set(prepared.labels["lesions"].unique().tolist()) == {0, 3}
    # Its README states 35.2 mL of gland and 4.94 mL of lesion; the crop holds all of both.
    assert float(prepared.labels["gland"].sum()) * 3.0 / 1000 == pytest.approx(35.2, rel=0.02)
    assert float((prepared.labels["lesions"] > 0).sum()) * 3.0 / 1000 == pytest.approx(4.94, rel=0.05)


def test_a_real_case_on_its_own_grid_equals_upstreams_transforms(picai):
    """ProFound's input is MONAI's z-score over nonzero voxels, then crop, then pad, without any resampling."""
    transforms = pytest.importorskip("monai.transforms")
    kinds, shape_XYZ = ("t2w", "dwi", "adc"), (224, 224, 64)
    volumes_CXYZ = torch.stack([torch.from_numpy(np.ascontiguousarray(picai[kind].array_XYZ)) for kind in kinds])
    steps = (
        transforms.NormalizeIntensity(nonzero=True, channel_wise=True),
        transforms.CenterSpatialCrop(shape_XYZ),
        transforms.SpatialPad(shape_XYZ),
    )
    for step in steps:
        volumes_CXYZ = step(volumes_CXYZ)
    preprocessing = Preprocessing(modalities=kinds, spacing_mm=None, shape_dhw=shape_XYZ[::-1])
    prepared = prepare_study(picai, preprocessing)
    expected_CDHW = torch.as_tensor(np.asarray(volumes_CXYZ)).permute(0, 3, 2, 1)
    assert float((prepared.input_CDHW - expected_CDHW).abs().max()) < 1e-4


@pytest.mark.parametrize("noise_voxels", [1e-16, 1e-12, 1e-8])
def test_rounding_errors_of_an_affine_change_no_voxel_of_a_real_case(picai, noise_voxels):
    rng = np.random.default_rng(0)
    kinds = ("t2w", "dwi", "adc")
    preprocessing = Preprocessing(modalities=kinds, spacing_mm=None, shape_dhw=(20, 224, 224))
    exact = prepare_study({kind: picai[kind] for kind in kinds}, preprocessing).input_CDHW
    noisy = {}
    for kind in kinds:
        affine = picai[kind].affine.copy()
        affine[:3] += noise_voxels * np.abs(affine[:3, :3]).max() * rng.uniform(-1.0, 1.0, (3, 4))
        noisy[kind] = Volume(picai[kind].array_XYZ, affine)
    assert float((prepare_study(noisy, preprocessing).input_CDHW - exact).abs().max()) < 1e-4


def test_rejects_missing_and_constant_modalities(phantom):
    def without(*kinds):
        return {kind: volume for kind, volume in phantom.volumes.items() if kind not in kinds}

    for kind in ("t2w", "dwi", "adc"):
        with pytest.raises(BadVolume, match=f"case c-7: no {kind} volume"):
            prepare_study(without(kind), CPU_SIZED, subject="case c-7")
    t2w = phantom.volumes["t2w"]
    blank = Volume(np.zeros_like(t2w.array_XYZ), t2w.affine)
    with pytest.raises(BadVolume, match="the gland mask is empty"):
        prepare_study({**phantom.volumes, "gland": blank}, CPU_SIZED, labels=PROSTATE.labels)
    with pytest.raises(BadVolume, match="adc has no contrast in t2w's field of view"):
        prepare_study({**phantom.volumes, "adc": blank}, CPU_SIZED)
    flat = Volume(np.ones_like(t2w.array_XYZ), t2w.affine)
    with pytest.raises(BadVolume, match="dwi has no contrast"):
        prepare_study({**phantom.volumes, "dwi": flat}, CPU_SIZED)
    assert (
        prepare_study({**phantom.volumes, "lesions": blank}, CPU_SIZED, labels=PROSTATE.labels).labels["lesions"].sum()
        == 0
    )
    assert prepare_study(without("gland", "lesions"), CPU_SIZED, labels=PROSTATE.labels).labels == {}


def test_rejects_a_gland_outside_the_crop(phantom):
    t2w = phantom.volumes["t2w"]
    corner = np.zeros_like(t2w.array_XYZ)
    corner[:20, :20] = 1
    with pytest.raises(BadVolume, match="the centre crop contains 0% of the gland"):
        prepare_study({**phantom.volumes, "gland": Volume(corner, t2w.affine)}, CPU_SIZED, labels=PROSTATE.labels)


def test_rejects_an_unknown_transform(phantom):
    with pytest.raises(BadOption, match="choose one of: distorted_diffusion, half_resolution, hidden_adc, identity"):
        prepare_study(phantom.volumes, CPU_SIZED, "sharpen")


def test_the_clean_study_is_on_the_scale_of_the_input():
    """What is degraded is normalised by its own statistics, as in earnest; the target must not betray others."""
    study = own_grid(**random_study((4, 16, 16)))
    plain = Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=None, shape_dhw=(4, 16, 16))
    degraded = prepare_study(study, plain, "half_resolution")
    for channel, kind in enumerate(("t2w", "dwi", "adc")):
        input_N = degraded.input_CDHW[channel][degraded.input_CDHW[channel] != 0]
        torch.testing.assert_close(input_N.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(input_N.std(correction=0), torch.tensor(1.0), atol=1e-5, rtol=0)
        signal_DHW = torch.from_numpy(study[kind].array_XYZ.transpose(2, 1, 0).copy())
        expected = (signal_DHW - degraded.scale.mean_C[channel]) / degraded.scale.std_C[channel]
        torch.testing.assert_close(degraded.clean_CDHW[channel], torch.where(signal_DHW == 0, 0.0, expected))


@pytest.mark.parametrize("normalisation", ["zscore_nonzero", "zscore_gland"])
def test_a_hidden_channel_is_constant_and_its_target_keeps_its_units(phantom, normalisation):
    how = CPU_SIZED.model_copy(update={"normalisation": normalisation})
    prepared = prepare_study(phantom.volumes, how, "hidden_adc")
    assert not prepared.input_CDHW[2].any()
    assert float(prepared.clean_CDHW[2].max()) > 1000  # 1e-6 mm²/s
    assert torch.equal(prepared.input_CDHW[:2], prepared.clean_CDHW[:2])


def test_the_grade_is_that_of_the_whole_map(phantom):
    lesions = phantom.volumes["lesions"].array_XYZ.copy()
    lesions[0, 0, 0] = 5  # in the corner, which the crop cuts off
    study = {**phantom.volumes, "lesions": Volume(lesions, phantom.volumes["lesions"].affine)}
    prepared = prepare_study(study, CPU_SIZED, labels=PROSTATE.labels)
    assert prepared.label_max["lesions"] == 5
    assert int(prepared.labels["lesions"].max()) < 5
    assert prepare_study(
        {k: v for k, v in study.items() if k != "lesions"}, CPU_SIZED, labels=PROSTATE.labels
    ).label_max == {"gland": 1}


# --- normalisation inside the gland -----------------------------------------------------------------------------------

IN_GLAND = Preprocessing(modalities=("t2w",), spacing_mm=None, shape_dhw=(6, 16, 16), normalisation="zscore_gland")


def gland_study(shape_DHW=(4, 20, 20)):
    study = {"t2w": random_study(shape_DHW)["t2w"], "gland": np.zeros(shape_DHW)}
    study["gland"][1:3, 6:14, 6:14] = 1
    return study


def test_zscore_in_the_gland_is_exact():
    """Against numpy in float64: mean and population SD inside the gland, for every voxel of the crop.

    What the volume does not reach counts as black, as upstream pads before it normalises. Tolerance: float32 sums.
    """
    study = gland_study()
    prepared = prepare_study(own_grid(**study), IN_GLAND)
    padded = np.zeros((6, 16, 16))
    padded[1:5] = study["t2w"][:, 2:18, 2:18]
    inside = study["t2w"][study["gland"] > 0].astype(np.float64)
    expected = (padded - inside.mean()) / inside.std()
    np.testing.assert_allclose(prepared.clean_CDHW[0].numpy(), expected, atol=1e-5)
    assert prepared.labels["gland"].shape == (6, 16, 16)


def test_a_real_case_equals_upstreams_input(picai):
    """Slices as ProViCNet's own generator makes them, but for the crop, padding and order of channels."""
    golden_file = Path(__file__).parents[4] / "shared" / "reference" / "golden" / "provicnet_input_picai.safetensors"
    if not golden_file.is_file():
        pytest.skip("upstream's input of the real case is not on this machine")
    golden = load_file(golden_file)
    preprocessing = ARCHITECTURES["provicnet_fusion"].preprocessing
    prepared = prepare_study(picai, preprocessing)
    first, count = prepared.slices
    assert (first, count) == (-2, 20)
    for channel, kind in enumerate(preprocessing.modalities):
        for slice_index in (0, 9):
            images_3HW = adjacent_slices(prepared.input_CDHW[channel][None], torch.tensor([[first, count]]))[
                0, slice_index - first
            ]
            expected_HW = golden[f"{kind}.slice{slice_index}_centre_HW"]
            assert float((images_3HW[1] - expected_HW).abs().max()) < 1e-4


def test_slices_say_where_a_crop_begins(phantom):
    volumes = {kind: phantom.volumes[kind] for kind in ("t2w", "dwi", "adc")}
    for depth, expected in ((4, lambda count: count // 2 - 2), (40, lambda count: -((40 - count) // 2))):
        prepared = prepare_study(volumes, CPU_SIZED.model_copy(update={"shape_dhw": (depth, 64, 64)}))
        first, count = prepared.slices
        assert count == common_grid(phantom.volumes["t2w"], (3.0, 1.0, 1.0)).shape_XYZ[2]
        assert first == expected(count)


def test_scale_and_offset_of_intensities_cancel():
    """Upstream divides intensities by 255 first: it makes no difference, and need not be known."""
    study = gland_study()
    plain = prepare_study(own_grid(**study), IN_GLAND).input_CDHW
    scaled = prepare_study(own_grid(t2w=study["t2w"] / 255 + 3, gland=study["gland"]), IN_GLAND).input_CDHW
    inside = (slice(None), slice(1, 5))  # beyond the volume there is black, whose place does follow the offset
    torch.testing.assert_close(scaled[inside], plain[inside], atol=1e-3, rtol=0)


def test_each_slice_has_the_pixels_of_the_model(phantom):
    preprocessing = Preprocessing(
        modalities=("t2w",), spacing_mm=(3.0, 2 / 7, 2 / 7), shape_dhw=(8, 448, 448), normalisation="zscore_gland"
    )
    prepared = prepare_study(phantom.volumes, preprocessing)
    assert prepared.input_CDHW.shape == (1, 8, 448, 448)
    assert prepared.spacing_mm == pytest.approx((3.0, 2 / 7, 2 / 7), abs=1e-6)
    assert 448 * prepared.spacing_mm[1] == pytest.approx(128)


def test_rejects_studies_without_gland_or_contrast_in_it():
    study = gland_study()
    with pytest.raises(BadVolume, match="no gland volume; send gland, which the model's input needs"):
        prepare_study(own_grid(t2w=study["t2w"]), IN_GLAND)
    study["t2w"][study["gland"] > 0] = 7
    with pytest.raises(BadVolume, match="t2w has no contrast inside the gland mask"):
        prepare_study(own_grid(**study), IN_GLAND)


def test_needed_kinds_are_the_grid_the_modalities_and_the_gland():
    assert needed_kinds(CPU_SIZED) == ("t2w", "dwi", "adc")
    assert needed_kinds(IN_GLAND) == ("t2w", "gland")
    assert needed_kinds(IN_GLAND.model_copy(update={"modalities": ("adc",)})) == ("t2w", "adc", "gland")


def brain_input(*modalities, **fields):
    content = {
        "modalities": modalities,
        "spacing_mm": None,
        "shape_dhw": (8, 10, 12),
        "normalisation": "quantile_range",
    }
    return Preprocessing.model_validate(content | fields)


@pytest.mark.parametrize("input_transform", ["identity", "half_resolution"])
def test_quantiles_are_those_of_the_whole_resampled_channel(input_transform):
    rng = np.random.default_rng(0)
    study = own_grid(t1w=rng.integers(0, 900, (12, 14, 16)), flair=rng.integers(0, 300, (12, 14, 16)))
    whole = prepare_study(
        study, brain_input("t1w", "flair", shape_dhw=(12, 14, 16), quantiles=(0.0, 1.0)), input_transform
    )
    prepared = prepare_study(study, brain_input("t1w", "flair"), input_transform)
    again = prepare_study(study, brain_input("t1w", "flair"), input_transform)
    assert torch.equal(prepared.input_CDHW, again.input_CDHW)
    for channel_DHW, whole_DHW in zip(prepared.input_CDHW, whole.input_CDHW, strict=True):
        low, high = np.quantile(whole_DHW.numpy().astype(np.float64), (0.02, 0.98))
        expected = ((crop_or_pad(whole_DHW, (8, 10, 12)) - low) / (high - low)).clamp(0, 1)
        assert torch.allclose(channel_DHW, expected.float(), atol=1e-5)
    assert prepared.input_CDHW.min() >= 0
    assert prepared.input_CDHW.max() <= 1


def test_the_first_modality_defines_the_grid():
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    fine = Volume(np.random.default_rng(0).random((12, 10, 8)).astype(np.float32), affine)
    coarse_affine = affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    coarse_affine[:3, 3] = affine[:3, :3] @ np.array([0.5, 0.5, 0.5])
    coarse = Volume(np.random.default_rng(1).random((6, 5, 4)).astype(np.float32), coarse_affine)
    study = {"flair": fine, "t1w": coarse}
    assert needed_kinds(brain_input("t1w", "flair")) == ("t1w", "flair")
    assert prepare_study(study, brain_input("flair", "t1w")).spacing_mm == (1.0, 1.0, 1.0)
    assert prepare_study(study, brain_input("t1w", "flair")).spacing_mm == (2.0, 2.0, 2.0)
    assert prepare_study(study, brain_input("t1w", reference="flair")).spacing_mm == (1.0, 1.0, 1.0)
    with pytest.raises(BadVolume, match="no t1w volume"):
        prepare_study({"flair": fine}, brain_input("t1w", "flair"))
