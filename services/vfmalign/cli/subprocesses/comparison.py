"""One comparison in a subprocess of this machine, without a server: `python -m vfmalign.mmd.comparison`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from vfmalign.cli.extras import require_modules
from vfmalign.client.messages.mmd import ComputeOptions, ComputeResponse
from vfmalign.core.domain.errors import Cancelled, Exhausted, InvalidInput, Unavailable, VfmalignError

MODULES = ("torch", "scipy", "vfmalign.mmd")
_ERRORS: dict[int, type[VfmalignError]] = {1: Unavailable, 2: InvalidInput, 3: Exhausted, 130: Cancelled}
"""Classes of errors by the exit code of the subprocess."""


def compare_in_subprocess(
    options: ComputeOptions,
    samples: Mapping[str, str],
    environment: Mapping[str, str],
    timeout_s: float,
) -> ComputeResponse:
    """Compares two samples in a subprocess.

    Args:
        options: what to compute.
        samples: `x`, `y` and perhaps `reference`: each a .npy file or the id of a stored feature set.
        environment: variables beside those of this process, such as the object store's.
        timeout_s: seconds after which the subprocess is killed.

    Raises:
        PreconditionFailed: torch is not installed.
        VfmalignError: the subprocess failed, with the message that it printed.
    """
    require_modules("mmd", "a local comparison", MODULES)
    fields = options.to_json_dict()
    del fields["pairing"]  # an argument of its own
    arguments = [
        samples["x"],
        samples["y"],
        f"--pairing={options.pairing}",
        f"--options={json.dumps(fields)}",
        "--json-errors",
    ]
    if "reference" in samples:
        arguments.append(f"--reference={samples['reference']}")
    try:
        completed = subprocess.run(
            [sys.executable, "-m", "vfmalign.mmd.comparison", *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"the comparison did not finish within {timeout_s:g} s", subject="mmd", remedy="increase --timeout"
        ) from None
    if completed.returncode != 0:
        raise to_error(completed.returncode, completed.stderr, "the comparison")
    return ComputeResponse.from_json(completed.stdout)


def to_error(code: int, stderr: str, what: str) -> VfmalignError:
    """Returns the error of a subprocess that failed: the one that it printed as JSON, or its last line."""
    error = _ERRORS.get(code, VfmalignError)
    lines = [line for line in stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else f"{what} ended with exit code {code}"
    try:
        return error(**json.loads(last))
    except (ValueError, TypeError):  # it ended before it could write its error, such as for a wrong setting
        return error(last, reason="LOCAL_COMPARISON_FAILED")
