"""Measure the memory of thin-slice CT: `python -m bench.volumes [SLICES …]`.

Each volume of 512 × 512 × SLICES voxels is decoded, checked as a publication does, and prepared for a model of
96 × 96 × 96 voxels of 2 mm, in a process of its own. Printed are the size of its file, the highest memory of the
process above that before its file is read, up to the end of each step, and the seconds of each step. Voxels are noise
around the values of tissue and air, or random bits (`--incompressible`), whose file is as large as a volume's can be.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.worker import peak_bytes

MIB = 2**20


def main() -> int:
    """Measures volumes, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m bench.volumes", description=__doc__.split(":", maxsplit=1)[0])
    parser.add_argument("slices", nargs="*", type=int, default=[256, 1024], metavar="SLICES")
    parser.add_argument("--incompressible", action="store_true", help="voxels of random bits")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        arguments.write.write_bytes(_encode(arguments.slices[0], incompressible=arguments.incompressible))
        return 0
    if arguments.read:
        print(json.dumps(dict(_measure(arguments.read))))
        return 0
    for slices in arguments.slices:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "ct.nii.gz"
            noise = ["--incompressible"] if arguments.incompressible else []
            _run(str(slices), "--write", str(path), *noise)
            figures = json.loads(_run("--read", str(path)))
            print(f"512 × 512 × {slices}, file of {path.stat().st_size / MIB:.0f} MiB")
            for step, (memory, seconds) in figures.items():
                print(f"  {step}: {memory / MIB:.0f} MiB, {seconds:.1f} s")
    return 0


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "bench.volumes", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _encode(slices: int, *, incompressible: bool) -> bytes:
    import numpy as np

    from vfmalign.imaging.volumes import Volume, encode

    rng = np.random.default_rng(0)
    x, y = np.ogrid[-1:1:512j, -1:1:512j]
    body = np.hypot(x, 1.2 * y) < 0.8
    values = np.empty((512, 512, slices), np.int16, order="F")
    for place in range(slices):
        if incompressible:
            values[..., place] = rng.integers(-(2**15), 2**15, (512, 512))
        else:
            values[..., place] = np.where(body, rng.normal(40, 20, body.shape), rng.normal(-1000, 3, body.shape))
    return encode(Volume(values, np.diag([0.7, 0.7, 0.6, 1.0])))


def _measure(path: Path) -> Iterator[tuple[str, tuple[int, float]]]:
    """Yields the peak of memory above the start, in bytes, and the seconds of each step."""
    import torch

    from vfmalign.core.domain.models import Preprocessing
    from vfmalign.imaging.preprocessing import prepare_study
    from vfmalign.imaging.volumes import Volume, check_encoding, decode

    torch.set_num_threads(1)
    grid: dict[str, Any] = {"modalities": ("ct",), "spacing_mm": (2.0, 2.0, 2.0), "shape_dhw": (96, 96, 96)}
    window = Preprocessing(**grid, normalisation="window", window=(-160.0, 240.0))
    study: dict[str, Volume] = {}
    before = peak_bytes()
    data = path.read_bytes()

    def decode_ct() -> None:
        study["ct"] = decode(data, "ct", "ct", is_label=None)

    steps = {
        "decode": decode_ct,
        "check the encoding": lambda: check_encoding(data, study["ct"], "ct"),
        "prepare": lambda: prepare_study(study, window),
    }
    for name, run in steps.items():
        start = time.perf_counter()
        run()
        yield name, (peak_bytes() - before, time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
