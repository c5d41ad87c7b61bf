"""Description and load of the machine that figures are measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import cast

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")


def describe(threads: int) -> dict[str, object]:
    """Returns processor, memory, flags that matter to matrix products, and versions."""
    import numpy
    import torch

    processor = _processor()
    flags = str(processor.get("flags", "")).split()
    return {
        "cpu": f"{processor.get('model name', platform.processor())} (family {processor.get('cpu family', '?')}, "
        f"model {processor.get('model', '?')})",
        "cores": os.cpu_count(),
        "threads": threads,
        "flags": [flag for flag in FLAGS if flag in flags],
        "bf16_matrix_units": "amx_bf16" in flags,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "cuda": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def sentence(machine: dict[str, object]) -> str:
    """Returns the description as one sentence."""
    flags, memory = cast("list[str]", machine["flags"]), cast("int", machine["memory_bytes"])
    matrix_units = "has bf16 matrix units (AMX)" if machine["bf16_matrix_units"] else "has no bf16 matrix units (AMX)"
    if "avx512_bf16" in flags and not machine["bf16_matrix_units"]:
        matrix_units += ", only bf16 dot products of vectors (AVX-512 BF16)"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {memory / 2**30:.0f} GiB; it {matrix_units}; "
        f"flags {', '.join(flags) or 'none'}. {machine['system']}, Python {machine['python']}, "
        f"torch {machine['torch']}, numpy {machine['numpy']}, {machine['threads']} threads."
    )


def available_bytes() -> int:
    """Returns the memory that processes can still allocate, in bytes; 0 where it is unknown."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def busy_seconds() -> float:
    """Returns the CPU seconds that all cores have spent working since boot, including time stolen by the host."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def _processor() -> dict[str, str]:
    """Returns the fields of the first processor in /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
