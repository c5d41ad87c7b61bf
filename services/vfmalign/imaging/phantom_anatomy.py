"""The anatomy of a phantom: which tissue lies at which point of a pelvis that is drawn anew for every case.

Knows shapes: gland with peripheral and transition zone, nodules, lesions, bladder, rectum, muscles, bones. Knows
nothing of signals, voxel grids or files. Every shape is an implicit function of position, so that each modality can be
sampled on its own grid.

Legend: positions x, y, z are in mm in the frame of the T2-weighted stack, from its centre: x to the patient's left, y
to the back, z to the head. Arrays of positions broadcast against one another to the grid's shape X, Y, Z.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]


class Tissue(IntEnum):
    """What a point can be made of; the values index the table of `phantoms.TISSUES`."""

    FAT = 0
    MUSCLE = 1
    MARROW = 2
    CORTEX = 3
    BLADDER_WALL = 4
    URINE = 5
    RECTAL_WALL = 6
    RECTAL_GAS = 7
    RECTAL_CONTENT = 8
    PLEXUS = 9
    SEMINAL_VESICLE = 10
    CAPSULE = 11
    PERIPHERAL_ZONE = 12
    TRANSITION_ZONE = 13
    FIBROMUSCULAR_STROMA = 14
    URETHRA = 15
    GLANDULAR_NODULE = 16
    STROMAL_NODULE = 17
    MIXED_NODULE = 18
    LESION_GRADE_1 = 19
    LESION_GRADE_2 = 20
    LESION_GRADE_3 = 21
    VASCULAR_FAT = 22
    SPHINCTER = 23


NODULES = (Tissue.GLANDULAR_NODULE, Tissue.STROMAL_NODULE, Tissue.MIXED_NODULE)
FATS = (Tissue.FAT, Tissue.VASCULAR_FAT)
LESIONS = (Tissue.LESION_GRADE_1, Tissue.LESION_GRADE_2, Tissue.LESION_GRADE_3)


@dataclass(frozen=True, eq=False)
class Positions:
    """Where a grid's voxels are.

    Attributes:
        xyz: x, y and z in mm; each broadcasts to the grid's shape.
        low, high: smallest and largest x on every plane of the grid's first axis, y of its second, z of its third.
    """

    xyz: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
    low: tuple[NDArray[np.float32], ...]
    high: tuple[NDArray[np.float32], ...]

    @classmethod
    def of(cls, x: NDArray[np.float32], y: NDArray[np.float32], z: NDArray[np.float32]) -> Positions:
        """Positions of a grid whose axes run roughly along x, y and z."""
        others = ((1, 2), (0, 2), (0, 1))
        low = tuple(p.min(axis=axes) for p, axes in zip((x, y, z), others, strict=True))
        return cls((x, y, z), low, tuple(p.max(axis=axes) for p, axes in zip((x, y, z), others, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The grid's shape X, Y, Z."""
        return np.broadcast_shapes(*(p.shape for p in self.xyz))

    def box(self, centre_mm: tuple[float, float, float], reach_mm: float) -> Box:
        """The part of the grid that can lie within `reach_mm` of a point along every axis."""
        spans = []
        for low, high, centre in zip(self.low, self.high, centre_mm, strict=True):
            near = np.flatnonzero((high >= centre - reach_mm) & (low <= centre + reach_mm))
            spans.append(slice(int(near[0]), int(near[-1]) + 1) if near.size else slice(0, 0))
        return spans[0], spans[1], spans[2]

    def crop(self, box: Box) -> Positions:
        """The positions of a part of the grid."""
        x, y, z = (
            p[tuple(part if p.shape[axis] > 1 else slice(None) for axis, part in enumerate(box))] for p in self.xyz
        )
        return Positions(
            (x, y, z),
            tuple(low[part] for low, part in zip(self.low, box, strict=True)),
            tuple(high[part] for high, part in zip(self.high, box, strict=True)),
        )


