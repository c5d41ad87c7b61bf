"""`vfmalign dicom`: show DICOM files before they are imported.

File names, identifiers and free text from headers are printed only on request.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vfmalign.cli.extras import needs_extra
from vfmalign.cli.options import DicomwebOption, JsonOption, QueryOption
from vfmalign.cli.pacs_servers import download_few
from vfmalign.cli.views.dicom_tables import ShownStudy, show_study, to_study_document
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.declarations import DEFAULT_DECLARATION
from vfmalign.core.domain.errors import BadDataset, BadOption

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vfmalign.imaging.dicom.scanning import Examinations

_MAX_SHOWN = 20

app = typer.Typer()


@app.command()
def show(
    directory: Annotated[Path | None, typer.Argument(metavar="SOURCE", help="Folder, zip or DICOMDIR.")] = None,
    *,
    dicomweb: DicomwebOption = None,
    query: QueryOption = None,
    declaration: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Declaration with the rules that choose the series: a JSON file, or a built-in name "
            f"[{DEFAULT_DECLARATION}].",
        ),
    ] = None,
    show_text: Annotated[
        bool,
        typer.Option("--show-text", help="Print free text from headers. This text may name a patient."),
    ] = False,
    show_names: Annotated[
        bool, typer.Option("--show-names", help="Print identifiers of patients and studies.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show studies and series. For each selection, also show which series it takes and why it rejects the others.

    For a PACS, at most 20 studies are shown.

    Examples:
    vfmalign dicom show export.zip

    vfmalign dicom show export/ --declaration brain.json --json

    vfmalign dicom show --dicomweb hospital --query StudyDate=20250401 --query ModalitiesInStudy=MR
    """
    with needs_extra("dicom", "reading DICOM"):
        from vfmalign.imaging.datasets.layouts.derivation import read_declaration
        from vfmalign.imaging.dicom.rules import check_selections
        from vfmalign.imaging.dicom.selection import choose
    output = Output.to_terminal(as_json=as_json)
    declared, selections = read_declaration(declaration or DEFAULT_DECLARATION)
    examinations = _scan(directory, dicomweb, query or (), output, show_text=show_text)
    try:
        check_selections(declared, selections)
    except BadOption as error:  # the content is shown nevertheless, because users write rules from it
        output.note(f"{error.message}; {error.remedy}", "yellow")
    attributes = [name for selection in selections for name in selection.conditions.list_attributes()]
    shown = (
        ShownStudy(
            number,
            study,
            choose(study, declared, selections),
            attributes,
            {"patient": study.patient, "uid": study.uid} if show_names else {},
        )
        for number, study in enumerate(examinations.studies, start=1)
    )
    _write(shown, examinations, declared.name, output)
    if declaration is None:
        output.note(f"these are the rules of {DEFAULT_DECLARATION}; --declaration chooses others")


@app.command()
def rules(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a built-in declaration, or a JSON file.")],
) -> None:
    """Print a declaration with its rules, as a starting point for your own.

    Example: vfmalign dicom rules prostate_mpmri > mine.json
    """
    with needs_extra("dicom", "reading DICOM"):
        from vfmalign.imaging.datasets.layouts.derivation import read_declaration
        from vfmalign.imaging.dicom.rules import check_selections, encode_selections
    declared, selections = read_declaration(name)
    check_selections(declared, selections)
    content = declared.model_dump(mode="json", exclude_defaults=True)
    document = content | {"selections": json.loads(encode_selections(selections))}
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _scan(
    source: Path | None, dicomweb: str | None, query: Sequence[str], output: Output, *, show_text: bool
) -> Examinations:
    """Reads the header of every file; studies of a PACS are downloaded first.

    Raises:
        BadOption: the options contradict each other.
        BadDataset: the source cannot be read.
        VfmalignError: the studies cannot be downloaded; see `PacsClient`.
    """
    if dicomweb is not None and query and source is None:
        with ExitStack() as stack:
            with output.err.status("downloading studies"):
                folder = stack.enter_context(download_few(dicomweb, query, _MAX_SHOWN))
            return _scan_files(folder, output, show_text=show_text)
    if dicomweb is not None and source is None:
        raise BadOption("it needs --query", field="--dicomweb", remedy="say which studies to show")
    if source is None or dicomweb is not None or query:
        raise BadOption(
            "exactly one source is needed",
            field="SOURCE",
            remedy="give either SOURCE, or --dicomweb with --query",
        )
    return _scan_files(source, output, show_text=show_text)


def _scan_files(source: Path, output: Output, *, show_text: bool) -> Examinations:
    from vfmalign.imaging.datasets.layouts.sources import describe_unreadable
    from vfmalign.imaging.dicom.scanning import scan
    from vfmalign.imaging.dicom.sources import open_source

    if not source.exists():
        raise BadDataset("there is no such folder or file", field="SOURCE", remedy="give a folder, a zip or a DICOMDIR")
    try:
        opened = open_source(source)
    except OSError as error:
        raise BadDataset(
            f"the folder or file, or its content, {describe_unreadable(error)}",
            field="SOURCE",
            remedy="allow this account to read it",
        ) from None
    with closing(opened), output.err.status("reading headers") as status:
        return scan(
            opened,
            progress=lambda _, done, total: status.update(f"reading file {done:,} of {total:,}"),
            show_text=show_text,
        )


def _write(shown: Iterable[ShownStudy], examinations: Examinations, declaration: str, output: Output) -> None:
    from vfmalign.imaging.dicom.frames import DERIVED, KEYWORDS

    studies: list[dict[str, object]] = []
    parts: list[RenderableType] = []
    for study in shown:
        studies.append(to_study_document(study))
        parts += show_study(study) if study.number <= _MAX_SHOWN else []
    unusable = [{"place": file.place, "problem": file.problem} for file in examinations.unusable]
    document = {
        "declaration": declaration,
        "studies": studies,
        "attributes": [*KEYWORDS, *DERIVED],
        "unusable": unusable,
        "notes": list(examinations.notes),
    }
    output.emit(document, *parts)
    for note in examinations.notes:
        output.note(note, "yellow")
    for file in unusable[:_MAX_SHOWN]:
        output.note(f"{file['place']}: {file['problem']}", "yellow")
    for items, noun in ((studies, "studies"), (unusable, "unusable files")):
        if len(items) > _MAX_SHOWN:
            output.note(f"{_MAX_SHOWN} of {len(items):,} {noun} are shown; use --json to show all")
    if not studies:
        remedy = "give the folder of the images, or the zip itself: a zip inside of a folder is not opened"
        raise BadDataset("no DICOM image was found", field="SOURCE", remedy=remedy)
    if wrong := [str(study["study"]) for study in studies if study["problems"]]:
        listed = ", ".join(wrong[:_MAX_SHOWN]) + (" …" if len(wrong) > _MAX_SHOWN else "")
        output.note(f"{len(wrong)} of {len(studies)} studies with problems: {listed}", "yellow")
