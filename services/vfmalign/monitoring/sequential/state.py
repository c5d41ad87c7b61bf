"""A monitor as bytes, and back: the same bits, so that a restart changes nothing.

The format is numpy's npz without pickled objects: arrays as they are in memory, and one of JSON for the rest. Scores
are stored and never computed again, because another machine may round them in another way.

Legend: D channels, S scoring rows, C calibration rows, R scores, N rows of the bag, P rows of a pool, M patients of the
stream, A patients of all references, B patients of the present one.
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
from vfmalign.monitoring.sequential.block_scores import BlockRanks, Pool
from vfmalign.monitoring.sequential.draws import Draws
from vfmalign.monitoring.sequential.epoch import Epoch, Evidence, make_evidence
from vfmalign.monitoring.sequential.monitor import Monitor
from vfmalign.monitoring.sequential.patients import PatientRegister
from vfmalign.monitoring.sequential.ranks import SortedScores
from vfmalign.monitoring.sequential.records import (
    Alarm,
    Component,
    EpochStart,
    EpochSummary,
    ExtremeRow,
    MonitorOptions,
    Outcome,
)
from vfmalign.monitoring.sequential.references import Reference
from vfmalign.monitoring.sequential.row_scores import RowScorer
from vfmalign.monitoring.sequential.stratum_mix import StratumMix

VERSION = 1

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
    "row_scores": (np.float64, "R"),
    "bag": (np.float64, "ND"),
    "bag_sums": (np.float64, "N"),
}
_POOL_LAYOUT = {"pool.z": (np.float64, "PD"), "pool.kernel": (np.float64, "PP"), "pool.sums": (np.float64, "P")}
"""Type and axes of arrays; axes of one letter have one length."""
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
"""What reading other bytes than those of a state may raise."""


def to_bytes(monitor: Monitor) -> bytes:
    """Returns the state of a monitor."""
    epoch = monitor.epoch
    header = {
        "version": VERSION,
        "options": asdict(monitor.options),
        "outcomes": monitor.outcomes,
        "earlier": [asdict(summary) for summary in monitor.earlier],
        "epoch": epoch.draws.epoch,
        "start": epoch.start,
        "rows": epoch.rows,
        "alarm": asdict(epoch.alarm) if epoch.alarm else None,
        "extreme_rows": [asdict(row) for row in sorted(epoch.extreme_rows)],
        "bandwidth": epoch.reference.scorer.bandwidth,
        "mix": {
            "strata": epoch.reference.scoring_strata,
            "calibration": epoch.reference.calibration_strata,
            "stream": epoch.mix.stream,
            "largest_log_evidence": epoch.mix.largest_log_evidence,
        },
        "block_rows": epoch.blocks.rows,
        "martingales": {
            name: {"cells": one.martingale.cells, "exponent": one.martingale.exponent}
            for name, one in epoch.evidence.items()
        },
    }
    arrays = _get_arrays(monitor)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def from_bytes(data: bytes) -> Monitor:
    """Returns the monitor with a state.

    Raises:
        InvalidInput: the bytes are not a state of a monitor, or one of another version.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays["header"].tobytes())
        version = header["version"]
        if version != VERSION:
            raise InvalidInput(
                f"the state has version {version}, this release reads {VERSION}",
                subject="state",
                remedy="Use the release that wrote it, or start a new monitor.",
            )
        _check_arrays(arrays)
        monitor = _to_monitor(header, arrays)
        monitor.status  # noqa: B018 -- it reads every number, so that a wrong one is found here
    except _DAMAGE as error:
        raise InvalidInput("it is not the state of a monitor", subject="state", remedy="Read it again.") from error
    return monitor


def _check_arrays(arrays: Arrays) -> None:
    """Checks types and shapes, as the arrays of a monitor are used without further checks."""
    lengths: dict[str, int] = {}
    for name, (dtype, axes) in (_LAYOUT | (_POOL_LAYOUT if "pool.size" in arrays else {})).items():
        array = arrays[name]
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
    monitor.epoch = _to_epoch(header, arrays, monitor.options.seed)
    return monitor


