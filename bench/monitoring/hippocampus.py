"""Features of real volumes, as they are and changed: 260 patients, T1-weighted MRI around the hippocampus.

The encoder is the ConvNeXt micro of docs/evidence.md that was pretrained by masked reconstruction. The 128 features are
the means of its last layer's channels over the volume. They are computed once, and kept beside the results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]
Change = Callable[[Array, np.random.Generator], Array]

MODELS = Path(__file__).resolve().parents[2] / "docs" / "evidence" / "cells" / "models"
ENCODER, OTHER_ENCODER = "conv-masked-evidence-2025", "conv-contrastive-evidence-2025"
ANOTHER_ENCODER = "another encoder"
"""The version of the original volumes as another encoder of the same architecture sees them."""


def blur(volume_XYZ: Array, sd_mm: float) -> Array:
    """Applies a Gaussian filter; voxels have 1 mm."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(volume_XYZ, sd_mm))


def add_noise(volume_XYZ: Array, share: float, rng: np.random.Generator) -> Array:
    """Adds Rician noise with an SD relative to the 98 % quantile of the volume."""
    real, imaginary = rng.normal(scale=share * np.quantile(volume_XYZ, 0.98), size=(2, *volume_XYZ.shape))
    return np.asarray(np.hypot(volume_XYZ + real, imaginary))


def add_bias_field(volume_XYZ: Array, amount: float, rng: np.random.Generator) -> Array:
    """Applies a gain that changes along a random direction, from 1 − amount to 1 + amount over the longest axis."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    axes = np.meshgrid(*(np.arange(size) - (size - 1) / 2.0 for size in volume_XYZ.shape), indexing="ij")
    place_XYZ = sum(part * axis for part, axis in zip(direction, axes, strict=True)) / max(volume_XYZ.shape)
    return np.asarray(volume_XYZ * (1.0 + 2.0 * amount * place_XYZ))


def change_contrast(volume_XYZ: Array, power: float) -> Array:
    """Raises the values, relative to the largest, to a power."""
    return np.asarray(volume_XYZ.max() * (volume_XYZ.clip(0) / volume_XYZ.max()) ** power)


VERSIONS: dict[str, Change] = {
    "original": lambda volume_XYZ, _: volume_XYZ,
    "blur 1 mm": lambda volume_XYZ, _: blur(volume_XYZ, 1.0),
    "blur 1.5 mm": lambda volume_XYZ, _: blur(volume_XYZ, 1.5),
    "noise 40 %": lambda volume_XYZ, rng: add_noise(volume_XYZ, 0.4, rng),
    "bias field ±50 %": lambda volume_XYZ, rng: add_bias_field(volume_XYZ, 0.5, rng),
    "contrast 0.9": lambda volume_XYZ, _: change_contrast(volume_XYZ, 0.9),
    "contrast 1.1": lambda volume_XYZ, _: change_contrast(volume_XYZ, 1.1),
    "contrast 0.7, blur 1.5 mm": lambda volume_XYZ, _: blur(change_contrast(volume_XYZ, 0.7), 1.5),
}
"""What is done to a volume."""


def prepare(shared: Path, folder: Path) -> Path | None:
    """Computes the features of every version if they are not there, and returns their file.

    Returns:
        None where the volumes are missing.
    """
    volumes = sorted((shared / "data" / "hippocampus" / "images").glob("*.nii.gz"))
    if not volumes:
        print(f"Real features are left out: {shared} has no data/hippocampus/images.", file=sys.stderr)
        return None
    path = folder / "hippocampus.npz"
    if not path.exists():
        print(f"Extracting features of {len(volumes)} volumes.", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        features = extract(volumes)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **features)
        partial.rename(path)
    return path


def extract(volumes: list[Path]) -> dict[str, NDArray[np.float32]]:
    """Returns the features [patients, channels] of each version of the volumes."""
    encoder, other = _load_encoder(ENCODER), _load_encoder(OTHER_ENCODER)
    rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in (*VERSIONS, ANOTHER_ENCODER)}
    for number, path in enumerate(volumes):
        for name, change in VERSIONS.items():
            input_CDHW = _prepare_volume(path, change, np.random.default_rng([number, 5]))
            rows[name].append(encoder(input_CDHW))
            if name == "original":
                rows[ANOTHER_ENCODER].append(other(input_CDHW))
    return {name: np.stack(versions) for name, versions in rows.items()}


def _prepare_volume(path: Path, change: Change, rng: np.random.Generator) -> Tensor:
    """Returns the encoder's input of a changed volume."""
    from vfmalign.imaging.preprocessing import prepare_study
    from vfmalign.imaging.volumes import Volume, decode
    from vfmalign.models.registry import SINGLE_INPUT

    volume = decode(path.read_bytes(), path.name, "input")
    changed_XYZ = change(volume.array_XYZ.astype(np.float64), rng)
    study = prepare_study({"input": Volume(changed_XYZ.astype(np.float32), volume.affine)}, SINGLE_INPUT)
    return study.input_CDHW


def _load_encoder(name: str) -> Callable[[Tensor], NDArray[np.float32]]:
    """Returns what gives the row of a prepared volume."""
    import torch

    from vfmalign.features.extraction.extractor import extract as run_encoder
    from vfmalign.models.registry import get_architecture
    from vfmalign.models.weights import build_encoder, load_state

    torch.set_num_threads(1)
    architecture = get_architecture("profound_conv_micro_single")
    weights = next((MODELS / name).glob("*.safetensors")).read_bytes()
    encoder, layer = build_encoder(architecture, load_state(weights, architecture)), architecture.primary_layer
    return lambda input_CDHW: run_encoder(encoder, input_CDHW[None], [layer], "mean")[layer][0].numpy()
