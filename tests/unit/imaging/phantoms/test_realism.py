"""Phantoms beside a real case: quantiles, contrast and spectrum within stated tolerances, which degraded phantoms fail.

Both are brought onto one grid (3 x 1 x 1 mm) by the same code. The real case is one patient, so a phantom set's median
over 16 cases is compared, not every case; the tolerances are about the spread between the phantoms.
"""

import numpy as np
import pytest
from tests.prostate import PROSTATE

from vfmalign.core.domain.models import Preprocessing
from vfmalign.imaging.grid import common_grid, resample
from vfmalign.imaging.preprocessing import prepare_study

MODALITIES = ("t2w", "dwi", "adc")
CPU_SIZED = Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=(3.0, 1.0, 1.0), shape_dhw=(16, 64, 64))
BANDS_PER_MM = np.linspace(0.02, 0.5, 13)
# The real diffusion volumes were interpolated from about 2 mm: above 0.25 cycles/mm they hold no signal of their own.
USABLE_BANDS = {"t2w": 12, "dwi": 6, "adc": 6}


def measure(volumes, degrade=None):
    """What the tests compare, by modality, in units of the healthy gland's median (spectra: power of z-scores)."""
    grid = common_grid(volumes["t2w"], CPU_SIZED.spacing_mm)
    arrays = {k: resample(v, grid, labels=k in {"gland", "lesions"}) for k, v in volumes.items()}
    prepared = prepare_study(volumes, CPU_SIZED, labels=PROSTATE.labels)
    gland, lesions = arrays["gland"] > 0, arrays["lesions"]
    found = {}
    for channel, kind in enumerate(MODALITIES):
        image, channel_DHW = arrays[kind], prepared.clean_CDHW[channel].numpy()
        if degrade is not None:
            image, channel_DHW = degrade(image), degrade(channel_DHW)
        unit = np.median(image[gland & (lesions == 0)])
        found[kind] = {
            "gland": np.quantile(image[gland & (lesions == 0)], (0.05, 0.25, 0.75, 0.95)) / unit,
            "field": np.quantile(image, (0.75, 0.95)) / unit,
            "empty": (image < 0.05 * unit).mean(),
            "lesion": np.median(image[lesions == 3]) / unit if (lesions == 3).sum() > 30 else np.nan,
            "spectrum": radial_spectrum(channel_DHW, prepared.labels["gland"].numpy())[: USABLE_BANDS[kind]],
        }
    return found


def radial_spectrum(channel_DHW, gland_DHW):
    """Log10 of the mean power per band of spatial frequency, over the slices that show at least 3 cm² of gland."""
    window_HW = np.outer(np.hanning(64), np.hanning(64))
    slices = [s for s, g in zip(channel_DHW, gland_DHW, strict=True) if g.sum() > 300]
    power_HW = np.mean([np.abs(np.fft.fft2((s - s.mean()) * window_HW)) ** 2 for s in slices], axis=0)
    frequency_HW = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None, :])
    band_HW = np.digitize(frequency_HW, BANDS_PER_MM)
    return np.log10([power_HW[band_HW == band].mean() for band in range(1, len(BANDS_PER_MM))])


@pytest.fixture(scope="module")
def phantom_studies(phantom_cases):
    return [case.volumes for case in phantom_cases]


@pytest.fixture(scope="module")
def phantoms(phantom_studies):
    return summarise(phantom_studies)


def summarise(studies, degrade=None):
    found = [measure(study, degrade) for study in studies]
    return {
        kind: {name: np.nanmedian([f[kind][name] for f in found], axis=0) for name in found[0][kind]}
        for kind in MODALITIES
    }


@pytest.fixture(scope="module")
def real(request):
    return measure(request.getfixturevalue("picai"))


@pytest.mark.parametrize("kind", MODALITIES)
def test_quantiles_inside_the_gland(real, phantoms, kind):
    """5, 25, 75 and 95 % quantiles within the healthy gland, over its median: each within 25 %."""
    np.testing.assert_allclose(phantoms[kind]["gland"], real[kind]["gland"], rtol=0.25)


@pytest.mark.parametrize("kind", MODALITIES)
def test_quantiles_of_the_whole_field(real, phantoms, kind):
    """75 and 95 % quantiles of everything in view, over the gland's median: each within 25 % (DWI's 75 % is noise).

    The share of voxels under 5 % of the gland's median, air and what the scanner's threshold blanks: within 0.12.
    """
    first = 1 if kind == "dwi" else 0
    np.testing.assert_allclose(phantoms[kind]["field"][first:], real[kind]["field"][first:], rtol=0.25)
    assert phantoms[kind]["empty"] == pytest.approx(real[kind]["empty"], abs=0.12)


@pytest.mark.parametrize("kind", MODALITIES)
def test_contrast_of_the_highest_grade(real, phantoms, kind):
    """Median of the lesion over the healthy gland's: within 20 % of the real one (T2w 0.70, DWI 2.1, ADC 0.57)."""
    assert phantoms[kind]["lesion"] == pytest.approx(real[kind]["lesion"], rel=0.20)


@pytest.mark.parametrize("kind", MODALITIES)
def test_radial_power_spectrum(real, phantoms, kind):
    """Log10 power per band of frequency: RMS distance under 0.15 (a factor of 1.4), slope within 0.25."""
    difference = phantoms[kind]["spectrum"] - real[kind]["spectrum"]
    assert np.sqrt(np.mean(difference**2)) < 0.15
    assert slope(phantoms[kind]["spectrum"]) == pytest.approx(slope(real[kind]["spectrum"]), abs=0.25)


@pytest.mark.parametrize("kind", MODALITIES)
def test_the_tolerances_can_fail(real, phantom_studies, kind):
    """Phantoms with twice the contrast, or with white noise of half a standard deviation, are told apart."""
    stretched = summarise(phantom_studies[:4], lambda image: np.sign(image) * np.abs(image) ** 2)
    assert np.abs(stretched[kind]["gland"] / real[kind]["gland"] - 1).max() > 0.25
    rng = np.random.default_rng(0)
    noisy = summarise(phantom_studies[:4], lambda image: image + 0.5 * image.std() * rng.standard_normal(image.shape))
    difference = noisy[kind]["spectrum"] - real[kind]["spectrum"]
    assert np.sqrt(np.mean(difference**2)) > 0.15
    assert abs(slope(noisy[kind]["spectrum"]) - slope(real[kind]["spectrum"])) > 0.25


def slope(spectrum):
    centres = (BANDS_PER_MM[1:] + BANDS_PER_MM[:-1])[: len(spectrum)] / 2
    return float(np.polyfit(np.log10(centres), spectrum, 1)[0])
