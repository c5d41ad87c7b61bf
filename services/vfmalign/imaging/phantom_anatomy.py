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

Positions = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
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


NODULES = (Tissue.GLANDULAR_NODULE, Tissue.STROMAL_NODULE, Tissue.MIXED_NODULE)
LESIONS = (Tissue.LESION_GRADE_1, Tissue.LESION_GRADE_2, Tissue.LESION_GRADE_3)


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
        x, y, z = (p - np.float32(c) for p, c in zip(positions, self.centre_mm, strict=True))
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
        reach_mm = 1.4 * max(self.radii_mm)
        return tuple(_span(p, i, c, reach_mm) for i, (p, c) in enumerate(zip(positions, self.centre_mm, strict=True)))  # type: ignore[return-value]


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
        x, y, z = (p - np.float32(c) for p, c in zip(positions, self.centre_mm, strict=True))
        a, b, c = (np.float32(h) for h in self.half_mm)
        w = np.clip(z / c, -1.6, 1.6)
        width = 1.0 + 0.14 * np.clip(w, -1.0, 1.0)  # the base is wider than the apex
        u, v = x / (a * width), y / (b * width)
        dent = 0.22 * np.clip(v, 0.0, None) * np.exp(-((u / 0.30) ** 2))
        level = np.sqrt(u * u + v * v + np.abs(w) ** 2.4) + dent
        angle = np.arctan2(v, u)
        for amplitude, order, phase in self.waves:
            level = level + np.float32(amplitude) * np.sin(order * angle + np.float32(phase))
        return level

    def transition_level(self, positions: Positions) -> NDArray[np.float32]:
        """Below 1 in the transition zone: an egg in the gland's front, from mid-gland to the base."""
        a, b, c = self.half_mm
        share = self.transition_share
        shift = (1.0 - share) * 0.75
        return Blob(
            (self.centre_mm[0], self.centre_mm[1] - shift * b, self.centre_mm[2] + shift * 0.8 * c),
            (a * share * 0.97, b * share * 0.98, c * share * 1.02),
            Tissue.TRANSITION_ZONE,
            bumps=((0.05, 0.3, self.waves[0][2]), (0.04, 1.9, self.waves[1][2])),
        ).level(positions)


