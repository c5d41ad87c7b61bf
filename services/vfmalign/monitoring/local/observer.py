"""Observes the new rows of a stream, and then describes the monitor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vfmalign.core.domain.drift import MAX_WINDOW_ROWS, MIN_WINDOW_ROWS, DriftRequest, WindowComparison
from vfmalign.core.domain.errors import BadOption, BadTensor, InvalidInput
from vfmalign.monitoring.local.description import describe
from vfmalign.monitoring.local.history import History
from vfmalign.monitoring.local.inputs import Rows, check_origin, read_rows
from vfmalign.monitoring.local.state_file import DriftState, ObservedRows, get_digest, read_state, write_state
from vfmalign.monitoring.local.windows import Entered, list_comparisons
from vfmalign.monitoring.sequential import Component, Monitor, MonitorOptions, Observation, get_channel_shifts
from vfmalign.reports.drift.document import DriftDocument

BATCH_ROWS = 64
ROWS_BETWEEN_STATES = 5_000
DEFAULT_MOVED_ROWS = 100
"""Number of last rows for the comparison of channels, if there are no windows."""
_PATIENTS_ASSUMED = "later observations of a patient, after {days} days, are assumed to be independent of earlier ones"
_BLOCKS_STOPPED = "blocks of rows stopped adding evidence after 20,000 rows; rows and channels go on"
_ORDER = (
    "the order of arrival is that of the sources; inside a feature set, rows are in the order of their generated ids"
)

Report = Callable[[int, int], None]
Announce = Callable[[Observation, Mapping[Component, float]], None]


def observe(request: DriftRequest, report: Report, announce: Announce) -> tuple[DriftDocument, list[WindowComparison]]:
    """Observes a stream.

    Args:
        request: inputs and options.
        report: function that receives the number of observed rows and the number of all rows.
        announce: function that receives the observation that raises the alarm, and the logarithm of each threshold.

    Returns:
        The document without its windows, and the comparisons that will become these windows.

    Raises:
        VfmalignError: an input cannot be read or used.
    """
    _check_window(request.window_rows)
    options = MonitorOptions(
        alpha=request.alpha,
        run_length=request.run_length,
        patient_window_days=request.patient_window_days,
        first_patients=request.first_patients,
        seed=request.seed,
    )
    needs_days = options.patient_window_days is not None
    reference = read_rows([request.reference], request.reference_table, request.by, "reference")
    stream = read_rows(request.streams, request.stream_table, request.by, "streams", needs_days=needs_days)
    check_origin(reference, stream, "streams")
    layer = _choose_layer(reference, stream, request.layer)
    state = _open_state(request, options, reference, layer)
    _observe_new(state, stream, layer, request.state, report=report, announce=announce)
    entered = _list_entered(state, stream)
    moved = entered.places[-(request.window_rows or DEFAULT_MOVED_ROWS) :]
    document = describe(
        state.monitor,
        state.history,
        title=stream.title,
        reference=reference.title,
        layer=layer,
        stratum=request.by,
        channel_shifts=get_channel_shifts(state.monitor.reference, stream.layers[layer][list(moved)]) if moved else (),
        moved_rows=len(moved),
        window_rows=request.window_rows,
        notes=_list_notes(state, reference, stream),
    )
    return document, list_comparisons(reference, stream, entered, request.window_rows)


def _check_window(rows: int) -> None:
    if rows and not MIN_WINDOW_ROWS <= rows <= MAX_WINDOW_ROWS:
        raise BadOption(
            f"{rows} is out of range",
            field="window_rows",
            remedy=f"use {MIN_WINDOW_ROWS} to {MAX_WINDOW_ROWS:,} rows, or 0",
        )


def _choose_layer(reference: Rows, stream: Rows, named: str) -> str:
    """Returns the layer that raises the alarm. Both sides must have it, with the same number of channels."""
    layer = named or next(iter(reference.layers))
    for rows, field in ((reference, "reference"), (stream, "streams")):
        if layer not in rows.layers:
            remedy = f"choose one of {', '.join(rows.layers)}, or extract it"
            raise BadOption(f"it has no layer `{layer[:128]}`", field=field, remedy=remedy)
    channels = [rows.layers[layer].shape[1] for rows in (reference, stream)]
    if channels[0] != channels[1]:
        raise BadTensor(
            f"it has {channels[1]:,} channels, and the reference {channels[0]:,}",
            field="streams",
            remedy="give features of the same model and layer",
        )
    return layer


def _open_state(request: DriftRequest, options: MonitorOptions, reference: Rows, layer: str) -> DriftState:
    """Returns the stored state of this monitor, or a new one."""
    fixed = {
        "alpha": options.alpha,
        "run_length": options.run_length,
        "patient_window_days": options.patient_window_days,
        "first_patients": options.first_patients,
        "seed": options.seed,
        "layer": layer,
        "by": request.by,
        "reference": _get_reference_digest(reference, layer),
    }
    stored = read_state(Path(request.state)) if request.state else None
    if stored is None:
        monitor = Monitor(options, reference.layers[layer], reference.patients, reference.strata)
        return DriftState(monitor, History(), ObservedRows(), fixed)
    for name, value in fixed.items():
        if stored.fixed.get(name) != value:
            raise InvalidInput(
                f"it belongs to a monitor with another {name.replace('_', ' ')}",
                subject="state",
                remedy="use the options and the reference of the first run, or name a new file",
            )
    return stored


def _get_reference_digest(reference: Rows, layer: str) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(reference.layers[layer], np.float64).tobytes())
    for names in (reference.patients, reference.strata or []):
        digest.update("\0".join(names).encode() + b"\1")
    return digest.hexdigest()


def _observe_new(state: DriftState, stream: Rows, layer: str, path: str, *, report: Report, announce: Announce) -> None:
    """Observes the rows that are not in the state yet; stores the state regularly and at the end."""
    features_NC, log_threshold = stream.layers[layer], state.monitor.status.log_threshold
    new = _find_new(state.observed, stream, features_NC)
    stored = 0
    for start in range(0, len(new), BATCH_ROWS):
        batch = new[start : start + BATCH_ROWS]
        chosen = [place for place, _, _ in batch]
        observations = state.monitor.observe(
            features_NC[chosen],
            [stream.observations[place] for place in chosen],
            [stream.patients[place] for place in chosen],
            None if stream.strata is None else [stream.strata[place] for place in chosen],
            None if stream.days is None else [stream.days[place] for place in chosen],
        )
        for (_, name, content), observation in zip(batch, observations, strict=True):
            state.observed.features[name], state.observed.rows[name] = content, observation.row
            state.history.add(observation, log_threshold)
            if observation.raised_alarm:
                announce(observation, log_threshold)
        done = start + len(batch)
        report(done, len(new))
        if path and done - stored >= ROWS_BETWEEN_STATES:
            write_state(Path(path), state)
            stored = done
    if path:
        write_state(Path(path), state)


def _find_new(observed: ObservedRows, stream: Rows, features_NC: np.ndarray[Any, Any]) -> list[tuple[int, int, int]]:
    """Returns the index, the digest of the id and the digest of the features of every new row.

    Raises:
        InvalidInput: an earlier observation with the same id had other features.
    """
    new: list[tuple[int, int, int]] = []
    known = dict(observed.features)
    for place, observation in enumerate(stream.observations):
        name = get_digest(observation.encode())
        content = get_digest(np.asarray(features_NC[place], np.float64).tobytes())
        if name not in known:
            known[name] = content
            new.append((place, name, content))
        elif known[name] != content:
            raise InvalidInput(
                f"the observation of row {place + 1:,} was observed before, with other features",
                field="streams",
                remedy="give new observations new ids; for arrays without ids, give all rows so far in the same order",
            )
    return new


def _list_entered(state: DriftState, stream: Rows) -> Entered:
    """Returns the rows of the stream that are part of the evidence, in ascending order of their numbers."""
    numbered: dict[int, int] = {}
    for place, observation in enumerate(stream.observations):
        row = state.observed.rows[get_digest(observation.encode())]
        if row:
            numbered.setdefault(row, place)
    rows = sorted(numbered)
    places = [numbered[row] for row in rows]
    return Entered(places, rows, None if stream.strata is None else [stream.strata[place] for place in places])


def _list_notes(state: DriftState, reference: Rows, stream: Rows) -> list[str]:
    notes = [*reference.notes, *stream.notes]
    if stream.origin is not None:
        notes.append(_ORDER)
    if (days := state.monitor.options.patient_window_days) is not None:
        notes.append(_PATIENTS_ASSUMED.format(days=days))
    if not state.monitor.status.blocks_are_active:
        notes.append(_BLOCKS_STOPPED)
    return notes
