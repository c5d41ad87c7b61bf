"""Targets of the fuzzer, and what counts as a finding.

A target exercises one entry point with bytes that a stranger could send or store. The entry point may accept the input
or reject it with an error of the tree in `core.domain.errors`. Anything else is a finding: an internal error, another
exception, more than `MAX_SECONDS` of CPU time, or more than `MAX_GROWTH_BYTES` of memory. Crashes and hangs of the
process are found by the runner.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfmalign.core.domain.errors import Internal, VfmalignError

FOLDER = Path(__file__).parent
CORPUS = FOLDER / "corpus"
MAX_SECONDS = 10.0
MAX_GROWTH_BYTES = 512 * 2**20
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Target:
    """One entry point.

    Attributes:
        run: passes one input to the entry point.
        make_seeds: tiny valid and hostile inputs by file name, from which the fuzzer starts; equal at every call.
        words: strings that are hard to guess, such as names of fields and operators.
        is_json: whether inputs are JSON, which is mutated value by value; see `json_mutator`.
        max_bytes: largest input that the fuzzer tries.
    """

    run: Callable[[bytes], None]
    make_seeds: Callable[[], Mapping[str, bytes]]
    words: Sequence[str] = ()
    is_json: bool = False
    max_bytes: int = 1 << 16


class Finding(Exception):
    """An input that an entry point neither accepts nor rejects properly.

    Attributes:
        signature: equal for findings with the same cause; part of a file's name.
    """

    def __init__(self, message: str, signature: str) -> None:
        super().__init__(message)
        self.signature = re.sub(r"\W+", "-", signature)[:96]


def list_targets() -> list[str]:
    """Names of all targets: the modules of the package `targets`."""
    return sorted(path.stem for path in (FOLDER / "targets").glob("[a-z]*.py"))


def load_target(name: str) -> Target:
    """Imports a target, with the code that it exercises."""
    target = importlib.import_module(f"tests.fuzz.targets.{name}").TARGET
    assert isinstance(target, Target)
    return target


def iter_corpus(name: str) -> Iterator[Path]:
    """Files of a target's corpus: its seeds, and the inputs of earlier findings."""
    yield from sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


def check_input(target: Target, data: bytes) -> None:
    """Runs a target on one input.

    Raises:
        Finding: the entry point neither accepts nor rejects it properly, or takes too much time or memory.
    """
    before_bytes, started = _reset_peak_bytes(), time.process_time()
    try:
        target.run(data)
    except VfmalignError as error:
        if isinstance(error, Internal):
            raise _finding_of(error) from error
    except Exception as error:
        raise _finding_of(error) from error
    seconds, grown_bytes = time.process_time() - started, _peak_bytes() - before_bytes
    if seconds > MAX_SECONDS:
        raise Finding(f"took {seconds:.1f} s of CPU time", "slow")
    if grown_bytes > MAX_GROWTH_BYTES:
        raise Finding(f"took {grown_bytes >> 20} MiB of memory", "memory")


def _finding_of(error: BaseException) -> Finding:
    """The finding of an unexpected exception; its signature is the innermost line of the project in the traceback."""
    line, traceback = "", error.__traceback__
    while traceback is not None:
        path = Path(traceback.tb_frame.f_code.co_filename)
        if "vfmalign" in path.parts or not line:
            line = f"{path.stem}-{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return Finding(f"{type(error).__name__}: {str(error)[:500]}", f"{type(error).__name__}-{line}")


def _reset_peak_bytes() -> int:
    """Resets this process's recorded peak of memory to its present use; returns it, or 0 where it is not recorded."""
    if not _CLEAR_REFS.exists():
        return 0
    _CLEAR_REFS.write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    if not _CLEAR_REFS.exists():
        return 0
    match = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    return int(match[1]) << 10 if match else 0