@dataclass(frozen=True)
class Anatomy:
    """One case's pelvis. Build one with `draw_anatomy`, sample it with `tissues`."""

    gland: Gland
    nodules: tuple[Blob, ...]
    lesions: tuple[Blob, ...]
    bladder: Blob
    rectum: Blob
    rectal_lumen: Blob
    symphysis: Blob
    muscles: tuple[Blob, ...]
    bones: tuple[Blob, ...]
    vesicles: tuple[Blob, ...]

    def tissues(self, positions: Positions) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """What lies at each position.

        Returns:
            Tissue (see `Tissue`), gland {0, 1} and lesion grade {0, 1, 2, 3}, each of shape (X, Y, Z).
        """
        shape = np.broadcast_shapes(*(p.shape for p in positions))
        tissue_XYZ = np.full(shape, Tissue.FAT, dtype=np.uint8)
        self._paint_surroundings(tissue_XYZ, positions)
        gland_XYZ = np.zeros(shape, dtype=np.uint8)
        grade_XYZ = np.zeros(shape, dtype=np.uint8)
        outline = Blob(self.gland.centre_mm, self.gland.half_mm, Tissue.CAPSULE)
        box = outline.box(positions)
        self._paint_gland(tissue_XYZ[box], gland_XYZ[box], _crop(positions, box))
        for lesion in self.lesions:
            box = lesion.box(positions)
            inside = (lesion.level(_crop(positions, box)) < 1.0) & (gland_XYZ[box] > 0)
            tissue_XYZ[box][inside] = lesion.tissue
            grade_XYZ[box][inside] = 1 + LESIONS.index(lesion.tissue)
        return tissue_XYZ, gland_XYZ, grade_XYZ

    def _paint_surroundings(self, tissue_XYZ: NDArray[np.uint8], positions: Positions) -> None:
        for bone in (*self.bones, self.symphysis):
            _paint(tissue_XYZ, positions, bone, rim=Tissue.CORTEX, rim_mm=1.8)
        for muscle in self.muscles:
            _paint(tissue_XYZ, positions, muscle)
        self._paint_levator(tissue_XYZ, positions)
        for vesicle in self.vesicles:
            _paint(tissue_XYZ, positions, vesicle)
        _paint(tissue_XYZ, positions, self.bladder, rim=Tissue.BLADDER_WALL, rim_mm=3.2)
        _paint(tissue_XYZ, positions, self.rectum)
        _paint(tissue_XYZ, positions, self.rectal_lumen)

    def _paint_levator(self, tissue_XYZ: NDArray[np.uint8], positions: Positions) -> None:
        """The sling of muscle beside gland and rectum, tighter towards the feet."""
        x, y, z = positions
        _, y0, _ = self.gland.centre_mm
        a, b, _ = self.gland.half_mm
        tight = np.clip(1.0 + 0.012 * z, 0.6, 1.25)
        level = np.sqrt((x / ((a + 7.0) * tight)) ** 2 + ((y - y0 - 9.0) / ((b + 24.0) * tight)) ** 2)
        sheet = (np.abs(level - 1.0) * (a + 7.0) < 1.7) & (y > y0 - b) & (z < 16.0)
        tissue_XYZ[sheet] = Tissue.MUSCLE

    def _paint_gland(self, tissue_XYZ: NDArray[np.uint8], gland_XYZ: NDArray[np.uint8], positions: Positions) -> None:
        level = self.gland.level(positions)
        a, b, _ = self.gland.half_mm
        radius_mm = np.sqrt(a * b)
        x, y, z = (p - np.float32(c) for p, c in zip(positions, self.gland.centre_mm, strict=True))
        around = (level >= 1.0) & ((level - 1.0) * radius_mm < 4.5) & (y < 0.6 * b) & (tissue_XYZ == Tissue.FAT)
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
            nodule_level = nodule.level(positions)
            core_mm = (1.0 - nodule_level) * min(nodule.radii_mm)
            tissue_XYZ[egg & (core_mm > -0.6)] = Tissue.CAPSULE
            tissue_XYZ[egg & (core_mm > 0.0)] = nodule.tissue
        stroma = inside & (y < -0.66 * b) & (np.abs(x) < 0.62 * a)
        tissue_XYZ[stroma] = Tissue.FIBROMUSCULAR_STROMA
        tube = inside & (np.hypot(x, y + 0.1 * b + 0.12 * z) < 2.2)
        tissue_XYZ[tube] = Tissue.URETHRA


