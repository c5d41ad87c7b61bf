"""Converts a monitor to bytes and back without changing a bit, so that a restart does not affect the monitor.

The format is numpy's npz without pickled objects. A file contains the arrays as they are in memory, and one array with
JSON for all other fields. Scores are stored and never recomputed, because another machine may round them differently.

Legend: the axes of arrays are D channels, S scoring rows, C calibration rows, R scores and N rows of a stratum, P rows
of a pool, E counts of a channel, M patients of the stream, A patients of all references and B patients of the current
reference.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfmalign.core.domain.errors import InvalidInput
from vfmalign.monitoring.sequential.betting import Martingale
from vfmalign.monitoring.sequential.block_scores import NEW_POOL_ROWS, POOL_ROWS, BlockRanks, Pool
from vfmalign.monitoring.sequential.draws import Draws, Purpose
from vfmalign.monitoring.sequential.epoch import Epoch, Statistic, make_statistic
from vfmalign.monitoring.sequential.monitor import Monitor
from vfmalign.monitoring.sequential.patients import PatientRegister
from vfmalign.monitoring.sequential.ranks import SortedScores
from vfmalign.monitoring.sequential.records import (
    SEQUENTIAL,
    Alarm,
    Component,
    EpochStart,
    EpochSummary,
    ExtremeRow,
    MonitorOptions,
    Outcome,
)
from vfmalign.monitoring.sequential.references import Reference
from vfmalign.monitoring.sequential.row_scores import BINS, RowScorer
from vfmalign.monitoring.sequential.strata import ChannelRanks, Stratum

VERSION = 2

Arrays = dict[str, NDArray[Any]]

_LAYOUT = {
    "patient_digests": (np.uint64, "M"),
    "patient_days": (np.int64, "M"),
    "reference_patients": (np.uint64, "A"),
    "epoch_patients": (np.uint64, "B"),
    "mean": (np.float64, "D"),
    "scale": (np.float64, "D"),
    "scoring": (np.float64, "SD"),
    "calibration": (np.float64, "CD"),
}
_STRATUM_LAYOUT = {"scores": (np.float64, "R"), "counts": (np.uint32, "DE")}
_BLOCKS_LAYOUT = {"rows": (np.float64, "ND"), "sums": (np.float64, "N")}
_POOL_LAYOUT = {"row": (np.intp, "P"), "kernel": (np.float32, "PP"), "sums": (np.float64, "P")}
"""Type and axes of arrays. Axes with the same letter have the same length."""
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    EOFError,
    OSError,
    RecursionError,
    MemoryError,
    zipfile.BadZipFile,
)
"""Exceptions that may be raised when the bytes are not a state."""


class OutdatedState(InvalidInput):
    """The state comes from an earlier version, which ranked rows differently."""


def to_bytes(monitor: Monitor) -> bytes:
    """Returns the state of a monitor as bytes."""
    epoch = monitor.epoch
    header = {
        "version": VERSION,
        "options": asdict(monitor.options),
        "outcomes": monitor.outcomes,
        "earlier": [asdict(summary) for summary in monitor.earlier],
        "epoch": epoch.draws.epoch,
        "start": epoch.start,
        "rows": epoch.rows,
        "first_p_value": epoch.first_p_value,
        "alarm": asdict(epoch.alarm) if epoch.alarm else None,
        "extreme_rows": [asdict(row) for row in sorted(epoch.extreme_rows)],
        "bandwidth": epoch.reference.scorer.bandwidth,
        "calibration_strata": epoch.reference.strata,
        "strata": [
            {"name": name, "rows": one.rows, "pools": [] if one.blocks is None else list(one.blocks.pools)}
            for name, one in epoch.strata.items()
        ],
        "martingales": {
            name: {"cells": one.cells, "exponent": one.exponent}
            for name, one in epoch.evidence.items()
            if isinstance(one, Martingale)
        },
    }
    arrays = _get_arrays(monitor)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def from_bytes(data: bytes) -> Monitor:
    """Restores the monitor from its state.

    Raises:
        OutdatedState: the bytes are a state of an earlier version.
        InvalidInput: the bytes are not a state, or they are a state of a later version.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays["header"].tobytes())
        version = header["version"]
        if version != VERSION:
            refusal = OutdatedState if version < VERSION else InvalidInput
            raise refusal(
                f"the state has version {version}, but this release reads version {VERSION}",
                subject="state",
                remedy="observe all rows again with a new monitor, or use the release that wrote the state",
            )
        _check_arrays(arrays, _LAYOUT)
        monitor = _to_monitor(header, arrays)
        monitor.status  # noqa: B018 -- it reads every number, so that a wrong one is found here
    except _DAMAGE as error:
        raise InvalidInput(
            "the bytes are not a monitor's state", subject="state", remedy="read the state again"
        ) from error
    return monitor


