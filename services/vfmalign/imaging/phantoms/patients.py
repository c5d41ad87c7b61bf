"""Draws the patients of a phantom set: the sizes of organs, the nodules and the lesions of every case.

Lengths are in mm in the frame of the T2-weighted stack, as in `anatomy`. The order of the random draws matters:
inserting another draw changes every phantom of a seed.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from vfmalign.imaging.phantoms.anatomy import LESIONS, NODULES, Anatomy, Blob, Gland, Tissue


def draw_anatomy(rng: Generator, lesion_free_share: float) -> Anatomy:
    """Draws the pelvis of one case. Equal generator states give equal cases."""
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
    """Draws muscles and bones on both sides: obturators, adductors and buttocks; pubis, acetabulum and ischium."""
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
    """Draws hyperplastic nodules in the transition zone; a larger zone has more of them."""
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
    """Draws no lesion, or one to three: seven in ten in the peripheral zone, flattened along its rim."""
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
    return tuple(
        sorted(lesions, key=lambda lesion: lesion.tissue)
    )  # where two overlap, the higher grade is painted last
