"""Frames decoded by other processes: equal values, and one clear error for whatever happens to the process."""

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom import uid
from pydicom.pixels.utils import iter_pixels
from tests.dicom_files import make_array, make_series
from tests.unit.imaging.dicom.decoding.conftest import make_request, plant

from vfmalign.core.domain.errors import BadVolume, Unavailable
from vfmalign.imaging.dicom.decoding.client import COMMAND
from vfmalign.imaging.dicom.pixels import PLUGINS, decode_frames

ROOT = Path(__file__).parents[5]
COMPRESSED = [syntax for syntax, plugin in PLUGINS.items() if plugin]
SIGNED = (make_array().astype(np.int16) - 2048)[..., :1]


def list_processes() -> set[int]:
    """The processes that this one has started and not waited for."""
    return {process.pid for process in psutil.Process().children()}


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits for what must come."""
    deadline_s = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize(
    "array_XYZ",
    [make_array()[..., :1], SIGNED, (make_array()[..., :1] % 256).astype(np.uint8), make_array()[..., :1] * 16],
    ids=["12 bits", "signed", "8 bits", "16 bits"],
)
def test_frames_equal_those_decoded_in_this_process(syntax, array_XYZ):
    if syntax == uid.JPEGBaseline8Bit and array_XYZ.dtype != np.uint8:
        pytest.skip("it has 8 bits")
    (dataset,) = make_series(array_XYZ, syntax=syntax)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)

    (decoded_YX,) = decode_frames(file, [0], "case c1", is_rescaled=False)

    (expected_YX,) = iter_pixels(file, indices=[0], raw=True, decoding_plugin=PLUGINS[syntax])
    assert decoded_YX.dtype == expected_YX.dtype
    assert decoded_YX.flags.writeable
    np.testing.assert_array_equal(decoded_YX, expected_YX)


def test_one_process_decodes_one_frame_after_the_other(make_decoders):
    before, decoders = list_processes(), make_decoders()

    for seed in range(3):
        array_YX = make_array((40, 34), seed).T
        np.testing.assert_array_equal(decoders.decode(make_request(array_YX), "case c1"), array_YX)
        started = list_processes() - before
        assert len(started) == 1

    decoders.close()
    assert list_processes() == before


def test_threads_share_no_process_and_start_no_more_than_the_limit(make_decoders):
    before, decoders = list_processes(), make_decoders(2)
    arrays = [make_array((40, 34), seed).T for seed in range(24)]

    with ThreadPoolExecutor(8) as threads:
        decoded = list(threads.map(lambda array_YX: decoders.decode(make_request(array_YX), "case c1"), arrays))

    np.testing.assert_array_equal(decoded, arrays)
    assert 1 <= len(list_processes() - before) <= 2


FAILURES = {
    "abort": ("def planted(*_): os.abort()", "crashes its decoder"),
    "exit": ("def planted(*_): os._exit(0)", "crashes its decoder"),
    "segmentation fault": ("import ctypes\ndef planted(*_): ctypes.string_at(0)", "crashes its decoder"),
    "stack overflow": ("def planted(*_): planted()", "cannot be decoded"),
    "no memory": ("def planted(*_): bytearray(2**28)", "cannot be decoded"),
    "exception": ("def planted(*_): raise ValueError('Zauberberg')", "cannot be decoded"),
    "another size": ("def planted(*_): return decode(*_)[:-1]", "its size differs from its header"),
    "no end": ("def planted(*_):\n  while True: pass", "takes more than 1 s to decode"),
    "no answer": ("import signal\ndef planted(*_): os.kill(os.getpid(), signal.SIGSTOP)", "takes more than 1 s"),
    "half an answer": (
        "from vfmalign.imaging.dicom.decoding.messages import write_message\n"
        "def write(stream, header, payload): write_message(stream, header, payload[:-1]), os._exit(0)\n"
        "def planted(*_): process.write_message = write; return decode(*_)",
        "crashes its decoder",
    ),
    "noise": (
        "def planted(*_):\n  os.write(1, b'noise')\n  os.write(2, b'noise')\n  os.abort()",
        "crashes its decoder",
    ),
}


@pytest.mark.parametrize(("body", "cause"), FAILURES.values(), ids=FAILURES)
def test_a_process_that_fails_ends_one_volume(body, cause, make_decoders, capfd):
    timeout_s = 1 if "takes more" in cause else 60
    before, decoders = list_processes(), make_decoders(timeout_s=timeout_s, command=plant(body))

    with pytest.raises(BadVolume, match=r"case c1: .*an image") as refused:
        decoders.decode(make_request(), "case c1")
    assert cause in str(refused.value)
    assert refused.value.remedy
    assert list_processes() == before, "the process has not ended, or is a zombie"

    assert capfd.readouterr() == ("", "")


def test_what_a_decoder_prints_does_not_mix_with_pixels(make_decoders, capfd):
    body = "def planted(*_):\n  print('noise', flush=True)\n  os.write(1, b'noise')\n  return decode(*_)"
    array_YX = make_array((40, 34)).T

    decoded_YX = make_decoders(command=plant(body)).decode(make_request(array_YX), "case c1")

    np.testing.assert_array_equal(decoded_YX, array_YX)
    assert capfd.readouterr() == ("", "")


def test_the_next_frame_starts_another_process(make_decoders, tmp_path):
    marker = tmp_path / "crashed"
    body = f"""def planted(*_):
  if not os.path.exists({str(marker)!r}):
    open({str(marker)!r}, "w").close()
    os.abort()
  return decode(*_)"""
    decoders, array_YX = make_decoders(command=plant(body)), make_array((40, 34)).T

    with pytest.raises(BadVolume, match="crashes its decoder"):
        decoders.decode(make_request(array_YX), "case c1")

    np.testing.assert_array_equal(decoders.decode(make_request(array_YX), "case c2"), array_YX)


def test_a_process_that_is_killed_while_it_decodes_ends_one_volume(make_decoders):
    before, decoders = list_processes(), make_decoders(command=plant("def planted(*_): time.sleep(600)"))
    with ThreadPoolExecutor(1) as threads:
        decoding = threads.submit(decoders.decode, make_request(), "case c1")
        wait_until(lambda: bool(list_processes() - before))
        (pid,) = list_processes() - before
        os.kill(pid, signal.SIGKILL)

        with pytest.raises((BadVolume, Unavailable)):  # the second one before it was ready
            decoding.result()

    assert list_processes() == before


def test_a_process_that_was_killed_while_it_was_idle_is_replaced(make_decoders):
    before, decoders, array_YX = list_processes(), make_decoders(), make_array((40, 34)).T
    decoders.decode(make_request(array_YX), "case c1")
    (pid,) = list_processes() - before
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)

    np.testing.assert_array_equal(decoders.decode(make_request(array_YX), "case c2"), array_YX)

    assert pid not in list_processes()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("/no/such/program",), "No such file or directory"),
        ((sys.executable, "-c", "raise SystemExit"), "before it was ready"),
    ],
)
def test_a_process_that_does_not_start_is_no_fault_of_the_volume(command, reason, make_decoders):
    before = list_processes()

    with pytest.raises(Unavailable, match=reason) as refused:
        make_decoders(command=command).decode(make_request(), "case c1")

    assert "check the free memory" in refused.value.remedy
    assert list_processes() == before


def test_a_frame_waits_for_its_turn(make_decoders):
    decoders = make_decoders(1, timeout_s=1, command=plant("def planted(*_):\n  while True: pass"))
    with ThreadPoolExecutor(2) as threads:
        results = [threads.submit(decoders.decode, make_request(), name) for name in ("case c1", "case c2")]
        for name, result in zip(("case c1", "case c2"), results, strict=True):
            with pytest.raises(BadVolume, match=f"{name}: an image takes more than 1 s"):
                result.result()


def test_no_variable_reaches_the_process_but_those_that_it_needs(make_decoders, monkeypatch):
    monkeypatch.setenv("VFMALIGN_SECRET", "Zauberberg")
    before = list_processes()
    make_decoders().decode(make_request(), "case c1")

    (pid,) = list_processes() - before

    variables = psutil.Process(pid).environ().keys()
    assert variables <= {"OPENBLAS_NUM_THREADS", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH"}


def test_modules_of_the_current_folder_are_not_imported(make_decoders, monkeypatch, tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)

    assert make_decoders().decode(make_request(), "case c1").shape == (34, 40)


@pytest.mark.parametrize("body", ["planted = process.decode", "def planted(*_):\n  while True: pass"])
def test_processes_end_with_the_one_that_started_them(body, tmp_path):
    # The process kills itself while another one decodes for it, or waits for the next frame.
    script = f"""