def draw_anatomy(rng: Generator, lesion_free_share: float) -> Anatomy:
    """Draws one case's pelvis; equal generators give equal cases."""
    half_mm = (rng.uniform(22.0, 28.0), rng.uniform(14.5, 19.5), rng.uniform(17.5, 21.5))
    centre_mm = (rng.uniform(-3.0, 3.0), rng.uniform(-2.5, 2.5), rng.uniform(-1.5, 1.5))
    waves = tuple((rng.uniform(0.01, 0.045), order, rng.uniform(0, 2 * np.pi)) for order in (2, 3, 5))
    gland = Gland(centre_mm, half_mm, rng.uniform(0.62, 0.84), waves)
    a, b, c = half_mm
    x0, y0, z0 = centre_mm
    rectum_mm = (rng.uniform(12.0, 17.0), rng.uniform(10.0, 14.0))
    rectum_y = y0 + b + rectum_mm[1] + rng.uniform(0.0, 1.5)
    lumen = rng.uniform(0.62, 0.8)
    content = Tissue.RECTAL_GAS if rng.random() < 0.6 else Tissue.RECTAL_CONTENT
    bladder_mm = (rng.uniform(26.0, 38.0), rng.uniform(20.0, 28.0), rng.uniform(22.0, 30.0))
    side_mm = a + rng.uniform(20.0, 26.0)
    return Anatomy(
        gland=gland,
        nodules=_draw_nodules(rng, gland),
        lesions=_draw_lesions(rng, gland, lesion_free_share),
        bladder=Blob(
            (rng.uniform(-5, 5), y0 - b - 0.75 * bladder_mm[1], z0 + c * 0.45 + 0.62 * bladder_mm[2]),
            bladder_mm,
            Tissue.URINE,
            bumps=_draw_bumps(rng, 0.05),
        ),
        rectum=Blob((x0, rectum_y, 0.0), (*rectum_mm, 90.0), Tissue.RECTAL_WALL, bumps=_draw_bumps(rng, 0.07)),
        rectal_lumen=Blob(
            (x0 + rng.uniform(-1, 1), rectum_y, 8.0),
            (rectum_mm[0] * lumen, rectum_mm[1] * lumen, 45.0),
            content,
            bumps=_draw_bumps(rng, 0.10),
        ),
        symphysis=Blob(
            (0.0, y0 - b - 26.0, z0 - 24.0), (24.0, 17.0, 20.0), Tissue.MARROW, bumps=_draw_bumps(rng, 0.05)
        ),
        muscles=tuple(
            Blob(
                (side * side_mm, -2.0 + rng.uniform(-3, 3), 0.0),
                (9.0, rng.uniform(30.0, 38.0), 90.0),
                Tissue.MUSCLE,
                angle=side * rng.uniform(0.10, 0.28),
                bumps=_draw_bumps(rng, 0.05),
            )
            for side in (-1.0, 1.0)
        ),
        bones=tuple(
            Blob((side * (side_mm + 25.0), -12.0, 6.0), (21.0, 24.0, 40.0), Tissue.MARROW, bumps=_draw_bumps(rng, 0.04))
            for side in (-1.0, 1.0)
        ),
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


def _draw_bumps(rng: Generator, amplitude: float) -> tuple[tuple[float, float, float], ...]:
    return tuple(
        (amplitude * rng.uniform(0.6, 1.3), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)) for _ in "ab"
    )


def _draw_nodules(rng: Generator, gland: Gland) -> tuple[Blob, ...]:
    """Hyperplastic nodules in the transition zone; the larger the zone, the more there are."""
    a, b, c = gland.half_mm
    count = int(rng.integers(5, 9) + 14 * (gland.transition_share - 0.6))
    nodules = []
    for _ in range(count):
        radius_mm = rng.uniform(2.5, 6.5)
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
        radius_mm = rng.uniform(3.6, 5.5) + 1.0 * grade * rng.uniform(0.6, 1.2)
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
    return tuple(lesions)


def _paint(
    tissue_XYZ: NDArray[np.uint8], positions: Positions, blob: Blob, *, rim: Tissue | None = None, rim_mm: float = 0.0
) -> None:
    box = blob.box(positions)
    level = blob.level(_crop(positions, box))
    part_XYZ = tissue_XYZ[box]
    part_XYZ[level < 1.0] = blob.tissue
    if rim is not None:
        part_XYZ[(level < 1.0) & ((1.0 - level) * min(blob.radii_mm) < rim_mm)] = rim


def _span(position: NDArray[np.float32], axis: int, centre_mm: float, reach_mm: float) -> slice:
    if position.size != position.shape[axis]:
        return slice(None)
    near = np.flatnonzero(np.abs(position.ravel() - centre_mm) <= reach_mm)
    return slice(int(near[0]), int(near[-1]) + 1) if near.size else slice(0, 0)


def _crop(positions: Positions, box: Box) -> Positions:
    """The positions of a part of the grid; axes along which a position does not vary have size 1."""
    x, y, z = (p[tuple(part if p.shape[axis] > 1 else slice(None) for axis, part in enumerate(box))] for p in positions)
    return x, y, z
