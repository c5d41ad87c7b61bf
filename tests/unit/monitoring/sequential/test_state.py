"""A state that is stored and read, and the division into calls, change no bit of the evidence."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest

from vfmalign.core.domain.errors import InvalidInput
from vfmalign.monitoring.sequential import EpochStart, Monitor, block_scores, from_bytes, patients, ranks, to_bytes

ROWS = 400


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets merges, random pools and the end of blocks happen within the stream."""
    monkeypatch.setattr(ranks, "_RECENT_SCORES", 50)
    monkeypatch.setattr(patients, "_RECENT_PATIENTS", 70)
    monkeypatch.setattr(block_scores, "POOL_ROWS", 100)
    monkeypatch.setattr(block_scores, "LAST_ROW", 240)


def make_stream(channels: int) -> dict[str, Any]:
    """Rows with duplicates, repeated patients, patients of the reference, and values that are not finite."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(ROWS, channels))
    rows[rng.integers(0, ROWS, 60)] = rows[7]
    rows[rng.integers(0, ROWS, 10), 0] = np.nan
    rows[300:] += 0.7
    names = [f"patient-{name}" for name in rng.integers(0, 2000, ROWS)]
    names[50] = "reference-4"
    strata = rng.choice(["a", "b", "c", ""], ROWS).tolist()
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


def test_fifty_restarts_change_nothing(make_monitor: Any) -> None:
    stream = make_stream(channels=24)
    options = {"channels": 24, "strata": ["a", "b"] * 30}
    expected = run(make_monitor(**options), stream, 1)
    assert expected[-2].alarm is not None
    assert run(make_monitor(**options), stream, 1, frozenset(range(0, ROWS, 8))) == expected
    assert run(make_monitor(**options), stream, 1, frozenset(range(3, 53))) == expected


@pytest.mark.parametrize("size", [7, 64, ROWS])
@pytest.mark.parametrize("channels", [3, 257])
def test_batches_of_any_size_give_the_same_bits(make_monitor: Any, size: int, channels: int) -> None:
    stream = make_stream(channels)
    assert run(make_monitor(channels=channels), stream, size) == run(make_monitor(channels=channels), stream, 1)


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
    with pytest.raises(InvalidInput, match="it is not the state of a monitor"):
        from_bytes(data)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mean", lambda array: array[1:]),
        ("scoring", lambda array: array[:, 1:]),
        ("calibration", lambda array: array.astype(np.float32)),
        ("bag_sums", lambda array: array[:, None]),
        ("rows.stakes", lambda array: array[:, 1:]),
        ("blocks_of_4.log_R", lambda array: array[:0]),
        ("pool.size", lambda array: array + 10_000),
        ("pool.kernel", lambda array: array[1:]),
        ("header", lambda array: np.frombuffer(b"[" * 100_000, np.uint8)),
        ("header", lambda array: _change_header(array, rows="many")),
        ("header", lambda array: _change_header(array, martingales={})),
        ("header", lambda array: _change_header(array, options={"alpha": []})),
    ],
)
def test_a_state_with_one_wrong_array_is_refused(make_monitor: Any, observe: Any, name: str, change: Any) -> None:
    monitor = make_monitor()
    observe(monitor, np.zeros((3, 4)))
    with np.load(io.BytesIO(to_bytes(monitor)), allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    file = io.BytesIO()
    np.savez(file, **(arrays | {name: change(arrays[name])}))
    with pytest.raises(InvalidInput, match="it is not the state of a monitor"):
        from_bytes(file.getvalue())


def _change_header(array: Any, **changes: Any) -> Any:
    return np.frombuffer(json.dumps(json.loads(array.tobytes()) | changes).encode(), np.uint8)


def test_a_state_of_another_version_is_refused() -> None:
    file = io.BytesIO()
    np.savez(file, header=np.frombuffer(json.dumps({"version": 2}).encode(), np.uint8))
    with pytest.raises(InvalidInput, match="the state has version 2, this release reads 1"):
        from_bytes(file.getvalue())