def _check_arrays(arrays: Arrays, layout: Mapping[str, tuple[type, str]], prefix: str = "", **lengths: int) -> None:
    """Checks types and shapes, because the arrays of a monitor are used without further checks."""
    for name, (dtype, axes) in layout.items():
        array = arrays[prefix + name]
        axis_lengths = zip(axes, array.shape, strict=True)
        if array.dtype != dtype or any(lengths.setdefault(axis, length) != length for axis, length in axis_lengths):
            raise ValueError(f"{name} has the type {array.dtype} and the shape {array.shape}")


def _to_monitor(header: Mapping[str, Any], arrays: Arrays) -> Monitor:
    monitor = Monitor.__new__(Monitor)  # its constructor would prepare and score a reference
    monitor.options = MonitorOptions(**header["options"])
    monitor.outcomes = {Outcome(name): count for name, count in header["outcomes"].items()}
    monitor.earlier = [
        EpochSummary(EpochStart(one["start"]), one["rows"], _to_alarm(one["alarm"])) for one in header["earlier"]
    ]
    monitor.patients = PatientRegister(
        monitor.options.patient_window_days,
        arrays["patient_digests"],
        arrays["patient_days"],
        frozenset(map(int, arrays["reference_patients"])),
    )
    monitor.epoch = _to_epoch(header, arrays, monitor.options)
    return monitor


def _get_arrays(monitor: Monitor) -> Arrays:
    """Returns all arrays of a monitor by name."""
    epoch, scorer = monitor.epoch, monitor.reference.scorer
    digests, days = monitor.patients.to_arrays()
    arrays: Arrays = {
        "patient_digests": digests,
        "patient_days": days,
        "reference_patients": np.array(sorted(monitor.patients.reference), np.uint64),
        "epoch_patients": np.array(sorted(monitor.reference.patients), np.uint64),
        "mean": scorer.mean_D,
        "scale": scorer.scale_D,
        "scoring": scorer.scoring_SD,
        "calibration": monitor.reference.calibration_CD,
    }
    for component, statistic in epoch.evidence.items():
        arrays |= {f"{component}.{name}": getattr(statistic, name) for name in _list_parts(statistic)}
    for number, one in enumerate(epoch.strata.values()):
        arrays |= {f"{number}.scores": one.row_scores.to_array(), f"{number}.counts": one.channels.counts_DT}
        if one.blocks is None:
            continue
        arrays[f"{number}.rows"], arrays[f"{number}.sums"] = one.blocks.stored_rows
        for width, pool in one.blocks.pools.items():
            prefix, used = f"{number}.{width}.", slice(pool.size)
            kernel = pool.kernel_PP[used, used].astype(np.float32)  # exact: multiples of 2⁻²⁰ up to 1
            arrays |= {f"{prefix}row": pool.row_P[used], f"{prefix}kernel": kernel, f"{prefix}sums": pool.sums_P[used]}
            arrays[f"{prefix}room"] = np.array([pool.room])
    return arrays


