"""Seeded phantoms: prostate-like multi-parametric MRI studies with gland and lesion labels.

T2w, high-b DWI and ADC volumes are simulated from the tissues' relaxation and diffusion, like a scanner's images. Each
modality has its own grid, receive-coil bias, noise and small misregistration. Proton density affects T2w and DWI.
Proton density cancels out in ADC, and is not stored. No modality can therefore be computed from the others.

Tissue values are typical of 3 T (Bojorquez et al., Magn Reson Imaging 2017; PI-RADS v2.1 for the appearance of
lesions). The values are adjusted so that a phantom's tissue quantiles are close to the quantiles of a real case
(`tests/unit/imaging/phantoms/test_realism.py`).

Legend: X, Y, Z array axes; positions are in mm in the frame of the T2-weighted stack (see `anatomy`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.imaging.phantoms.anatomy import Anatomy, Positions, Tissue
from vfmalign.imaging.phantoms.patients import draw_anatomy
from vfmalign.imaging.volumes import Volume

Array = NDArray[np.float32]


@dataclass(frozen=True)
class SliceStack:
    """Grid of one modality: number of voxels along X, Y, Z and their spacing in mm."""

    shape_XYZ: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class PhantomSpec:
    """Parameters shared by all cases of a set.

    Attributes:
        t2w, dwi, adc: grid of each modality.
        b_high: b-value of the DWI volume in s/mm². ADC is fitted between b = 50 and b = 800.
        noise: standard deviation of the noise in each of the receiver's two channels, relative to fat's T2w signal.
        misregistration_mm: standard deviation of the in-plane shift of each diffusion volume.
        diffusion_turn_deg: standard deviation of each diffusion stack's rotation about each axis, relative to the T2w
            stack; 0 for parallel stacks.
        lesion_free_share: share of cases without a lesion.
    """

    t2w: SliceStack = SliceStack((160, 160, 20), (0.7, 0.7, 3.0))
    dwi: SliceStack = SliceStack((80, 80, 20), (1.6, 1.6, 3.0))
    adc: SliceStack = SliceStack((72, 72, 18), (1.75, 1.75, 3.4))
    b_high: float = 1400.0
    noise: float = 0.03
    misregistration_mm: float = 0.6
    diffusion_turn_deg: float = 1.5
    lesion_free_share: float = 0.18


@dataclass(frozen=True)
class PhantomCase:
    """One case: its volumes (t2w, dwi, adc, gland, lesions) and the grades of its visible lesions."""

    volumes: dict[VolumeKind, Volume]
    lesion_grades: tuple[int, ...]


@dataclass(frozen=True)
class TissueValues:
    """Proton density (1 = water), T2 (ms), ADC (1e-3 mm²/s), share of signal left by fat suppression, SD of log T2."""

    density: float
    t2_ms: float
    adc: float
    unsuppressed: float = 1.0
    texture: float = 0.0


TISSUES: dict[Tissue, TissueValues] = {
    Tissue.FAT: TissueValues(0.92, 170.0, 0.3, 0.02, 0.06),
    Tissue.VASCULAR_FAT: TissueValues(0.88, 130.0, 1.1, 0.15, 0.38),
    Tissue.MUSCLE: TissueValues(0.80, 36.0, 1.30, texture=0.22),
    Tissue.MARROW: TissueValues(0.80, 82.0, 0.4, 0.05, 0.15),
    Tissue.CORTEX: TissueValues(0.15, 25.0, 0.5, 0.2),
    Tissue.BLADDER_WALL: TissueValues(0.80, 40.0, 1.35, texture=0.15),
    Tissue.URINE: TissueValues(0.64, 400.0, 2.75),
    Tissue.RECTAL_WALL: TissueValues(0.80, 52.0, 1.25, texture=0.35),
    Tissue.RECTAL_GAS: TissueValues(0.02, 30.0, 1.0),
    Tissue.RECTAL_CONTENT: TissueValues(0.60, 50.0, 1.1, texture=0.40),
    Tissue.SPHINCTER: TissueValues(0.80, 52.0, 1.25, texture=0.30),
    Tissue.PLEXUS: TissueValues(0.85, 100.0, 1.5, 0.35, 0.55),
    Tissue.SEMINAL_VESICLE: TissueValues(0.85, 110.0, 1.6, texture=0.55),
    Tissue.CAPSULE: TissueValues(0.82, 64.0, 1.15, texture=0.12),
    Tissue.PERIPHERAL_ZONE: TissueValues(0.86, 122.0, 1.50, texture=0.32),
    Tissue.TRANSITION_ZONE: TissueValues(0.84, 72.0, 1.22, texture=0.25),
    Tissue.FIBROMUSCULAR_STROMA: TissueValues(0.82, 56.0, 1.05, texture=0.15),
    Tissue.URETHRA: TissueValues(0.86, 105.0, 1.40, texture=0.20),
    Tissue.GLANDULAR_NODULE: TissueValues(0.86, 112.0, 1.45, texture=0.38),
    Tissue.STROMAL_NODULE: TissueValues(0.83, 62.0, 1.02, texture=0.20),
    Tissue.MIXED_NODULE: TissueValues(0.84, 80.0, 1.22, texture=0.40),
    Tissue.LESION_GRADE_1: TissueValues(0.84, 71.0, 0.98, texture=0.16),
    Tissue.LESION_GRADE_2: TissueValues(0.85, 68.0, 0.78, texture=0.16),
    Tissue.LESION_GRADE_3: TissueValues(0.86, 66.0, 0.54, texture=0.16),
}
ECHO_TIME_T2W_MS = 100.0
ECHO_TIME_DWI_MS = 70.0
T2W_SCALE = 900.0
DWI_SCALE = 900.0
DWI_APODISATION = (0.6, 0.6, 0.3)
"""Standard deviations, in voxels, of the point spread of a diffusion volume (scanners interpolate these volumes)."""
MIN_LOW_B_SIGNAL = 0.10
"""Signal at low b below which a diffusion volume is 0, as scanners mask the background."""
TEXTURE_STEP_MM = (1.4, 1.4, 3.0)
TEXTURE_EXTENT_MM = (60.0, 60.0, 34.0)

_TABLE: dict[str, Array] = {
    column.name: np.array([getattr(TISSUES[t], column.name) for t in Tissue], dtype=np.float32)
    for column in fields(TissueValues)
}


def generate_case(seed: int, index: int, spec: PhantomSpec | None = None) -> PhantomCase:
    """Generates one case of the set with this seed.

    Args:
        seed: non-negative seed of the whole set.
        index: non-negative index of the case. Every case can be generated independently of the others.
        spec: grids and physics; None for the default.

    Returns:
        The case. Equal arguments give equal arrays.
    """
    spec = spec or PhantomSpec()
    # One random stream per concern, so that a change to one does not change the draws of the others.
    anatomy_rng, texture_rng, pose_rng, t2w_rng, dwi_rng, adc_rng = (
        np.random.default_rng(s) for s in np.random.SeedSequence([seed, index]).spawn(6)
    )
    body = _Body(draw_anatomy(anatomy_rng, spec.lesion_free_share), texture_rng)
    pose = _draw_pose(pose_rng)
    t2w_affine, t2w_positions = _place_stack(spec.t2w, pose, np.eye(3), np.zeros(3))
    t2w, gland, lesions = _acquire_t2w(body, t2w_positions, spec, t2w_rng)
    volumes: dict[VolumeKind, Volume] = {
        "t2w": Volume(t2w, t2w_affine),
        "gland": Volume(gland, t2w_affine),
        "lesions": Volume(lesions, t2w_affine),
    }
    shift_mm, turn_sd = _draw_shift(dwi_rng, spec.misregistration_mm), np.deg2rad(spec.diffusion_turn_deg)
    for kind, stack, rng in (("dwi", spec.dwi, dwi_rng), ("adc", spec.adc, adc_rng)):
        turn, offset_mm = _rotation(rng.normal(0.0, turn_sd, 3)), rng.normal(0.0, (2.0, 2.0, 0.8))
        affine, positions = _place_stack(stack, pose, turn, offset_mm)
        if kind == "adc":
            shift_mm = shift_mm + _draw_shift(rng, 0.3 * spec.misregistration_mm)
        displaced = Positions.from_coordinates(
            *(p + np.float32(s) for p, s in zip(positions.xyz, shift_mm, strict=True))
        )
        array = _acquire_diffusion(body, displaced, kind, spec, rng)
        volumes["dwi" if kind == "dwi" else "adc"] = Volume(array, affine)
    grades = tuple(int(g) for g in np.unique(lesions) if g)
    return PhantomCase(volumes, grades)


@dataclass(eq=False)
class _Maps:
    """Maps of density, T2 (ms), texture strength and labels; for diffusion also ADC and the unsuppressed share."""

    density: Array
    t2_ms: Array
    texture: Array
    gland: NDArray[np.uint8]
    grade: NDArray[np.uint8]
    adc: Array = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    unsuppressed: Array = field(default_factory=lambda: np.zeros(0, dtype=np.float32))


class _Body:
    """Tissue values of one case at any position: its anatomy and textures."""

    def __init__(self, anatomy: Anatomy, rng: Generator) -> None:
        self.anatomy = anatomy
        self._relaxation = _texture(rng, ((1.0, 0.8), (3.0, 0.6)))
        self._diffusion = _texture(rng, ((1.2, 0.7), (3.0, 0.7)))
        self._density = _texture(rng, ((1.5, 0.6), (6.0, 0.8)))
        # Tissues differ between patients: every case scales T2 and ADC of each tissue slightly.
        self._t2_scale = np.exp(rng.normal(0.0, 0.06, len(Tissue))).astype(np.float32)
        self._adc_scale = np.exp(rng.normal(0.0, 0.05, len(Tissue))).astype(np.float32)

    def maps(self, positions: Positions, *, diffusion: bool) -> _Maps:
        """Returns the tissue values at positions.

        ADC and the unsuppressed share are included only if `diffusion` is set.
        """
        tissue, gland, grade = self.anatomy.tissues(positions)
        texture = _TABLE["texture"][tissue]
        grain = texture * _sample(self._relaxation, positions)
        density = _TABLE["density"][tissue] * (1.0 + np.float32(0.12) * _sample(self._density, positions))
        maps = _Maps(density, (_TABLE["t2_ms"] * self._t2_scale)[tissue] * np.exp(grain), texture, gland, grade)
        if diffusion:
            # T2 and ADC are correlated but not equal: long T2 tends to go with fast diffusion.
            other = np.float32(0.5) * texture * _sample(self._diffusion, positions)
            maps.adc = (_TABLE["adc"] * self._adc_scale)[tissue] * np.exp(np.float32(0.3) * grain + other)
            maps.unsuppressed = _TABLE["unsuppressed"][tissue]
        return maps


def _acquire_t2w(body: _Body, positions: Positions, spec: PhantomSpec, rng: Generator) -> tuple[Array, Array, Array]:
    maps = body.maps(positions, diffusion=False)
    # Detail finer than the texture lattice; the other modalities could not resolve it.
    fine = ndimage.gaussian_filter(
        rng.standard_normal(maps.t2_ms.shape, dtype=np.float32), (1.1, 1.1, 0.3), truncate=3.0
    )
    t2_ms = maps.t2_ms * np.exp(np.float32(0.7 / fine.std()) * maps.texture * fine)
    signal = maps.density * np.exp(np.float32(-ECHO_TIME_T2W_MS) / t2_ms)
    signal = ndimage.gaussian_filter(signal, (0.5, 0.5, 0.25), truncate=3.0) * _coil_bias(positions, rng)
    image = np.rint(T2W_SCALE * _rician(signal, 0.7 * spec.noise, rng))
    return image, maps.gland.astype(np.float32), maps.grade.astype(np.float32)


def _acquire_diffusion(body: _Body, positions: Positions, kind: str, spec: PhantomSpec, rng: Generator) -> Array:
    """Acquires the high-b volume or the ADC map in 1e-6 mm²/s; zero where the signal at low b is too small."""
    maps = body.maps(positions, diffusion=True)
    signal_b0 = maps.density * np.exp(np.float32(-ECHO_TIME_DWI_MS) / maps.t2_ms) * maps.unsuppressed
    signal_b0 *= _coil_bias(positions, rng)

    def image(b_value: float) -> Array:
        signal = signal_b0 * np.exp(-np.float32(b_value / 1000) * maps.adc)
        return _rician(signal, 0.5 * spec.noise, rng, DWI_APODISATION)

    low = image(50.0)
    visible = low > MIN_LOW_B_SIGNAL
    if kind == "dwi":
        return np.where(visible, np.rint(DWI_SCALE * image(spec.b_high)), np.float32(0.0))
    fitted = np.log(low / np.maximum(image(800.0), np.float32(1e-4))) / np.float32(0.750) * np.float32(1000.0)
    return np.where(visible, np.rint(np.clip(fitted, 0.0, 3500.0)), np.float32(0.0))


def _rician(signal: Array, noise: float, rng: Generator, smooth: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Array:
    """Magnitude of a signal with Gaussian noise in both channels, each smoothed like a scanner's apodisation."""
    real = signal + np.float32(noise) * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = np.float32(noise) * rng.standard_normal(signal.shape, dtype=np.float32)
    if any(smooth):
        real, imaginary = (ndimage.gaussian_filter(part, smooth, truncate=3.0) for part in (real, imaginary))
    magnitude: Array = np.hypot(real, imaginary)
    return magnitude