import os, psutil, signal, threading, time
from tests.unit.imaging.dicom.decoding.conftest import make_request, plant
from vfmalign.imaging.dicom.decoding.client import Decoders
decoders = Decoders(timeout_s=1 if "while" in {body!r} else 60, command=plant({body!r}))
if "while" in {body!r}:
    threading.Thread(target=decoders.decode, args=(make_request(), "case c1"), daemon=True).start()
    while not psutil.Process().children():
        time.sleep(0.01)
else:
    decoders.decode(make_request(), "case c1")
print(psutil.Process().children()[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    completed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == -signal.SIGKILL, completed.stderr

    wait_until(lambda: not psutil.pid_exists(int(completed.stdout)))


def test_a_large_frame_follows_a_small_one(make_decoders):
    # 80 MiB are more than the memory beside pixels; what follows the end of an image is not decoded.
    decoders, array_YX = make_decoders(), make_array((2100, 2100, 1))[..., 0].T
    small, large = make_request(), make_request(array_YX)
    large = large._replace(frame=large.frame + bytes(80 * 2**20))

    decoders.decode(small, "case c1")

    np.testing.assert_array_equal(decoders.decode(large, "case c2"), array_YX)


def test_a_limit_of_the_whole_session_holds_as_well(make_decoders):
    limited = ("sh", "-c", f"ulimit -Hv {2**20}; exec {shlex.join(COMMAND)}")  # KiB
    array_YX = make_array((40, 34)).T

    np.testing.assert_array_equal(make_decoders(command=limited).decode(make_request(array_YX), "case c1"), array_YX)


def test_a_forked_process_starts_decoders_of_its_own():
    # In a process of its own: a fork of this one, which has threads of gRPC, may crash.
    script = """
import os
from tests.unit.imaging.dicom.decoding.conftest import make_request
from vfmalign.imaging.dicom.decoding.client import get_decoders
def decode():
    return get_decoders().decode(make_request(), "case c1").tobytes()
expected = decode()
if not (pid := os.fork()):
    equal = decode() == expected
    get_decoders().close()
    os._exit(not equal)
assert decode() == expected
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    completed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

    assert completed.returncode == 0, completed.stderr
