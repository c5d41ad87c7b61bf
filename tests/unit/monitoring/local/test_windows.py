"""Windows: which rows they hold, and which rows of the reference they are compared with."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vfmalign.mmd import mmd_test
from vfmalign.mmd.batch import main as compare_batch
from vfmalign.monitoring.local.inputs import Rows
from vfmalign.monitoring.local.windows import MAX_WINDOWS, Entered, choose_windows, write_comparisons


@pytest.mark.parametrize("rows", [0, 1, 99, 100, 101, 199, 200, 350, 1199, 1200, 1201, 5000, 123_456])
def test_windows_are_few_full_and_apart_and_end_with_the_last_row(rows: int) -> None:
    windows = choose_windows(rows, 100)
    assert len(windows) == (0 if not rows else max(1, min(MAX_WINDOWS, rows // 100)))
    if windows:
        assert windows[-1].stop == rows
        assert windows[0].start < 100
        assert {len(window) for window in windows} == {min(rows, 100)}
        assert all(earlier.stop <= later.start for earlier, later in pairwise(windows))
    assert choose_windows(rows, 0) == []


def make_rows(count: int, strata: list[str] | None, seed: int, patients: list[str] | None = None) -> Rows:
    random = np.random.default_rng(seed)
    layers = {"deep": random.normal(size=(count, 6)).astype("f4"), "shallow": random.normal(size=(count, 3))}
    names = [f"{seed}-{row}" for row in range(count)]
    return Rows(layers, names, patients or names, strata, None, "rows")


def test_one_row_of_each_patient_of_the_reference_is_compared_or_sets_the_scale(tmp_path: Path) -> None:
    patients = [f"p{row // 2}" for row in range(60)]
    reference, stream = make_rows(60, None, 1, patients), make_rows(40, None, 2)
    entered = Entered([place for place in range(40) if place != 7], list(range(1, 40)), None)
    (window,) = write_comparisons(tmp_path, reference, stream, entered, 100)
    assert (window["first_row"], window["last_row"], window["rows"], window["reference_rows"]) == (1, 39, 39, 20)
    kept = np.arange(0, 60, 2)
    files = {side: load_file(tmp_path / window[side])["deep"] for side in ("x", "y", "reference")}
    assert np.array_equal(files["reference"], reference.layers["deep"][kept[::3]])
    assert np.array_equal(files["x"], reference.layers["deep"][np.delete(kept, np.s_[::3])])
    assert np.array_equal(files["y"], np.delete(stream.layers["deep"], 7, axis=0))


def test_strata_are_compared_with_their_own_and_say_where_rows_are_too_few(tmp_path: Path) -> None:
    strata = ["A" if row % 4 else "B" for row in range(120)]
    reference, stream = make_rows(120, strata, 1), make_rows(40, [*["A"] * 35, *["B"] * 4, "C"], 2)
    comparisons = write_comparisons(tmp_path, reference, stream, Entered(range(40), range(1, 41), stream.strata), 20)
    named = {one["stratum"]: one for one in comparisons}
    assert [one["stratum"] for one in comparisons] == ["", "", "A", "B"]
    assert (named["A"]["first_row"], named["A"]["last_row"], named["A"]["rows"]) == (16, 35, 20)
    assert named["A"]["reference_rows"] + named["B"]["reference_rows"] == 80
    assert "x" not in named["B"]
    assert "needs 8 rows on each side, and here the stream has 4 and the reference 20" in named["B"]["absent_reason"]
    assert json.loads((tmp_path / "comparisons.json").read_text()) == comparisons


def test_a_window_has_the_numbers_of_the_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, stream = make_rows(90, None, 1), make_rows(50, None, 2)
    stream.layers["deep"][:] += 1
    (window,) = write_comparisons(tmp_path, reference, stream, Entered(range(50), range(1, 51), None), 50)
    kernel = {"family": "KERNEL_FAMILY_GAUSSIAN", "bandwidth_rule": "BANDWIDTH_RULE_REFERENCE_MEDIAN"}
    options = {"pairing": "PAIRING_INDEPENDENT", "kernel": kernel, "test": {"permutations": 199, "seed": 4}}
    (tmp_path / "options.json").write_text(json.dumps(options))
    assert compare_batch([str(tmp_path)]) == 0
    layers = json.loads(capsys.readouterr().out)["response"]["layers"]
    found = {layer["layer"]: layer["standardised"] for layer in layers}
    for name in ("deep", "shallow"):
        x, y, scale = (load_file(tmp_path / window[side])[name] for side in ("x", "y", "reference"))
        expected = mmd_test(
            x, y, pairing="independent", reference=scale, standardised=True, permutations=199, seed=4
        )  # fmt: skip
        assert expected.interval is not None
        assert found[name]["mmd2"]["value"] == expected.mmd2
        assert found[name]["mmd2"]["interval"]["lower"] == expected.interval.lower
        assert found[name]["p_value"]["value"] == expected.p_value
    assert found["deep"]["p_value"]["value"] == pytest.approx(1 / 200)


def test_a_layer_that_is_not_finite_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, stream = make_rows(90, None, 1), make_rows(64, None, 2)
    stream.layers["shallow"][3, 1] = np.nan  # a layer that does not raise the alarm
    comparisons = write_comparisons(tmp_path, reference, stream, Entered(range(64), range(1, 65), None), 32)
    assert [one["layers"] for one in comparisons] == [["deep", "shallow"]] * 2
    (tmp_path / "options.json").write_text(json.dumps({"pairing": "PAIRING_INDEPENDENT"}))
    assert compare_batch([str(tmp_path)]) == 0
    answers = [json.loads(line)["response"]["layers"] for line in capsys.readouterr().out.splitlines()]
    assert [{layer["layer"] for layer in layers} for layers in answers] == [{"deep"}, {"deep", "shallow"}]


def test_a_comparison_that_fails_says_why_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, stream = make_rows(90, None, 1), make_rows(64, None, 2)
    (first, _) = write_comparisons(tmp_path, reference, stream, Entered(range(64), range(1, 65), None), 32)
    save_file({"deep": np.zeros((32, 5))}, tmp_path / first["y"])
    (tmp_path / "options.json").write_text(json.dumps({"pairing": "PAIRING_INDEPENDENT"}))
    assert compare_batch([str(tmp_path)]) == 0
    failed, done = map(json.loads, capsys.readouterr().out.splitlines())
    assert "channels" in failed["error"]
    assert done["response"]["layers"]