@dataclass(frozen=True)
class Blob:
    """An ellipsoid turned about z, with a bumpy outline: a nodule, a lesion or an organ."""

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    tissue: Tissue
    angle: float = 0.0
    bumps: tuple[tuple[float, float, float], ...] = ()
    """Plane waves (amplitude, angle, phase) that deform the outline."""

    def level(self, positions: Positions) -> NDArray[np.float32]:
        """Distance from the centre in units of the radius: below 1 inside."""
        x, y, z = (p - np.float32(c) for p, c in zip(positions.xyz, self.centre_mm, strict=True))
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u, v, w = (
            part / np.float32(r)
            for part, r in zip((x * cos + y * sin, y * cos - x * sin, z), self.radii_mm, strict=True)
        )
        level = np.sqrt(u * u + v * v + w * w)
        for amplitude, angle, phase in self.bumps:
            wave = np.float32(3 * np.cos(angle)) * u + np.float32(3 * np.sin(angle)) * v + np.float32(2) * w
            level = level + np.float32(amplitude) * np.sin(wave + np.float32(phase))
        return level

    def box(self, positions: Positions) -> Box:
        """Part of the grid that can hold the blob: all of it where positions are not separable."""
        return positions.box(self.centre_mm, 1.4 * max(self.radii_mm))


@dataclass(frozen=True)
class Gland:
    """The prostate: wide and egg-shaped, narrow at the apex, flattened and dented at the back.

    Attributes:
        centre_mm, half_mm: centre and half sizes along x, y, z.
        transition_share: size of the transition zone against the gland's, which grows with hyperplasia.
        waves: (amplitude, order, phase) of the outline's deviation from an ellipse.
    """

    centre_mm: tuple[float, float, float]
    half_mm: tuple[float, float, float]
    transition_share: float
    waves: tuple[tuple[float, int, float], ...]

    def level(self, positions: Positions) -> NDArray[np.float32]:
        """Below 1 inside; (level - 1) * mean radius is about the distance from the surface in mm."""
        x, y, z = (p - np.float32(c) for p, c in zip(positions.xyz, self.centre_mm, strict=True))
        a, b, c = (np.float32(h) for h in self.half_mm)
        w = np.clip(z / c, -1.6, 1.6)
        width = 1.0 + 0.14 * np.clip(w, -1.0, 1.0)  # the base is wider than the apex
        u, v = x / (a * width), y / (b * width)
        dent = 0.22 * np.clip(v, 0.0, None) * np.exp(-((u / 0.30) ** 2))
        level: NDArray[np.float32] = np.sqrt(u * u + v * v + np.abs(w) ** 2.4) + dent
        angle = np.arctan2(v, u)
        # Waves fade towards the long axis, where an angle means nothing.
        reach = np.clip(2.0 * np.hypot(u, v), 0.0, 1.0)
        for amplitude, order, phase in self.waves:
            level = level + np.float32(amplitude) * reach * np.sin(order * angle + np.float32(phase))
        return level

    def transition_level(self, positions: Positions) -> NDArray[np.float32]:
        """Below 1 in the transition zone: an egg in the gland's front, from mid-gland to the base."""
        a, b, c = self.half_mm
        share = self.transition_share
        shift = 1.0 - share
        return Blob(
            (self.centre_mm[0], self.centre_mm[1] - 0.95 * shift * b, self.centre_mm[2] + 0.6 * shift * c),
            (a * share, b * (share + 0.03), c * (share + 0.05)),
            Tissue.TRANSITION_ZONE,
            bumps=((0.05, 0.3, self.waves[0][2]), (0.04, 1.9, self.waves[1][2])),
        ).level(positions)


