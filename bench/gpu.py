"""Ours on a CUDA device with both backends, beside the textbook formulas in torch on the same device."""

from __future__ import annotations

import math
from functools import partial

import torch

from bench import inputs, truth
from bench.cases import Case
from bench.environments import OURS
from bench.measure import Method, Settings, compare
from bench.methods import PRECISIONS
from bench.sections import value_section
from bench.tables import Section


def require_device() -> None:
    """Ends the program in one sentence where there is no CUDA device."""
    if not torch.cuda.is_available():
        raise SystemExit(
            f"this needs a CUDA device and torch {torch.__version__} sees none; `make bench` measures the processor"
        )


def one_mmd(settings: Settings, *, n: int, d: int = 768) -> Section:
    """One MMD² from host memory."""
    sigma, samples = math.sqrt(d), inputs.shifted(n, d, 0.05)
    true = truth.values(samples, sigma, direct=False)
    wanted = [
        Method(
            f"vfmalign {precision}" + ("" if backend == "torch" else f", {backend}"),
            OURS,
            "on_gpu",
            "ours",
            arguments={"sigma": sigma, "precision": precision, "backend": backend},
        )
        for backend in ("torch", "triton")
        for precision in PRECISIONS
    ]
    wanted += [
        Method(name, OURS, "on_gpu", name, arguments={"sigma": sigma}, note="keeps n×m")
        for name in ("torch_plain", "torch_cdist")
    ]
    results = compare(wanted, samples, settings)
    title = f"One MMD², n = m = {n:,}, d = {d}, float32 from host memory, on {torch.cuda.get_device_name()}"
    section = value_section(f"gpu_{n}", title, results, true, device="cuda")
    backends = {one.method.name: one.last["backend"] for one in results if one.turns and "backend" in one.last}
    section.sentences.append(f"Backends that answered: {', '.join(f'{name}: {by}' for name, by in backends.items())}.")
    return section


CASES: dict[str, Case] = {f"gpu_{n}": partial(one_mmd, n=n) for n in (10_000, 30_000)}
