"""Cases on a CUDA device: both backends of the engine beside the textbook formulas in torch."""

from __future__ import annotations

import math
from functools import partial

import torch

from bench import datasets
from bench.cases import MeasureCase
from bench.environments import VFMALIGN
from bench.measure import MeasurementSettings, Method, compare
from bench.methods import PRECISIONS
from bench.sections import value_section
from bench.tables import Section


def require_device() -> None:
    """Exits with one sentence where torch sees no CUDA device."""
    if not torch.cuda.is_available():
        raise SystemExit(
            f"this needs a CUDA device, and torch {torch.__version__} sees none. Use `make bench` to measure the CPU."
        )


def one_mmd(settings: MeasurementSettings, *, n: int, d: int = 768) -> Section:
    """Measures one MMD² of samples that are in host memory."""
    sigma, samples = math.sqrt(d), datasets.shifted(n, d, 0.05)
    true = datasets.true_values(samples, sigma, direct=False)
    methods = [
        Method(
            f"vfmalign {precision}" + ("" if backend == "torch" else f", {backend}"),
            VFMALIGN,
            "workloads.on_cuda",
            "vfmalign_mmd2",
            arguments={"sigma": sigma, "precision": precision, "backend": backend},
        )
        for backend in ("torch", "triton")
        for precision in PRECISIONS
    ]
    methods += [
        Method(name, VFMALIGN, "workloads.on_cuda", name, arguments={"sigma": sigma}, note="stores n×m")
        for name in ("torch_plain", "torch_cdist")
    ]
    results = compare(methods, samples, settings)
    title = f"One MMD², n = m = {n:,}, d = {d}, float32 from host memory, on {torch.cuda.get_device_name()}"
    section = value_section(f"gpu_{n}", title, results, true, device="cuda")
    backends = {one.method.name: one.last["backend"] for one in results if one.turns and "backend" in one.last}
    used = ", ".join(f"{name}: {backend}" for name, backend in backends.items())
    section.sentences.append(f"Backends used: {used}.")
    return section


CASES: dict[str, MeasureCase] = {f"gpu_{n}": partial(one_mmd, n=n) for n in (10_000, 30_000)}