@dataclass(frozen=True)
class Anatomy:
    """One case's pelvis. Build one with `draw_anatomy`, sample it with `tissues`."""

    gland: Gland
    nodules: tuple[Blob, ...]
    lesions: tuple[Blob, ...]
    stroma: Blob
    bladder: Blob
    rectum: Blob
    rectal_lumen: Blob
    muscles: tuple[Blob, ...]
    bones: tuple[Blob, ...]
    vesicles: tuple[Blob, ...]

    def tissues(self, positions: Positions) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """What lies at each position.

        Returns:
            Tissue (see `Tissue`), gland {0, 1} and lesion grade {0, 1, 2, 3}, each of shape (X, Y, Z).
        """
        shape = positions.shape
        tissue_XYZ = np.full(shape, Tissue.FAT, dtype=np.uint8)
        self._paint_surroundings(tissue_XYZ, positions)
        gland_XYZ = np.zeros(shape, dtype=np.uint8)
        grade_XYZ = np.zeros(shape, dtype=np.uint8)
        outline = Blob(self.gland.centre_mm, self.gland.half_mm, Tissue.CAPSULE)
        box = outline.box(positions)
        self._paint_gland(tissue_XYZ[box], gland_XYZ[box], positions.crop(box))
        for lesion in self.lesions:
            box = lesion.box(positions)
            inside = (lesion.level(positions.crop(box)) < 1.0) & (gland_XYZ[box] > 0)
            tissue_XYZ[box][inside] = lesion.tissue
            grade_XYZ[box][inside] = 1 + LESIONS.index(lesion.tissue)
        return tissue_XYZ, gland_XYZ, grade_XYZ

    def _paint_surroundings(self, tissue_XYZ: NDArray[np.uint8], positions: Positions) -> None:
        for muscle in self.muscles:
            _paint(tissue_XYZ, positions, muscle)
        for bone in self.bones:
            _paint(tissue_XYZ, positions, bone, rim=Tissue.CORTEX, rim_mm=1.1)
        self._paint_levator(tissue_XYZ, positions)
        for vesicle in self.vesicles:
            _paint(tissue_XYZ, positions, vesicle)
        _paint(tissue_XYZ, positions, self.bladder, rim=Tissue.BLADDER_WALL, rim_mm=3.2)
        _paint(tissue_XYZ, positions, self.rectum)
        _paint(tissue_XYZ, positions, self.rectal_lumen)

    def _paint_levator(self, tissue_XYZ: NDArray[np.uint8], positions: Positions) -> None:
        """The funnel of the pelvic floor: gland and rectum lie in it, it closes behind them and towards the feet."""
        x, y, z = positions.xyz
        x0, y0, z0 = self.gland.centre_mm
        a, b, c = self.gland.half_mm
        low = np.clip((z0 + 0.3 * c - z) / c, 0.0, 1.6)  # 0 above mid-gland, above 1 below the apex
        half_width = a + 6.0 - 6.0 * low
        depth = np.clip(y - y0 - 4.0, 0.0, None) / (self.rectum.centre_mm[1] - y0 + self.rectum.radii_mm[1] + 6.0)
        front = np.clip(y0 - 0.3 * b - y, 0.0, None) / (0.95 * b)
        inside_mm = (1.0 - np.abs(x - x0) / half_width - depth**1.3 - front**2) * half_width
        content = inside_mm > 0
        sides = y > y0 - 0.9 * b
        wall = content & (inside_mm < 2.2 + 5.0 * low**2) & sides & (z < z0 + 0.8 * c)
        around = np.hypot((x - x0) / (a + 13.0), (y - y0 - 4.0) / (b + 14.0)) < 1.0
        high = (z > z0 - 0.2 * c) & around & (tissue_XYZ == Tissue.FAT)
        tissue_XYZ[content | high] = Tissue.VASCULAR_FAT
        tissue_XYZ[content & (low > 1.1)] = Tissue.SPHINCTER
        tissue_XYZ[wall] = Tissue.MUSCLE

    def _paint_gland(self, tissue_XYZ: NDArray[np.uint8], gland_XYZ: NDArray[np.uint8], positions: Positions) -> None:
        level = self.gland.level(positions)
        a, b, _ = self.gland.half_mm
        radius_mm = np.sqrt(a * b)
        x, y, z = (p - np.float32(c) for p, c in zip(positions.xyz, self.gland.centre_mm, strict=True))
        around = (level >= 1.0) & ((level - 1.0) * radius_mm < 4.5) & (y < 0.6 * b) & np.isin(tissue_XYZ, FATS)
        tissue_XYZ[around] = Tissue.PLEXUS
        inside = level < 1.0
        gland_XYZ[inside] = 1
        tissue_XYZ[inside] = Tissue.PERIPHERAL_ZONE
        tissue_XYZ[inside & ((1.0 - level) * radius_mm < 0.9)] = Tissue.CAPSULE
        transition = self.gland.transition_level(positions)
        egg = inside & (transition < 1.0)
        tissue_XYZ[inside & (np.abs(transition - 1.0) * radius_mm * self.gland.transition_share < 0.7)] = Tissue.CAPSULE
        tissue_XYZ[egg] = Tissue.TRANSITION_ZONE
        for nodule in self.nodules:
            box = nodule.box(positions)
            core_mm = (1.0 - nodule.level(positions.crop(box))) * min(nodule.radii_mm)
            part_XYZ = tissue_XYZ[box]
            part_XYZ[egg[box] & (core_mm > -0.5)] = Tissue.CAPSULE
            part_XYZ[egg[box] & (core_mm > 0.0)] = nodule.tissue
        tissue_XYZ[inside & (self.stroma.level(positions) < 1.0)] = Tissue.FIBROMUSCULAR_STROMA
        tube = inside & (np.hypot(x, y + 0.1 * b + 0.12 * z) < 2.2)
        tissue_XYZ[tube] = Tissue.URETHRA


