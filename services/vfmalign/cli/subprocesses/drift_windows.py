"""Windowed MMD² of a stream: its comparisons, by a service or in a subprocess of this machine.

That one cannot be computed never holds up the evidence: the window then says why.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from vfmalign.cli.arrays import OTHER_BYTES
from vfmalign.cli.extras import require_modules
from vfmalign.cli.subprocesses.comparison import MODULES
from vfmalign.cli.subprocesses.drift import stop
from vfmalign.cli.target import Target
from vfmalign.client import AsyncClient
from vfmalign.client.messages.common import absent
from vfmalign.client.messages.mmd import (
    ComputeOptions,
    ComputeResponse,
    Kernel,
    LayerResult,
    TestOptions,
    UploadedFeatures,
)
from vfmalign.client.samples import LabelledFeatures
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.rpc.transport import MESSAGE_BYTES
from vfmalign.reports.drift.document import Window

PERMUTATIONS = 999
DEADLINE_S = 300.0
"""Of one comparison by a service."""
NOT_FINITE = "a row of this layer has a value that is not finite"

Answer = ComputeResponse | str
"""A response, or the reason why there is none."""


def compute_windows(folder: Path, target: Target | None, seed: int, report: Callable[[int, int], None]) -> list[Window]:
    """Computes the comparisons whose features the monitor's process wrote.

    Args:
        folder: with these features.
        target: the deployment whose MMD service compares; None for a subprocess.
        seed: of the permutations.
        report: called with the numbers of comparisons done and of all.
    """
    comparisons: list[dict[str, Any]] = json.loads((folder / "comparisons.json").read_text())
    options = ComputeOptions.from_fields(
        pairing="independent",
        kernel=Kernel(family="gaussian", bandwidth_rule="reference_median"),
        test=TestOptions(permutations=PERMUTATIONS, seed=seed),
    )
    asked = [comparison for comparison in comparisons if "x" in comparison]
    answers = _compare_locally(folder, options, len(asked)) if target is None else _ask(folder, asked, options, target)
    windows: list[Window] = []
    for done, (comparison, answer) in enumerate(_pair(comparisons, answers), start=1):
        windows += _to_windows(comparison, answer)
        report(done, len(comparisons))
    return windows


def _pair(comparisons: Iterable[dict[str, Any]], answers: Iterator[Answer]) -> Iterator[tuple[dict[str, Any], Answer]]:
    for comparison in comparisons:
        yield comparison, next(answers) if "x" in comparison else str(comparison["absent_reason"])


def _ask(folder: Path, asked: Iterable[Mapping[str, Any]], options: ComputeOptions, target: Target) -> Iterator[Answer]:
    """Asks the MMD service; after a failure, no further comparison is asked for."""
    failure = ""
    uploads: dict[str, UploadedFeatures] = {}
    for comparison in asked:
        if not failure:
            try:
                yield _ask_once(
                    [folder / comparison[side] for side in ("x", "y", "reference")], options, target, uploads
                )
                continue
            except VfmalignError as error:
                failure = f"the MMD service did not compare: {error.message}"
        yield failure


def _ask_once(
    files: Sequence[Path], options: ComputeOptions, target: Target, uploads: dict[str, UploadedFeatures]
) -> ComputeResponse:
    """Asks for one comparison; features that are too large for a message are uploaded, each file once."""
    is_large = sum(file.stat().st_size for file in files) + OTHER_BYTES > MESSAGE_BYTES

    async def ask(client: AsyncClient) -> ComputeResponse:
        samples: list[UploadedFeatures | LabelledFeatures] = []
        for file in files:
            if is_large and file.name not in uploads:
                uploads[file.name] = await client.mmd.upload(load_file(file))
            samples.append(uploads[file.name] if is_large else LabelledFeatures(load_file(file)))
        x, y, reference = samples
        return await client.mmd.compute(x, y, options, reference=reference, timeout_s=DEADLINE_S)

    return target.run(ask)


def _compare_locally(folder: Path, options: ComputeOptions, count: int) -> Iterator[Answer]:
    """Compares in a subprocess; without torch, every window says that it is missing."""
    if not count:
        return
    try:
        require_modules("mmd", "windowed MMD²", MODULES)
    except VfmalignError as error:
        yield from [f"{error.message}: {error.remedy}"] * count
        return
    (folder / "options.json").write_text(json.dumps(options.to_json_dict()))
    process = subprocess.Popen(
        [sys.executable, "-m", "vfmalign.mmd.batch", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    answered = 0
    try:
        for line in process.stdout or ():
            content = json.loads(line)
            answered += 1
            yield content.get("error") or ComputeResponse.from_json(json.dumps(content["response"]))
    finally:
        stop(process)
    yield from [f"the comparison ended with exit code {process.returncode}"] * (count - answered)


def _to_windows(comparison: Mapping[str, Any], answer: Answer) -> list[Window]:
    """Returns the window of each layer."""
    place = {name: comparison[name] for name in ("stratum", "first_row", "last_row", "rows", "reference_rows")}
    if isinstance(answer, str):
        missing, found = answer, {}
    else:
        missing, found = NOT_FINITE, {result.layer: result for result in answer.layers}
    return [_to_window(layer, found.get(layer), missing, place) for layer in comparison["layers"]]


def _to_window(layer: str, result: LayerResult | None, missing: str, place: Mapping[str, Any]) -> Window:
    if result is None:
        return Window(layer=layer, mmd2=absent(missing), p_value=absent(missing), **place)
    shift = result.standardised or result.raw
    return Window(layer=layer, mmd2=shift.mmd2, p_value=shift.p_value, **place)
