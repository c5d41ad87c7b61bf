"""A monitor in a subprocess of this machine, without a server: `python -m vfmalign.monitoring.local`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vfmalign.cli.subprocesses.comparison import to_error
from vfmalign.core.domain.drift import DriftRequest
from vfmalign.reports.drift.document import DriftDocument

STOP_TIMEOUT_S = 10.0


def observe_in_subprocess(
    request: DriftRequest,
    folder: Path,
    environment: Mapping[str, str],
    report: Callable[[int, int], None],
    announce: Callable[[Mapping[str, Any]], None],
) -> DriftDocument:
    """Observes a stream in a subprocess, and returns the document without windows.

    Args:
        request: what to observe and how.
        folder: receives the request, the features that MMD² compares, and errors.
        environment: variables beside those of this process, such as the object store's.
        report: called with the numbers of rows observed and of all.
        announce: called with the row, the observation and the evidence of an alarm.

    Raises:
        VfmalignError: the subprocess failed, with the message that it printed.
    """
    (folder / "request.json").write_text(request.model_dump_json())
    document: DriftDocument | None = None
    with (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "vfmalign.monitoring.local", str(folder)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            for line in process.stdout or ():
                content = json.loads(line)
                if "alarm" in content:
                    announce(content["alarm"])
                elif "document" in content:
                    document = DriftDocument.model_validate_json(json.dumps(content["document"]))
                else:
                    report(content["done"], content["total"])
            code = process.wait()
        finally:
            stop(process)
        errors.seek(0)
        if code != 0 or document is None:
            raise to_error(code, errors.read(), "the monitor")
    return document


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a process that still runs, such as after Ctrl-C, and closes its output."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