def draw_anatomy(rng: Generator, lesion_free_share: float) -> Anatomy:
    """Draws one case's pelvis; equal generators give equal cases."""
    half_mm = (rng.uniform(21.0, 27.0), rng.uniform(15.0, 20.5), rng.uniform(17.5, 21.5))
    centre_mm = (rng.uniform(-3.0, 3.0), rng.uniform(-2.5, 2.5), rng.uniform(-1.5, 1.5))
    waves = tuple((rng.uniform(0.01, 0.045), order, rng.uniform(0, 2 * np.pi)) for order in (2, 3, 5))
    gland = Gland(centre_mm, half_mm, rng.uniform(0.62, 0.82), waves)
    a, b, c = half_mm
    x0, y0, z0 = centre_mm
    rectum_mm = (rng.uniform(12.0, 18.0), rng.uniform(10.0, 15.0))
    rectum_y = y0 + b + rectum_mm[1] + rng.uniform(0.0, 1.5)
    lumen = rng.uniform(0.6, 0.85)
    content = Tissue.RECTAL_GAS if rng.random() < 0.6 else Tissue.RECTAL_CONTENT
    bladder_mm = (rng.uniform(30.0, 42.0), rng.uniform(23.0, 30.0), rng.uniform(24.0, 32.0))
    muscles, bones = _draw_pelvic_wall(rng, gland)
    return Anatomy(
        gland=gland,
        nodules=_draw_nodules(rng, gland),
        lesions=_draw_lesions(rng, gland, lesion_free_share),
        stroma=Blob(
            (x0, y0 - 1.02 * b, z0),
            (0.62 * a, rng.uniform(0.22, 0.42) * b, 0.8 * c),
            Tissue.FIBROMUSCULAR_STROMA,
            bumps=_draw_bumps(rng, 0.12),
        ),
        bladder=Blob(
            (rng.uniform(-5, 5), y0 - b - 0.70 * bladder_mm[1], z0 + c * 0.35 + 0.55 * bladder_mm[2]),
            bladder_mm,
            Tissue.URINE,
            bumps=_draw_bumps(rng, 0.05),
        ),
        rectum=Blob((x0, rectum_y, 40.0), (*rectum_mm, 62.0), Tissue.RECTAL_WALL, bumps=_draw_bumps(rng, 0.10)),
        rectal_lumen=Blob(
            (x0 + rng.uniform(-1, 1), rectum_y, 34.0),
            (rectum_mm[0] * lumen, rectum_mm[1] * lumen, 46.0),
            content,
            bumps=_draw_bumps(rng, 0.14),
        ),
        muscles=muscles,
        bones=bones,
        vesicles=tuple(
            Blob(
                (x0 + side * 15.0, y0 + 0.45 * b, z0 + c + 1.0),
                (15.0, 6.0, 6.5),
                Tissue.SEMINAL_VESICLE,
                angle=-side * 0.25,
                bumps=_draw_bumps(rng, 0.14),
            )
            for side in (-1.0, 1.0)
        ),
    )


def _draw_pelvic_wall(rng: Generator, gland: Gland) -> tuple[tuple[Blob, ...], tuple[Blob, ...]]:
    """Muscles and bones on both sides: obturators, adductors and buttocks; pubis, acetabulum and ischium."""
    a, b, _ = gland.half_mm
    _, y0, z0 = gland.centre_mm
    side_mm = a + rng.uniform(17.0, 22.0)
    tilt = rng.uniform(0.22, 0.42)
    muscles: list[Blob] = []
    bones: list[Blob] = []
    for side in (-1.0, 1.0):
        near, front = side * side_mm, y0 - b
        for parts, tissue, centre_mm, radii_mm, angle in (
            (muscles, Tissue.MUSCLE, (near, 2.0, 4.0), (10.0, rng.uniform(32.0, 40.0), 60.0), -side * tilt),
            (muscles, Tissue.MUSCLE, (side * 52.0, front - 6.0, z0 - 26.0), (27.0, 34.0, 19.0), side * 0.5),
            (muscles, Tissue.MUSCLE, (side * 66.0, 52.0, 6.0), (30.0, 16.0, 50.0), side * 0.6),
            (bones, Tissue.MARROW, (side * 15.5, front - 24.0, z0 - 22.0), (14.5, 27.0, 15.0), -side * 0.12),
            (bones, Tissue.MARROW, (side * 36.0, front - 14.0, z0 - 10.0), (15.0, 10.0, 9.0), -side * 0.5),
            (bones, Tissue.MARROW, (side * (side_mm + 23.0), -20.0, 14.0), (16.0, 22.0, 22.0), 0.0),
            (bones, Tissue.MARROW, (side * (side_mm + 20.0), 26.0, -24.0), (14.0, 16.0, 18.0), 0.0),
        ):
            parts.append(Blob(centre_mm, radii_mm, tissue, angle, _draw_bumps(rng, 0.05)))
    return tuple(muscles), tuple(bones)


