"""Commands that jobs, checks and experiments share: list, cancel, retry, delete, follow, and download a report."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from vfmalign.cli.commands.api.deletion import DryRunOption, YesOption, delete
from vfmalign.cli.exits import OK, get_exit_code
from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.options import HomeOption, JsonOption, LimitOption, StateOption, parse_choice
from vfmalign.cli.resources import ReportedResource, Resource
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.common import STATES, TERMINAL_STATES, Deletion, JobState, ObjectRef, Progress
from vfmalign.client.operations import OperationT, ReportFormat, SpecT
from vfmalign.core.domain.errors import BadOption, DigestMismatch, PreconditionFailed

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id, as `list` shows it.")]

_PREDICATES: dict[JobState, str] = {"succeeded": "has succeeded", "failed": "has failed", "cancelled": "was cancelled"}


def add_lifecycle(
    app: typer.Typer,
    resource: Resource[SpecT, OperationT],
    list_table: Callable[[Iterable[OperationT]], RenderableType],
    states: tuple[JobState, ...] = STATES,
) -> None:
    """Adds the commands `list`, `cancel`, `retry` and `delete` to a group. `states` are the states of a resource."""
    noun = resource.noun
    one = f"an {noun}" if noun.startswith("e") else f"a {noun}"

    def list_(
        state: StateOption = None,
        limit: LimitOption = 100,
        home: HomeOption = DEFAULT_HOME,
        as_json: JsonOption = False,
    ) -> None:
        output = Output.to_terminal(as_json=as_json)
        chosen = [parse_choice(name, states, "--state") for name in state or ()]
        resources = resource.list(Target.find(StateDirectory(home)), chosen, limit)
        output.emit({f"{noun}s": [item.to_json_dict() for item in resources]}, list_table(resources))

    def cancel(
        resource_id: IdArgument,
        home: HomeOption = DEFAULT_HOME,
        as_json: JsonOption = False,
    ) -> None:
        output = Output.to_terminal(as_json=as_json)
        cancelled = resource.cancel(Target.find(StateDirectory(home)), resource_id)
        line = f"{noun} {resource_id}: {cancelled.state}; {cancelled.progress.detail}"
        output.emit({noun: cancelled.to_json_dict()}, line)

    def retry(
        resource_id: IdArgument,
        home: HomeOption = DEFAULT_HOME,
        as_json: JsonOption = False,
    ) -> None:
        output = Output.to_terminal(as_json=as_json)
        target = Target.find(StateDirectory(home))
        retried = resource.retry(target, resource_id)
        line = f"{noun} {resource_id}: {retried.state}; follow it with {target.get_command(f'watch {resource_id}')}"
        output.emit({noun: retried.to_json_dict()}, line)

    def delete_(
        resource_id: IdArgument,
        *,
        dry_run: DryRunOption = False,
        yes: YesOption = False,
        home: HomeOption = DEFAULT_HOME,
        as_json: JsonOption = False,
    ) -> None:
        output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))

        def call(dry_run: bool) -> Deletion:
            return resource.delete(target, resource_id, dry_run=dry_run)

        delete(f"{noun} {resource_id}", call, output, yes=yes, dry_run=dry_run)

    app.command("list", help=f"List {noun}s, newest first.")(list_)
    app.command("cancel", help=f"Cancel {one}. If it has ended, nothing changes.")(cancel)
    help_ = f"Continue {one} that failed or was cancelled. Stored results are not computed again."
    app.command("retry", help=help_)(retry)
    help_ = f"Delete {one} that has ended, with its objects. The models that it published stay."
    app.command("delete", help=help_)(delete_)


def follow(
    target: Target, resource: Resource[SpecT, OperationT], resource_id: str, output: Output, opening: str = ""
) -> OperationT:
    """Follows a resource until it has ended. Ctrl-C does not stop the resource, but prints the command that continues.

    Args:
        target: the deployment.
        resource: its kind.
        resource_id: its id.
        output: where progress goes.
        opening: first line of the progress output.
    """
    try:
        if opening:
            output.note(opening)
        return resource.follow(target, resource_id, output)
    except KeyboardInterrupt:
        watch = target.get_command(f"watch {resource_id}")
        cancel = target.get_command(f"{resource.noun}s cancel {resource_id}")
        output.note(f"\n{resource.noun} {resource_id} continues; follow it with {watch}, stop it with {cancel}")
        raise


def emit_created(
    target: Target,
    resource: Resource[SpecT, OperationT],
    resource_id: str,
    created: OperationT,
    output: Output,
    *,
    opening: str,
) -> None:
    """Prints a created resource and the command to run next, for users who do not wait."""
    output.note(opening)
    next_step = get_next_step(target, resource.noun, resource_id, created.state)
    output.emit({resource.noun: created.to_json_dict()}, next_step)


def describe_state(state: JobState) -> str:
    """Returns the state of a resource as the predicate of a sentence, such as `has succeeded` or `is running`."""
    return _PREDICATES.get(state, f"is {state}")


def get_next_step(target: Target, noun: str, resource_id: str, state: JobState) -> str:
    """Returns the next command for a user who does not wait."""
    if state in TERMINAL_STATES:
        return f"see it with {target.get_command(f'{noun}s show {resource_id}')}"
    return f"follow it with {target.get_command(f'watch {resource_id}')}"


def warn_without_leader(target: Target, state: JobState, output: Output) -> None:
    """Warns that unfinished work does not continue if no orchestrator is active."""
    from vfmalign.cli.local.probes import get_health  # imports the S3 client

    address = target.addresses.get("finetuning", "")
    if state not in TERMINAL_STATES and get_health(address, target.files, "orchestration") == "not_serving":
        output.note(f"! no orchestrator is active, so work is paused; run {target.get_command('doctor')}", "yellow")


def create_reports_folder(folder: Path) -> None:
    """Creates the folder for downloaded reports. Commands call this function first, because the work may take hours.

    Raises:
        BadOption: it cannot be written.
    """
    with _writing_reports():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def emit_report(
    resource: ReportedResource[SpecT, OperationT], resource_id: str, reports: Path, home: Path, *, as_json: bool
) -> None:
    """Downloads the report of a resource that has succeeded, and prints its path.

    Raises:
        PreconditionFailed: there is no report.
        BadOption: the folder cannot be written.
    """
    output, target = Output.to_terminal(as_json=as_json), Target.find(StateDirectory(home))
    stored = resource.get(target, resource_id)
    files = resource.list_files(stored)
    if not files:
        raise no_report(target, resource.noun, resource_id, stored.state, stored.progress)
    places = download_report(target, resource, resource_id, files, reports)
    output.emit({"report": places}, places["html"])


@dataclass(frozen=True)
class FinalReport:
    """The report of a resource that has ended.

    Attributes:
        places: maps each file name extension to the path of the file; empty if there is no report or the report cannot
            be written.
        document: fields that `--json` adds.
        code: exit code of the download.
    """

    places: dict[str, str]
    document: dict[str, object]
    code: int

    @property
    def page(self) -> Path | None:
        """Path of the report's downloaded page; None if no page was downloaded."""
        return Path(self.places["html"]) if self.places else None


