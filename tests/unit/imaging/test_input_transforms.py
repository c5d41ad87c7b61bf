"""Input transforms are deterministic per case and physically correct."""

import math

import numpy as np
import pytest
import torch

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.models import Preprocessing
from vfmalign.imaging.distortion import (
    MIN_STRETCH,
    PEAK_DISPLACEMENT_MM,
    displace_ratio,
    distort,
    simulate_displacement,
)
from vfmalign.imaging.input_transforms import (
    INPUT_TRANSFORMS,
    NOISE_SHARE,
    StudyContext,
    get_input_transform,
    half_resolution,
)
from vfmalign.imaging.preprocessing import prepare_study

SPACING = (3.0, 1.0, 1.0)
SHAPE = (16, 96, 64)


def scene(seed=0, modalities=("t2w", "dwi", "adc")):
    return StudyContext(modalities, SPACING, np.random.default_rng(seed).random((5, 4, 3), dtype=np.float32))


def smooth(seed, shape=SHAPE, offset=3.0):
    """Smooths positive signal with structures a few voxels wide."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 1, *(side // 4 for side in shape)), generator=draw)
    return offset + torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0]


def psnr_db(image, reference):
    span = float(reference.max() - reference.min())
    return 10 * math.log10(span**2 / float((image - reference).square().mean()))


@pytest.mark.parametrize("name", sorted(INPUT_TRANSFORMS))
@pytest.mark.parametrize("shape", [(3, 4, 40, 16), (1, 2, 35, 17)])
def test_transforms_are_deterministic_and_preserve_shape_and_input(name, shape):
    signal_CDHW = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    before = signal_CDHW.clone()
    where = scene(modalities=("t2w", "dwi", "adc")[: shape[0]])
    out = INPUT_TRANSFORMS[name](signal_CDHW, where)
    assert out.shape == signal_CDHW.shape
    assert out.dtype == torch.float32
    assert torch.equal(out, INPUT_TRANSFORMS[name](signal_CDHW, where))
    assert torch.equal(signal_CDHW, before)


# --- half the resolution ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(32, 32), (30, 45), (33, 64)])
def test_half_resolution_preserves_a_band_limited_volume(height, width):
    """What the coarse grid can hold comes back. Tolerance: float32 transforms of values up to 10."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    draw = torch.Generator().manual_seed(1)
    volume = torch.full((1, 3, height, width), 10.0)
    for k in range((height - 1) // 4 + 1):
        for q in range(0, (width - 1) // 4 + 1, 3):
            phase = 2 * math.pi * torch.rand(3, generator=draw)[:, None, None]
            volume[0] += 0.05 * torch.cos(2 * math.pi * (k * y / height + q * x / width) + phase)
    torch.testing.assert_close(half_resolution(volume, scene()), volume, atol=1e-5, rtol=0)


def test_half_resolution_removes_frequencies_above_the_band():
    """Stripes of one voxel and of one and a half are gone, not turned into broader ones; their mean stays."""
    x = torch.arange(48)
    for cycles in (24, 16, 13):
        stripes = (2 + torch.cos(2 * math.pi * cycles * x / 48)).expand(1, 1, 48, 48)
        torch.testing.assert_close(half_resolution(stripes, scene()), torch.full_like(stripes, 2.0), atol=1e-5, rtol=0)


def test_half_resolution_is_idempotent_and_keeps_empty_voxels_empty():
    volume = smooth(3)[None].clone()
    once = half_resolution(volume, scene())
    torch.testing.assert_close(half_resolution(once, scene()), once, atol=1e-5, rtol=0)
    volume[:, :, :20] = 0
    assert not half_resolution(volume, scene())[:, :, :20].any()


# --- noise ------------------------------------------------------------------------------------------------------------


def test_noise_has_the_moments_of_a_rician_distribution():
    """E[M²] = A² + 2σ² at any signal; far above the noise the SD is σ. Tolerance: 4 SE of 200,000 voxels."""
    signal = torch.full((1, 50, 80, 50), 100.0)
    noisy = get_input_transform("noisy:t2w")(signal, scene(modalities=("t2w",))).double()
    sigma = NOISE_SHARE * 100.0
    squared = noisy.square()
    assert float(squared.mean()) == pytest.approx(100.0**2 + 2 * sigma**2, abs=4 * float(squared.std()) / 200_000**0.5)
    assert float(noisy.std()) == pytest.approx(sigma, rel=0.01)
    assert (noisy >= 0).all(), "a magnitude"


def test_the_noise_of_a_modality_is_its_own_and_empty_voxels_stay_empty():
    signal = smooth(4)[None].repeat(2, 1, 1, 1)
    signal[:, :, :10] = 0
    where = scene(modalities=("t1w", "flair"))
    both = get_input_transform("noisy")(signal, where)
    assert not both[:, :, :10].any()
    noise = (both - signal)[:, :, 10:].flatten(1)
    assert abs(float(torch.corrcoef(noise)[0, 1])) < 0.05, "channels are independent"
    alone = get_input_transform("noisy:flair")(signal, where)
    assert torch.equal(alone[0], signal[0])
    assert torch.equal(alone[1], both[1]), "whichever other modalities have noise"
    assert not torch.equal(both, get_input_transform("noisy")(signal, scene(1, where.modalities))), "cases differ"
    assert not get_input_transform("noisy")(torch.zeros(2, 2, 4, 4), where).any()


# --- distortion -------------------------------------------------------------------------------------------------------


def test_the_field_has_a_realistic_size_and_is_invertible():
    peaks_mm = []
    for seed in range(40):
        field_DEW = simulate_displacement((20, 112, 112), SPACING, seed)
        assert field_DEW.shape == (20, 113, 112)
        peaks_mm.append(float(field_DEW.abs().max()) * SPACING[1])
        assert float((1 + field_DEW.diff(dim=1)).min()) >= MIN_STRETCH - 1e-9
        assert not field_DEW[:, [0, -1]].any()
    assert max(peaks_mm) <= PEAK_DISPLACEMENT_MM[1]
    assert 3.0 < sorted(peaks_mm)[len(peaks_mm) // 2] < 8.0
    assert min(peaks_mm) > 1.5


def test_a_seed_gives_the_same_field_on_every_grid():
    """The same millimetres at the same places. Tolerance: the peak is sought on the grid, and bumps are broad."""
    coarse = simulate_displacement((10, 56, 56), (3.0, 2.0, 2.0), 7) * 2.0
    fine = simulate_displacement((10, 112, 112), (3.0, 1.0, 1.0), 7)
    torch.testing.assert_close((fine[:, ::2, ::2] + fine[:, ::2, 1::2]) / 2, coarse, atol=0.05, rtol=0)
    assert not torch.allclose(fine, simulate_displacement((10, 112, 112), (3.0, 1.0, 1.0), 8), atol=0.5)


@pytest.mark.parametrize("seed", range(4))
def test_distortion_conserves_the_signal_of_every_line(seed):
    """To float32 rounding of the output: signal moves along H alone, and none is made, lost or made negative."""
    signal, field_DEW = smooth(seed, offset=0.0), simulate_displacement(SHAPE, SPACING, seed)
    signal[:, 30:40] = 0
    bent = distort(signal, field_DEW)
    assert float((bent - signal).abs().max()) > 0.1
    torch.testing.assert_close(bent.double().sum(1), signal.double().sum(1), atol=1e-4, rtol=0)
    assert float(bent.min()) >= 0


def test_signal_piles_up_by_the_inverse_of_the_stretch():
    """Uniform signal becomes 1 / (1 + ∂d/∂y), taken where each voxel's signal came from."""
    field_DEW = torch.zeros(1, 65, 1, dtype=torch.float64)
    y = torch.arange(65, dtype=torch.float64)
    field_DEW[0, :, 0] = 5 * torch.sin(math.pi * y / 64) ** 2  # stretches, then squeezes
    bent = distort(torch.ones(1, 64, 1), field_DEW)[0, :, 0].double()
    moved, slope = y + field_DEW[0, :, 0], 1 + 5 * math.pi / 64 * torch.sin(2 * math.pi * y / 64)
    expected = np.interp(np.arange(64) + 0.5, moved.numpy(), 1 / slope.numpy())
    np.testing.assert_allclose(bent.numpy(), expected, atol=2e-3)
    assert bent.max() > 1.25 > 0.85 > bent.min()


def test_a_ratio_is_displaced_without_pile_up():
    """ADC formed of two distorted signals is the distorted ADC. Tolerance: interpolation of detail of four voxels."""
    field_DEW = simulate_displacement(SHAPE, SPACING, 5)
    still, adc = smooth(1), smooth(2, offset=1.0)
    of_bent = torch.log(distort(still, field_DEW) / distort(still * torch.exp(-0.75 * adc), field_DEW)) / 0.75
    moved = displace_ratio(adc, field_DEW)
    assert float((moved - adc).abs().max()) > 0.3
    assert float((of_bent - moved).abs().mean()) < 0.01
    assert float(adc.min()) - 1e-6 < float(moved.min()) < float(moved.max()) < float(adc.max()) + 1e-6


def test_distortion_does_not_change_t2w_and_depends_on_the_case(phantom):
    plain = Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=SPACING, shape_dhw=(16, 64, 64))
    prepared = prepare_study(phantom.volumes, plain, "distorted_diffusion")
    assert torch.equal(prepared.input_CDHW[0], prepared.clean_CDHW[0])
    for channel in (1, 2):
        assert psnr_db(prepared.input_CDHW[channel], prepared.clean_CDHW[channel]) < 30
    again = prepare_study(phantom.volumes, plain, "distorted_diffusion")
    assert torch.equal(again.input_CDHW, prepared.input_CDHW)
    assert scene(1).seed() == scene(1).seed() != scene(2).seed()
    turned = StudyContext(("t2w",), SPACING, scene(1).reference_XYZ.transpose(2, 0, 1)[::-1])
    assert turned.seed() == scene(1).seed()


# --- transforms of some modalities ------------------------------------------------------------------------------------


def test_a_transform_of_some_modalities_leaves_the_others(phantom):
    signal = torch.rand((3, 4, 32, 32), generator=torch.Generator().manual_seed(1)) + 0.5
    context = StudyContext(("t1w", "flair", "t2w"), (3.0, 1.0, 1.0), phantom.volumes["t2w"].array_XYZ)
    half = get_input_transform("half_resolution:t1w")(signal, context)
    assert torch.equal(half[1:], signal[1:])
    assert torch.equal(half[0], get_input_transform("half_resolution")(signal, context)[0])
    hidden = get_input_transform("hidden:flair+t2w")(signal, context)
    assert torch.equal(hidden[0], signal[0])
    assert not hidden[1:].any()
    bent = get_input_transform("distorted:flair")(signal, context)
    assert torch.equal(bent[::2], signal[::2])
    assert not torch.allclose(bent[1], signal[1])
    torch.testing.assert_close(bent[1].sum(1), signal[1].sum(1))  # piled up, so that every line keeps its sum


def test_the_names_of_prostate_mpmri_are_special_cases(phantom):
    signal = torch.rand((3, 4, 32, 32), generator=torch.Generator().manual_seed(2)) + 0.5
    context = StudyContext(("t2w", "dwi", "adc"), (3.0, 1.0, 1.0), phantom.volumes["t2w"].array_XYZ)
    for name, general in (
        ("hidden_adc", "hidden:adc"),
        ("distorted_diffusion", "distorted:dwi+adc"),
        ("half_resolution", "half_resolution:t2w+dwi+adc"),
    ):
        first, second = (get_input_transform(each)(signal, context) for each in (name, general))
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    "name",
    ["hidden", "hidden:", "hidden:T2", "identity:t2w", "half_resolution:a,b", "x:t2w", "hidden:" + "+".join("a" * 17)],
)
def test_other_names_are_refused(name):
    with pytest.raises(BadOption, match="hidden:MODALITY"):
        get_input_transform(name)
