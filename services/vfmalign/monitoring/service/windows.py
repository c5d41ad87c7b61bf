"""Windowed MMD²: the MMD service compares the last rows of a monitor with the monitor's reference.

The reference has one row per patient. Every third row of the reference determines the scale and the bandwidth. Only the
other rows of the reference are compared, so the permutation test is exact.

Legend: the axes of arrays are N rows and C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from safetensors.numpy import load

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import ComputeOptions, Kernel, TestOptions
from vfmalign.client.messages.monitors import ChannelShift, WindowedShift
from vfmalign.client.mmd import AsyncMmdClient
from vfmalign.client.samples import LabelledFeatures
from vfmalign.core.domain.errors import Internal, InvalidInput, PreconditionFailed
from vfmalign.database.database import Database
from vfmalign.database.tables import now
from vfmalign.monitoring.feature_rows import MIN_ROWS
from vfmalign.monitoring.service.references import LoadedReference
from vfmalign.monitoring.service.repository import StoredMonitor
from vfmalign.monitoring.tables import InputRow, MonitorRow, WindowRow

PERMUTATIONS = 999
KEPT_WINDOWS = 200
"""Maximum number of stored windows of an epoch. Consecutive windows are a tenth of a window apart."""
_SIDE_BYTES = 4 * 2**20
"""Maximum bytes of the rows of one side, so that a comparison fits into a message."""

Array = NDArray[Any]


@dataclass(frozen=True)
class WindowRows:
    """Rows of a window that are part of the evidence.

    Attributes:
        stratum: stratum of the rows; empty if the window contains all strata.
        first_row, last_row: numbers of the window's first and last row in the epoch, starting at 1; 0 if the window has
            no rows.
        layers: maps each layer to one feature vector per row, in the order of the rows. A large window contains only
            some of its rows, at equal distances.
    """

    stratum: str
    first_row: int
    last_row: int
    layers: list[dict[str, Array]]


def is_due(monitor: StoredMonitor) -> bool:
    """Returns whether there are enough new rows for another window. A tenth of the rows of a window is enough."""
    rows, width = int(monitor.status["rows"]), monitor.spec.window_rows
    last = max((int(shift["last_row"]) for shift in monitor.shifts), default=0)
    return rows >= MIN_ROWS and rows - last >= max(1, width // 10 if last else 1)


def read_windows(
    database: Database, monitor: StoredMonitor, reference: LoadedReference, kept_windows: int
) -> list[WindowRows]:
    """Reads the last window of all rows and of each stratum.

    The rows of a stratum are taken from the last `kept_windows` windows.
    """
    width, most = monitor.spec.window_rows, _get_most_rows(max(monitor.layers.values()))
    of_epoch = InputRow.monitor_id == monitor.id, InputRow.epoch == monitor.epoch.number, InputRow.row > 0
    strata = sorted({name for name in reference.strata or () if name})
    query = sa.select(InputRow.row, InputRow.stratum).where(*of_epoch).order_by(InputRow.row.desc())
    read = []
    with database.snapshot() as session:
        rows = session.execute(query.limit(width * (kept_windows if strata else 1))).all()[::-1]
        for stratum in ("", *strata):
            numbers = [number for number, name in rows if stratum in {"", name}][-width:]
            chosen = sa.select(InputRow.features).where(*of_epoch, InputRow.row.in_(_thin(numbers, most)))
            features = session.scalars(chosen.order_by(InputRow.row))
            first, last = (numbers[0], numbers[-1]) if numbers else (0, 0)
            read.append(WindowRows(stratum, first, last, list(map(load, features))))
    return read


async def compare(
    mmd: AsyncMmdClient,
    monitor: StoredMonitor,
    reference: LoadedReference,
    compared: Sequence[WindowRows],
    timeout_s: float,
) -> list[WindowedShift]:
    """Compares windows with the reference, one layer at a time.

    Raises:
        VfmalignError: the MMD service does not answer, or rejects the call.
    """
    shifts = []
    for window in compared:
        for layer in monitor.layers:
            shift, samples = _prepare(reference, window, layer)
            shifts.append(await _compare_one(mmd, shift, samples, monitor.spec.seed, timeout_s) if samples else shift)
    return shifts


def _prepare(
    reference: LoadedReference, window: WindowRows, layer: str
) -> tuple[WindowedShift, tuple[Array, Array, Array] | None]:
    """Returns a window without its MMD², and the rows of reference, window and scale, if there are enough."""
    y_NC = _stack([layers[layer] for layers in window.layers if layer in layers])
    scale_NC, x_NC = _divide(reference, layer, window.stratum)
    shift = WindowedShift(
        layer=layer,
        stratum=window.stratum,
        first_row=window.first_row,
        last_row=window.last_row,
        rows=len(y_NC),
        reference_rows=len(x_NC),
        compute_time=now(),
    )
    if min(len(x_NC), len(y_NC)) >= MIN_ROWS:
        return shift, (x_NC, y_NC, scale_NC)
    return _leave_out(
        shift,
        f"a comparison needs {MIN_ROWS} rows on each side, and here the window has {len(y_NC)} and the reference "
        f"{len(x_NC)}",
    ), None


async def _compare_one(
    mmd: AsyncMmdClient, shift: WindowedShift, samples: tuple[Array, Array, Array], seed: int, timeout_s: float
) -> WindowedShift:
    x, y, scale = map(LabelledFeatures, samples)
    options = ComputeOptions.from_fields(
        pairing="independent",
        kernel=Kernel(family="gaussian", bandwidth_rule="reference_median"),
        test=TestOptions(permutations=PERMUTATIONS, seed=seed),
    )
    try:
        response = await mmd.compute(x, y, options, reference=scale, timeout_s=timeout_s)
    except (InvalidInput, PreconditionFailed) as error:  # such as a layer with only constant channels
        return _leave_out(shift, error.message)
    result = next((layer.standardised or layer.raw for layer in response.layers), None)
    if result is None or not (_is_finite(result.mmd2) and _is_finite(result.p_value)):
        raise Internal(
            "the answer contains no finite MMD²", subject="MmdService", remedy="check the MMD service and its version"
        )
    return shift.model_copy(update={"mmd2": result.mmd2, "p_value": result.p_value})


def _is_finite(one: Estimate) -> bool:
    bounds = () if one.interval is None else (one.interval.lower, one.interval.upper)
    return all(value is None or math.isfinite(value) for value in (one.value, *bounds))


def _leave_out(shift: WindowedShift, reason: str) -> WindowedShift:
    return shift.model_copy(update={"mmd2": absent(reason), "p_value": absent(reason)})


def _divide(reference: LoadedReference, layer: str, stratum: str) -> tuple[Array, Array]:
    """Returns the rows that determine the scale, and the rows to compare. For a stratum, compares only its rows."""
    rows_GC = reference.layers[layer]
    most = _get_most_rows(rows_GC.shape[1])
    compared = [place for place in range(len(rows_GC)) if place % 3]
    if stratum and reference.strata is not None:
        compared = [place for place in compared if reference.strata[place] == stratum]
    return _thin(rows_GC[::3], most), _thin(rows_GC[compared], most)


def _get_most_rows(channels: int) -> int:
    return max(2 * MIN_ROWS, _SIDE_BYTES // (4 * channels))


def _thin(rows_N: Any, most: int) -> Any:
    """Returns rows at equal distances, at most `most`, of an array or a list."""
    return rows_N[:: -(-len(rows_N) // most) or 1]


def _stack(vectors: Sequence[Array]) -> Array:
    """Returns vectors as float32 rows, without vectors that are not finite in float32."""
    with np.errstate(over="ignore"):
        rows = [np.asarray(vector_C, np.float32) for vector_C in vectors]  # large numbers become infinite
    finite = [row_C for row_C in rows if np.isfinite(row_C).all()]
    return np.stack(finite) if finite else np.empty((0, 1), np.float32)


def record_window(
    database: Database, monitor: StoredMonitor, shifts: Sequence[WindowedShift], channels: Sequence[ChannelShift]
) -> None:
    """Records a window and deletes the oldest windows.

    Ignores the window if its epoch has ended or the monitor was deleted.
    """
    epoch, last_row = monitor.epoch.number, max(shift.last_row for shift in shifts if not shift.stratum)
    of_monitor = (WindowRow.monitor_id == monitor.id, WindowRow.epoch == epoch)
    with database.session() as session:
        row = session.scalar(sa.select(MonitorRow).where(MonitorRow.id == monitor.id).with_for_update())
        if row is None or (row.uid, row.epoch) != (monitor.uid, epoch):
            return
        known = session.scalar(sa.select(WindowRow.last_row).where(*of_monitor, WindowRow.last_row == last_row))
        if known is not None:
            return
        session.add(
            WindowRow(
                monitor_id=monitor.id,
                epoch=epoch,
                last_row=last_row,
                computed_at=now(),
                shifts=[shift.model_dump(mode="json") for shift in shifts],
                channels=[one.model_dump(mode="json") for one in channels],
            )
        )
        session.flush()
        oldest = sa.select(WindowRow.last_row).where(*of_monitor).order_by(WindowRow.last_row.desc())
        limit = session.scalar(oldest.offset(KEPT_WINDOWS).limit(1))
        if limit is not None:
            session.execute(sa.delete(WindowRow).where(*of_monitor, WindowRow.last_row <= limit))


def get_mmd2(monitor: StoredMonitor) -> Estimate | None:
    """Returns MMD² of the last window. The MMD² is that of the layer that raises the alarm."""
    layer = next(iter(monitor.layers))
    for shift in monitor.shifts:
        if not shift["stratum"] and shift["layer"] == layer:
            return Estimate.model_validate(shift["mmd2"])
    return None
