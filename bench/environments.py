"""The virtual environments of the peers: what is installed where, and why something is not there.

`python -m bench peers` creates them under `.bench/`. Nothing here is a dependency of vfmalign: alibi-detect is under
the Business Source Licence and is compared with, never built on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".bench"
OURS = "ours"


@dataclass(frozen=True)
class Environment:
    """One virtual environment; one with `from_git` packages, which are on no registry, is made only where asked for."""

    name: str
    packages: tuple[str, ...]
    from_git: tuple[str, ...] = ()


# What installs together is together; numpy's own users are apart from alibi-detect, which holds numpy below 2.
ENVIRONMENTS = (
    Environment(
        "torch",
        (
            "torch",
            "alibi-detect",
            "torchdrift",
            "torchmetrics",
            "pytorch-ignite",
            "geomloss",
            "pykeops",
            "torch-fidelity",
            "hyppo",
        ),
    ),
    Environment("arrays", ("numpy", "scipy", "scikit-learn", "ummd", "goodpoints")),
    Environment("drift", ("frouros", "evidently", "pandas<3")),
    Environment(
        "jax",
        ("jax", "scipy"),
        (
            "mmdfuse @ git+https://github.com/antoninschrab/mmdfuse",
            "mmdagg @ git+https://github.com/antoninschrab/mmdagg",
        ),
    ),
)
NOT_ON_PYPI = {
    "torch-two-sample": "not on PyPI (its repository builds a C extension for old versions of torch)",
    "mmdfuse": "not on PyPI; `python -m bench peers --from-git` takes it from its repository",
    "mmdagg": "not on PyPI; `python -m bench peers --from-git` takes it from its repository",
}


def interpreter(environment: str) -> Path:
    """The Python that runs this environment's peers."""
    return Path(sys.executable) if environment == OURS else HOME / environment / "bin" / "python"


def why_absent(environment: str, package: str) -> str | None:
    """Why a peer cannot run, or None where it can."""
    if environment == OURS:
        return None
    if interpreter(environment).exists() and package in _installed(environment):
        return None
    failures = HOME / environment / "failures.json"
    known = json.loads(failures.read_text()) if failures.exists() else {}
    return str(known.get(package) or NOT_ON_PYPI.get(package) or "not installed: run `make bench-peers`")


def versions(environment: str) -> dict[str, str]:
    """Versions of the peers installed in one environment."""
    wanted = {"torch", "numpy", "scipy", "mmdfuse", "mmdagg"}
    for one in ENVIRONMENTS:
        if one.name == environment:
            wanted |= set(one.packages)
    found = _installed(environment) if interpreter(environment).exists() else {}
    return {name: found[name] for name in sorted(wanted) if name in found}


def install(names: Sequence[str] = (), *, from_git: bool = False) -> int:
    """Creates the environments (all, or those named) and says what did not install; returns how many packages."""
    failed = 0
    for environment in ENVIRONMENTS:
        if (names and environment.name not in names) or (environment.from_git and not from_git):
            continue
        folder = HOME / environment.name
        print(f"{environment.name}: {', '.join(environment.packages)} into {folder.relative_to(ROOT)}", flush=True)
        if not (folder / "bin" / "python").exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        wanted = (*environment.packages, *(environment.from_git if from_git else ()))
        failures = _pip(folder, wanted)
        (folder / "failures.json").write_text(json.dumps(failures, indent=1))
        for package, reason in failures.items():
            print(f"  {package} does not install: {reason}")
        failed += len(failures)
    for package, reason in NOT_ON_PYPI.items():
        if not (from_git and package != "torch-two-sample"):
            print(f"  {package}: {reason}")
    return failed


def _pip(folder: Path, packages: Sequence[str]) -> dict[str, str]:
    """All at once, and one by one where that fails; returns the reason of each failure."""
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
    if subprocess.run([*pip, *packages], capture_output=True, check=False).returncode == 0:
        return {}
    failures = {}
    for package in packages:
        done = subprocess.run([*pip, package], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or [f"pip exits {done.returncode}"]
            failures[package.split(" @ ")[0]] = lines[-1].removeprefix("ERROR: ")[:200]
    return failures


def _installed(environment: str) -> dict[str, str]:
    """Name and version of every installed distribution."""
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
    )
    done = subprocess.run([str(interpreter(environment)), "-c", code], capture_output=True, text=True, check=True)
    return {str(name): str(version) for name, version in json.loads(done.stdout).items()}