def _coil_bias(positions: Positions, rng: Generator) -> Array:
    """Smooth receive sensitivity: the exponential of a quadratic polynomial, drawn for each modality."""
    x, y, z = (p / np.float32(60.0) for p in positions.xyz)
    c = rng.normal(0.0, 0.10, 6).astype(np.float32)
    bias: Array = np.exp(c[0] * x + c[1] * y + 0.7 * c[2] * z + c[3] * x * x + c[4] * y * y + c[5] * x * y)
    return bias


def _texture(rng: Generator, octaves: tuple[tuple[float, float], ...]) -> Array:
    """Smooth unit-variance noise on the texture lattice: a weighted sum of (sigma in lattice steps, weight)."""
    shape = tuple(int(2 * extent / step) + 1 for extent, step in zip(TEXTURE_EXTENT_MM, TEXTURE_STEP_MM, strict=True))
    total = np.zeros(shape, dtype=np.float32)
    for sigma, weight in octaves:
        white = rng.standard_normal(shape, dtype=np.float32)
        smooth = ndimage.gaussian_filter(white, (sigma, sigma, 0.5 * sigma), mode="wrap", truncate=3.0)
        total += np.float32(weight / smooth.std()) * smooth
    scaled: Array = total / total.std()
    return scaled


def _sample(texture: Array, positions: Positions) -> Array:
    """Interpolates a texture linearly at positions; beyond the lattice its border values continue."""
    index = [
        np.clip((p + np.float32(extent)) / np.float32(step), 0, size - 1)
        for p, extent, step, size in zip(positions.xyz, TEXTURE_EXTENT_MM, TEXTURE_STEP_MM, texture.shape, strict=True)
    ]
    if all(i.size == max(i.shape) for i in index):
        # An axis-aligned grid: one small weight matrix per axis is much faster than looking up every voxel.
        x, y, z = (
            np.maximum(0, 1 - np.abs(i.reshape(-1, 1) - np.arange(size, dtype=np.float32)))
            for i, size in zip(index, texture.shape, strict=True)
        )
        separable: Array = np.tensordot(x, (y @ texture) @ z.T, axes=1)
        return separable
    sampled: Array = ndimage.map_coordinates(texture, np.stack(np.broadcast_arrays(*index)), order=1, mode="nearest")
    return sampled


