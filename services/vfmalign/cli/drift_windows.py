"""Windowed MMD² of a stream, computed by a service or this process.

A failed comparison does not delay the evidence. The window of a failed comparison contains the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from vfmalign.cli.arrays import OTHER_BYTES
from vfmalign.cli.extras import COMPARISON_MODULES, require_modules
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
from vfmalign.core.domain.drift import WindowComparison
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.rpc.transport import MESSAGE_BYTES
from vfmalign.reports.drift.document import Window

PERMUTATIONS = 999
DEADLINE_S = 300.0
"""Deadline of a comparison by a service."""
NOT_FINITE = "a row of this layer has a value that is not finite"


def compute_windows(
    comparisons: Sequence[WindowComparison], target: Target | None, seed: int, report: Callable[[int, int], None]
) -> list[Window]:
    """Computes the comparisons that a monitor requests.

    Args:
        comparisons: comparisons that the monitor requests.
        target: deployment with the MMD service that compares; None for this process. If the service fails once, it is
            not called again.
        seed: seed of the permutations.
        report: called with the number of finished comparisons and the number of all comparisons.
    """
    options = ComputeOptions.from_fields(
        pairing="independent",
        kernel=Kernel(family="gaussian", bandwidth_rule="reference_median"),
        test=TestOptions(permutations=PERMUTATIONS, seed=seed),
    )
    compare = _compare_locally if target is None else partial(_ask, target, {})
    failure = _find_missing_modules() if target is None and comparisons else ""
    windows: list[Window] = []
    for done, comparison in enumerate(comparisons, start=1):
        results: dict[str, LayerResult] = {}
        missing = comparison.absent_reason or failure
        if not missing:
            try:
                results = {result.layer: result for result in compare(comparison, options).layers}
                missing = NOT_FINITE
            except VfmalignError as error:
                missing = error.message
                if target is not None:
                    missing = failure = f"the MMD service did not compare: {error.message}"
        windows += [_to_window(comparison, layer, results.get(layer), missing) for layer in comparison.layers]
        report(done, len(comparisons))
    return windows


def _find_missing_modules() -> str:
    """Returns why this process cannot compare; empty if it can."""
    try:
        require_modules("mmd", "windowed MMD²", COMPARISON_MODULES)
    except VfmalignError as error:
        return f"{error.message}: {error.remedy}"
    return ""


def _compare_locally(comparison: WindowComparison, options: ComputeOptions) -> ComputeResponse:
    from vfmalign.mmd.local import compare_arrays

    return compare_arrays(comparison.x, comparison.y, comparison.scale, options)


def _ask(
    target: Target, uploads: dict[int, UploadedFeatures], comparison: WindowComparison, options: ComputeOptions
) -> ComputeResponse:
    """Asks the MMD service; features that are too large for a message are uploaded, the reference's features once."""
    sides = comparison.x, comparison.y, comparison.scale
    size = sum(features.nbytes for side in sides for features in side.values())
    is_large = size + OTHER_BYTES > MESSAGE_BYTES

    async def ask(client: AsyncClient) -> ComputeResponse:
        samples: list[UploadedFeatures | LabelledFeatures] = []
        for side in sides:
            if is_large and id(side) not in uploads:
                uploads[id(side)] = await client.mmd.upload(side)
            samples.append(uploads[id(side)] if is_large else LabelledFeatures(side))
        x, y, scale = samples
        return await client.mmd.compute(x, y, options, reference=scale, timeout_s=DEADLINE_S)

    return target.run(ask)


def _to_window(comparison: WindowComparison, layer: str, result: LayerResult | None, missing: str) -> Window:
    shift = None if result is None else result.standardised or result.raw
    return Window(
        layer=layer,
        stratum=comparison.stratum,
        first_row=comparison.first_row,
        last_row=comparison.last_row,
        rows=comparison.rows,
        reference_rows=comparison.reference_rows,
        mmd2=absent(missing) if shift is None else shift.mmd2,
        p_value=absent(missing) if shift is None else shift.p_value,
    )
