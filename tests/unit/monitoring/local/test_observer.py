"""A stream that is observed without a service: its document, what is refused, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.monitoring.local.conftest import Observe

from vfmalign.core.domain import errors
from vfmalign.monitoring.sequential import Monitor, MonitorOptions, Observation, state
from vfmalign.reports.drift.document import MAX_POINTS, DriftDocument

Save = Callable[..., str]


def names_of(rows: int) -> list[str]:
    return [f"q{row}" for row in range(rows)]


def write_table(path: Path, header: str, lines: list[str]) -> str:
    path.write_text("\n".join([header, *lines]))
    return str(path)


def test_a_shift_raises_the_alarm_that_the_library_raises(run_observer: Any, save: Save) -> None:
    reference, before, after = save("r.npy", 90), save("a.npy", 40, seed=1), save("b.npy", 60, 2.0)
    document = run_observer(reference, before, after, alpha=0.05, seed=5)
    monitor = Monitor(MonitorOptions(alpha=0.05, seed=5), np.load(reference), [f"r{row}" for row in range(90)])
    rows = np.concatenate([np.load(before), np.load(after)])
    names = [f"s{row}" for row in range(100)]
    expected = monitor.observe(rows, names, names)
    assert document.alarm is not None
    assert document.alarm.row == next(one.row for one in expected if one.raised_alarm) > 40
    assert document.alarm.observation == f"row {document.alarm.row}"
    assert [point.row for point in document.history] == list(range(1, 101))
    for one, point in zip(expected, document.history, strict=True):
        assert point.log_evidence == tuple(v if np.isfinite(v) else None for v in one.log_evidence.values())
    limits = monitor.status.log_threshold
    highest = max(
        ((one.row, name, value) for one in expected for name, value in one.log_evidence.items()),
        key=lambda peak: peak[2] - limits[peak[1]],
    )
    assert document.peak is not None
    assert (document.peak.row, document.peak.component, document.peak.log_evidence) == highest
    assert [one.log_threshold for one in document.components] == list(limits.values())
    alarms = [said for said in run_observer.said if isinstance(said[0], Observation)]
    assert [one.row for one, _ in alarms] == [document.alarm.row]
    assert run_observer.said[-1] == (100, 100)
    assert [note for note in document.notes if "assumed to be a patient" in note] == list(document.notes)
    assert len(document.notes) == 2, "the reference and the stream"
    assert DriftDocument.model_validate_json(document.to_json()) == document


def test_the_document_stays_small(run_observer: Observe, save: Save) -> None:
    document = run_observer(save("r.npy", 60), save("s.npy", 3000), window_rows=0)
    rows = [point.row for point in document.history]
    assert document.rows == rows[-1] == 3000
    assert MAX_POINTS / 2 < len(rows) <= MAX_POINTS + 3
    assert rows == sorted(set(rows))
    assert len(document.to_json()) < 200_000


def test_a_run_length_has_evidence_once_a_component_has_a_cell(run_observer: Observe, save: Save) -> None:
    document = run_observer(save("r.npy", 60), save("s.npy", 3), run_length=1000)
    assert (document.alpha, document.run_length) == (None, 1000)
    now = {one.component: one.log_evidence for one in document.components}
    assert (now["blocks_of_4"], now["blocks_of_16"]) == (None, None)
    assert document.peak is not None
    assert document.peak.component in ("rows", "channels")
    assert [point.log_evidence[1] for point in document.history] == [None] * 3


def test_a_table_names_patients_observations_and_strata(run_observer: Observe, save: Save, tmp_path: Path) -> None:
    lines = [f"p{row},{'B' if row % 3 else 'A'}" for row in range(90)]
    reference_table = write_table(tmp_path / "r.csv", "patient,scanner", lines)
    patients = ["p3", *[f"q{row}" for row in range(18)], "q0"]
    lines = [f"{name},o{row},{'A' if row else ''}" for row, name in enumerate(patients)]
    stream_table = write_table(tmp_path / "s.csv", "patient,observation,scanner", lines)
    document = run_observer(
        save("r.npy", 90), save("s.npy", 20), reference_table=reference_table, stream_table=stream_table, by="scanner"
    )
    assert document.outcomes == {"entered": 18, "repeated_patient": 1, "reference_patient": 1, "not_finite": 0}
    assert document.mix is not None
    rows = {one.name: (one.stream, one.reference > 0) for one in document.mix.strata}
    assert rows == {"A": (18, True), "B": (0, True)}
    assert document.extreme_rows[0].observation.startswith("o")
    assert not document.notes


def test_rows_are_ranked_within_their_stratum_and_new_and_unknown_ones_are_counted(
    run_observer: Observe, save: Save, tmp_path: Path
) -> None:
    strata = ["A", "B"] * 60
    reference_table = write_table(tmp_path / "r.csv", "patient,scanner", [f"p{n},{s}" for n, s in enumerate(strata)])
    names = ["A", "B", "C", ""] * 10
    stream_table = write_table(tmp_path / "s.csv", "patient,scanner", [f"q{n},{s}" for n, s in enumerate(names)])
    reference, stream = save("r.npy", 120), save("s.npy", 40, seed=1)
    tables = {"reference_table": reference_table, "stream_table": stream_table}
    document = run_observer(reference, stream, **tables, by="scanner")
    assert document.mix is not None
    assert [(one.name, one.stream) for one in document.mix.strata] == [("A", 10), ("B", 10), ("C", 10), ("", 10)]
    assert [one.reference for one in document.mix.strata] == [40, 40, 0, 0]
    monitor = Monitor(MonitorOptions(), np.load(reference), [f"p{n}" for n in range(120)], strata)
    expected = monitor.observe(np.load(stream), names_of(40), names_of(40), names)
    assert [one.log_evidence for one in document.history] == [
        tuple(v if np.isfinite(v) else None for v in one.log_evidence.values()) for one in expected
    ]
    assert document.history != run_observer(reference, stream, **tables).history


def test_a_reference_whose_strata_are_all_unknown_is_refused(run_observer: Observe, save: Save, tmp_path: Path) -> None:
    """Its rows could not be ranked within strata, as the page would say."""
    tables = {
        "reference_table": write_table(tmp_path / "r.csv", "patient,scanner", [f"p{n}," for n in range(60)]),
        "stream_table": write_table(tmp_path / "s.csv", "patient,scanner", [f"q{n},A" for n in range(5)]),
    }
    with pytest.raises(errors.InvalidInput, match="no row of the reference has a value of this stratum") as caught:
        run_observer(save("r.npy", 60), save("s.npy", 5), **tables, by="scanner")
    assert (caught.value.subject, bool(caught.value.remedy)) == ("by", True)


def test_a_peak_is_beside_the_threshold_of_its_component_and_stays(
    run_observer: Observe, save: Save, tmp_path: Path
) -> None:
    reference, state = save("r.npy", 90), str(tmp_path / "state")
    np.save(tmp_path / "s.npy", np.concatenate([np.load(save("a.npy", 25, 2.0)), np.load(save("b.npy", 75, seed=3))]))
    rows = np.load(tmp_path / "s.npy")
    documents = []
    for cut in (40, 100):
        np.save(tmp_path / "part.npy", rows[:cut])
        documents.append(run_observer(reference, str(tmp_path / "part.npy"), state=state))
    first, second = (document.peak for document in documents)
    assert first is not None
    assert first.row <= 40
    assert second == first, "evidence that fell since is no peak"
    now = documents[1].strongest
    assert now.log_evidence is not None
    limits = {one.component: one.log_threshold for one in documents[1].components}
    assert first.log_evidence - limits[first.component] > now.log_evidence - now.log_threshold


def test_a_finite_window_of_patients_needs_days_and_is_stated(
    run_observer: Observe, save: Save, tmp_path: Path
) -> None:
    files = save("r.npy", 60), save("s.npy", 3)
    table = write_table(tmp_path / "s.csv", "patient,day", ["a,2026-01-01", "a,2026-01-15", "a,2026-02-20"])
    document = run_observer(*files, stream_table=table, patient_window_days=30)
    assert (document.outcomes["entered"], document.outcomes["repeated_patient"]) == (2, 1)
    assert any("after 30 days, are assumed to be independent" in note for note in document.notes)
    with pytest.raises(errors.InvalidInput, match="days of the rows are unknown"):
        run_observer(*files, patient_window_days=30)
    wrong = write_table(tmp_path / "w.csv", "patient,day", ["a,2026-01-01", "a,1.2.2026", "a,"])
    with pytest.raises(errors.InvalidInput, match="line 3 has no date"):
        run_observer(*files, stream_table=wrong, patient_window_days=30)


def test_rows_that_are_not_finite_are_counted_and_not_compared(
    run_observer: Observe, save: Save, tmp_path: Path
) -> None:
    stream = save("s.npy", 40)
    rows = np.load(stream)
    rows[3, 1], rows[5] = np.nan, np.inf
    np.save(stream, rows)
    document = run_observer(save("r.npy", 60), stream)
    assert document.outcomes["not_finite"] == 2
    assert document.rows == document.moved_rows == 38
    (window,) = run_observer.comparisons  # type: ignore[attr-defined]
    assert window.rows == 38


def test_a_stream_of_which_no_row_enters_has_a_document(run_observer: Observe, save: Save, tmp_path: Path) -> None:
    stream = save("s.npy", 5)
    np.save(stream, np.full((5, 4), np.nan))
    document = run_observer(save("r.npy", 60), stream)
    assert (document.rows, document.history, document.peak, document.channel_shifts) == (0, (), None, ())


@pytest.mark.parametrize("cuts", [(50,), (7, 8, 64, 65, 99)], ids=str)
def test_a_stream_goes_on_from_its_state_with_the_same_bits(
    run_observer: Observe, save: Save, tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    reference, whole = save("r.npy", 60), save("s.npy", 100, 0.7)
    expected = run_observer(reference, whole, alpha=0.05)
    rows, state = np.load(whole), str(tmp_path / "state")
    for cut in (*cuts, 100):
        np.save(tmp_path / "part.npy", rows[:cut])
        document = run_observer(reference, str(tmp_path / "part.npy"), alpha=0.05, state=state)
        assert document.rows == cut
    assert document.model_copy(update={"title": expected.title}) == expected
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "state").read_bytes()
    assert run_observer(reference, str(tmp_path / "part.npy"), alpha=0.05, state=state) == document
    assert (tmp_path / "state").read_bytes() == before, "nothing was new"


def test_new_files_go_on_where_observations_have_ids(run_observer: Observe, save: Save, tmp_path: Path) -> None:
    reference, state = save("r.npy", 60), str(tmp_path / "state")
    for month in (1, 2):
        lines = [f"p{month}-{row},o{month}-{row}" for row in range(20)]
        table = write_table(tmp_path / "t.csv", "patient,observation", lines)
        document = run_observer(reference, save("s.npy", 20, seed=month), stream_table=table, state=state)
    assert document.rows == 40
    assert document.history[0].row == 1
    (window,) = run_observer.comparisons  # type: ignore[attr-defined]
    assert (window.first_row, window.last_row) == (21, 40), "the rows at hand"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 0.02}, "another alpha"),
        ({"seed": 1}, "another seed"),
        ({"run_length": 1000}, "another run length"),
        ({"reference": 61}, "another reference"),
    ],
    ids=str,
)
def test_a_state_belongs_to_its_options_and_reference(
    run_observer: Observe, save: Save, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    state, stream = str(tmp_path / "state"), save("s.npy", 5)
    run_observer(save("r.npy", 60), stream, state=state)
    reference = save("r.npy", change.pop("reference", 60))
    with pytest.raises(errors.InvalidInput, match=words) as caught:
        run_observer(reference, stream, state=state, **change)
    assert caught.value.subject == "state"


def test_an_observation_that_changed_is_refused(run_observer: Observe, save: Save, tmp_path: Path) -> None:
    state, reference = str(tmp_path / "state"), save("r.npy", 60)
    run_observer(reference, save("s.npy", 5), state=state)
    stored = (tmp_path / "state").read_bytes()
    with pytest.raises(errors.InvalidInput, match="row 1 was observed before, with other features"):
        run_observer(reference, save("s.npy", 5, seed=9), state=state)
    assert (tmp_path / "state").read_bytes() == stored


def damage(data: bytes, kind: str) -> bytes:
    return {
        "empty": b"",
        "text": b"not a state",
        "cut": data[: len(data) // 2],
        "flipped": data[:-50] + bytes([data[-50] ^ 1]) + data[-49:],
        "header alone": data[:23],
        "other format": data.replace(b"state 1", b"state 9"),
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "flipped", "header alone", "other format"])
def test_a_damaged_state_is_refused_and_kept(run_observer: Observe, save: Save, tmp_path: Path, kind: str) -> None:
    state, files = tmp_path / "state", (save("r.npy", 60), save("s.npy", 5))
    run_observer(*files, state=str(state))
    damaged = damage(state.read_bytes(), kind)
    state.write_bytes(damaged)
    with pytest.raises(errors.InvalidInput) as caught:
        run_observer(*files, state=str(state))
    assert caught.value.subject == "state"
    assert "restore it from a backup" in caught.value.remedy
    assert state.read_bytes() == damaged


def test_the_state_of_another_release_is_refused_and_a_new_file_takes_the_whole_stream(
    run_observer: Observe, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, files = tmp_path / "old", (save("r.npy", 60), save("s.npy", 50, 0.5))
    with monkeypatch.context() as patch:
        patch.setattr(state, "VERSION", 1)
        expected = run_observer(*files, state=str(old))
    stored = old.read_bytes()
    with pytest.raises(errors.InvalidInput, match="another release of `vfmalign drift` wrote it") as caught:
        run_observer(*files, state=str(old))
    assert caught.value.subject == "state"
    assert "name a new file, and give all files or feature sets of the stream so far" in caught.value.remedy
    assert "backup" not in caught.value.remedy, "a backup would be as old"
    assert old.read_bytes() == stored
    assert run_observer(*files, state=str(tmp_path / "new")) == expected


def test_a_state_that_cannot_be_written_is_an_error(run_observer: Observe, save: Save, tmp_path: Path) -> None:
    with pytest.raises(errors.BadOption, match="cannot be written"):
        run_observer(save("r.npy", 60), save("s.npy", 5), state=str(tmp_path / "gone" / "state"))


@pytest.mark.parametrize(
    ("reference", "stream", "options", "error", "subject", "words"),
    [
        ({"rows": 59}, {}, {}, errors.InvalidInput, "reference.patients", "rows of 59 patients"),
        ({}, {"channels": 5}, {}, errors.BadTensor, "streams", "it has 5 channels, and the reference 4"),
        ({}, {}, {"layer": "stages.3"}, errors.BadOption, "reference", "no layer `stages.3`"),
        ({}, {}, {"by": "scanner"}, errors.InvalidInput, "by", "arrays have no strata"),
        ({}, {}, {"alpha": 0.6}, errors.BadOption, "alpha", "alpha is 0.6"),
        ({}, {}, {"run_length": 5}, errors.BadOption, "run_length", "run_length is 5"),
        ({}, {}, {"window_rows": 15}, errors.BadOption, "window_rows", "15 is out of range"),
        ({}, {}, {"stream_table": "/none.csv"}, errors.BadOption, "stream_table", "no such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_observed_is_named(
    run_observer: Observe,
    save: Save,
    reference: dict[str, Any],
    stream: dict[str, Any],
    options: dict[str, Any],
    error: type[errors.InvalidInput],
    subject: str,
    words: str,
) -> None:
    files = save("r.npy", **{"rows": 60, **reference}), save("s.npy", **{"rows": 5, **stream})
    with pytest.raises(error, match=words) as caught:
        run_observer(*files, **options)
    assert caught.value.subject == subject
    assert caught.value.remedy


def test_a_reference_with_nan_is_refused(run_observer: Observe, save: Save, tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.full((60, 4), np.nan))
    with pytest.raises(errors.BadTensor, match="row 0 has a value that is not finite"):
        run_observer(str(tmp_path / "r.npy"), save("s.npy", 5))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scanner\nA\nB", "lacks `patient`"),
        ("patient,patient\na,b\nc,d", "has a name twice"),
        ("patient\na", "1 lines for 2 rows"),
        ("patient,x\na,1\nb", "line 3 has another number of cells"),
        ("patient\na\n" + "b" * 129, "more than 128 characters"),
        ('patient\n" "\nb', "line 2 has no patient"),
        ("patient,observation\na,1\nb,1", "occurs twice"),
        ("", "not a CSV file"),
        ('patient\n"a\nb', "not a CSV file"),
    ],
)
def test_a_bad_table_is_refused_without_its_content(
    run_observer: Observe, save: Save, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(errors.InvalidInput, match=words) as caught:
        run_observer(save("r.npy", 60), save("s.npy", 2), stream_table=str(tmp_path / "t.csv"))
    assert caught.value.subject == "stream_table"