def _draw_bumps(rng: Generator, amplitude: float) -> tuple[tuple[float, float, float], ...]:
    return tuple(
        (amplitude * rng.uniform(0.6, 1.3), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)) for _ in "ab"
    )


def _draw_nodules(rng: Generator, gland: Gland) -> tuple[Blob, ...]:
    """Hyperplastic nodules in the transition zone; the larger the zone, the more there are."""
    a, b, c = gland.half_mm
    count = int(rng.integers(9, 14) + 40 * (gland.transition_share - 0.6))
    nodules = []
    for _ in range(count):
        radius_mm = rng.uniform(1.8, 5.5)
        side = 1.0 if rng.random() < 0.5 else -1.0
        centre_mm = (
            gland.centre_mm[0] + side * a * gland.transition_share * rng.uniform(0.15, 0.7),
            gland.centre_mm[1] + b * (-0.15 + gland.transition_share * rng.uniform(-0.55, 0.45)),
            gland.centre_mm[2] + c * rng.uniform(-0.35, 0.7),
        )
        radii_mm = (radius_mm, radius_mm * rng.uniform(0.7, 1.1), radius_mm * rng.uniform(0.9, 1.3))
        tissue = NODULES[int(rng.choice(3, p=(0.4, 0.3, 0.3)))]
        nodules.append(Blob(centre_mm, radii_mm, tissue, rng.uniform(0, np.pi), _draw_bumps(rng, 0.07)))
    return tuple(nodules)


def _draw_lesions(rng: Generator, gland: Gland, lesion_free_share: float) -> tuple[Blob, ...]:
    """None, or one to three lesions: seven in ten in the peripheral zone, flat along its rim."""
    if rng.random() < lesion_free_share:
        return ()
    lesions = []
    for _ in range(int(rng.choice((1, 2, 3), p=(0.62, 0.28, 0.10)))):
        grade = int(rng.choice((1, 2, 3), p=(0.28, 0.34, 0.38)))
        radius_mm = rng.uniform(3.8, 5.5) + grade * rng.uniform(0.6, 1.6)
        peripheral = rng.random() < 0.7
        if peripheral:
            direction = rng.uniform(0.08, 0.42) * np.pi * (1.0 if rng.random() < 0.5 else -1.0) + np.pi / 2
            distance, radii = rng.uniform(0.76, 0.86), (1.25, 0.72, 1.1)
        else:
            direction = rng.uniform(-0.85, -0.15) * np.pi
            distance, radii = rng.uniform(0.35, 0.62), (1.25, 0.85, 1.1)
        height = rng.uniform(-0.5, 0.5)
        scale = distance * np.sqrt(1.0 - height**2)
        a, b, c = gland.half_mm
        centre_mm = (
            gland.centre_mm[0] + a * scale * np.cos(direction),
            gland.centre_mm[1] + b * scale * np.sin(direction),
            gland.centre_mm[2] + c * height,
        )
        tangent = np.arctan2(b * np.cos(direction), -a * np.sin(direction))
        radii_mm = (radius_mm * radii[0], radius_mm * radii[1], radius_mm * radii[2])
        lesions.append(Blob(centre_mm, radii_mm, LESIONS[grade - 1], float(tangent), _draw_bumps(rng, 0.10)))
    return tuple(sorted(lesions, key=lambda lesion: lesion.tissue))  # where two overlap the higher grade stays


def _paint(
    tissue_XYZ: NDArray[np.uint8], positions: Positions, blob: Blob, *, rim: Tissue | None = None, rim_mm: float = 0.0
) -> None:
    box = blob.box(positions)
    level = blob.level(positions.crop(box))
    part_XYZ = tissue_XYZ[box]
    part_XYZ[level < 1.0] = blob.tissue
    if rim is not None:
        part_XYZ[(level < 1.0) & ((1.0 - level) * min(blob.radii_mm) < rim_mm)] = rim
