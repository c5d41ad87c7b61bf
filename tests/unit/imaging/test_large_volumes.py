"""Volumes of integers: the same numbers as in float32, in slabs of any size, and a bounded memory."""

import json
import subprocess
import sys
import zlib

import numpy as np
import pytest

from vfmalign.core.domain.errors import BadVolume
from vfmalign.core.domain.models import Preprocessing
from vfmalign.imaging import grid, volumes
from vfmalign.imaging.grid import common_grid, resample, resample_planes
from vfmalign.imaging.input_transforms import StudyContext
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import Volume, check_encoding, check_study_size, decode, encode

TURNED = np.array([[-0.68, 0.1, 0.0, 9.0], [-0.1, -0.68, 0.0, 4.0], [0.0, 0.0, 0.6, -7.0], [0.0, 0.0, 0.0, 1.0]])
AFFINES = {
    "LPS": np.diag([-0.7, -0.7, 0.6, 1.0]),
    "RAS": np.diag([0.7, 0.7, 0.6, 1.0]),
    "sagittal": np.array([[0.0, 0.0, 0.6, 0.0], [-0.7, 0.0, 0.0, 0.0], [0.0, 0.7, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]),
}


def integers(shape_XYZ=(40, 30, 36), dtype=np.int16):
    return np.random.default_rng(0).integers(-1000, 2000, shape_XYZ).astype(dtype, order="F")


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.0), (0.5, 0.9, 0.4), (0.6, 0.7, 0.7)])
def test_integers_are_resampled_as_float32_is(monkeypatch, name, spacing_mm):
    volume = Volume(integers(), AFFINES[name])
    target = common_grid(volume, spacing_mm)
    expected = resample(Volume(volume.array_XYZ.astype(np.float32), volume.affine), target, labels=False)
    np.testing.assert_array_equal(resample(volume, target, labels=False), expected)
    monkeypatch.setattr(grid, "_VOXELS_PER_SLAB", 1)
    np.testing.assert_allclose(resample(volume, target, labels=False), expected, atol=1e-3)


@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.0), (0.6, 0.7, 0.7)])
def test_oblique_integers_are_resampled_as_float32_is(spacing_mm):
    volume = Volume(integers(), TURNED)
    target = common_grid(Volume(integers(), AFFINES["LPS"]), spacing_mm)
    expected = resample(Volume(volume.array_XYZ.astype(np.float32), TURNED), target, labels=False)
    np.testing.assert_allclose(resample(volume, target, labels=False), expected, atol=1e-3)
    shifted = resample_planes(volume, target, origin=-1000.0).values().numpy().T
    inside = expected != 0
    np.testing.assert_allclose(shifted[inside], expected[inside] + 1000.0, atol=1e-3)
    assert not shifted[~inside].any()


def test_the_seed_of_a_case_does_not_depend_on_the_type():
    array_XYZ = integers((150, 120, 80))
    seeds = {
        StudyContext(("ct",), (1.0, 1.0, 1.0), values).seed("ct")
        for values in (array_XYZ, array_XYZ.astype(np.float32), array_XYZ[::-1].transpose(2, 0, 1))
    }
    assert len(seeds) == 1


@pytest.mark.parametrize("values", [integers(), integers() / np.float32(7)], ids=["int16", "float32"])
def test_encoding_in_slabs_gives_the_bytes_of_encoding_at_once(monkeypatch, values):
    volume = Volume(values.astype(values.dtype, order="F"), AFFINES["LPS"])
    whole = encode(volume)
    content = zlib.decompress(whole, wbits=31)
    compressor = zlib.compressobj(level=4, wbits=31)
    assert whole == compressor.compress(content) + compressor.flush()
    monkeypatch.setattr(volumes, "_SLAB_VOXELS", 1)
    assert encode(volume) == whole
    check_encoding(whole, decode(whole, "ct", "ct"), "ct")
    with pytest.raises(BadVolume, match="not encoded as an import"):
        check_encoding(whole, Volume(volume.array_XYZ[:, :, :-1], volume.affine), "ct")


def test_an_offset_of_1024_keeps_16_bits(nifti):
    stored = (integers() + 1000).astype(np.uint16)
    volume = decode(nifti(stored, scl_slope=1.0, scl_inter=-1024.0), "ct", "ct")
    assert volume.array_XYZ.dtype == np.int16
    np.testing.assert_array_equal(volume.array_XYZ, stored.astype(np.float64) - 1024.0)
    halved = decode(nifti(stored, scl_slope=0.5, scl_inter=-1024.0), "ct", "ct")
    assert halved.array_XYZ.dtype == np.float32
    np.testing.assert_array_equal(halved.array_XYZ, stored * 0.5 - 1024.0)


def test_voxels_of_64_bits_are_limited_in_all(nifti):
    header = {"dim": [3, 512, 512, 1024, 1, 1, 1, 1], "datatype": 64, "bitpix": 64}
    with pytest.raises(BadVolume, match="voxels of 64 bits take more than 1024 MiB; store integers of 16 bits"):
        decode(nifti(**header), "ct", "ct")
    with pytest.raises(BadVolume, match="truncated"):
        decode(nifti(**header | {"datatype": 16, "bitpix": 32}), "ct", "ct")


def test_the_volumes_of_a_case_are_limited_together():
    check_study_size([volumes.MAX_STUDY_BYTES // 2] * 2, "case c-1")
    with pytest.raises(BadVolume, match="case c-1: its volumes take more than 4 GiB of memory together"):
        check_study_size([volumes.MAX_STUDY_BYTES // 2] * 2 + [1], "case c-1")


def test_a_grid_is_limited_below_the_volumes_of_its_study():
    fine = Volume(np.zeros((512, 512, 300), np.int16), AFFINES["LPS"])
    with pytest.raises(BadVolume, match="512 x 512 x 300, at most 67108864 in all"):
        prepare_study({"ct": fine}, Preprocessing(modalities=("ct",), shape_dhw=(8, 8, 8)))


MEASURE = """
import json, resource, sys, torch
import numpy as np
from vfmalign.core.domain.models import Preprocessing
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import Volume, check_encoding, decode, encode

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(1)
affine = np.diag([float(sys.argv[1]) * 0.7, -0.7, 0.6, 1.0])
values = np.full((512, 512, 256), -1000, np.int16, order="F")
values[100:400, 100:400, 10:180] = np.arange(170, dtype=np.int16)
figures = {"size": values.nbytes, "before": peak()}
data = encode(Volume(values, affine))
figures["encode"] = peak()
del values
volume = decode(data, "ct", "ct")
check_encoding(data, volume, "ct")
how = Preprocessing(
    modalities=("ct",), spacing_mm=(2.0, 2.0, 2.0), shape_dhw=(96, 96, 96), normalisation="window", window=(-160, 240)
)
prepare_study({"ct": volume}, how)
figures["prepare"] = peak()
print(json.dumps(figures))
"""


@pytest.mark.parametrize("direction", [-1, 1])
def test_the_memory_of_a_volume_is_that_of_its_integers(python, direction):
    """In a process of its own: a peak cannot be reset. The volume has 128 MiB, and 256 MiB in float32."""
    command = [sys.executable, "-c", MEASURE, str(direction)]
    with python(command, stdout=subprocess.PIPE, text=True) as process:
        figures = json.loads(process.communicate()[0])
    # Slabs, the grid of 9 MiB, and what libraries take when they are first used; `before` includes one volume.
    assert figures["encode"] - figures["before"] < figures["size"]
    assert figures["prepare"] - figures["before"] < figures["size"]
