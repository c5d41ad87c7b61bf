"""`vfmalign erase` erases a patient from every service; `vfmalign erasures` shows receipts and repeats erasures."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import typer

from vfmalign.cli.commands.api.deletion import DryRunOption, YesOption, confirm
from vfmalign.cli.erasure_log import ErasureLog, LoggedErasure
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import HomeOption, JsonOption, parse_choice
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import format_time, new_table
from vfmalign.client import AsyncClient
from vfmalign.client.erasure import ErasingService, digest_identifier
from vfmalign.client.messages.erasure import ErasePatientRequest, Erasure, ModelPolicy, PatientDigest
from vfmalign.core.domain.errors import BadOption, NotFound, Unavailable, VfmalignError
from vfmalign.core.formats.documents import pluralise

app = typer.Typer()

_SERVICES: tuple[ErasingService, ...] = get_args(ErasingService)
_Requests = Mapping[ErasingService, ErasePatientRequest]
_CALL_S, _WAIT_S, _POLL_S = 3600.0, 150.0, 5.0
"""A service notices within two minutes that an operation has ended, and only then deletes what it used."""


def erase(
    group: Annotated[str, typer.Argument(metavar="[GROUP]", help="Group of the patient.")] = "",
    *,
    models: Annotated[
        str, typer.Option(metavar="keep|delete", help="Keep or delete models that were trained on the patient.")
    ],
    case: Annotated[str, typer.Option(metavar="CASE", help="The patient of this case of private/mapping.csv.")] = "",
    from_mapping: Annotated[
        int, typer.Option(metavar="ROW", help="Patient of this row of private/mapping.csv; row 1 is below the header.")
    ] = 0,
    observations: Annotated[
        list[str] | None,
        typer.Option("--observation", metavar="ID", help="An observation to erase from all monitors. May be repeated."),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Erase a patient from datasets, results and monitors.

    Your token needs the role admin. If the command is interrupted, run it again. At the end, the command removes the
    patient from private/mapping.csv.
    """
    output, directory = Output.to_terminal(as_json=as_json), StateDirectory(home)
    target, log = Target.find(directory), ErasureLog(directory.private)
    policy: ModelPolicy = parse_choice(models, get_args(ModelPolicy), "--models")
    mapping = directory.private / "mapping.csv"
    if bool(group) + bool(case) + bool(from_mapping) > 1:
        raise BadOption("the patient is named twice", field="GROUP", remedy="give GROUP, --case or --from-mapping")
    if case or from_mapping:
        from vfmalign.imaging.datasets.identities import find_group

        group = find_group(mapping, case=case, row=from_mapping)
    if not group and not observations:
        raise BadOption(
            "no patient is named", field="GROUP", remedy="give GROUP, --case, --from-mapping or --observation"
        )
    request = ErasePatientRequest.from_fields(
        erasure_id=log.find(group, policy) or f"erase-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        group=group,
        models=policy,
    )
    requests = dict.fromkeys(_SERVICES if group else (), request)
    requests["monitoring"] = request.model_copy(update={"observation_ids": tuple(observations or ())})
    planned = _call(target, {service: one.model_copy(update={"dry_run": True}) for service, one in requests.items()})
    is_known = any(receipt.datasets for receipt in planned) or log.has(request.erasure_id)
    if not is_known and not any(one.outcome != "kept" for receipt in planned for one in receipt.objects):
        raise NotFound(
            "no service has data of this patient",
            subject="GROUP",
            remedy="check the group, which private/mapping.csv lists beside the patient; name older observations by "
            "--observation",
        )
    if dry_run or not yes:
        _emit(planned, output if dry_run else _to_stderr(), planned=True)
        if dry_run:
            return
        confirm("Erase this patient?", output)
    receipts = _carry_out(target, requests, log, output)
    _emit(receipts, output)
    _check_complete(receipts)
    if group and _remove_from_mapping(mapping, group.__eq__):
        output.note("the patient is removed from private/mapping.csv")


