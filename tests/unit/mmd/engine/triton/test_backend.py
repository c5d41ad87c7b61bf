"""The Triton program gives the torch engine's numbers: run in triton's interpreter, and compiled for GPUs without one.

Triton decides at its import whether it interprets, so both run in processes of their own, which call `main` below.

Tolerances, per entry of the matrix that is summed: 4e-7 for sums (distances and kernel values in float32), and for the
weighted ones 1e-6, or 8e-6 for rows in bfloat16, whose kernel values are split into two parts only (the interpreter
cuts bfloat16 off instead of rounding it, so that two parts are off by 2^-15 there).
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine import rows, tiles
from vfmalign.mmd.engine.kernels import KERNELS
from vfmalign.mmd.engine.triton import backend

FIELDS = ("rows_NP", "diagonal_N", "within_G", "quadratic_B", "squares")
CPU = torch.device("cpu")
PARTIAL, GUARD, GUARD_SIZE = backend._PartialSums, -12345.0, 512
TRITON = tuple(int(part) for part in version("triton").split(".")[:2]) if find_spec("triton") else ()
needs_triton = pytest.mark.skipif(not TRITON, reason="needs triton, which runs on Linux only")
needs_interpreter = pytest.mark.skipif(TRITON < (3, 7), reason="older interpreters cannot count with NumPy 2.4")


@dataclass(frozen=True)
class Case:
    paired: bool
    precision: str
    kernels: tuple[str, ...] = ("gaussian",)
    group_rows: int = 1
    permutations: int = 10
    tile_shape: tuple[int, int] | None = None
    squares: bool = False
    shares: int = 1
    launch_tiles: int = 1000
    n: int = 45
    m: int = 38
    channels: int = 21


CASES = {
    "pooled": Case(False, "float32", squares=True),
    "pooled_groups": Case(False, "float32", group_rows=3, tile_shape=(16, 32), launch_tiles=4),
    "pooled_fast": Case(False, "bfloat16", group_rows=2),
    "pooled_families": Case(False, "float32", ("laplacian", "gaussian", "inverse_multiquadric"), permutations=0),
    "pooled_shares": Case(False, "float32", permutations=17, group_rows=20, shares=3, squares=True),
    "pooled_channels": Case(False, "float32", channels=40, n=33, m=3, permutations=3),
    "pooled_one_row": Case(False, "float32", n=1, m=2, permutations=2),
    "paired": Case(True, "float32", squares=True),
    "paired_groups": Case(True, "float32", ("rational_quadratic", "gaussian_mixture"), 3, 16, (32, 16), launch_tiles=2),
    "paired_fast": Case(True, "bfloat16", group_rows=50, squares=True),
}


def matrix(case, device=CPU):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(case.n, case.channels))
    y = 0.6 * x + rng.normal(size=x.shape) if case.paired else rng.normal(0.2, 1.0, (case.m, case.channels))

    def prepared(*parts):
        return rows.prepare([(part, None) for part in parts], rows.Affine(), case.precision, device)

    return tiles.PairedMatrix(prepared(x), prepared(y)) if case.paired else tiles.PooledMatrix(prepared(x, y))


def in_float64(matrix):
    """The same values, so that what is compared is the arithmetic and not the rounding of rows."""

    def wide(some):
        return rows.Rows.from_features(some.values_NK.cpu().double(), "float64")

    if isinstance(matrix, tiles.PairedMatrix):
        return tiles.PairedMatrix(wide(matrix.x), wide(matrix.y))
    return tiles.PooledMatrix(wide(matrix.pooled))


def layout(case):
    sizes = (case.n,) if case.paired else (case.n, case.m)
    group_of = np.arange(sum(sizes)) // case.group_rows
    weights = np.random.default_rng(8).integers(0, 2, (int(group_of[-1]) + 1, case.permutations))
    return tiles.Layout(sizes, group_of, (2 * weights - 1 if case.paired else weights).astype(np.int8))


def kernels(case):
    return [KERNELS[name](sigma, case.channels) for name in case.kernels for sigma in (3.0, 7.0)]


def by_triton(case):
    """Sums of all shares, and how often the engine was left between launches."""
    left = []
    parts = [
        backend.accumulate(
            matrix(case),
            kernels(case),
            layout(case),
            tile_shape=case.tile_shape,
            context=WorkContext(is_cancelled=lambda: left.append(1)),
            squares=case.squares,
            shard=(share, case.shares),
            launch_tiles=case.launch_tiles,
        )
        for share in range(case.shares)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = [one + other for one, other in zip(total, part, strict=True)]
    return total, len(left)


def main(out):
    """Every case by the interpreter, into one file."""
    found, guards = {}, []
    backend._PartialSums = partial(guarded, guards)
    for name, case in CASES.items():
        for turn in range(2 if name == "pooled" else 1):
            total, left = by_triton(case)
            found[f"{name}/left/{turn}"] = left
            for index, sums in enumerate(total):
                found.update({f"{name}/{index}/{field}/{turn}": getattr(sums, field) for field in FIELDS})
    same = Case(True, "float32", group_rows=2)
    x = matrix(same).x
    sums = backend.accumulate(tiles.PairedMatrix(x, x), kernels(same), layout(same), context=UNLIMITED)
    found["same"] = np.concatenate([sums[0].rows_NP.ravel(), sums[1].within_G, sums[1].quadratic_B])
    found.update(stopped())
    found["guards"] = len(guards)
    found["guards_broken"] = sum(not bool((guard == GUARD).all()) for guard in guards)
    np.savez(out, **found)


def guarded(guards, kernels, chunk, device):
    """Room for partial sums between values that nothing may overwrite."""
    sums = PARTIAL(kernels, chunk, device)
    for name in ("rows", "columns", "within"):
        buffer = getattr(sums, name)
        whole = torch.full((buffer.numel() + 2 * GUARD_SIZE,), GUARD)
        before, middle, after = whole.split([GUARD_SIZE, buffer.numel(), GUARD_SIZE])
        middle.zero_()
        guards.extend([before, after])
        setattr(sums, name, middle.view(buffer.shape))
    return sums


def stopped():
    """How many launches a comparison made that was to stop at the third."""
    calls = []

    def stop_at_third():
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    case = Case(False, "float32")
    try:
        backend.accumulate(
            matrix(case), kernels(case), layout(case), context=WorkContext(is_cancelled=stop_at_third), launch_tiles=1
        )
    except InterruptedError:
        return {"stopped": len(calls)}
    return {}


def run(arguments, folder, **environment):
    settings = {"OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(folder / "cache"), **environment}
    done = subprocess.run(
        [sys.executable, __file__, *arguments], env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton")
    run([str(folder / "sums.npz")], folder, TRITON_INTERPRET="1")
    with np.load(folder / "sums.npz") as found:
        return dict(found)


@needs_interpreter
@pytest.mark.parametrize("name", CASES)
def test_interpreted_program_equals_torch_in_float64(interpreted, name):
    case = CASES[name]
    torch_sums = tiles.accumulate(
        in_float64(matrix(case)), kernels(case), layout(case), context=UNLIMITED, squares=case.squares
    )
    count = len(torch_sums[0].diagonal_N)
    weighted = 8e-6 if case.precision == "bfloat16" else 1e-6
    for index, expected in enumerate(torch_sums):
        got = {field: interpreted[f"{name}/{index}/{field}/0"] for field in FIELDS}
        np.testing.assert_allclose(got["rows_NP"], expected.rows_NP, rtol=0, atol=4e-7 * count)
        np.testing.assert_allclose(got["diagonal_N"], expected.diagonal_N, rtol=0, atol=4e-7)
        np.testing.assert_allclose(got["within_G"], expected.within_G, rtol=0, atol=4e-7 * case.group_rows**2)
        np.testing.assert_allclose(got["quadratic_B"], expected.quadratic_B, rtol=0, atol=weighted * count)
        np.testing.assert_allclose(got["squares"], expected.squares, rtol=4e-7, atol=0)


@needs_interpreter
def test_distance_of_a_row_to_itself_is_exactly_zero(interpreted):
    np.testing.assert_array_equal(interpreted["pooled/0/diagonal_N/0"], 1.0)
    np.testing.assert_array_equal(interpreted["pooled/0/within_G/0"], 1.0)


@needs_interpreter
def test_identical_pairs_give_exactly_zero(interpreted):
    np.testing.assert_array_equal(interpreted["same"], 0.0)


@needs_interpreter
def test_the_same_bits_twice(interpreted):
    for index in range(2):
        for field in FIELDS:
            first, second = (interpreted[f"pooled/{index}/{field}/{turn}"] for turn in range(2))
            np.testing.assert_array_equal(first, second)


@needs_interpreter
def test_engine_is_left_between_launches(interpreted):
    assert interpreted["pooled_groups/left/0"] > 4
    assert interpreted["stopped"] == 3


@needs_interpreter
def test_program_stays_within_its_room(interpreted):
    assert interpreted["guards"] > 0
    assert interpreted["guards_broken"] == 0


@needs_triton
def test_compiles_for_gpus_within_their_shared_memory(tmp_path):
    """Float32 rows on an A100 and bfloat16 pairs on an H100."""
    limits = {"80": 163 * 1024, "90": 227 * 1024}
    used = run(["80", str(limits["80"]), "0", "90", str(limits["90"]), "1"], tmp_path, TRITON_INTERPRET="0").split()
    assert len(used) == 2
    assert all(0 < int(some) <= limit for some, limit in zip(used, limits.values(), strict=True))


def compile_for(capability, shared_bytes, paired):
    """Shared memory of the program: with all it can do for pairs in bfloat16, else plain in float32."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vfmalign.mmd.engine.triton.kernels import sum_tiles
    from vfmalign.mmd.engine.triton.tile_plan import choose_tile_config

    components = 1 if paired else 3
    config = choose_tile_config(shared_bytes, components=components, paired=paired)
    fixed = {
        "PAIRED": paired,
        "FAMILY": "gaussian",
        "C": 1,
        "PERMUTED": paired,
        "GROUPED": paired,
        "SQUARES": paired,
        "BLOCK_I": config.rows,
        "BLOCK_J": config.columns,
        "BLOCK_K": config.channels,
        "BLOCK_B": config.permutations,
        "COMPONENTS": components,
        "VALUE_COMPONENTS": backend.VALUE_COMPONENTS[components],
        "INTERPRETED": False,
    }
    types = {"x": "*bf16", "y": "*bf16", "groups": "*i32", "weights": "*i8", "tiles": "*i32"}
    sizes = sum_tiles.arg_names[sum_tiles.arg_names.index("channels") : sum_tiles.arg_names.index("PAIRED")]
    signature = {
        name: "constexpr" if name in fixed else "i32" if name in sizes else types.get(name, "*fp32")
        for name in sum_tiles.arg_names
    }
    aligned = [name for name in signature if signature[name].startswith("*") or name in ("channels", "permutations")]
    place = sum_tiles.arg_names.index
    source = ASTSource(
        sum_tiles,
        signature,
        {(place(name),): value for name, value in fixed.items()},
        {(place(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    print(compiled.metadata.shared)


GAUSSIAN = [KERNELS["gaussian"](1.0, 4)]


def test_says_why_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if find_spec("triton") is not None:
        assert backend.unavailable_reason(CPU, "float32", GAUSSIAN) == "triton needs a CUDA device"
        assert "float64 was needed" in backend.unavailable_reason(CPU, "float64", GAUSSIAN)
        polynomial = [*GAUSSIAN, KERNELS["polynomial"](1.0, 4)]
        assert backend.unavailable_reason(CPU, "float32", polynomial) == "triton has no polynomial kernel"
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert backend.unavailable_reason(CPU, "float32", GAUSSIAN) == ""
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert backend.unavailable_reason(CPU, "float32", GAUSSIAN) == "triton is not installed"


def test_old_devices_are_refused(monkeypatch):
    monkeypatch.setattr(backend, "find_spec", lambda name: object())
    for capability, refused in (((7, 5), True), ((8, 0), False), ((9, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        reason = backend.unavailable_reason(torch.device("cuda"), "float32", GAUSSIAN)
        assert bool(reason) == refused


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    for at in range(1, len(sys.argv) - 2, 3):
        compile_for(int(sys.argv[at]), int(sys.argv[at + 1]), bool(int(sys.argv[at + 2])))
