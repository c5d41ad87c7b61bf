"""The fuzzer's corpus stays without findings, and the harness recognises each kind of finding."""

from __future__ import annotations

import json
import mmap
import time

import pytest
from tests.fuzz.harness import Finding, Target, check_input, iter_corpus, list_targets, load_target
from tests.fuzz.json_mutator import make_json_mutator

from vfmalign.core.domain.errors import BadOption, Internal


@pytest.mark.filterwarnings("ignore")  # as in the services, where a warning is no error that hides a finding
@pytest.mark.parametrize("name", list_targets())
def test_the_corpus_has_no_finding(name: str) -> None:
    target, paths = load_target(name), list(iter_corpus(name))
    assert {path.name for path in paths} >= set(target.make_seeds())
    for path in paths:
        try:
            check_input(target, path.read_bytes())
        except Finding as finding:
            raise AssertionError(f"{path.name}: {finding}") from finding


def test_seeds_are_equal_at_every_call() -> None:
    for name in list_targets():
        target = load_target(name)
        assert target.make_seeds() == target.make_seeds(), name


def _raise(error: Exception) -> None:
    raise error


def _sleep_with_load(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda data: _raise(Internal("broken")), "Internal: broken"),
        (lambda data: _raise(KeyError("absent")), "KeyError: 'absent'"),
        (lambda data: _raise(MemoryError()), "MemoryError"),
        (lambda data: _sleep_with_load(0.05), "s of CPU time"),
        # Pages of its own: the heap may hold free ones of earlier tests.
        (lambda data: mmap.mmap(-1, 8 << 20).write(bytes(8 << 20)), "MiB of memory"),
    ],
)
def test_findings_are_recognised(monkeypatch, run, message) -> None:
    # One limit at a time: on a machine under load, filling the pages takes longer than the limit of the other case.
    if "CPU" in message:
        monkeypatch.setattr("tests.fuzz.harness.MAX_SECONDS", 0.02)
    monkeypatch.setattr("tests.fuzz.harness.MAX_GROWTH_BYTES", 4 << 20)
    with pytest.raises(Finding, match=message):
        check_input(Target(run, dict), b"")


def test_rejected_and_accepted_inputs_are_no_findings() -> None:
    check_input(Target(lambda data: None, dict), b"")
    check_input(Target(lambda data: _raise(BadOption("wrong", field="x")), dict), b"")


def test_the_json_mutator_changes_values_and_stays_json() -> None:
    mutate = make_json_mutator(["a-word"], lambda data, _: data)
    document = json.dumps({"a": [1, 2, {"b": "text"}], "c": 0.5}).encode()
    mutants = [mutate(document, 4096, seed) for seed in range(200)]
    assert len(set(mutants)) > 100
    assert any(b"a-word" in mutant for mutant in mutants)
    for mutant in mutants:
        json.loads(mutant)
    assert mutate(b"not JSON", 100, 1) == b"not JSON"
