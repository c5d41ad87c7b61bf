"""What must work for a check to run, in order: each step named, with what was found or what to do.

Knows the steps and which of them need which. `probes` knows how each is asked.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from vfmalign.cli.local import probes
from vfmalign.cli.local.stack import SERVICES
from vfmalign.cli.local.state_directory import Home
from vfmalign.cli.target import Target
from vfmalign.core.domain.errors import PreconditionFailed, Unavailable, VfmalignError

MIN_FREE_GIB = 1.0
PYTHONS = ((3, 11), (3, 14))
Outcome = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Step:
    """One step's outcome.

    Attributes:
        detail: what was found; for a failure what is wrong; for a skipped step which step it waits for.
        remedy: what to do about a failure.
    """

    name: str
    outcome: Outcome
    detail: str
    remedy: str = ""


def examine(home: Home) -> Iterator[Step]:
    """Takes every step; a step whose ground is missing is skipped, and says for which."""
    for name, look in (
        ("python", _python),
        ("packages", _packages),
        ("s3 program", probes.s3_program),
        ("torch", probes.torch_device),
        ("disk", lambda: _disk(home)),
    ):
        yield _step(name, look)
    found: list[Target] = []
    step = _step("stack", lambda: _stack(home, found))
    yield step
    if not found:
        yield from (Step(name, "skipped", "needs the stack") for name in ("s3", *SERVICES))
        return
    target = found[0]
    yield _step("s3", lambda: f"{probes.store_works(target.store)} in bucket {target.store.bucket}")
    for service in SERVICES:
        yield _step(service, lambda service=service: _service(service, target))  # type: ignore[misc]


def _step(name: str, look: Callable[[], str]) -> Step:
    try:
        return Step(name, "ok", look())
    except VfmalignError as error:
        subject = f"{error.subject}: " if error.subject else ""
        return Step(name, "failed", f"{subject}{error.message}", error.remedy)
    except (OSError, ImportError) as error:
        return Step(name, "failed", f"{type(error).__name__}", "install vfmalign again: pip install 'vfmalign[cli]'")


def _python() -> str:
    if not PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        raise PreconditionFailed(
            f"Python {platform.python_version()} is not supported", remedy="use Python 3.11, 3.12 or 3.13"
        )
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _packages() -> str:
    found = probes.versions()
    missing = [name for name, version in found.items() if version == "missing"]
    if missing and Target.named() is None:  # a deployment's services bring their own
        raise PreconditionFailed(
            f"not installed: {', '.join(missing)}",
            remedy="pip install 'vfmalign[features,mmd,training,finetuning,cli]'",
        )
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _disk(home: Home) -> str:
    free = probes.free_gib(home.path)
    if free < MIN_FREE_GIB:
        raise PreconditionFailed(
            f"{free:.1f} GiB are free at the state folder",
            remedy=f"make room for at least {MIN_FREE_GIB:g} GiB, or name another folder with --home",
        )
    return f"{free:.1f} GiB free at the state folder"


def _stack(home: Home, found: list[Target]) -> str:
    target = Target.find(home)
    found.append(target)
    if target.local is None:
        return "services named by the environment: " + ", ".join(target.addresses.values())
    restarts = {name: service.restarts for name, service in target.local.services.items() if service.restarts}
    return "runs" + (f"; started again: {restarts}" if restarts else "")


def _service(name: str, target: Target) -> str:
    address = target.addresses[name]
    health = probes.health_of(address, target.ca_file)
    if health != "serving":
        raise Unavailable(
            f"its health is `{health}`", subject=address, remedy=f"read logs/{name}.log in the state folder"
        )
    return f"{address} serves; {probes.call(name, address, target.ca_file)}"
