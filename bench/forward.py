"""Time one forward pass of each encoder at its real input size: `python -m bench.forward [ARCHITECTURE …]`.

Each architecture runs in a process of its own, with random weights on one study of noise, through the function of the
extraction service. Printed are the seconds of the first and the second pass, the peak memory of the process, and its
memory before the first pass (interpreter, libraries and weights).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

from bench.worker import peak_bytes
from vfmalign.cli.local.environment import get_malloc_settings

NAMES = ("profound_conv_tiny", "profound_vit_base", "provicnet_t2w", "provicnet_fusion")


def main() -> int:
    """Measures the named architectures, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m bench.forward", description=__doc__.split(":", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="ARCHITECTURE")
    parser.add_argument(
        "--in-process", action="store_true", help="measure the first one in this process and print JSON"
    )
    arguments = parser.parse_args()
    if arguments.in_process:
        print(json.dumps(measure(arguments.names[0])))
        return 0
    columns = ("first s", 9), ("second s", 10), ("peak MB", 9), ("before MB", 11)
    titles = "".join(f"{title:>{width}}" for title, width in columns)
    print(f"{'architecture':22}{'input':>18}{'parameters':>12}{titles}")
    for name in arguments.names:
        command = [sys.executable, "-m", "bench.forward", "--in-process", name]
        environment = {**os.environ, **get_malloc_settings("features")}
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if process.returncode:
            print(f"{name:22} failed with {process.returncode}: {process.stderr.strip().splitlines()[-1:]}")
            return 1
        figures = json.loads(process.stdout)
        size = "×".join(map(str, figures["input"]))
        print(
            f"{name:22}{size:>18}{figures['parameters'] / 1e6:>10.1f} M{figures['first_s']:>9.1f}"
            f"{figures['second_s']:>10.1f}{figures['peak_mb']:>9.0f}{figures['before_mb']:>11.0f}",
            flush=True,
        )
    return 0


def measure(name: str) -> dict[str, object]:
    """Runs two passes of one encoder in this process and returns its figures."""
    import torch

    from vfmalign.features.extraction.extractor import extract
    from vfmalign.models.registry import get_architecture
    from vfmalign.models.weights import build_encoder, random_state

    architecture = get_architecture(name)
    encoder = build_encoder(architecture, random_state(architecture, 0))
    shape = (encoder.in_channels, *architecture.preprocessing.shape_dhw)
    input_NCDHW = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    before_mb = peak_bytes() / 1e6
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        row = extract(encoder, input_NCDHW, [architecture.primary_layer], "mean")[architecture.primary_layer]
        seconds.append(time.perf_counter() - start)
    if row.shape != (1, architecture.layers[-1].channels) or not bool(torch.isfinite(row).all()):
        raise RuntimeError(f"{name} returned shape {list(row.shape)}, or values that are not finite")
    return {
        "input": shape,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "first_s": seconds[0],
        "second_s": seconds[1],
        "peak_mb": peak_bytes() / 1e6,
        "before_mb": before_mb,
    }


if __name__ == "__main__":
    sys.exit(main())
