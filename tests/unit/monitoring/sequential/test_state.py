"""A state that is stored and read, and the division into calls, change no bit of the evidence."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from vfmalign.core.domain.errors import InvalidInput
from vfmalign.monitoring.sequential import (
    EpochStart,
    Monitor,
    MonitorOptions,
    OutdatedState,
    block_scores,
    epoch,
    from_bytes,
    patients,
    ranks,
    to_bytes,
)
from vfmalign.monitoring.sequential.betting import CHANNEL_THETAS
from vfmalign.monitoring.sequential.block_scores import SPACINGS
from vfmalign.monitoring.sequential.draws import Purpose

ROWS = 320
OPTIONS: dict[str, dict[str, Any]] = {
    "alpha": {},
    "first patients": {"strata": [*"aab"] * 20, "first_patients": 50},
    "run length and strata": {"run_length": 2000, "strata": [*"aab"] * 20},
}


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets merges, pools that are drawn anew and the end of blocks happen within the stream."""
    monkeypatch.setattr(ranks, "_RECENT_SCORES", 50)
    monkeypatch.setattr(patients, "_RECENT_PATIENTS", 70)
    monkeypatch.setattr(block_scores, "SUBSETS", 99)
    monkeypatch.setattr(block_scores, "POOL_ROWS", 30)
    monkeypatch.setattr(block_scores, "NEW_POOL_ROWS", 48)
    monkeypatch.setattr(epoch, "LAST_ROW", 270)


