"""The steps of `vfmalign doctor`, in the order in which they run.

The steps check the requirements of an alignment check.
"""

from __future__ import annotations

import platform
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from vfmalign.cli.extras import LOCAL_MODULES, get_install_command, missing_extra, needs_extra, require_modules
from vfmalign.cli.local import probes
from vfmalign.cli.local.s3_configuration import MIN_FREE_BYTES
from vfmalign.cli.local.stack import SERVICES, WITHOUT_STORE
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.cli.local.tokens import TokenFiles
from vfmalign.cli.target import Target
from vfmalign.core.domain.errors import (
    DeadlineExceeded,
    Forbidden,
    PreconditionFailed,
    Unauthenticated,
    Unavailable,
    VfmalignError,
)

WORKING_SPACE_GIB = 1.0
"""Room for the objects of a first check, beyond what the S3 server keeps free."""
PYTHONS = ((3, 11), (3, 14))
_CALLS = {
    ("finetuning", "features"): "checks wait",
    ("finetuning", "mmd"): "checks wait",
    ("finetuning", "monitoring"): "every probe of monitoring fails",
    ("features", "monitoring"): "observations do not reach their monitors",
    ("monitoring", "mmd"): "windows of monitors have no MMD²",
}
"""By calling and called service: the consequence if the called service refuses the token."""
_WITHOUT_LEADER = {
    "finetuning": "no process leads, so checks and jobs do not go on",
    "monitoring": "no process leads, so windows are not computed and metrics of monitors are not exported",
}
"""By service with a leader: the consequence if no process leads."""
Outcome = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Step:
    """The outcome of one step.

    Attributes:
        detail: result of the step. For a failed or skipped step, the reason.
        remedy: remedy for a failure.
    """

    name: str
    outcome: Outcome
    detail: str
    remedy: str = ""


def examine(directory: StateDirectory) -> Iterator[Step]:
    """Runs the steps one after another and yields their outcomes. A step is skipped if its prerequisite failed."""
    deployment = Target.from_environment()
    yield _run("python", _check_python)
    local_steps: dict[str, Callable[[], str]] = {
        "packages": _check_packages,
        "s3 program": probes.get_s3_program_version,
        "torch": _check_torch,
        "disk": lambda: _check_disk(directory),
    }
    for name, check in local_steps.items():
        yield _run(name, check) if deployment is None else Step(name, "skipped", "only a local stack needs it")
    target: Target | None = None

    def find_stack() -> str:
        nonlocal target
        target = deployment or Target.find(directory)
        return _describe_stack(target)

    yield _run("stack", find_stack)
    yield from _check_services(target)


def _check_services(target: Target | None) -> Iterator[Step]:
    if target is None:
        yield from (Step(name, "skipped", "needs the stack") for name in ("s3", *SERVICES, "tokens"))
        return
    # At the same time as the services, so that doctor waits only once if both hang. A daemon does not keep the process.
    results: queue.Queue[Step] = queue.Queue()
    give_up_s = time.monotonic() + probes.STORE_TIMEOUT_S
    threading.Thread(target=lambda: results.put(_check_storage(target)), daemon=True).start()
    services = [_examine_service(name, target) for name in SERVICES]
    try:
        yield results.get(timeout=max(0.0, give_up_s - time.monotonic()))
    except queue.Empty:
        detail = f"reading and writing a few small objects takes more than {probes.STORE_TIMEOUT_S:g} s"
        yield Step("s3", "failed", detail, "check the network and the load of the object storage")
    yield from services
    yield _check_tokens(target, [step.name for step in services if step.outcome == "failed"])


def _check_storage(target: Target) -> Step:
    if set(target.addresses) <= set(WITHOUT_STORE):
        return Step("s3", "skipped", _list_services(target))
    if not target.has_store:
        return Step(
            "s3", "skipped", "AWS_ENDPOINT_URL_S3 is not set; commands do not need access to the object storage"
        )
    return _run("s3", lambda: _describe_storage(target))


def _describe_storage(target: Target) -> str:
    # Reports a store that hangs before the longer time limit of writes has passed.
    target.open_store(attempts=1, timeout_s=probes.CALL_TIMEOUT_S).probe()
    store = target.open_store(attempts=1, timeout_s=probes.STORE_CALL_TIMEOUT_S)
    return f"{probes.check_store(store)} in bucket {store.bucket}"


def _examine_service(name: str, target: Target) -> Step:
    if name not in target.addresses:
        return Step(name, "skipped", _list_services(target))
    return _run(name, lambda: _check_service(name, target))


def _list_services(target: Target) -> str:
    return f"the {'deployment' if target.local is None else 'stack'} is only {', '.join(target.addresses)}"


def _run(name: str, check: Callable[[], str]) -> Step:
    try:
        return Step(name, "ok", check())
    except VfmalignError as error:
        subject = f"{error.subject}: " if error.subject else ""
        return Step(name, "failed", f"{subject}{error.message}", error.remedy)
    except (OSError, ImportError) as error:
        return Step(name, "failed", type(error).__name__, f"reinstall vfmalign: {get_install_command('local')}")


