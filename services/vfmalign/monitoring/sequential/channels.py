"""Describes which channels moved. This module computes no test and no interval.

Legend: the axes of arrays are N rows and D channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vfmalign.core.domain.errors import BadTensor
from vfmalign.monitoring.sequential.references import Reference, check_rows


@dataclass(frozen=True)
class ChannelShift:
    """How far the mean of a channel moved.

    Attributes:
        channel: index.
        shift_sd: mean of the rows minus mean of the calibration rows, in standard deviations of the reference.
        share: shift² of the channel divided by the sum of shift² over all channels, in [0, 1].
    """

    channel: int
    shift_sd: float
    share: float


def get_channel_shifts(reference: Reference, rows_ND: ArrayLike, top: int = 10) -> list[ChannelShift]:
    """Returns the channels with the largest shares of the shift of the mean, in descending order of the share.

    Args:
        reference: reference of the epoch.
        rows_ND: rows, such as the last rows of the stream. Rows with values that are not finite are left out.
        top: number of channels.

    Raises:
        BadTensor: no row is finite, or the number of channels differs from that of the reference.
    """
    rows_ND = check_rows(rows_ND, "rows")
    channels = len(reference.scorer.mean_D)
    rows_ND = rows_ND[np.isfinite(rows_ND).all(axis=1)]
    if rows_ND.shape[1] != channels or not len(rows_ND):
        raise BadTensor(
            f"expected finite rows of {channels} channels, got {len(rows_ND)} of {rows_ND.shape[1]}", subject="rows"
        )
    z_ND = np.stack([reference.scorer.standardise(row_D) for row_D in rows_ND])
    shift_D = z_ND.mean(axis=0) - reference.calibration_CD.mean(axis=0)
    total = float(np.square(shift_D).sum())
    share_D = np.square(shift_D) / total if total else np.zeros(channels)
    order = np.argsort(-share_D, kind="stable")[:top]
    return [ChannelShift(int(channel), float(shift_D[channel]), float(share_D[channel])) for channel in order]
