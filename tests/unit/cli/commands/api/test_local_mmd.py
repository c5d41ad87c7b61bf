"""`vfmalign mmd --local`: the same numbers as the library's, and errors with the codes of the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vfmalign.cli import exits, extras

FILES = ("x.npy", "y.npy")
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from vfmalign.cli.__main__ import run
from vfmalign.mmd.engine import ordered_pool

original = ordered_pool.reduce_in_order

def reduce_in_order(*arguments, **options):
    print("summing", flush=True)
    original(*arguments, **options)

ordered_pool.reduce_in_order = reduce_in_order
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def samples(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays, stored where commands run."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 4)) + 1.0
    for name, array in zip(FILES, (x, y), strict=True):
        np.save(tmp_path / name, array)
    return x, y


def test_the_library_s_number_comes_back(invoke, samples) -> None:
    from vfmalign.mmd import mmd2

    options = ("--independent", "--local", "--sigma", "2.0", "--set", "precision=exact")
    code, out, err = invoke("mmd", *FILES, *options, "--json")
    assert code == exits.OK, err
    (layer,) = json.loads(out)["layers"]
    assert layer["raw"]["mmd2"]["value"] == mmd2(*samples, pairing="independent", sigma=2.0, precision="exact")
    assert "p_value" not in layer["raw"] or "value" not in layer["raw"]["p_value"]


def test_nothing_is_assumed_that_the_service_does_not_assume(invoke, samples) -> None:
    """Neither a reference nor a test, as in a ComputeRequest."""
    code, out, err = invoke(
        "mmd", *FILES, "--paired", "--local", "--set", "kernel.bandwidth_rule=pooled_median", "--json"
    )
    assert code == exits.OK, err
    (layer,) = json.loads(out)["layers"]
    assert "standardised" not in layer
    assert layer["raw"]["p_value"]["absent_reason"] == "no test was requested"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("x.npy", "gone.npy", "--paired"), exits.BAD_INPUT, "no such file"),
        (("x.npy", "short.npy", "--paired"), exits.BAD_INPUT, "error: B: paired samples need equal row counts"),
        (("x.npy", "short.npy", "--paired"), exits.BAD_INPUT, "  → send the same cases in the same order, or compare"),
        (
            ("x.npy", "y.npy", "--paired", "--set", "kernel.bandwidth_rule=pooled_median"),
            exits.BAD_INPUT,
            "error: --sigma: the request sets a fixed σ, but the bandwidth rule uses a median",
        ),
        (("x.npy", "y.npy", "--paired", "--layer", "x"), exits.BAD_INPUT, "error: --layer: `x` has no layer `x`"),
        (("empty.npy", "y.npy", "--paired"), exits.BAD_INPUT, "error: A: the array of 0 rows and 4 channels is empty"),
        (("x.npy", "y.npy", "--paired", "--timeout", "0.001"), exits.UNAVAILABLE, "increase --timeout"),
    ],
)
def test_a_failure_keeps_its_message_and_its_code(
    invoke, samples, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    np.save(tmp_path / "short.npy", samples[0][:5])
    np.save(tmp_path / "empty.npy", samples[0][:0])
    actual, out, err = invoke("mmd", *arguments, "--sigma", "1", "--local")
    assert (actual, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


def test_without_torch_the_extra_is_named(invoke, samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "torch" else object())
    code, _, err = invoke("mmd", *FILES, "--paired", "--sigma", "1", "--local")
    assert code == exits.BAD_INPUT
    assert "a local comparison needs torch, which is not installed" in err
    assert extras.get_install_command("mmd") in err


def test_ctrl_c_ends_a_comparison_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in FILES:
        np.save(tmp_path / name, rng.normal(size=(20_000, 64)).astype(np.float32))
    command = [sys.executable, "-c", INTERRUPTIBLE, "mmd", *FILES, "--independent", "--sigma", "30", "--local"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "summing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == exits.INTERRUPTED
    assert "Traceback" not in err