def _check_python() -> str:
    if not PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        raise PreconditionFailed(
            f"Python {platform.python_version()} is not supported", remedy="use Python 3.11, 3.12 or 3.13"
        )
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _check_packages() -> str:
    require_modules("local", "a local stack", LOCAL_MODULES)
    versions = probes.get_versions()
    missing = [name for name, version in versions.items() if version == "missing"]
    if missing:
        raise missing_extra("local", "a local stack", ", ".join(missing))
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _check_torch() -> str:
    with needs_extra("local", "a local stack"):
        return probes.get_torch_device()


def _check_disk(directory: StateDirectory) -> str:
    free_gib = probes.get_free_gib(directory.path)
    read_only_gib = MIN_FREE_BYTES / 2**30
    if free_gib < read_only_gib + WORKING_SPACE_GIB:
        raise PreconditionFailed(
            f"{free_gib:.1f} GiB are free at {directory.path}; S3 refuses writes below {read_only_gib:g} GiB",
            remedy=f"free at least {read_only_gib + WORKING_SPACE_GIB:g} GiB, or choose another folder with --home",
        )
    return f"{free_gib:.1f} GiB free at the state folder"


def _describe_stack(target: Target) -> str:
    if target.local is None:
        return "services named by the environment: " + ", ".join(target.addresses.values())
    restarts = {name: service.restarts for name, service in target.local.services.items() if service.restarts}
    return "running" + (f"; restarts: {restarts}" if restarts else "")


def _check_service(name: str, target: Target) -> str:
    address = target.addresses[name]
    health = probes.get_health(address, target.files)
    if health != "serving":
        raise _describe_health(name, target, health)
    try:
        answer = probes.call(name, target)
    except DeadlineExceeded:
        raise Unavailable(
            f"it serves, but has not answered a call within {probes.CALL_TIMEOUT_S:g} s",
            subject=address,
            remedy="in its log, `waited_for` of the line `call` names the cause, such as the object storage",
        ) from None
    return f"{address} serves; {answer}" + (_describe_role(target, name) if name in _WITHOUT_LEADER else "")


def _describe_health(name: str, target: Target, health: str) -> Unavailable:
    """Returns the failure of a service that does not serve; a process that lives and does not answer hangs."""
    log = f"read logs/{name}.log in the state folder" if target.local is not None else "read the service's log"
    process = None if target.local is None else target.local.services[name].process
    if health == "unreachable" and process is not None and process.alive():
        return Unavailable(
            f"its process {process.pid} is alive and does not answer, so it hangs",
            subject=target.addresses[name],
            remedy=f"if `ps -o stat= -p {process.pid}` shows T, run `kill -CONT {process.pid}`; otherwise run `kill "
            f"-9 {process.pid}`, and the stack restarts it; {log}",
        )
    return Unavailable(f"its health is `{health}`", subject=target.addresses[name], remedy=log)


def _check_tokens(target: Target, failed: list[str]) -> Step:
    """Checks that services accept the tokens of the services that call them."""
    if target.local is None or target.directory is None or target.credential is None:
        return Step("tokens", "skipped", "only a local stack keeps the tokens of its services here")
    if missing := [name for name in SERVICES if name not in target.addresses]:
        return Step("tokens", "skipped", f"services call each other only with {', '.join(missing)}")
    if failed:
        return Step("tokens", "skipped", f"needs {', '.join(failed)}")
    folder, credential = target.directory.tokens, target.credential

    def call_as_each() -> str:
        for caller, called in _CALLS:
            token = TokenFiles.find(folder, caller).token
            _call_as(caller, called, replace(target, credential=replace(credential, token=token)))
        return "admitted: " + ", ".join(f"that of {caller} by {called}" for caller, called in _CALLS)

    return _run("tokens", call_as_each)


def _call_as(caller: str, called: str, target: Target) -> None:
    try:
        probes.call_as_service(caller, called, target)
    except (Unauthenticated, Forbidden) as error:
        raise type(error)(
            f"{called} refuses the token of {caller} ({error.message}), so {_CALLS[caller, called]}",
            subject=f"tokens/{caller}/token",
            remedy=f"run {target.get_command('down')}, then {target.get_command('up --detach')}, which replaces "
            "damaged tokens",
            reason=error.reason,
        ) from None


def _describe_role(target: Target, name: str) -> str:
    """Tells whether the service leads or stands by for another one.

    Raises:
        Unavailable: no process leads.
    """
    address = target.addresses[name]
    if probes.get_health(address, target.files, "leader") == "serving":
        return "; leads"
    if probes.get_health(address, target.files, "orchestration") == "serving":
        return "; stands by for the leader, which its log names"
    raise Unavailable(
        _WITHOUT_LEADER[name],
        subject=address,
        remedy="if the service has just started, wait some seconds. Otherwise look in its log for `lease_not_read` "
        "and `lease_not_renewed`: its disk may be full, or its database unreachable",
    )
