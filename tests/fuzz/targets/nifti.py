"""Volumes: a NIfTI file that a caller sends, decompressed, decoded and resampled to a model's grid."""

from __future__ import annotations

import gzip
from collections.abc import Mapping

import nibabel
import numpy as np
from tests.fuzz.harness import Target

from vfmalign.core.domain.models import Preprocessing
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import decode, encode

_INPUT = Preprocessing(modalities=("t1w",), spacing_mm=(3.0, 1.0, 1.0), shape_dhw=(8, 16, 16))


def run(data: bytes) -> None:
    """Decodes an image and prepares its study; decodes the same file as a label map."""
    try:
        volume = decode(data, "study.volumes[0]", "t1w")
        encode(volume)
        prepare_study({"t1w": volume}, _INPUT)
    finally:
        decode(data, "study.gland_mask", "gland", is_label=True)


def make_seeds() -> Mapping[str, bytes]:
    """Valid files of several types, compressed and not, and headers that are wrong in one field."""
    array = (np.arange(6 * 5 * 4) % 7).reshape(6, 5, 4)
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    plain = nibabel.Nifti1Image(array.astype(np.uint8), affine).to_bytes()
    turned = affine.copy()
    turned[:3, :3] = turned[:3, :3] @ np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    seeds = {
        "uint8": plain,
        "int16": nibabel.Nifti1Image(array.astype(np.int16), affine).to_bytes(),
        "float32": nibabel.Nifti1Image(array.astype(np.float32), affine).to_bytes(),
        "nifti2": nibabel.Nifti2Image(array.astype(np.uint8), affine).to_bytes(),
        "big_endian": nibabel.Nifti1Image(array.astype(">i2"), affine, nibabel.Nifti1Header(endianness=">")).to_bytes(),
        "oblique": nibabel.Nifti1Image(array.astype(np.uint8), turned).to_bytes(),
        "thin": nibabel.Nifti1Image(np.zeros((2, 2, 600), np.uint8), np.diag([9.0, 9.0, 0.05, 1.0])).to_bytes(),
        "gzip": gzip.compress(plain, mtime=0),
        "members": gzip.compress(plain[:400], mtime=0)
        + gzip.compress(b"", mtime=0)
        + gzip.compress(plain[400:], mtime=0),
        "padded": gzip.compress(plain, mtime=0) + bytes(64),
        "truncated": gzip.compress(plain, mtime=0)[:60],
        "empty": b"",
    }
    changes = {
        "analyze": {"magic": b""},
        "huge": {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]},
        "four_axes": {"dim": [4, 6, 5, 2, 2, 1, 1, 1]},
        "far_offset": {"vox_offset": 1e30},
        "nan_scale": {"scl_slope": np.nan, "scl_inter": np.inf},
        "quaternion": {"sform_code": 0, "qform_code": 1, "quatern_b": 0.7},
    }
    return seeds | {name: _change_header(plain, fields) for name, fields in changes.items()}


def _change_header(plain: bytes, fields: Mapping[str, object]) -> bytes:
    header = nibabel.Nifti1Header(plain[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + plain[348:]


TARGET = Target(run, make_seeds, max_bytes=1 << 13)
