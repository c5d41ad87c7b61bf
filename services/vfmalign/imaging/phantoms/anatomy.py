"""Anatomy of a phantom: the tissue at each position of a pelvis.

The shapes are the gland with its peripheral and transition zone, nodules, lesions, bladder, rectum, muscles and bones.
Each shape is an implicit function of position, so that every modality can be sampled on its own grid.

Legend: positions x, y, z are in mm from the centre of the T2-weighted stack, along its axes: x to the patient's left, y
to the back, z to the head. Arrays of positions broadcast against one another to the grid's shape X, Y, Z.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]


class Tissue(IntEnum):
    """Tissue at a position. The values are column indices of `rendering.TISSUES`."""

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
    """Positions of a grid's voxels.

    Attributes:
        xyz: x, y and z in mm; each can be broadcast to the grid's shape.
        low, high: the smallest and the largest coordinate of every plane of the grid. The coordinate is x for planes of
            the first axis, y for planes of the second axis, and z for planes of the third axis.
    """

    xyz: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
    low: tuple[NDArray[np.float32], ...]
    high: tuple[NDArray[np.float32], ...]

    @classmethod
    def from_coordinates(cls, x: NDArray[np.float32], y: NDArray[np.float32], z: NDArray[np.float32]) -> Positions:
        """Returns the positions of a grid with axes approximately along x, y and z."""
        others = ((1, 2), (0, 2), (0, 1))
        low = tuple(p.min(axis=axes) for p, axes in zip((x, y, z), others, strict=True))
        return cls((x, y, z), low, tuple(p.max(axis=axes) for p, axes in zip((x, y, z), others, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The grid's shape X, Y, Z."""
        return np.broadcast_shapes(*(p.shape for p in self.xyz))

    def box(self, centre_mm: tuple[float, float, float], radius_mm: float) -> Box:
        """Returns the part of the grid whose positions may lie within `radius_mm` of a point along every axis."""
        spans = []
        for low, high, centre in zip(self.low, self.high, centre_mm, strict=True):
            overlapping = np.flatnonzero((high >= centre - radius_mm) & (low <= centre + radius_mm))
            spans.append(slice(int(overlapping[0]), int(overlapping[-1]) + 1) if overlapping.size else slice(0, 0))
        return spans[0], spans[1], spans[2]

    def crop(self, box: Box) -> Positions:
        """Returns the positions in a part of the grid."""
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
    """An ellipsoid with an irregular outline, rotated about z: a nodule, a lesion or an organ."""

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    tissue: Tissue
    angle: float = 0.0
    bumps: tuple[tuple[float, float, float], ...] = ()
    """Plane waves (amplitude, angle, phase) that deform the outline."""

    def level(self, positions: Positions) -> NDArray[np.float32]:
        """Returns the distance from the centre in units of the radius. Inside the blob, the distance is below 1."""
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
        """Returns the part of the grid that may contain the blob. On an oblique grid, this may be the whole grid."""
        return positions.box(self.centre_mm, 1.4 * max(self.radii_mm))


@dataclass(frozen=True)
class Gland:
    """The prostate. The gland is wide and egg-shaped, narrow at the apex, and flattened and indented at the back.

    Attributes:
        centre_mm, half_mm: centre and half the size along x, y, z.
        transition_share: size of the transition zone relative to the gland. It increases with hyperplasia.
        waves: (amplitude, order, phase) of the outline's deviation from an ellipse.
    """

    centre_mm: tuple[float, float, float]
    half_mm: tuple[float, float, float]
    transition_share: float
    waves: tuple[tuple[float, int, float], ...]

    def level(self, positions: Positions) -> NDArray[np.float32]:
        """Returns a level that is below 1 inside the gland.

        The distance from the surface in mm is about (level - 1) * mean radius.
        """
        x, y, z = (p - np.float32(c) for p, c in zip(positions.xyz, self.centre_mm, strict=True))
        a, b, c = (np.float32(h) for h in self.half_mm)
        w = np.clip(z / c, -1.6, 1.6)
        width = 1.0 + 0.14 * np.clip(w, -1.0, 1.0)  # the base is wider than the apex
        u, v = x / (a * width), y / (b * width)
        dent = 0.22 * np.clip(v, 0.0, None) * np.exp(-((u / 0.30) ** 2))
        level: NDArray[np.float32] = np.sqrt(u * u + v * v + np.abs(w) ** 2.4) + dent
        angle = np.arctan2(v, u)
        # Waves fade out towards the long axis, where the angle is undefined.
        fade = np.clip(2.0 * np.hypot(u, v), 0.0, 1.0)
        for amplitude, order, phase in self.waves:
            level = level + np.float32(amplitude) * fade * np.sin(order * angle + np.float32(phase))
        return level

    def transition_level(self, positions: Positions) -> NDArray[np.float32]:
        """Returns a level that is below 1 in the transition zone.

        This zone is egg-shaped. The zone lies in the front of the gland, from mid-gland to base.
        """
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
    """The pelvis of one case. Create an anatomy with `patients.draw_anatomy`, and sample it with `tissues`."""

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
        """Samples tissue and labels at the given positions.

        Returns:
            Tissue (see `Tissue`), gland {0, 1} and lesion grade {0, 1, 2, 3}, each of shape (X, Y, Z).
        """
        shape = positions.shape
        # Later structures overwrite earlier ones: surroundings, then gland, then lesions within the gland.
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
        """Paints the funnel of the pelvic floor, which holds gland and rectum and closes behind and below them."""
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


def _paint(
    tissue_XYZ: NDArray[np.uint8], positions: Positions, blob: Blob, *, rim: Tissue | None = None, rim_mm: float = 0.0
) -> None:
    box = blob.box(positions)
    level = blob.level(positions.crop(box))
    part_XYZ = tissue_XYZ[box]
    part_XYZ[level < 1.0] = blob.tissue
    if rim is not None:
        part_XYZ[(level < 1.0) & ((1.0 - level) * min(blob.radii_mm) < rim_mm)] = rim
