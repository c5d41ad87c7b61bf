"""What a comparison needs in memory, so that one that does not fit is refused before it starts.

Knows sizes only, no features.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfmalign.core.errors import BadOption, Exhausted
from vfmalign.mmd.reference import EXACT_MEDIAN_ROWS

MAX_RELABELLINGS = 100_000


@dataclass(frozen=True)
class Size:
    """Sizes of one comparison: rows over all samples, channels of the widest layer, number of layers."""

    rows: int
    rows_reference: int
    channels: int
    layers: int
    groups: int
    relabellings: int


def bytes_per_row(size: Size) -> int:
    """Working copies of one row (float64: in row order, scaled twice, pooled) beside the layers as they were sent."""
    return 8 * size.channels * (4 + size.layers)


def bytes_needed(size: Size, tile_bytes: int) -> int:
    """Peak memory of a comparison beside the process itself, in bytes."""
    median = 4 * min(size.rows_reference, EXACT_MEDIAN_ROWS) ** 2
    relabelled = size.relabellings * (2 * size.groups + 8 * 2 * size.layers)
    return size.rows * bytes_per_row(size) + median + relabelled + tile_bytes


def refuse_too_large(size: Size, tile_bytes: int, memory_bytes: int) -> None:
    """Refuses what does not fit, with the size that would.

    Raises:
        Exhausted: more memory is needed than there is; a retry is pointless.
    """
    needed = bytes_needed(size, tile_bytes)
    if needed <= memory_bytes:
        return
    others = needed - size.rows * bytes_per_row(size)
    fitting = (memory_bytes - others) // bytes_per_row(size)
    if fitting >= 6:
        remedy = f"{fitting} rows over all samples would fit; send fewer rows, or fewer layers at once"
    else:
        remedy = "ask for fewer relabellings or fewer layers at once"
    asked = f"{size.rows} rows of {size.channels} channels in {size.layers} layers, {size.relabellings} relabellings"
    error = Exhausted(
        f"{asked}: this needs {needed / 2**20:.0f} MiB, and {memory_bytes / 2**20:.0f} MiB are allowed",
        subject="request",
        remedy=remedy,
        reason="TOO_LARGE",
    )
    error.retry_after_s = None
    raise error


def check_relabellings(relabellings: int) -> None:
    """Refuses a number of relabellings out of range.

    Raises:
        BadOption: below 0 or above the limit.
    """
    if not 0 <= relabellings <= MAX_RELABELLINGS:
        raise BadOption(
            f"expected 0 to {MAX_RELABELLINGS} relabellings, got {relabellings}",
            field="test.relabellings",
            remedy="1,000 are plenty for a p-value of 0.05",
        )