@app.command()
def show(
    erasure_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the erasure.")],
    *,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show the receipts of an erasure, which together are its certificate."""
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))

    async def get(client: AsyncClient) -> list[Erasure]:
        found = []
        for service in _SERVICES:
            with suppress(NotFound):
                found.append(await client.erasures.get(service, erasure_id))
        return found

    receipts = target.run(get)
    if not receipts:
        raise NotFound(
            "no service has this erasure",
            subject=erasure_id,
            remedy="check the id; private/erasures.jsonl of the administrator who ran it lists the ids",
        )
    _emit(receipts, output)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file private/erasures.jsonl.")],
    *,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Repeat all erasures after a backup was restored.

    Your token needs the role admin. Patients who are not in the restored data are skipped.
    """
    output, directory = Output.to_terminal(as_json=as_json), StateDirectory(home)
    target, logged = Target.find(directory), ErasureLog.read(file)
    by_id: dict[str, list[LoggedErasure]] = {}
    for one in logged:
        by_id.setdefault(one.erasure_id, []).append(one)
    receipts: list[Erasure] = []
    failures: list[VfmalignError] = []
    for number, (erasure_id, lines) in enumerate(by_id.items(), start=1):
        output.note(f"erasure {number} of {len(by_id)}: {erasure_id}")
        patients = {line.service: line.patient for line in lines}
        requests = {
            service: ErasePatientRequest.from_fields(
                erasure_id=erasure_id, patient=patients.get(service, lines[0].patient), models=lines[0].models
            )
            for service in (_SERVICES if "features" in patients else tuple(patients))
        }
        try:
            receipts += _carry_out(target, requests, None, output)
        except VfmalignError as error:  # the others are repeated all the same
            failures.append(error)
            output.note(f"{erasure_id} failed: {error}", "red")
            continue
        for patient in patients.values():
            _remove_from_mapping(directory.private / "mapping.csv", partial(_has_digest, patient))
    if failures:
        _emit(receipts, output)
        raise failures[0]
    _emit(receipts, output)
    _check_complete(receipts)


def _carry_out(target: Target, requests: _Requests, log: ErasureLog | None, output: Output) -> list[Erasure]:
    """Calls the services until each has completed its part, or time is up."""
    end = time.monotonic() + _WAIT_S
    while True:
        receipts = _call(target, requests, log)
        waiting = [receipt.service for receipt in receipts if receipt.complete_time is None]
        if not waiting or time.monotonic() > end:
            return receipts
        output.note(f"waiting for {' and '.join(waiting)}, where something still runs")
        time.sleep(_POLL_S)


def _call(target: Target, requests: _Requests, log: ErasureLog | None = None) -> list[Erasure]:
    """Calls each service once. The feature service finds the datasets, which the finetuning service then needs."""
    receipts: list[Erasure] = []
    for service, request in requests.items():
        if service == "finetuning" and receipts:
            request = request.model_copy(update={"datasets": receipts[0].datasets})  # noqa: PLW2901
        receipts.append(target.run(partial(_erase, service, request), call_timeout_s=_CALL_S))
        if log is not None:
            log.add(LoggedErasure.of(receipts[-1]))
    return receipts


async def _erase(service: ErasingService, request: ErasePatientRequest, client: AsyncClient) -> Erasure:
    return await client.erasures.erase(service, request)


def _remove_from_mapping(path: Path, is_erased: Callable[[str], bool]) -> bool:
    if not path.exists():  # a program without imports has no such file, and not the package that reads it
        return False
    from vfmalign.imaging.datasets.identities import remove_from_mapping

    return remove_from_mapping(path, is_erased)


def _has_digest(patient: PatientDigest, group: str) -> bool:
    return bool(patient.hmac) and digest_identifier(patient.key, group) == patient.hmac


def _check_complete(receipts: Sequence[Erasure]) -> None:
    for receipt in receipts:
        if receipt.complete_time is None:
            raise Unavailable(
                f"{receipt.service} has not removed everything yet",
                subject=f"erasure {receipt.erasure_id}",
                remedy="the service continues by itself; run the command again later to see the end",
                reason="ERASURE_RUNS",
            )


def _emit(receipts: Sequence[Erasure], output: Output, *, planned: bool = False) -> None:
    title = "Would be erased" if planned else "Erasure"
    table = new_table(title, "service", "kind", "id", "outcome", "count", "MB", "note", numbers=("count", "MB"))
    for receipt in receipts:
        for one in receipt.objects:
            size = f"{one.size_bytes / 1e6:,.1f}" if one.size_bytes else ""
            table.add_row(receipt.service, one.kind, one.id, one.outcome or "", f"{one.count:,}", size, one.note)
    lines = [] if planned else [_describe(receipt) for receipt in receipts]
    output.emit({"receipts": [receipt.to_json_dict() for receipt in receipts]}, table, *lines)


def _describe(receipt: Erasure) -> str:
    end = "not complete" if receipt.complete_time is None else f"complete {format_time(receipt.complete_time)}"
    models = "kept" if receipt.models == "keep" else "deleted"
    datasets = f"; {pluralise(len(receipt.datasets), 'dataset version')}" if receipt.datasets else ""
    return (
        f"{receipt.service}: {receipt.erasure_id}, requested {format_time(receipt.create_time)} by "
        f"{receipt.requested_by or 'nobody'}, {end}; trained models {models}{datasets}"
    )


def _to_stderr() -> Output:
    terminal = Output.to_terminal()
    return Output(as_json=False, out=terminal.err, err=terminal.err)
