"""`vfmalign monitors observe`: which rows are sent, and what becomes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.monitor_records import SHA256
from tests.monitoring_service import Monitoring
from tests.unit.cli.conftest import Invoke

from vfmalign.cli import exits
from vfmalign.cli.commands.api import monitor_observations
from vfmalign.core.rpc.tensors import to_array

SET = "5f5b865d1efe16135f5b865d1efe1613"


def write_array(folder: Path, rows: int = 150, channels: int = 768) -> list[str]:
    """Writes an array with its table; returns the arguments that name them."""
    random = np.random.default_rng(0)
    np.save(folder / "march.npy", random.normal(size=(rows, channels)).astype("f4"))
    lines = [f"o-{row},p-{row},2026-03-{row % 28 + 1:02},{'A' if row % 2 else ''}" for row in range(rows)]
    (folder / "march.csv").write_text("\n".join(["observation,patient,day,scanner", *lines]))
    return ["march.npy", "--table", "march.csv", "--same-model"]


def test_rows_of_a_feature_set_are_sent_in_slices(run: Invoke, monitoring: Monitoring) -> None:
    monitoring.add("m1", alarm=False)
    monitoring.feature_sets[SET] = [f"c-{row}" for row in range(2_300)]
    monitoring.alarm_at = 1_234
    code, out, err = run("observe", "m1", f"{SET}@{SHA256}")
    assert code == exits.OK
    sent = [request.feature_set for request in monitoring.requests]
    assert [(one.start, one.rows, one.manifest_sha256) for one in sent] == [
        (0, 1_000, SHA256), (1_000, 1_000, SHA256), (2_000, 1_000, SHA256)
    ]  # fmt: skip
    assert "ALARM at row 1,234 of epoch 1, observation c-1233" in err
    assert "raised by row 1,234" in out
    assert "`vfmalign monitors show m1`" in out
    code, out, err = run("observe", "m1", SET, "--json")
    assert json.loads(out)["observed"] == {
        "start": 0, "rows": 2_300, "outcomes": {}, "duplicates": 2_300, "late": 0, "conflicts": [], "alarm": None
    }  # fmt: skip
    assert "ALARM" not in err, "a row that was recorded before raises no alarm"


def test_a_feature_set_may_end_with_a_slice(run: Invoke, monitoring: Monitoring) -> None:
    monitoring.add("m1", alarm=False)
    monitoring.feature_sets[SET] = [f"c-{row}" for row in range(1_000)]
    code, out, _ = run("observe", "m1", SET, "--json")
    assert (code, json.loads(out)["observed"]["outcomes"]) == (exits.OK, {"entered": 1_000})
    code, _, err = run("observe", "m1", SET, "--start", "2000")
    assert (code, "feature_set.start" in err or "--start" in err) == (exits.BAD_INPUT, True)


def test_an_interrupted_stream_says_where_to_go_on(run: Invoke, monitoring: Monitoring) -> None:
    monitoring.add("m1", alarm=False)
    monitoring.feature_sets[SET] = [f"c-{row}" for row in range(2_300)]
    monitoring.fail_after = 2
    code, _, err = run("observe", "m1", SET)
    assert code == exits.UNAVAILABLE
    assert f"2000 rows recorded; go on with `vfmalign monitors observe m1 {SET} --start 2000`" in err
    monitoring.fail_after = None
    code, out, _ = run("observe", "m1", SET, "--start", "2000", "--json")
    assert (code, json.loads(out)["observed"]["outcomes"]) == (exits.OK, {"entered": 300})
    assert len(monitoring.observed["m1"]) == 2_300


def test_ctrl_c_before_the_first_answer_says_how_to_go_on(
    run: Invoke, monitoring: Monitoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitoring.add("m1", alarm=False)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(monitor_observations, "_observe_feature_set", interrupt)
    code, _, err = run("observe", "m1", SET)
    assert code == exits.INTERRUPTED
    assert f"no row is known to be recorded; go on with `vfmalign monitors observe m1 {SET} --start 0`" in err


def test_an_interrupted_array_says_with_which_options_to_go_on(
    run: Invoke, monitoring: Monitoring, tmp_path: Path
) -> None:
    monitoring.add("m1", alarm=False)
    array, _, table, _ = write_array(tmp_path)
    (tmp_path / table).rename(tmp_path / "ids of march.csv")
    monitoring.fail_after = 1
    code, _, err = run("observe", "m1", array, "--table", "ids of march.csv", "--same-model")
    assert code == exits.UNAVAILABLE
    command = "observe m1 march.npy --table 'ids of march.csv' --same-model --start 64"
    assert f"64 rows recorded; go on with `vfmalign monitors {command}`" in " ".join(err.split())


def test_an_array_has_no_rows_after_its_last(run: Invoke, monitoring: Monitoring, tmp_path: Path) -> None:
    monitoring.add("m1", alarm=False)
    arguments = write_array(tmp_path, rows=3)
    code, _, err = run("observe", "m1", *arguments, "--start", "4")
    assert (code, "--start: the array has 3 rows" in err) == (exits.BAD_INPUT, True)
    assert run("observe", "m1", *arguments, "--start", "3")[0] == exits.OK, "an interruption after the last row"
    assert monitoring.requests == []


def test_rows_of_an_array_are_sent_with_their_table(run: Invoke, monitoring: Monitoring, tmp_path: Path) -> None:
    monitor = monitoring.add("m1", alarm=False)
    code, out, err = run("observe", "m1", *write_array(tmp_path), "--json")
    assert code == exits.OK, err
    assert json.loads(out)["observed"]["outcomes"] == {"entered": 150}
    assert [len(one.inline.observations) for one in monitoring.requests] == [64, 64, 22]
    assert all(one.origin == monitor.origin for one in monitoring.requests)
    first, second = monitoring.requests[0].inline.observations[:2]
    assert (first.study.observation_id, first.study.group, dict(first.study.strata)) == ("o-0", "p-0", {})
    assert dict(second.study.strata) == {"scanner": "A"}
    assert second.study.acquire_time.ToJsonString() == "2026-03-02T00:00:00Z"
    assert [layer.layer for layer in second.layers] == ["stages.3"]
    np.testing.assert_array_equal(to_array(second.layers[0].tensor), np.load(tmp_path / "march.npy")[1])


def test_values_that_are_not_finite_are_sent(run: Invoke, monitoring: Monitoring, tmp_path: Path) -> None:
    monitoring.add("m1", alarm=False)
    arguments = write_array(tmp_path, rows=3)
    array = np.load(tmp_path / "march.npy")
    array[1] = np.nan
    np.save(tmp_path / "march.npy", array)
    assert run("observe", "m1", *arguments)[0] == exits.OK
    sent = [to_array(one.layers[0].tensor) for one in monitoring.requests[0].inline.observations]
    np.testing.assert_array_equal(sent, array)


def test_wide_rows_are_sent_in_smaller_batches(run: Invoke, monitoring: Monitoring, tmp_path: Path) -> None:
    monitoring.add("m1", alarm=False, channels=2**20)
    assert run("observe", "m1", *write_array(tmp_path, rows=7, channels=2**20))[0] == exits.OK
    assert [len(one.inline.observations) for one in monitoring.requests] == [3, 3, 1]


def test_an_id_with_other_content_is_a_conflict_that_holds_nothing_else_up(
    run: Invoke, monitoring: Monitoring, tmp_path: Path
) -> None:
    monitoring.add("m1", alarm=False)
    arguments = write_array(tmp_path, rows=3)
    run("observe", "m1", *arguments)
    array = np.load(tmp_path / "march.npy")
    array[1] += 1
    np.save(tmp_path / "march.npy", array)
    code, out, err = run("observe", "m1", *arguments, "--json")
    assert code == exits.BAD_INPUT
    assert json.loads(out)["observed"]["conflicts"] == [2]
    assert json.loads(out)["observed"]["duplicates"] == 2
    assert "! row 2: its id was recorded before with other content, which is kept" in err
    assert "o-1" not in err


def test_of_many_conflicts_some_have_a_line_and_the_document_has_all(
    run: Invoke, monitoring: Monitoring, tmp_path: Path
) -> None:
    monitoring.add("m1", alarm=False)
    arguments = write_array(tmp_path, rows=30)
    run("observe", "m1", *arguments)
    np.save(tmp_path / "march.npy", np.load(tmp_path / "march.npy") + 1)
    _, out, err = run("observe", "m1", *arguments, "--json")
    assert err.count("recorded before with other content") == 10
    assert "! the same applies to 20 other rows; see --json" in err
    assert json.loads(out)["observed"]["conflicts"] == list(range(1, 31))


@pytest.mark.parametrize(
    ("header", "first", "words"),
    [
        ("patient,scanner", "p,A", "--table: there is no column `observation`"),
        ("observation,patient", "o,p", "--table: there is no column `scanner`"),
        ("observation,scanner", "o,A", "--table: its header lacks `patient`"),
        ("observation,patient,scanner", "Anna Muster,p,A", "--table: line 2 has no valid id in `observation`"),
        ("observation,patient,scanner", "o,MUSTER^ANNA,A", "--table: line 2 has no valid id in `patient`"),
        ("observation,patient,scanner,day", "o,p,A,gestern", "--table: line 2 has no date in `day`"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_without_its_words(
    run: Invoke, monitoring: Monitoring, tmp_path: Path, header: str, first: str, words: str
) -> None:
    monitoring.add("m1", alarm=False)
    arguments = write_array(tmp_path, rows=1)
    (tmp_path / "march.csv").write_text(f"{header}\n{first}\n")
    code, _, err = run("observe", "m1", *arguments)
    assert (code, words in err) == (exits.BAD_INPUT, True), err
    assert "muster" not in err.lower()
    assert monitoring.requests == []


def test_a_source_that_is_neither_is_named_before_its_options(run: Invoke, monitoring: Monitoring) -> None:
    neither = "is neither the id of a feature set nor a .npy file"
    for source, problem in (("march.npz", "archives (.npz) are not supported"), ("march.NPY", neither)):
        code, _, err = run("observe", "m1", source, "--table", "march.csv", "--same-model")
        assert (code, f"SOURCE: {problem}" in err) == (exits.BAD_INPUT, True)


def test_an_array_of_another_width_is_refused(run: Invoke, monitoring: Monitoring, tmp_path: Path) -> None:
    monitoring.add("m1", alarm=False)
    code, _, err = run("observe", "m1", *write_array(tmp_path, channels=4))
    assert code == exits.BAD_INPUT
    assert "SOURCE: the array has 4 channels, and layer `stages.3` of the monitor 768" in err