def _draw_pose(rng: Generator) -> NDArray[np.float64]:
    """Draws the 4×4 pose of the T2-weighted stack from its frame to LPS positions, tilted about x as the gland is."""
    pose = np.eye(4)
    pose[:3, :3] = _rotation(np.deg2rad(np.array([rng.uniform(-5.0, 22.0), rng.normal(0, 1.5), rng.normal(0, 2.0)])))
    pose[:3, 3] = rng.normal(0.0, (5.0, 20.0, 30.0))
    return pose


def _draw_shift(rng: Generator, sd_mm: float) -> NDArray[np.float64]:
    """Draws a shift in mm within two standard deviations, half as large across slices."""
    shift_mm: NDArray[np.float64] = np.clip(rng.normal(0.0, 1.0, 3), -2.0, 2.0) * sd_mm * np.array([1.0, 1.0, 0.5])
    return shift_mm


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about x, then y, then z, in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turn: NDArray[np.float64] = about_z @ about_y @ about_x
    return turn


def _place_stack(
    stack: SliceStack, pose: NDArray[np.float64], turn: NDArray[np.float64], offset_mm: NDArray[np.float64]
) -> tuple[NDArray[np.float64], Positions]:
    """Places a grid that is rotated and displaced against the T2-weighted stack.

    Returns:
        Its NIfTI affine, and the positions of its voxels in the frame of the T2-weighted stack.
    """
    in_frame = np.eye(4)
    in_frame[:3, :3] = turn * np.array(stack.spacing_mm)
    in_frame[:3, 3] = offset_mm - in_frame[:3, :3] @ ((np.array(stack.shape_XYZ) - 1) / 2)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ pose @ in_frame
    i, j, k = np.ogrid[: stack.shape_XYZ[0], : stack.shape_XYZ[1], : stack.shape_XYZ[2]]
    x, y, z = (
        np.asarray(
            sum(in_frame[row, axis] * index for axis, index in enumerate((i, j, k)) if in_frame[row, axis])
            + in_frame[row, 3],
            dtype=np.float32,
        )
        for row in range(3)
    )
    return affine, Positions.from_coordinates(x, y, z)
