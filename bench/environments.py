"""Virtual environments of the competitors: what is installed where, and why a package is missing.

`python -m bench competitors` creates them under `.bench/`. No competitor is a dependency of vfmalign: alibi-detect is
under the Business Source Licence and is only compared with.
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
VFMALIGN = "vfmalign"
"""The environment that runs the benchmark itself."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment.

    Attributes:
        name: also its folder's name under `.bench/`.
        packages: requirements from the package index.
        from_git: requirements from git repositories; an environment with any is created with `--from-git` only.
    """

    name: str
    packages: tuple[str, ...]
    from_git: tuple[str, ...] = ()


# alibi-detect requires numpy below 2, so packages that need a later numpy have environments of their own.
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
    "mmdfuse": "not on PyPI; `python -m bench competitors --from-git` installs it from its repository",
    "mmdagg": "not on PyPI; `python -m bench competitors --from-git` installs it from its repository",
}


def interpreter(environment: str) -> Path:
    """Returns the Python that runs this environment's modules."""
    return Path(sys.executable) if environment == VFMALIGN else HOME / environment / "bin" / "python"


def absent_reason(environment: str, package: str) -> str | None:
    """Returns why a competitor cannot run, or None where it can."""
    if environment == VFMALIGN:
        return None
    if interpreter(environment).exists() and package in _installed(environment):
        return None
    path = HOME / environment / "failures.json"
    failures = json.loads(path.read_text()) if path.exists() else {}
    return str(failures.get(package) or NOT_ON_PYPI.get(package) or "not installed: run `make bench-competitors`")


def versions(environment: str) -> dict[str, str]:
    """Returns the versions of the competitors, and of what they compute with, in one environment."""
    names = {"torch", "numpy", "scipy", "mmdfuse", "mmdagg"}
    for known in ENVIRONMENTS:
        if known.name == environment:
            names |= set(known.packages)
    installed = _installed(environment) if interpreter(environment).exists() else {}
    return {name: installed[name] for name in sorted(names) if name in installed}


def install(names: Sequence[str] = (), *, from_git: bool = False) -> int:
    """Creates environments and prints what could not be installed.

    Args:
        names: environments to create; all where it is empty.
        from_git: whether to install packages that only a git repository provides.

    Returns:
        The number of packages that could not be installed.
    """
    failed = 0
    for environment in ENVIRONMENTS:
        if (names and environment.name not in names) or (environment.from_git and not from_git):
            continue
        folder = HOME / environment.name
        print(f"{environment.name}: {', '.join(environment.packages)} into {folder.relative_to(ROOT)}", flush=True)
        if not (folder / "bin" / "python").exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        requirements = (*environment.packages, *(environment.from_git if from_git else ()))
        failures = _pip_install(folder, requirements)
        (folder / "failures.json").write_text(json.dumps(failures, indent=1))
        for package, reason in failures.items():
            print(f"  {package} cannot be installed: {reason}")
        failed += len(failures)
    for package, reason in NOT_ON_PYPI.items():
        if not (from_git and package != "torch-two-sample"):
            print(f"  {package}: {reason}")
    return failed


def _pip_install(folder: Path, requirements: Sequence[str]) -> dict[str, str]:
    """Installs all at once, or one by one where that fails, and returns the reason of each failure by package."""
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
    if subprocess.run([*pip, *requirements], capture_output=True, check=False).returncode == 0:
        return {}
    failures = {}
    for requirement in requirements:
        process = subprocess.run([*pip, requirement], capture_output=True, text=True, check=False)
        if process.returncode:
            lines = [line for line in process.stderr.splitlines() if "ERROR" in line]
            reason = lines[-1] if lines else f"pip exits with {process.returncode}"
            failures[requirement.split(" @ ")[0]] = reason.removeprefix("ERROR: ")[:200]
    return failures


def _installed(environment: str) -> dict[str, str]:
    """Returns name and version of every installed distribution."""
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
    )
    process = subprocess.run([str(interpreter(environment)), "-c", code], capture_output=True, text=True, check=True)
    return {str(name): str(version) for name, version in json.loads(process.stdout).items()}