def make_stream(channels: int) -> dict[str, Any]:
    """Rows with duplicates, repeated patients, patients of the reference, and values that are not finite."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(ROWS, channels))
    rows[rng.integers(0, ROWS, 60)] = rows[7]
    rows[rng.integers(0, ROWS, 10), 0] = np.nan
    rows[220:] += 1.2
    names = [f"patient-{name}" for name in rng.integers(0, 2000, ROWS)]
    names[50] = "reference-4"
    strata = rng.choice(["a", "b", "c", ""], ROWS, p=[0.7, 0.2, 0.05, 0.05]).tolist()
    return {"rows_ND": rows, "patients": names, "strata": strata, "observations": [f"o{row}" for row in range(ROWS)]}


def run(monitor: Monitor, stream: dict[str, Any], size: int, stored_at: frozenset[int] = frozenset()) -> list[Any]:
    """Observes a stream `size` rows at a time, and returns everything that it answers."""
    answers: list[Any] = []
    for start in range(0, ROWS, size):
        if start in stored_at:
            monitor = from_bytes(to_bytes(monitor))
        answers += monitor.observe(**{name: values[start : start + size] for name, values in stream.items()})
        if start == 0:
            assert answers
    return [*answers, monitor.status, to_bytes(monitor)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_fifty_restarts_and_batches_change_nothing(make_monitor: Any, options: dict[str, Any]) -> None:
    stream = make_stream(channels=6)
    expected = run(make_monitor(channels=6, **options), stream, 1)
    assert expected[-2].alarm is not None
    for stored_at in (range(4, 304, 6), range(120, 170)):
        assert len(stored_at) == 50
        assert run(make_monitor(channels=6, **options), stream, 1, frozenset(stored_at)) == expected
    for size in (7, 64):
        assert run(make_monitor(channels=6, **options), stream, size) == expected


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_states_are_stored_in_the_middle_of_pools(make_monitor: Any, options: dict[str, Any]) -> None:
    """The stream of the restarts has pools of both widths that begin, hold a part of their rows and end."""
    monitor, stream = make_monitor(channels=6, **options), make_stream(channels=6)
    sizes: dict[Purpose, list[int]] = {width: [] for width in SPACINGS}
    for row in range(ROWS):
        monitor.observe(**{name: values[row : row + 1] for name, values in stream.items()})
        blocks = monitor.epoch.strata["a" if options.get("strata") else ""].blocks
        for width, found in sizes.items():
            pool = None if blocks is None else blocks.pools.get(width)
            found.append(0 if pool is None else pool.size)
    for found in sizes.values():
        assert len({*found}) > 2
        assert (np.diff(found) < 0).sum() >= 2  # a pool that is full, or the end of blocks
    assert monitor.status.rows > 270


@pytest.mark.parametrize("size", [7, 64, ROWS])
def test_batches_of_wide_rows_give_the_same_bits(make_monitor: Any, size: int) -> None:
    stream = make_stream(channels=257)
    assert run(make_monitor(channels=257), stream, size) == run(make_monitor(channels=257), stream, 1)


def test_a_later_epoch_is_stored_too(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor(patient_window_days=3, run_length=500)
    rows = np.random.default_rng(2).normal(size=(200, 4))
    observe(monitor, rows[:40] + 3.0, days=[0] * 40)
    monitor.start_epoch(EpochStart.UNSEEN_REFERENCE, rows[100:], [f"new-{row}" for row in range(100)])
    assert monitor.status.earlier[0].alarm is not None
    copy = from_bytes(to_bytes(monitor))
    assert copy.status == monitor.status
    assert observe(copy, rows[40:90], days=[2] * 50) == observe(monitor, rows[40:90], days=[2] * 50)
    assert to_bytes(copy) == to_bytes(monitor)


def test_a_state_holds_no_pickled_objects_and_no_ids_of_patients(make_monitor: Any) -> None:
    monitor = make_monitor()
    monitor.observe(np.zeros((1, 4)), ["o1"], ["patient-of-the-stream"])
    stored = to_bytes(monitor)
    assert b"patient-of-the-stream" not in stored
    assert b"reference-4" not in stored
    with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "fiu" for name in arrays.files)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"PK\x05\x06" + bytes(18)])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="the bytes are not a monitor's state"):
        from_bytes(data)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mean", lambda array: array[1:]),
        ("scoring", lambda array: array[:, 1:]),
        ("calibration", lambda array: array.astype(np.float32)),
        ("calibration", lambda array: array[1:]),
        ("0.scores", lambda array: array[:, None]),
        ("0.counts", lambda array: array[:, 1:]),
        ("0.counts", lambda array: array.astype(np.int64)),
        ("0.rows", lambda array: array[:, 1:]),
        ("0.rows", lambda array: array[:50]),
        ("0.sums", lambda array: array[:, None]),
        ("rows.stakes_ESK", lambda array: array[:, 1:]),
        ("blocks_of_4.reserve_E", lambda array: array[:0]),
        ("channels.stakes_ESK", lambda array: array[:, :, 1:]),
        ("0.4.row", lambda array: array + 10_000),
        ("0.4.row", lambda array: array - 10_000),
        ("0.4.kernel", lambda array: array[1:]),
        ("0.4.sums", lambda array: array[1:]),
        ("0.4.room", lambda array: array - 50),
        ("0.4.room", lambda array: array * 100),
        ("0.4.room", lambda array: array[:0]),
        ("header", lambda array: np.frombuffer(b"[" * 100_000, np.uint8)),
        ("header", lambda array: _change_header(array, rows="many")),
        ("header", lambda array: _change_header(array, martingales={})),
        ("header", lambda array: _change_header(array, options={"alpha": []})),
        ("header", lambda array: _change_header(array, calibration_strata=["a"])),
        ("header", lambda array: _change_header(array, strata=[{"name": "", "rows": -1, "pools": []}])),
        ("header", lambda array: _change_header(array, strata=[{"name": "", "rows": 60, "pools": [5]}])),
        ("header", lambda array: _change_header(array, strata=[{"name": "", "rows": 60, "pools": [16]}])),
        ("header", lambda array: _change_header(array, strata=[{"name": "", "rows": 60, "pools": []}] * 2)),
    ],
)
def test_a_state_with_one_wrong_array_is_refused(make_monitor: Any, observe: Any, name: str, change: Any) -> None:
    monitor = make_monitor()
    observe(monitor, np.zeros((60, 4)))
    arrays = _read_arrays(to_bytes(monitor))
    with pytest.raises(InvalidInput, match="the bytes are not a monitor's state"):
        from_bytes(_write_arrays(arrays | {name: change(arrays[name])}))


@pytest.mark.parametrize("run_length", [None, 1000])
def test_a_state_without_one_of_its_arrays_is_refused(make_monitor: Any, observe: Any, run_length: int | None) -> None:
    monitor = make_monitor(run_length=run_length, strata=["a", "b"] * 30)
    observe(monitor, np.zeros((60, 4)), strata=["a"] * 60)
    arrays = _read_arrays(to_bytes(monitor))
    assert from_bytes(_write_arrays(arrays)).status == monitor.status
    for name in arrays:
        with pytest.raises(InvalidInput, match="the bytes are not a monitor's state"):
            from_bytes(_write_arrays({key: array for key, array in arrays.items() if key != name}))


def test_a_state_of_another_mode_is_refused(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor(run_length=1000)
    observe(monitor, np.zeros((60, 4)))
    arrays = _read_arrays(to_bytes(monitor))
    assert arrays["channels.log_R_SK"].shape == (2 * len(CHANNEL_THETAS), 4)
    header = _change_header(arrays["header"], options=asdict(MonitorOptions()))
    with pytest.raises(InvalidInput, match="the bytes are not a monitor's state"):
        from_bytes(_write_arrays(arrays | {"header": header}))


def _read_arrays(state: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(state), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _write_arrays(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _change_header(array: Any, **changes: Any) -> Any:
    return np.frombuffer(json.dumps(json.loads(array.tobytes()) | changes).encode(), np.uint8)


@pytest.mark.parametrize(("version", "refusal"), [(1, OutdatedState), (3, InvalidInput)])
def test_a_state_of_another_version_is_refused(version: int, refusal: type[InvalidInput]) -> None:
    header = np.frombuffer(json.dumps({"version": version}).encode(), np.uint8)
    with pytest.raises(InvalidInput, match=f"has version {version}, but this release reads version 2") as caught:
        from_bytes(_write_arrays({"header": header}))
    assert caught.value.remedy == "observe all rows again with a new monitor, or use the release that wrote the state"
    assert type(caught.value) is refusal
