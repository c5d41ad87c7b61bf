"""`python -m vfmalign.mmd.batch FOLDER`: several comparisons in one process, which imports torch once.

FOLDER/options.json holds the fields of a ComputeRequest. FOLDER/comparisons.json is a list whose entries name the
safetensors files of `x`, `y` and `reference` in the folder; one without `x` is passed over. Each answer is one line of
JSON: the ComputeResponse as `response`, or the reason why there is none as `error`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.numpy import load_file

from vfmalign.client.messages.mmd import ComputeOptions, ComputeResponse
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.mmd.api import machine_memory_bytes
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Compares the samples and prints the answers; returns the exit code."""
    (name,) = sys.argv[1:] if argv is None else argv
    folder = Path(name)
    options = ComputeOptions.from_json((folder / "options.json").read_text())
    try:
        for comparison in json.loads((folder / "comparisons.json").read_text()):
            if "x" in comparison:
                print(json.dumps(_answer(folder, comparison, options)), flush=True)  # noqa: T201
    except KeyboardInterrupt:
        return 130
    return 0


def _answer(folder: Path, comparison: dict[str, str], options: ComputeOptions) -> dict[str, object]:
    try:
        return {"response": _compare(folder, comparison, options).to_json_dict()}
    except VfmalignError as error:
        return {"error": error.message}


def _compare(folder: Path, comparison: dict[str, str], options: ComputeOptions) -> ComputeResponse:
    x, y, reference = (Sample(side, load_file(folder / comparison[side])) for side in ("x", "y", "reference"))
    engine = ComputeConfig(memory_bytes=machine_memory_bytes())
    return compare(x, y, reference, options, engine, measure_channels=False)


if __name__ == "__main__":
    raise SystemExit(main())