def _get_arrays(monitor: Monitor) -> Arrays:
    """Returns all arrays of a monitor by name."""
    epoch, scorer = monitor.epoch, monitor.reference.scorer
    digests, days = monitor.patients.to_arrays()
    bag_z, bag_sums = epoch.blocks.bag
    arrays: Arrays = {
        "patient_digests": digests,
        "patient_days": days,
        "reference_patients": np.array(sorted(monitor.patients.reference), np.uint64),
        "epoch_patients": np.array(sorted(monitor.reference.patients), np.uint64),
        "mean": scorer.mean_D,
        "scale": scorer.scale_D,
        "scoring": scorer.scoring_SD,
        "calibration": monitor.reference.calibration_CD,
        "row_scores": epoch.row_scores.to_array(),
        "bag": bag_z,
        "bag_sums": bag_sums,
    }
    for component, one in epoch.evidence.items():
        arrays[f"{component}.reserve"] = one.martingale.reserve_E
        arrays[f"{component}.stakes"] = one.martingale.stakes_ES
        arrays[f"{component}.log_R"] = one.run_length.log_R_S
    pool = epoch.blocks.pool
    if pool is not None:
        size = np.array([pool.size])
        arrays |= {"pool.size": size, "pool.z": pool.z_PD, "pool.kernel": pool.kernel_PP, "pool.sums": pool.sums_P}
    return arrays


def _to_epoch(header: Mapping[str, Any], arrays: Arrays, seed: int) -> Epoch:
    scorer = RowScorer(arrays["mean"], arrays["scale"], arrays["scoring"], header["bandwidth"])
    patients = frozenset(map(int, arrays["epoch_patients"]))
    epoch = Epoch.__new__(Epoch)  # as above
    epoch.draws, epoch.start = Draws(seed, header["epoch"]), EpochStart(header["start"])
    epoch.reference = Reference(
        scorer, arrays["calibration"], patients, tuple(header["mix"]["strata"]), header["mix"]["calibration"]
    )
    epoch.row_scores = SortedScores(arrays["row_scores"])
    epoch.blocks = BlockRanks(scorer, arrays["bag"], arrays["bag_sums"])
    epoch.blocks.rows = int(header["block_rows"])
    if "pool.size" in arrays:
        pool = Pool(int(arrays["pool.size"][0]), arrays["pool.z"], arrays["pool.kernel"], arrays["pool.sums"])
        if not 0 <= pool.size <= len(pool.sums_P):
            raise ValueError(f"the pool has {pool.size} rows")
        epoch.blocks.pool = pool
    epoch.evidence = {component: _to_evidence(component, header, arrays) for component in Component}
    epoch.mix = StratumMix(header["mix"]["strata"], header["mix"]["calibration"])
    epoch.mix.stream = header["mix"]["stream"]
    epoch.mix.largest_log_evidence = header["mix"]["largest_log_evidence"]
    epoch.rows, epoch.alarm = int(header["rows"]), _to_alarm(header["alarm"])
    epoch.extreme_rows = [ExtremeRow(**row) for row in header["extreme_rows"]]
    return epoch


def _to_evidence(component: Component, header: Mapping[str, Any], arrays: Arrays) -> Evidence:
    evidence = make_evidence(component)
    evidence.martingale.cells = header["martingales"][component]["cells"]
    evidence.martingale.exponent = header["martingales"][component]["exponent"]
    for part, name, key in (
        (evidence.martingale, "reserve_E", "reserve"),
        (evidence.martingale, "stakes_ES", "stakes"),
        (evidence.run_length, "log_R_S", "log_R"),
    ):
        array, new = arrays[f"{component}.{key}"], getattr(part, name)
        if (array.dtype, array.shape) != (new.dtype, new.shape):
            raise ValueError(f"{component}.{key} has the shape {array.shape}")
        setattr(part, name, array)
    return evidence


def _to_alarm(record: Mapping[str, Any] | None) -> Alarm | None:
    if record is None:
        return None
    return Alarm(record["row"], record["observation"], tuple(Component(name) for name in record["components"]))