def download_final_report(
    target: Target,
    resource: ReportedResource[SpecT, OperationT],
    resource_id: str,
    ended: OperationT,
    folder: Path,
    *,
    output: Output,
) -> FinalReport:
    """Downloads the report of a resource that has ended. If the folder cannot be written, the result is still shown."""
    files = resource.list_files(ended)
    if not files:
        return FinalReport({}, {}, OK)
    try:
        places = download_report(target, resource, resource_id, files, folder)
    except BadOption as error:
        return FinalReport({}, output.explain(error), get_exit_code(error))
    return FinalReport(places, {"report": places}, OK)


def download_report(
    target: Target,
    resource: ReportedResource[SpecT, OperationT],
    resource_id: str,
    files: Mapping[ReportFormat, ObjectRef],
    folder: Path,
) -> dict[str, str]:
    """Downloads a report and verifies its digests.

    Args:
        target: the deployment.
        resource: kind of the resource.
        resource_id: names the files.
        files: maps each file name extension to its object; `html` is the page.
        folder: where the files are written.

    Returns:
        A mapping from file name extensions to paths. The key `uri` names the stored location of the page.

    Raises:
        BadOption: the folder cannot be written.
        DigestMismatch: the report was written again after `files` was read.
    """
    places = {"uri": files["html"].uri}
    contents = resource.get_report(target, resource_id, files)
    with _writing_reports():
        folder.mkdir(parents=True, exist_ok=True)
    for extension, content in contents.items():
        if hashlib.sha256(content).hexdigest() != files[extension].sha256:
            raise DigestMismatch(
                f"the report ({extension}) was written again", subject=resource_id, remedy="run the command again"
            )
        path = folder / f"{resource_id}.{extension}"
        with _writing_reports():
            path.write_bytes(content)
        places[extension] = str(path)
    return places


@contextmanager
def _writing_reports() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadOption(
            f"the folder cannot be written ({error.strerror})", field="--reports", remedy="choose another folder"
        ) from None


def no_report(target: Target, noun: str, resource_id: str, state: str, progress: Progress) -> PreconditionFailed:
    """Returns the error for a report that does not exist, or that was lost and is being written again."""
    lost = f" again: {progress.detail}" if progress.reason == "ARTIFACT_LOST" else ""
    return PreconditionFailed(
        f"there is no report, because the {noun} is {state}{lost}",
        subject=resource_id,
        remedy=f"see {target.get_command(f'{noun}s show {resource_id}')}",
    )