def _to_epoch(header: Mapping[str, Any], arrays: Arrays, options: MonitorOptions) -> Epoch:
    scorer = RowScorer(arrays["mean"], arrays["scale"], arrays["scoring"], header["bandwidth"])
    patients = frozenset(map(int, arrays["epoch_patients"]))
    epoch = Epoch.__new__(Epoch)  # as above
    epoch.draws, epoch.start = Draws(options.seed, header["epoch"]), EpochStart(header["start"])
    names = tuple(map(str, header["calibration_strata"]))
    if len(names) != len(arrays["calibration"]):
        raise ValueError(f"{len(names)} strata of {len(arrays['calibration'])} calibration rows")
    epoch.reference = Reference(scorer, arrays["calibration"], patients, names)
    epoch.rows, epoch.alarm = int(header["rows"]), _to_alarm(header["alarm"])
    first = header.get("first_p_value")  # states from before this test lack it
    epoch.first_p_value = None if first is None else float(first)
    epoch.strata = {
        str(one["name"]): _to_stratum(one, number, scorer, arrays, has_blocks=epoch.blocks_are_active)
        for number, one in enumerate(header["strata"])
    }
    epoch.evidence = {component: _to_statistic(component, header, arrays, options) for component in SEQUENTIAL}
    epoch.extreme_rows = [ExtremeRow(**row) for row in header["extreme_rows"]]
    return epoch


def _to_stratum(
    header: Mapping[str, Any], number: int, scorer: RowScorer, arrays: Arrays, *, has_blocks: bool
) -> Stratum:
    channels = len(scorer.mean_D)
    _check_arrays(arrays, _STRATUM_LAYOUT, f"{number}.", D=channels, E=BINS + 1)
    rows, blocks = int(header["rows"]), None
    if has_blocks:
        _check_arrays(arrays, _BLOCKS_LAYOUT, f"{number}.", D=channels)
        z_ND = arrays[f"{number}.rows"]
        if not 0 <= rows <= len(z_ND):
            raise ValueError(f"{rows} rows of {len(z_ND)}")
        blocks = BlockRanks(scorer, z_ND, arrays[f"{number}.sums"], rows)
        blocks.pools = {Purpose(width): _to_pool(f"{number}.{width}.", z_ND, arrays) for width in header["pools"]}
    ranks = ChannelRanks(scorer.edges_DT, arrays[f"{number}.counts"])
    return Stratum(SortedScores(arrays[f"{number}.scores"]), blocks, ranks, rows)


def _to_pool(prefix: str, z_ND: NDArray[np.float64], arrays: Arrays) -> Pool:
    _check_arrays(arrays, _POOL_LAYOUT, prefix)
    row_P, (room,) = arrays[f"{prefix}row"], arrays[f"{prefix}room"]
    size = len(row_P)
    if not size <= room <= POOL_ROWS + NEW_POOL_ROWS or row_P.min(initial=0) < 0:
        raise ValueError(f"a pool of {size} rows with room for {room}")
    pool, used = Pool.empty(int(room), z_ND.shape[1]), slice(size)
    pool.size, pool.row_P[used], pool.z_PD[used] = size, row_P, z_ND[row_P]
    pool.kernel_PP[used, used], pool.sums_P[used] = arrays[f"{prefix}kernel"], arrays[f"{prefix}sums"]
    return pool


def _to_statistic(
    component: Component, header: Mapping[str, Any], arrays: Arrays, options: MonitorOptions
) -> Statistic:
    channels = len(arrays["mean"])
    statistic = make_statistic(component, channels, by_run_length=options.run_length is not None)
    for name in _list_parts(statistic):
        array, new = arrays[f"{component}.{name}"], getattr(statistic, name)
        if (array.dtype, array.shape) != (new.dtype, new.shape):
            raise ValueError(f"{component}.{name} has the shape {array.shape}")
        setattr(statistic, name, array)
    if isinstance(statistic, Martingale):
        statistic.cells = header["martingales"][component]["cells"]
        statistic.exponent = header["martingales"][component]["exponent"]
    return statistic


def _list_parts(statistic: Statistic) -> tuple[str, ...]:
    return ("reserve_E", "stakes_ESK") if isinstance(statistic, Martingale) else ("log_R_SK",)


def _to_alarm(record: Mapping[str, Any] | None) -> Alarm | None:
    if record is None:
        return None
    return Alarm(record["row"], record["observation"], tuple(Component(name) for name in record["components"]))
