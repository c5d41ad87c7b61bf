"""`python -m vfmalign.monitoring.local FOLDER`: one monitor without a service, as `vfmalign drift` starts it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from vfmalign.core.domain.drift import DriftRequest
from vfmalign.core.domain.errors import (
    BadOption,
    Exhausted,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    VfmalignError,
)
from vfmalign.core.domain.record import describe_invalid
from vfmalign.core.formats.untrusted import read_regular_file
from vfmalign.core.runtime.settings import StoreSettings, parser
from vfmalign.monitoring.blas import use_one_thread
from vfmalign.monitoring.local.observer import observe
from vfmalign.monitoring.sequential import Component, Observation

SUMMARY = """\
Observe a stream of features in this process. FOLDER/request.json holds the request (`core.domain.drift.DriftRequest`).
Each line on stdout is JSON: the progress, the alarm, and at the end the document. FOLDER receives the features that
MMD2 compares, and comparisons.json, which says what they are.

Exit codes: 0 done, 1 failed (the same command may succeed later), 2 an input or an option that cannot succeed as it is,
3 not enough memory, 130 interrupted."""
OK, FAILED, BAD_INPUT, NO_MEMORY, INTERRUPTED = 0, 1, 2, 3, 130
MAX_REQUEST_BYTES = 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Observes the stream, prints lines of JSON, and returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    use_one_thread()
    arguments_parser = parser("monitoring.local", StoreSettings, SUMMARY)
    arguments_parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder with request.json")
    folder: Path = arguments_parser.parse_args(argv).folder
    try:
        document = observe(_read_request(folder / "request.json"), folder, _report, _announce)
        _write({"document": document.model_dump(mode="json")})
    except VfmalignError as error:
        fields = {"reason": error.reason, "subject": error.subject, "message": error.message, "remedy": error.remedy}
        print(json.dumps(fields), file=sys.stderr)  # noqa: T201
        if isinstance(error, InvalidInput | NotFound | PreconditionFailed):
            return BAD_INPUT
        return NO_MEMORY if isinstance(error, Exhausted) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


def _read_request(path: Path) -> DriftRequest:
    try:
        return DriftRequest.model_validate_json(read_regular_file(path, MAX_REQUEST_BYTES))
    except OSError as error:
        raise BadOption(
            f"it cannot be read ({error.strerror})", field="request.json", remedy="write it first"
        ) from None
    except ValidationError as error:
        raise BadOption(describe_invalid(error), field="request.json", remedy="correct the field") from None


def _report(done: int, total: int) -> None:
    _write({"done": done, "total": total})


def _announce(observation: Observation, log_threshold: Mapping[Component, float]) -> None:
    reached = {
        str(component): [value, log_threshold[component]]
        for component, value in observation.log_evidence.items()
        if value >= log_threshold[component]
    }
    _write({"alarm": {"row": observation.row, "observation": observation.id, "reached": reached}})


def _write(line: object) -> None:
    print(json.dumps(line, allow_nan=False), flush=True)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
